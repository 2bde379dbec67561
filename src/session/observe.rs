//! What a driver counts: read off the inputs and commands of the machine,
//! which knows nothing of it. Decides nothing.

use std::{sync::Arc, time::Instant};

use super::{Message, registry::AckError};
use crate::{
    metrics,
    proto::watchmark::v1::{Event, KeyValue},
    resume::{
        AckRefusal, Assumed, EndReason, Proof, Record, Revision, SnapshotReason,
        input::Upstream as Said,
    },
};

/// Of one subscription.
pub(super) struct Observer {
    metrics: Arc<metrics::Sessions>,
    /// When the newest events of etcd were decoded.
    heard_at: Instant,
    /// A watch was opened for the live stream.
    is_watching: bool,
    /// What a close means that follows at once: what etcd said last.
    said: Option<&'static str>,
    /// What ended the watch before the next one.
    ended_by: Option<&'static str>,
}

/// Where a subscription stands, before and after something.
#[derive(Clone, Copy)]
pub(super) struct Position {
    checkpoint: Option<Revision>,
    assumed: Option<Assumed>,
    proof: Option<Proof>,
}

impl Position {
    pub(super) fn of(record: Option<&Record>) -> Self {
        Self {
            checkpoint: record.and_then(|record| record.checkpoint),
            assumed: record.and_then(|record| record.assumed),
            proof: record.map(|record| record.proof),
        }
    }
}

impl Observer {
    pub(super) fn new(metrics: Arc<metrics::Sessions>) -> Self {
        Self {
            metrics,
            heard_at: Instant::now(),
            is_watching: false,
            said: None,
            ended_by: None,
        }
    }

    pub(super) fn session_begun(&self) {
        self.metrics.begun.inc();
    }

    /// The subscriber hung up.
    pub(super) fn session_closed(&mut self) {
        self.metrics.ended.inc("closed");
        self.not_watching();
    }

    pub(super) fn session_ended(&mut self, reason: &EndReason) {
        let reason = match reason {
            EndReason::Superseded => {
                self.metrics.takeovers.inc();
                "superseded"
            }
            // Of a newcomer: what the live stream does goes on.
            EndReason::RangeMismatch => return self.metrics.ended.inc("range_mismatch"),
            EndReason::Compacted { .. } => "compacted",
            EndReason::HistoryReplaced => "history_replaced",
            EndReason::UpstreamUnavailable => "upstream_unavailable",
            EndReason::Refused(_) => "refused",
            EndReason::StoreFailed(_) => "store_failed",
            EndReason::Draining => "draining",
            EndReason::Sought => "sought",
            EndReason::Deleted => "deleted",
        };
        self.metrics.ended.inc(reason);
        self.not_watching();
    }

    pub(super) fn etcd_said(&mut self, said: &Said<Event, KeyValue>) {
        self.said = match said {
            Said::Events { .. } => {
                self.heard_at = Instant::now();
                None
            }
            Said::Lost => Some("lost"),
            Said::Compacted { .. } => Some("compacted"),
            Said::WatchOpened(_) => Some("behind"),
            Said::Bookmark(_)
            | Said::Head(_)
            | Said::SnapshotBegun(_)
            | Said::SnapshotPage(_)
            | Said::SnapshotEnded
            | Said::SnapshotCompacted { .. }
            | Said::Refused(_) => None,
        };
    }

    /// What etcd said has had its consequences.
    pub(super) fn settled(&mut self) {
        self.said = None;
    }

    pub(super) fn upstream_closed(&mut self, is_parked: bool) {
        if !self.is_watching {
            return;
        }
        self.ended_by = Some(match self.said {
            Some(said) => said,
            None if is_parked => "parked",
            // Nothing was said, and that is why.
            None => {
                self.metrics.stalls.inc();
                "stalled"
            }
        });
    }

    pub(super) fn watch_begun(&mut self) {
        if let Some(reason) = self.ended_by.take() {
            self.metrics.reopens.inc(reason);
        }
        self.is_watching = true;
    }

    /// Nothing is going on with etcd, or something else.
    pub(super) fn not_watching(&mut self) {
        self.is_watching = false;
        self.ended_by = None;
    }

    /// Returns since when what `message` holds was on its way, if it is of
    /// etcd's events.
    pub(super) fn delivered(&self, message: &Message, size_bytes: usize) -> Option<Instant> {
        let size_bytes = u64::try_from(size_bytes).unwrap_or(u64::MAX);
        match message {
            Message::Events { events, .. } => {
                let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
                self.metrics.events.inc_by(count);
                self.metrics.bytes.inc_by(size_bytes);
                return Some(self.heard_at);
            }
            Message::SnapshotChunk(_) => {
                self.metrics.bytes.inc_by(size_bytes);
            }
            Message::SnapshotBegin { reason, .. } => match reason {
                SnapshotReason::First => {}
                SnapshotReason::Compacted => self.metrics.resyncs.inc("compacted"),
                SnapshotReason::HistoryReplaced => self.metrics.resyncs.inc("history_replaced"),
                SnapshotReason::Requested => self.metrics.resyncs.inc("requested"),
            },
            Message::Opened { .. }
            | Message::SnapshotEnd { .. }
            | Message::Progress(_)
            | Message::State(..) => {}
        }
        None
    }

    /// A record became durable.
    pub(super) fn persisted(&self, before: Position, after: Position) {
        let proof = after.proof.map_or("", Proof::name);
        if after.checkpoint > before.checkpoint && Proof::IDLE.contains(&proof) {
            self.metrics.idle_advances.inc(proof);
        }
        if let Some(assumed) = after.assumed
            && Some(assumed.revision) > before.assumed.map(|it| it.revision)
        {
            self.metrics.idle_advances.inc(assumed.proof.name());
        }
    }
}

/// The answer to an ack.
pub(super) fn ack_answered(metrics: &metrics::Sessions, answer: &Result<Revision, AckError>) {
    metrics.acks.inc(match answer {
        Ok(_) => "ok",
        Err(AckError::SubscriptionNotFound) => "not_found",
        Err(AckError::LoadRecord(_) | AckError::DriverStopped) => "unavailable",
        Err(AckError::Refused(refusal)) => match refusal {
            AckRefusal::BeyondDelivered { .. } => "beyond_delivered",
            AckRefusal::Superseded => "superseded",
            AckRefusal::NoSession => "no_session",
            AckRefusal::HistoryReplaced => "history_replaced",
            AckRefusal::StoreFailed(_) => "store_failed",
            AckRefusal::Sought => "sought",
            AckRefusal::NotFound => "not_found",
        },
    });
}
