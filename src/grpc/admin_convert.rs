//! From what `session` shows an operator to the generated messages.

use std::time::SystemTime;

use prost_types::Timestamp;

use super::convert;
use crate::{
    proto::{
        PairOptions,
        watchmark::v1::{self as pb},
    },
    resume::{Activity, OnCompaction, Revision},
    session::{EndpointStatus, EtcdStatus, Overview, SessionOverview, Sought, Standing, Standings},
    survey::Problem,
};

/// `overview`, with what etcd says of its checkpoint; as of `now`.
pub(super) fn subscription(
    overview: Overview,
    standings: &Standings,
    now: SystemTime,
) -> pb::Subscription {
    let checkpoint = overview.record.as_ref().and_then(|it| it.checkpoint);
    let lag_revisions = match (standings.head, checkpoint) {
        (Some(head), Some(checkpoint)) => head.get().saturating_sub(checkpoint.get()).max(0),
        _ => 0,
    };
    let behind = overview
        .behind_since
        .map(|since| now.duration_since(since).unwrap_or_default());
    let stream = overview.session.as_ref();
    let record = overview.record.as_ref();
    // Exhaustive: operators are shown all of them.
    let PairOptions { prev_kv, keys_only } =
        stream.map_or_else(PairOptions::default, |it| it.pair_options);
    pb::Subscription {
        client_id: overview.client_id.as_str().to_owned(),
        key: overview.selection.range.key().clone(),
        range_end: overview.selection.range.range_end().clone(),
        no_put: overview.selection.no_put,
        no_delete: overview.selection.no_delete,
        prev_kv,
        keys_only,
        on_compaction: stream
            .map_or(pb::CompactionPolicy::Unspecified, on_compaction)
            .into(),
        ack_mode: stream.map_or(pb::AckMode::Unspecified, ack_mode).into(),
        max_unacked_events: stream.and_then(|it| it.max_unacked_events).unwrap_or(0),
        state: state(overview.activity).into(),
        session: stream.map(session),
        checkpoint: Revision::to_wire(checkpoint),
        delivered: Revision::to_wire(overview.delivered),
        unacked_events: overview.unacked_events,
        oldest_unacked_time: overview.oldest_unacked_at.map(Timestamp::from),
        lag_revisions,
        lag_seconds: behind.map_or(0.0, |behind| behind.as_secs_f64()),
        last_event_time: overview.last_event_at.map(Timestamp::from),
        assumed: Revision::to_wire(record.and_then(|it| Some(it.assumed?.revision))),
        last_advance: overview.last_advance.map(|(proof, at)| pb::Advance {
            proof: pb::Proof::from(proof).into(),
            time: Some(at.into()),
        }),
        resyncs: overview.resyncs,
        pending_snapshot: record
            .and_then(|it| it.pending_snapshot)
            .map_or(pb::SnapshotReason::Unspecified, convert::snapshot_reason)
            .into(),
        resumable: checkpoint.and_then(|checkpoint| standings.is_resumable(checkpoint)),
    }
}

pub(super) fn sought(sought: Sought) -> pb::SeekSubscriptionResponse {
    let compact_revision = match sought.standing {
        Standing::Compacted { compact_revision } => compact_revision,
        Standing::Resumable | Standing::Future { .. } | Standing::Replaced => None,
    };
    pb::SeekSubscriptionResponse {
        previous_checkpoint: Revision::to_wire(sought.previous),
        checkpoint: Revision::to_wire(sought.checkpoint),
        resumable: sought.standing == Standing::Resumable,
        compact_revision: Revision::to_wire(compact_revision),
    }
}

pub(super) fn etcd(status: EtcdStatus) -> pb::Etcd {
    pb::Etcd {
        endpoints: status.endpoints.into_iter().map(endpoint).collect(),
        cluster_id: status.cluster_id,
        revision: Revision::to_wire(status.revision.map(|(revision, _)| revision)),
        revision_time: status.revision.map(|(_, at)| at.into()),
    }
}

pub(super) fn problem(problem: &Problem) -> pb::Problem {
    pb::Problem {
        reason: problem.reason.as_str().to_owned(),
        message: problem.message.clone(),
        since: problem.since.map(Timestamp::from),
    }
}

fn endpoint(status: EndpointStatus) -> pb::EtcdEndpoint {
    let since = status.failure.as_ref().map(|failure| failure.since);
    pb::EtcdEndpoint {
        url: status.url,
        version: status.version.unwrap_or_default(),
        member_id: status.member_id,
        error: status.failure.map_or_else(String::new, |it| it.message),
        error_time: since.map(Timestamp::from),
        can_ask_progress: status.can_ask_progress,
    }
}

fn session(session: &SessionOverview) -> pb::Session {
    pb::Session {
        session_id: session.id.0,
        peer: session.peer.clone(),
        since: Some(session.since.into()),
    }
}

fn on_compaction(session: &SessionOverview) -> pb::CompactionPolicy {
    match session.on_compaction {
        OnCompaction::Resync => pb::CompactionPolicy::Resync,
        OnCompaction::Fail => pb::CompactionPolicy::Fail,
    }
}

fn ack_mode(session: &SessionOverview) -> pb::AckMode {
    if session.auto_ack {
        pb::AckMode::Auto
    } else {
        pb::AckMode::Manual
    }
}

fn state(activity: Activity) -> pb::SubscriptionState {
    match activity {
        Activity::Disconnected => pb::SubscriptionState::Disconnected,
        Activity::UpstreamLost => pb::SubscriptionState::UpstreamLost,
        Activity::Opening => pb::SubscriptionState::Opening,
        Activity::Blocked => pb::SubscriptionState::Blocked,
        Activity::CatchingUp => pb::SubscriptionState::CatchingUp,
        Activity::Live => pb::SubscriptionState::Live,
    }
}
