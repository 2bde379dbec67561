//! etcd, as a subscription uses it.
//!
//! | module | owns |
//! |---|---|
//! | `config` | what an operator may give, checked |
//! | `connect`, `endpoints` | connections that dial once; the choice among endpoints |
//! | `auth`, `maintenance` | the shared token; etcd-client |
//! | `call` | deadline and token of one call |
//! | `watch`, `opening`, `requests`, `guard`, `catchup` | a watch, how it begins, what it is asked, its resume guard, its permits |
//! | `pieces` | large responses, cut while they arrive |
//! | `snapshot`, `pages` | a range at one revision, in pages of bounded size |
//! | `probe`, `live` | etcd's revision by member; the ranges being watched |
//! | `status`, `condition`, `greet` | what an operator sees of all this |
//! | `version`, `error`, `convert` | what servers can do, and what they say |
//! | `shared` | what all uses of etcd share |
//! | `etcd` | all of it behind the trait |

use std::{future::Future, pin::Pin};

use futures_util::Stream;
use tokio::sync::{mpsc, watch as latest};

use crate::{
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue},
    },
    resume::{Guard, GuardReading, KeyRange, ProbeSample, Selection, input},
};

#[cfg(any(test, fuzzing))]
pub mod any_bytes;
mod auth;
mod call;
mod catchup;
mod condition;
mod config;
mod connect;
mod convert;
mod endpoints;
mod error;
mod etcd;
mod greet;
mod guard;
mod live;
mod maintenance;
mod opening;
mod pages;
mod pieces;
mod probe;
mod requests;
mod shared;
mod snapshot;
mod status;
mod version;
mod watch;

pub use self::{
    catchup::CatchUpPermit,
    config::{EtcdConfig, EtcdConfigError},
    etcd::Etcd,
    status::{EndpointFailure, EndpointStatus, EtcdStatus, FailureKind},
};

/// One thing etcd says.
pub type UpstreamItem = input::Upstream<Event, KeyValue>;

/// What etcd says, in order. Ends after `Lost`, `Refused`, `Compacted`,
/// `SnapshotEnded`, `SnapshotCompacted` or `Head`. Cancel-safe: nothing is
/// lost when a `next` is dropped. Dropping the stream ends its use of etcd.
pub type UpstreamEvents = Pin<Box<dyn Stream<Item = UpstreamItem> + Send>>;

/// What a guard reads, once etcd has answered; ends by itself, if slowly.
pub type GuardAnswer = Pin<Box<dyn Future<Output = Result<GuardReading, Unanswered>> + Send>>;

/// etcd could not be asked: what failed, at the endpoint tried last. No secrets.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// A watch to open.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// The keys and filters.
    pub selection: Selection,
    /// Where to start (its successor), and what to read once created.
    pub guard: Guard,
    /// What is wanted of each pair.
    pub pair_options: PairOptions,
    /// The member to avoid, if there is another.
    pub avoid_member: Option<u64>,
}

/// A watch in use.
pub struct Watch {
    /// What etcd says: `WatchOpened` first. That may take long: a deep
    /// backlog waits for one of the `--max-catchups` before anything is asked.
    pub events: UpstreamEvents,
    /// Asks for progress; does nothing where that is not sound. Use `try_send`:
    /// a question that does not fit repeats one that is not sent yet.
    pub ask_progress: mpsc::Sender<()>,
    /// Drop it when the watch has caught up: it counts as catching up until then.
    pub catching_up: CatchUpPermit,
}

/// etcd.
pub trait Upstream: Send + Sync + 'static {
    /// Opens a watch at `spec.guard.revision.successor()` on one member, with
    /// a required leader, then reads the guard from the same member. Tries
    /// every endpoint once before it is `Lost`.
    fn watch(&self, spec: WatchSpec) -> Watch;

    /// Reads etcd's newest revision, linearizably: one `Head`.
    fn head(&self, range: KeyRange) -> UpstreamEvents;

    /// Reads the range at one revision, in pages: `SnapshotBegun`,
    /// `SnapshotPage`s, `SnapshotEnded`. Reads no further than it is polled.
    fn snapshot(&self, range: KeyRange, pair_options: PairOptions) -> UpstreamEvents;

    /// Reads a guard without a watch: whether what comes after its revision is
    /// still in etcd's history. Tries every endpoint once.
    fn read_guard(&self, guard: Guard) -> GuardAnswer;

    /// The newest sample of every member that answered where a watch is served.
    fn probe(&self) -> latest::Receiver<Vec<ProbeSample>>;

    /// What is known of etcd at this moment, for operators. Asks nobody.
    fn status(&self) -> EtcdStatus {
        EtcdStatus::default()
    }

    /// Whether etcd ever answered; never falls.
    fn reached(&self) -> latest::Receiver<bool> {
        latest::channel(true).1
    }
}
