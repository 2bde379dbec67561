//! What a subscription wants done: the outputs of the state machine.

use bytes::Bytes;

use super::{
    input::{AckId, Attempt, OperationId, Refusal, SessionId, StoreFailed},
    record::{Proof, Record, SnapshotReason},
    revision::Revision,
};

/// One thing to do, in the order handed out.
#[derive(Clone, PartialEq, Debug)]
pub enum Command<E, K> {
    /// End the current attempt, if any, then watch from `guard.successor()`.
    OpenWatch {
        /// The number of the new attempt.
        attempt: Attempt,
        /// The revision and key to read once the watch is created; the watch
        /// starts right after `revision`.
        guard: Guard,
        /// Do not use the member that served the last attempt, if there is another.
        avoid_last_member: bool,
    },
    /// End the current attempt, if any, then read etcd's newest revision.
    ReadHead(Attempt),
    /// End the current attempt, if any, then read the range at one revision.
    ReadSnapshot(Attempt),
    /// Ask etcd for a progress notification on the current watch.
    AskProgress,
    /// The watch has caught up: give back what it holds for catching up.
    CaughtUp,
    /// End the current attempt.
    CloseUpstream,
    /// Put a message into the session's outbox.
    Deliver(SessionId, Message<E, K>),
    /// End the session's stream; nothing of it is sent from here on.
    EndSession(SessionId, EndReason),
    /// Make the record durable; one at a time, answered by `Persisted`.
    /// Boxed: the largest by far.
    Persist(Box<Record>),
    /// Remove the record, as if there had never been one; else as `Persist`.
    Forget,
    /// Answer an `Ack` with the durable checkpoint, or why not.
    ReplyAck(AckId, Result<Revision, AckRefusal>),
    /// Answer an operator with the checkpoint as it was before, now that it is
    /// moved or forgotten for good, or why it is not.
    ReplyOperation(OperationId, Result<Option<Revision>, OperationRefusal>),
}

/// What a resume is checked against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The position resumed from; the watch starts at its successor.
    pub revision: Revision,
    /// The key to read at that revision.
    pub key: Bytes,
}

/// What a subscriber receives.
#[derive(Clone, PartialEq, Debug)]
pub enum Message<E, K> {
    /// Always first.
    Opened {
        /// Delivery starts right after it; `None`: a snapshot follows.
        checkpoint: Option<Revision>,
        /// Whether an earlier position is continued.
        resumed: bool,
        /// How that position was established.
        proof: Proof,
        /// 0: not known yet.
        cluster_id: u64,
    },
    /// Whole revisions, ascending, or a part of one.
    Events {
        /// The last revision in `events`.
        revision: Revision,
        /// The events.
        events: Vec<E>,
        /// More of the same revision follows.
        partial: bool,
    },
    /// A snapshot begins, and voids one that has not ended.
    SnapshotBegin {
        /// The revision it is pinned to.
        revision: Revision,
        /// Why.
        reason: SnapshotReason,
        /// etcd's compact_revision, if it is known and the reason.
        compact_revision: Option<Revision>,
    },
    /// Pairs of the snapshot.
    SnapshotChunk(Vec<K>),
    /// The snapshot is whole.
    SnapshotEnd {
        /// The revision it is pinned to.
        revision: Revision,
        /// How many pairs it has.
        count: u64,
    },
    /// Every event in range up to here was delivered on this stream.
    Progress(Revision),
    /// The stream's state changed.
    State(StreamState, Option<Revision>),
}

/// What a stream is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamState {
    /// Reading history.
    CatchingUp,
    /// Events come as they happen.
    Live,
    /// etcd is away.
    UpstreamLost,
}

/// What a subscription is doing, as an operator sees it. Where several fit,
/// the first one here that does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Activity {
    /// There is no stream.
    Disconnected,
    /// The stream's attempt on etcd failed, and none succeeded since.
    UpstreamLost,
    /// There is a stream, and its `opened` was not sent: where it begins is
    /// being found out, or made durable.
    Opening,
    /// The subscriber takes nothing more until it reads or acknowledges: its
    /// outbox is full, it has `max_unacked_events` unacknowledged, or its watch
    /// was closed because it left events waiting.
    Blocked,
    /// It reads history, or a snapshot.
    CatchingUp,
    /// Events pass as they happen.
    Live,
}

/// Why a stream ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// A newer stream took over.
    Superseded,
    /// The stored subscription has another range or other filters.
    RangeMismatch,
    /// The history is compacted, and the subscriber chose to fail.
    Compacted {
        /// The checkpoint that can't be resumed from.
        checkpoint: Option<Revision>,
        /// etcd's compact_revision, if known.
        compact_revision: Option<Revision>,
    },
    /// etcd's history is not the one that was watched.
    HistoryReplaced,
    /// etcd cannot be reached, and without it there is no position to open at.
    UpstreamUnavailable,
    /// etcd refuses, and repeating can't help.
    Refused(Refusal),
    /// The store failed before the stream could be opened.
    StoreFailed(StoreFailed),
    /// The process is stopping.
    Draining,
    /// An operator moved the subscription: the next stream begins there.
    Sought,
    /// An operator had the subscription forgotten.
    Deleted,
}

/// Why an `Ack` is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AckRefusal {
    /// Not delivered in full yet.
    BeyondDelivered {
        /// What is; `None`: nothing.
        delivered: Option<Revision>,
    },
    /// It names a session that was superseded.
    Superseded,
    /// Nothing was delivered since the process started.
    NoSession,
    /// What was delivered belongs to a history that etcd no longer has.
    HistoryReplaced,
    /// An operator moved the subscription since it was delivered, to before it.
    Sought,
    /// There is no such subscription, or none any more.
    NotFound,
    /// The store could not make it durable; repeat it.
    StoreFailed(StoreFailed),
}

/// Why an operator's move or deletion did not take place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperationRefusal {
    /// There is no such subscription.
    NotFound,
    /// The store could not make it durable; repeat it. The position is as it
    /// was, but a crash before the next stream opens may still find it changed;
    /// a live stream has ended all the same.
    StoreFailed(StoreFailed),
}
