//! Worlds of the session rules: the real `session::Registry` with its drivers
//! and outboxes, three subscriptions, etcd and the store simulated.
//!
//! Checked: of two streams of one name only the newer delivers, and the older
//! one says why it ended before anything queued in it; one attempt and one
//! write at a time; an `Ack` answered after the flush; late acks refused; what
//! the transport took counts where it acknowledges by itself; a driver that
//! panics harms nobody else; a drain ends. And what the streams carry.
//!
//! Everything runs on one thread with a paused clock: tokio's scheduler takes
//! tasks in order, the driver's `select!` is biased, and jitter comes from the
//! seed, so that a seed repeats its world. Session numbers alone come from the
//! real clock; they differ from run to run, and nothing but their order counts.
//! A world is not shrunk: it ends at the step that broke it.

mod store;
mod subscriber;
mod upstream;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    seeds::{Seeds, last_panic, take_panic},
    tally::Tally,
};

/// A few seconds.
const SHARE: u64 = 400;

/// What must have happened in a share of worlds.
const FAULTS: &[&str] = &[
    "ack beyond what was delivered",
    "ack of an older session",
    "compaction",
    "crash of the process",
    "disconnect",
    "drain",
    "driver panics",
    "slow subscriber",
    "subscriber goes away",
    "takeover",
    "write failed",
    "write lost with the process",
];

#[test]
fn every_rule_of_sessions_holds_in_every_world() {
    let seeds = Seeds::from_env(SHARE);
    let tally = seeds.live("every_rule_of_sessions_holds_in_every_world", live);
    seeds.must_have_happened(&tally, FAULTS);
}

fn live(seed: u64, shows_log: bool) -> Result<Tally, String> {
    take_panic();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let log = Shared::new(Vec::new());
    let lived = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(world::live(seed, Shared::clone(&log)))
    }));
    let lines = log.lock().join("\n");
    if shows_log {
        println!("{lines}");
    }
    lived.map_err(|_| {
        let end = lines.lines().rev().take(15).collect::<Vec<_>>();
        let end: Vec<_> = end.into_iter().rev().collect();
        format!("{}\n{}", end.join("\n"), last_panic())
    })
}

/// Shared by what runs on the one thread of a world.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
