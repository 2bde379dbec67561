//! What a driver remembers for operators: when things happened. Owns nothing
//! that a rule depends on, and costs no look at the clock: every time is the
//! one of the driver's turn.

use std::time::SystemTime;

use super::{Driver, Newcomer};
use crate::{
    resume::{Activity, Proof, Record, Revision, SnapshotReason, Time},
    session::{Message, Overview, SessionOverview},
};

/// Of one subscription, since its driver began.
#[derive(Debug)]
pub(super) struct Account {
    behind_since: Option<Time>,
    last_event_at: Option<Time>,
    last_advance: Option<(Proof, Time)>,
    /// Durable, as far as `stored` was told.
    checkpoint: Option<Revision>,
    resyncs: u64,
}

impl Account {
    /// What was stored already may have been behind since the process started.
    pub(super) fn new(record: Option<&Record>, now: Time) -> Self {
        Self {
            behind_since: Some(record.map_or(now, |_| Time::ZERO)),
            last_event_at: None,
            last_advance: None,
            checkpoint: record.and_then(|record| record.checkpoint),
            resyncs: 0,
        }
    }

    /// A message went out.
    pub(super) fn delivered(&mut self, message: &Message, now: Time) {
        match message {
            Message::Events { .. } => self.last_event_at = Some(now),
            Message::SnapshotBegin { reason, .. } if *reason != SnapshotReason::First => {
                self.resyncs += 1;
            }
            Message::Opened { .. }
            | Message::SnapshotBegin { .. }
            | Message::SnapshotChunk(_)
            | Message::SnapshotEnd { .. }
            | Message::Progress(_)
            | Message::State(..) => {}
        }
    }

    /// A write ended; `record` is what is durable.
    pub(super) fn stored(&mut self, record: Option<&Record>, now: Time) {
        let checkpoint = record.and_then(|record| record.checkpoint);
        if let Some(record) = record
            && checkpoint.is_some()
            && self.checkpoint != checkpoint
        {
            self.last_advance = Some((record.proof, now));
        }
        self.checkpoint = checkpoint;
    }

    /// What the subscription is doing at the end of a turn. A live stream is
    /// behind by what it waits for to be acknowledged; what is not live does
    /// not know what it misses, and is behind since it was last live.
    pub(super) fn is(&mut self, activity: Activity, oldest_unacked_at: Option<Time>, now: Time) {
        match activity {
            Activity::Live => self.behind_since = oldest_unacked_at,
            Activity::Disconnected
            | Activity::UpstreamLost
            | Activity::Opening
            | Activity::Blocked
            | Activity::CatchingUp => {
                self.behind_since.get_or_insert(now);
            }
        }
    }
}

impl Driver {
    /// `None`: nothing is stored, and nobody subscribes.
    pub(super) fn overview(&self, now: Time) -> Option<Overview> {
        let wall = SystemTime::now();
        let at = |time: Time| wall.checked_sub(now.saturating_sub(time)).unwrap_or(wall);
        let record = self.machine.record();
        let stream = self.streams.last();
        let selection = match (stream, record) {
            (Some(stream), _) => &stream.request.selection,
            (None, Some(record)) => &record.selection,
            (None, None) => return None,
        };
        Some(Overview {
            client_id: self.place.client_id().clone(),
            selection: selection.clone(),
            record: record.cloned(),
            activity: self.machine.activity(),
            session: stream.map(|stream| session(stream, at(stream.since))),
            delivered: self.machine.delivered(),
            unacked_events: self.machine.unacked_events(),
            oldest_unacked_at: self.machine.oldest_unacked_at().map(at),
            behind_since: self.account.behind_since.map(at),
            last_event_at: self.account.last_event_at.map(at),
            last_advance: self
                .account
                .last_advance
                .map(|(proof, time)| (proof, at(time))),
            resyncs: self.account.resyncs,
        })
    }
}

fn session(stream: &Newcomer, since: SystemTime) -> SessionOverview {
    SessionOverview {
        id: stream.session,
        peer: stream.peer.clone(),
        since,
        pair_options: stream.pair_options,
        on_compaction: stream.request.on_compaction,
        auto_ack: stream.request.auto_ack,
        max_unacked_events: stream.request.max_unacked_events,
    }
}
