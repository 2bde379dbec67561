//! What watchmark costs: every figure beside a direct etcd client in the same
//! run, as one table. `make bench`, or `make bench ONLY='catch-up live'`.
//! `../README.md` says what each figure is.
//!
//! Nothing here is a test: machines differ, ratios less so. Each figure is the
//! median of `RUNS` (5) runs, in which both sides do the same work in turn. A
//! bar that is missed is a result; a figure that cannot be measured, an error.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "as in tests; and it prints a table"
)]

mod acks;
mod bare;
mod catch_up;
mod idle;
mod live;
mod many;
mod measure;
mod snapshot;
mod stage;
mod stalled;
mod start;
mod table;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::{env, future::Future, panic::AssertUnwindSafe, pin::Pin, process::ExitCode};

use futures_util::FutureExt;

use self::table::Table;

type Figure = (
    &'static str,
    fn(&mut Table) -> Pin<Box<dyn Future<Output = ()> + '_>>,
);

/// In the order of the table.
const FIGURES: &[Figure] = &[
    ("catch-up", |table| Box::pin(catch_up::single_puts(table))),
    ("transactions", |table| {
        Box::pin(catch_up::transactions(table))
    }),
    ("large-values", |table| {
        Box::pin(catch_up::large_values(table))
    }),
    ("live", |table| Box::pin(live::one(table))),
    ("fan-out", |table| Box::pin(live::fan_out(table))),
    ("sizes", |table| Box::pin(live::sizes(table))),
    ("idle", |table| Box::pin(idle::figures(table))),
    ("stalled", |table| Box::pin(stalled::figures(table))),
    ("store", |table| Box::pin(acks::store(table))),
    ("acks", |table| Box::pin(acks::through_grpc(table))),
    ("snapshot", |table| Box::pin(snapshot::figures(table))),
    ("start", |table| Box::pin(start::figures(table))),
    ("many", |table| Box::pin(many::figures(table))),
    ("binary", |table| Box::pin(async { start::binary(table) })),
];

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some(bare::GRPC_RELAY) {
        bare::grpc_relay(args.next().unwrap()).await;
        return ExitCode::SUCCESS;
    }
    let (flags, wanted): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|it| it.starts_with('-'));
    // `cargo bench` adds it, `cargo test --all-targets` does not.
    if !flags.iter().any(|it| it == "--bench") {
        eprintln!("figures are no tests: make bench");
        return ExitCode::SUCCESS;
    }
    let known: Vec<_> = FIGURES.iter().map(|it| it.0).collect();
    if let Some(name) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("{name}: no such figure; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut table = Table::default();
    let mut failed = Vec::new();
    for (name, figure) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            eprintln!("{name} ...");
            let measured = AssertUnwindSafe(figure(&mut table)).catch_unwind().await;
            if measured.is_err() {
                failed.push(*name);
            }
            table.end_figure();
        }
    }
    table.print();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("not measured: {}", failed.join(", "));
    ExitCode::FAILURE
}
