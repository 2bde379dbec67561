//! Everything goes wrong at once, with real processes: `make chaos MINUTES=10`.
//!
//! A cluster of three, watchmark, many writers and many subscribers; faults
//! drawn from one seed. All that subscribers received and acknowledged is then
//! compared with an independent direct watch (`support/history`), and one table
//! is printed. Without `CHAOS_MINUTES` it is a short smoke test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod cluster;
mod files;
mod link;
mod load;
mod plan;
mod profile;
mod report;
mod run;
mod sidecar;
mod stage;
mod subscriber;
mod verdict;

use std::{env, fs, str::FromStr, time::Duration};

use run::{Plan, Run};
use tokio::signal::unix::{SignalKind, signal};

/// Without `CHAOS_MINUTES`.
const SMOKE: Duration = Duration::from_secs(10);

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    let value = text.parse().ok();
    assert!(value.is_some(), "{name}={text}: not a number");
    value
}

async fn interrupted() {
    let mut signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .map(|kind| signal(kind).unwrap());
    let [interrupt, terminate, hangup] = &mut signals;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_breaks_no_promise() {
    let minutes = setting::<f64>("CHAOS_MINUTES");
    let lasts = minutes.map_or(SMOKE, |minutes| Duration::from_secs_f64(minutes * 60.0));
    // The smoke test is the same every time.
    let any = || minutes.map_or(1, |_| u64::from(fastrand::u32(..)));
    let seed = setting("CHAOS_SEED").unwrap_or_else(any);
    println!("chaos with seed {seed} for {lasts:?}: make chaos SEED={seed}");
    let dir = files::directory(seed);
    println!("logs and data are in {} until it passes", dir.display());
    let plan = Plan { seed, lasts };
    let run = async { Run::start(plan, dir.clone()).await.play().await };
    let (table, broken) = tokio::select! {
        outcome = run => outcome,
        // Dropped, the run ends its processes and unmounts its disk.
        () = interrupted() => panic!("interrupted"),
    };
    fs::write(dir.join("table.txt"), &table).unwrap();
    println!("\n{table}");
    assert!(
        broken.is_empty(),
        "seed {seed}; see {}\nbroken:\n{}",
        dir.display(),
        broken.join("\n")
    );
    fs::remove_dir_all(&dir).unwrap();
}
