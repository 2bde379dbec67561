//! What may differ from one watchmark to the next. Owns the times and choices
//! that a flag sets, or could set; refuses none, which is for whoever reads
//! flags: up to a year nothing overflows. Invariant: the defaults are
//! those of the flags (`tests/flags.rs` compares them).
//!
//! A time that follows from how etcd or a subscriber behaves is a constant
//! beside what it bounds.

use std::time::Duration;

/// How a subscription behaves; the same for all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// x: silence after which the delay rule may assume a position.
    pub idle_after: Duration,
    /// y < x: how old the probe sample must be that the delay rule uses.
    pub idle_lag: Duration,
    /// Which evidence may move a position without events.
    pub idle_proof: IdleProof,
    /// Silence after which a progress request or a heartbeat is due.
    pub progress_interval: Duration,
    /// How long a silent watch may leave a progress request unanswered.
    pub stall_timeout: Duration,
    /// The longest pause between two attempts on etcd.
    pub backoff_max: Duration,
}

/// Which evidence may move a position without events: whether etcd is asked, and
/// whether anything that can be wrong counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdleProof {
    /// Progress where the member's version makes it sound; the delay rule otherwise.
    Auto,
    /// Nothing but what etcd certifies.
    Progress,
    /// Never ask for progress; the delay rule, and etcd's timed notifications.
    Delay,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(600),
            idle_lag: Duration::from_secs(60),
            idle_proof: IdleProof::Auto,
            progress_interval: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            backoff_max: Duration::from_secs(30),
        }
    }
}
