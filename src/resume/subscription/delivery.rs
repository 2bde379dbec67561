//! What may be sent now.

use super::{Phase, Subscription, plan::Plan, session::Session, watching::fingerprint};
use crate::resume::{
    Command, Item, Message, Time,
    batch::{Batch, Window},
};

impl<E: Item, K: Item> Subscription<E, K> {
    /// Sends one message, if there is one and room for it.
    pub(super) fn deliver(&mut self, now: Time) {
        let Some(session) = self.session.as_mut().filter(|session| session.can_send()) else {
            return;
        };
        if session.state != session.told
            && let Some(state) = session.state
        {
            session.told = Some(state);
            return self.send(Message::State(state, self.ledger.delivered()), now);
        }
        match &self.phase {
            Phase::Snapshotting(_) => self.deliver_snapshot(now),
            Phase::Watching(_) => self.deliver_watched(now),
            Phase::Parked { needs } => {
                self.unpark(*needs);
                self.send_heartbeat(now);
            }
            Phase::Idle | Phase::AwaitingStore | Phase::Waiting { .. } | Phase::Asking(_) => {
                self.send_heartbeat(now);
            }
        }
    }

    /// When a heartbeat is due that etcd does not cause.
    pub(super) fn heartbeat_due(&self) -> Option<Time> {
        let session = self.session.as_ref().filter(|session| session.can_send())?;
        self.ledger.delivered()?;
        let is_ours = match &self.phase {
            Phase::Watching(watching) => watching.needs_heartbeats(),
            // The stream is alive though etcd may not be: its state says so.
            Phase::Parked { .. } | Phase::Waiting { .. } => true,
            Phase::Asking(plan) => matches!(plan, Plan::Watch(_)),
            Phase::Idle | Phase::AwaitingStore | Phase::Snapshotting(_) => false,
        };
        is_ours.then(|| session.sent_at + self.settings.progress_interval)
    }

    /// Whether events wait that the subscriber does not take.
    pub(super) fn is_blocked(&self) -> bool {
        let can_send = self.session.as_ref().is_some_and(Session::can_send);
        let is_shut = |needs| self.window().is_some_and(|window| !window.admits(needs));
        let needs = self.assembler.next_needs();
        needs.is_some_and(|needs| !can_send || is_shut(needs))
    }

    /// `None`: there is no limit.
    pub(super) fn window(&self) -> Option<Window> {
        let limit = u64::from(self.session.as_ref()?.request.max_unacked_events?);
        let unacked = self.ledger.unacked_events();
        Some(Window {
            free: limit.saturating_sub(unacked),
            untouched: unacked == 0,
        })
    }

    fn deliver_watched(&mut self, now: Time) {
        let window = self.window();
        if let Some(batch) = self.assembler.next_batch(window) {
            if !batch.partial {
                self.note_delivered(&batch, now);
            }
            let message = Message::Events {
                revision: batch.revision,
                events: batch.events,
                partial: batch.partial,
            };
            return self.send(message, now);
        }
        match self.certify() {
            Some(revision) => self.send(Message::Progress(revision), now),
            None => self.send_heartbeat(now),
        }
    }

    fn send_heartbeat(&mut self, now: Time) {
        if self.heartbeat_due().is_some_and(|at| at <= now)
            && let Some(delivered) = self.ledger.delivered()
        {
            self.send(Message::Progress(delivered), now);
        }
    }

    /// Enters every revision of a batch that completes its last one.
    fn note_delivered(&mut self, batch: &Batch<E>, now: Time) {
        let mut sent_before = batch.sent_before;
        let is_same = |a: &E, b: &E| a.mod_revision() == b.mod_revision();
        for events in batch.events.chunk_by(is_same) {
            if let Some(last) = events.last() {
                let (revision, last) = (last.mod_revision(), fingerprint(last));
                let count = events.len() as u64 + std::mem::take(&mut sent_before);
                self.ledger.deliver(revision, count, last, now);
            }
        }
        if batch.events.is_empty() {
            self.ledger.deliver(batch.revision, sent_before, None, now);
        }
    }

    pub(super) fn send(&mut self, message: Message<E, K>, now: Time) {
        if let Some(session) = &mut self.session {
            session.sent_at = now;
            self.commands
                .push_back(Command::Deliver(session.id, message));
        }
    }
}
