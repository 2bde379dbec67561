//! etcd, as a subscription uses it.

use std::pin::Pin;

use futures_util::Stream;
use tokio::sync::{mpsc, watch};

use crate::{
    proto::watchmark::v1::{Event, KeyValue},
    resume::{Guard, KeyRange, ProbeSample, Selection, input},
};

/// What etcd says, in order. Ends after `Lost`, `Refused`, `Compacted`,
/// `SnapshotEnded`, `SnapshotCompacted` or `Head`. Cancel-safe: nothing is
/// lost when a `next` is dropped. Dropping the stream ends its use of etcd.
pub type UpstreamEvents = Pin<Box<dyn Stream<Item = input::Upstream<Event, KeyValue>> + Send>>;

/// A watch to open.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// The keys and filters.
    pub selection: Selection,
    /// Where to start (its successor), and what to read once created.
    pub guard: Guard,
    /// Ask for previous pairs.
    pub prev_kv: bool,
    /// Drop values.
    pub keys_only: bool,
    /// The member to avoid, if there is another.
    pub avoid_member: Option<u64>,
}

/// A watch in use.
pub struct Watch {
    /// What etcd says: `WatchOpened` first.
    pub events: UpstreamEvents,
    /// Asks for progress; does nothing where that is not sound. Never waits.
    pub ask_progress: mpsc::Sender<()>,
    /// Drop it when the watch has caught up: it counts as catching up until then.
    pub catching_up: CatchUpPermit,
}

/// One of the `--max-catchups`, if the backlog was deep enough to need one.
#[derive(Debug, Default)]
pub struct CatchUpPermit;

/// etcd.
pub trait Upstream: Send + Sync + 'static {
    /// Opens a watch at `spec.guard.revision.successor()` on one member, with
    /// a required leader, then reads the guard from the same member.
    fn watch(&self, spec: WatchSpec) -> Watch;

    /// Reads etcd's newest revision, linearizably: one `Head`.
    fn head(&self, range: KeyRange) -> UpstreamEvents;

    /// Reads the range at one revision, in pages: `SnapshotBegun`,
    /// `SnapshotPage`s, `SnapshotEnded`. Reads no further than it is polled.
    fn snapshot(&self, range: KeyRange, keys_only: bool) -> UpstreamEvents;

    /// The newest sample of every member that serves a watch.
    fn probe(&self) -> watch::Receiver<Vec<ProbeSample>>;
}
