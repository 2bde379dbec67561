//! What happens to a subscription: the inputs of the state machine.

use std::time::Duration;

use bytes::Bytes;

use super::{Revision, Selection};

/// Time since an origin that the caller chose and keeps. Never falls.
pub type Time = Duration;

/// An event or a key-value pair: opaque but for what resuming needs.
pub trait Item {
    /// The key it concerns.
    fn key(&self) -> &Bytes;
    /// The revision that made it.
    fn mod_revision(&self) -> Revision;
    /// Its share of an encoded message, in bytes.
    fn size_bytes(&self) -> usize;
    /// Whether it is the deletion of its key.
    fn is_delete(&self) -> bool;
}

/// Numbers one `Subscribe` stream. Never reused, across restarts either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// Numbers one use of etcd (a watch, a snapshot, a read): an input that
/// carries another number than the current one is stale and is dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attempt(pub u64);

/// Names one waiting `Ack` call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AckId(pub u64);

/// Names one waiting call of an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OperationId(pub u64);

/// Where an operator moves a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTo {
    /// Right after this revision, which becomes the checkpoint.
    Revision(Revision),
    /// To a snapshot.
    Snapshot,
}

/// What a subscriber asked for. Beside the selection here belongs what decides
/// how the machine treats this stream, and no other: nothing of it is stored.
/// What only changes how a pair looks is not here but in `proto::PairOptions`:
/// the machine never looks into one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRequest {
    /// What to watch; the same as stored, if anything is stored.
    pub selection: Selection,
    /// Where to begin without a checkpoint.
    pub start: Start,
    /// The subscriber's own position, if it keeps one.
    pub resume_after: Option<Revision>,
    /// What to do when the history is gone.
    pub on_compaction: OnCompaction,
    /// Handing a message to the transport acknowledges it.
    pub auto_ack: bool,
    /// Stop sending at this many unacknowledged events; `None`: no limit.
    pub max_unacked_events: Option<u32>,
}

/// Where a subscriber without a checkpoint begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the state of the range.
    Snapshot,
    /// With the next event.
    Latest,
}

/// What a subscriber chose for a lost history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnCompaction {
    /// A snapshot.
    Resync,
    /// The end of the stream.
    Fail,
}

/// How much room a session's outbox has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutboxRoom {
    /// It did not fill since the transport last had taken everything.
    Free,
    /// It filled, and is not yet empty; another message fits.
    Some,
    /// Nothing more fits.
    None,
}

/// Everything that can happen to a subscription. `E` is an event, `K` a pair
/// of a snapshot.
#[derive(Clone, Debug)]
pub enum Input<E, K> {
    /// A new stream; it supersedes the current one.
    Subscribe {
        /// Its number.
        session: SessionId,
        /// What it asked for.
        request: SessionRequest,
    },
    /// The subscriber went away.
    SessionClosed(SessionId),
    /// The session's outbox filled or drained.
    Outbox(SessionId, OutboxRoom),
    /// The transport took everything up to this acknowledgeable revision.
    Handed(SessionId, Revision),
    /// The subscriber acknowledged everything at or below `revision`.
    Ack {
        /// Whom to answer.
        ack: AckId,
        /// `None`: the current session.
        session: Option<SessionId>,
        /// Inclusive.
        revision: Revision,
    },
    /// An operator moves the subscription, backwards too.
    Seek {
        /// Whom to answer.
        operation: OperationId,
        /// Where to.
        to: SeekTo,
        /// What etcd said when it was asked about that place, if it was.
        header: Option<Header>,
    },
    /// An operator has the subscription forgotten.
    Delete {
        /// Whom to answer.
        operation: OperationId,
    },
    /// The process is stopping.
    Drain,
    /// etcd said something to the attempt.
    Upstream(Attempt, Upstream<E, K>),
    /// The probe sampled etcd's revision.
    Probe(ProbeSample),
    /// What the last `Persist` or `Forget` asked for is durable, or could not
    /// be made so.
    Persisted(Result<(), StoreFailed>),
}

/// What etcd says to an attempt.
#[derive(Clone, Debug)]
pub enum Upstream<E, K> {
    /// The watch is created and its guard was read, in this order.
    WatchOpened(WatchOpened),
    /// Events of one response, ascending.
    Events {
        /// The events.
        events: Vec<E>,
        /// More of this response follows: the last revision may be incomplete.
        fragment: bool,
    },
    /// etcd certifies that every event up to here was sent on this watch. Only
    /// ever passed on where the member's version makes it true.
    Bookmark(Revision),
    /// The watch was cancelled because of a compaction.
    Compacted {
        /// etcd's compact_revision.
        compact_revision: Revision,
    },
    /// The answer to `ReadHead`.
    Head(Header),
    /// The first page of a snapshot fixed its revision.
    SnapshotBegun(Header),
    /// Pairs of the snapshot, in key order.
    SnapshotPage(Vec<K>),
    /// Every pair was sent.
    SnapshotEnded,
    /// Compaction overtook the snapshot.
    SnapshotCompacted {
        /// etcd's compact_revision, if known.
        compact_revision: Option<Revision>,
    },
    /// The attempt is over: try again later.
    Lost,
    /// The attempt is over, and repeating it cannot help.
    Refused(Refusal),
}

/// A watch as etcd created it.
#[derive(Clone, Debug)]
pub struct WatchOpened {
    /// The member that serves it; 0 behind etcd's grpc-proxy.
    pub member_id: u64,
    /// Whether progress requests are sound on that member.
    pub can_ask_progress: bool,
    /// What the guard read.
    pub guard: GuardReading,
}

/// What the linearizable `Range` at the guard's revision found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuardReading {
    /// The revision is in etcd's history, and nothing after it is compacted.
    Present {
        /// The answer's header; its revision is etcd's newest.
        header: Header,
        /// The guarded key's mod_revision at that revision, if it existed.
        mod_revision: Option<Revision>,
    },
    /// Something after the revision is compacted.
    Compacted {
        /// etcd's compact_revision, if known.
        compact_revision: Option<Revision>,
    },
    /// etcd has not reached that revision.
    Future,
}

/// The header of a linearizable answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// etcd's cluster_id; 0 when the answer carried none.
    pub cluster_id: u64,
    /// The answering member's term.
    pub raft_term: u64,
    /// etcd's newest revision when it answered.
    pub revision: Revision,
}

/// One sample of etcd's current revision. Only members that serve a watch are
/// asked; one that does not answer keeps the sample it had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeSample {
    /// Who answered.
    pub member_id: u64,
    /// When it was asked, which is before the revision was read.
    pub asked_at: Time,
    /// etcd's newest revision then.
    pub revision: Revision,
}

/// Why etcd refuses an attempt for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind of refusal.
    pub kind: RefusalKind,
    /// What etcd said, with what to do; no secrets.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The sidecar's identity may not read the range.
    PermissionDenied,
    /// The sidecar's own credentials are wrong or missing.
    Unauthenticated,
    /// etcd does not accept the request.
    InvalidArgument,
}

/// The store could not make a record durable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFailed(pub String);
