//! What a driver needs to know of the messages that it passes on.

use tracing::{debug, info, trace};

use crate::{
    proto::watchmark::v1::{Event, KeyValue},
    resume::{self, EndReason, Item, Revision, SessionId, SnapshotReason},
};

/// What a subscriber receives.
pub type Message = resume::Message<Event, KeyValue>;

/// How much of an outbox `message` takes, of these bytes on the wire: small
/// events are most of all what surrounds them.
pub(super) fn in_memory(message: &Message, size_bytes: usize) -> usize {
    /// What the allocator adds for a message and for each item.
    const SHARED_BYTES: usize = 64;
    let each = |item| SHARED_BYTES + item;
    size_bytes
        + each(size_of::<Message>())
        + match message {
            Message::Events { events, .. } => events.len() * each(size_of::<Event>()),
            Message::SnapshotChunk(kvs) => kvs.len() * each(size_of::<KeyValue>()),
            Message::Opened { .. }
            | Message::SnapshotBegin { .. }
            | Message::SnapshotEnd { .. }
            | Message::Progress(_)
            | Message::State(..) => 0,
        }
}

/// How large `message` is on the wire, or a little less.
pub(super) fn size_bytes(message: &Message) -> usize {
    /// More than any message's fields but its items.
    const FRAME_BYTES: usize = 64;
    FRAME_BYTES
        + match message {
            Message::Events { events, .. } => events.iter().map(Item::size_bytes).sum(),
            Message::SnapshotChunk(kvs) => kvs.iter().map(Item::size_bytes).sum(),
            Message::Opened { .. }
            | Message::SnapshotBegin { .. }
            | Message::SnapshotEnd { .. }
            | Message::Progress(_)
            | Message::State(..) => 0,
        }
}

/// The revision that can be acknowledged once `message` has arrived.
pub(super) fn acknowledgeable(message: &Message) -> Option<Revision> {
    match message {
        Message::Events {
            revision,
            partial: false,
            ..
        }
        | Message::SnapshotEnd { revision, .. } => Some(*revision),
        Message::Opened { .. }
        | Message::Events { .. }
        | Message::SnapshotBegin { .. }
        | Message::SnapshotChunk(_)
        | Message::Progress(_)
        | Message::State(..) => None,
    }
}

/// Says that `message` goes out: what an operator follows. Never a value.
pub(super) fn log(session: SessionId, message: &Message) {
    match message {
        Message::Opened {
            checkpoint,
            resumed,
            proof,
            ..
        } => info!(
            session_id = session.0,
            checkpoint = Revision::to_wire(*checkpoint),
            resumed,
            ?proof,
            "subscribed"
        ),
        Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        } => {
            let revision = revision.get();
            let compact_revision = Revision::to_wire(*compact_revision);
            match reason {
                SnapshotReason::First => debug!(revision, "snapshot begins"),
                SnapshotReason::Compacted
                | SnapshotReason::HistoryReplaced
                | SnapshotReason::Requested => {
                    info!(revision, compact_revision, ?reason, "resync begins");
                }
            }
        }
        Message::SnapshotEnd { revision, count } => {
            info!(revision = revision.get(), count, "snapshot sent");
        }
        Message::Events {
            revision,
            events,
            partial,
        } => trace!(
            revision = revision.get(),
            events = events.len(),
            partial,
            "events"
        ),
        Message::State(state, revision) => debug!(
            ?state,
            revision = Revision::to_wire(*revision),
            "stream state"
        ),
        Message::SnapshotChunk(_) | Message::Progress(_) => {}
    }
}

/// Says that a stream ends, and why.
pub(super) fn log_end(session: SessionId, reason: &EndReason) {
    match reason {
        EndReason::Draining => info!(session_id = session.0, "drained"),
        EndReason::Superseded
        | EndReason::RangeMismatch
        | EndReason::Compacted { .. }
        | EndReason::HistoryReplaced
        | EndReason::UpstreamUnavailable
        | EndReason::Refused(_)
        | EndReason::StoreFailed(_)
        | EndReason::Sought
        | EndReason::Deleted => {
            info!(session_id = session.0, ?reason, "stream ended");
        }
    }
}
