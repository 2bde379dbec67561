//! `make demo`: a real etcd, the real watchmark, a writer and two subscriber
//! processes, and everything that breaks in practice, in front of the reader.
//! Exits 0 only if every promise was kept.
//!
//! - `story`: what happens, in order, and what is told of it
//! - `processes`: etcd, watchmark and the subscribers; none outlives the demo
//! - `subscriber`: the application; this same program, started again
//! - `report`: what an application prints, line by line
//! - `follower`: the story's view of an application over all its processes
//! - `writer`, `witness`: both speak to etcd directly
//! - `check`: what the applications got against what the witness saw

mod check;
mod follower;
mod processes;
mod report;
mod story;
mod subscriber;
mod witness;
mod writer;

use std::{env, process::ExitCode};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use crate::{processes::House, story::TIME_LIMIT};

// One thread: a child asks to die with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let outcome = match args.split_first() {
        None => demo().await,
        Some((mode, args)) if mode == "with-parent" => processes::with_parent(args),
        Some((mode, args)) if mode == "subscriber" => subscriber::run(args).await,
        Some((mode, _)) => Err(anyhow::anyhow!("{mode}: the demo takes no arguments")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the story until it ends, time is up, or a signal comes. In each case
/// the story's processes end with it.
async fn demo() -> anyhow::Result<()> {
    let house = House::new()?;
    let outcome = tokio::select! {
        told = tokio::time::timeout(TIME_LIMIT, story::tell(&house)) => match told {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("not done within {TIME_LIMIT:?}")),
        },
        interrupted = interrupted() => return interrupted,
    };
    if outcome.is_err() {
        eprintln!("demo: the logs are in {}", house.keep().display());
    }
    outcome
}

async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    bail!("interrupted; everything it started is stopped")
}
