//! What watchmark costs: every figure beside a direct etcd client in the same
//! run, as one table. `make bench`, or `make bench ONLY='catch-up live'`.
//!
//! Nothing here is a test: machines differ, ratios less so. Each figure is the
//! median of `RUNS` (5) runs, in which both sides do the same work in turn.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unused_async,
    reason = "a bench that cannot go on ends"
)]

mod acks;
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

use std::{env, future::Future, pin::Pin, process::ExitCode};

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
    ("fan-out", |table| Box::pin(live::fifty(table))),
    ("idle", |table| Box::pin(idle::figures(table))),
    ("stalled", |table| Box::pin(stalled::figures(table))),
    ("store", |table| Box::pin(acks::store(table))),
    ("acks", |table| Box::pin(acks::through_grpc(table))),
    ("snapshot", |table| Box::pin(snapshot::figures(table))),
    ("start", |table| Box::pin(start::figures(table))),
    ("many", |table| Box::pin(many::figures(table))),
    ("binary", |table| Box::pin(start::binary(table))),
];

#[tokio::main]
async fn main() -> ExitCode {
    // Cargo adds flags of its own.
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let unknown = wanted
        .iter()
        .find(|name| !FIGURES.iter().any(|it| it.0 == name.as_str()));
    if let Some(name) = unknown {
        let known: Vec<_> = FIGURES.iter().map(|it| it.0).collect();
        eprintln!("{name}: no such figure; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut table = Table::default();
    for (name, figure) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            eprintln!("{name} ...");
            figure(&mut table).await;
        }
    }
    table.print();
    ExitCode::SUCCESS
}
