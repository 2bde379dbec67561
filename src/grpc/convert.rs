//! From the words of `resume` to the generated messages.

use crate::{
    proto::watchmark::v1::{self as pb, subscribe_response::Message as Body},
    resume::{self, Revision, SessionId},
    session::Message,
};

/// `message`, as the subscriber of `session` receives it.
pub(super) fn response(session: SessionId, message: Message) -> pb::SubscribeResponse {
    let body = match message {
        Message::Opened {
            checkpoint,
            resumed,
            proof,
            cluster_id,
        } => Body::Opened(pb::Opened {
            session_id: session.0,
            checkpoint: Revision::to_wire(checkpoint),
            resumed,
            proof: pb::Proof::from(proof).into(),
            cluster_id,
        }),
        Message::Events {
            revision,
            events,
            partial,
        } => Body::Events(pb::Events {
            revision: revision.get(),
            events,
            partial,
        }),
        Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        } => Body::SnapshotBegin(pb::SnapshotBegin {
            revision: revision.get(),
            reason: snapshot_reason(reason).into(),
            compact_revision: Revision::to_wire(compact_revision),
        }),
        Message::SnapshotChunk(kvs) => Body::SnapshotChunk(pb::SnapshotChunk { kvs }),
        Message::SnapshotEnd { revision, count } => Body::SnapshotEnd(pb::SnapshotEnd {
            revision: revision.get(),
            count: i64::try_from(count).unwrap_or(i64::MAX),
        }),
        Message::Progress(revision) => Body::Progress(pb::Progress {
            revision: revision.get(),
        }),
        Message::State(state, revision) => Body::State(pb::State {
            state: stream_state(state).into(),
            revision: Revision::to_wire(revision),
        }),
    };
    pb::SubscribeResponse {
        message: Some(body),
    }
}

pub(super) fn snapshot_reason(reason: resume::SnapshotReason) -> pb::SnapshotReason {
    match reason {
        resume::SnapshotReason::First => pb::SnapshotReason::First,
        resume::SnapshotReason::Compacted => pb::SnapshotReason::Compacted,
        resume::SnapshotReason::HistoryReplaced => pb::SnapshotReason::HistoryReplaced,
        resume::SnapshotReason::Requested => pb::SnapshotReason::Requested,
    }
}

fn stream_state(state: resume::StreamState) -> pb::StreamState {
    match state {
        resume::StreamState::CatchingUp => pb::StreamState::CatchingUp,
        resume::StreamState::Live => pb::StreamState::Live,
        resume::StreamState::UpstreamLost => pb::StreamState::UpstreamLost,
    }
}
