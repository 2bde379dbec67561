//! How the checkpoint moves, and how it becomes durable.
//!
//! One write is under way at a time; what changes meanwhile goes into the
//! next. An `Ack` is answered when a write that covers it is durable.

use super::{Subscription, session::Opening};
use crate::resume::{
    AckId, AckRefusal, Command, EndReason, Item, Proof, Record, Revision, SessionId, StoreFailed,
};

/// The record, as it is on disk and as it should be.
#[derive(Debug)]
pub(super) struct Writes {
    durable: Option<Record>,
    in_flight: Option<Record>,
    wanted: Option<Record>,
    waiting: Vec<(AckId, Revision)>,
}

impl Writes {
    pub(super) const fn new(durable: Option<Record>) -> Self {
        Self {
            durable,
            in_flight: None,
            wanted: None,
            waiting: Vec::new(),
        }
    }

    pub(super) const fn durable(&self) -> Option<&Record> {
        self.durable.as_ref()
    }

    /// As it should be, durable or not.
    pub(super) fn current(&self) -> Option<&Record> {
        self.wanted
            .as_ref()
            .or(self.in_flight.as_ref())
            .or(self.durable.as_ref())
    }

    /// Whether the record on disk is as it should be.
    pub(super) const fn are_done(&self) -> bool {
        self.in_flight.is_none() && self.wanted.is_none()
    }

    /// Has `record` written, unless it is written already.
    pub(super) fn want(&mut self, record: Record) {
        if self.current() != Some(&record) {
            self.wanted = Some(record);
        }
    }

    fn durable_checkpoint(&self) -> Option<Revision> {
        self.durable.as_ref().and_then(|record| record.checkpoint)
    }

    fn current_checkpoint(&self) -> Option<Revision> {
        self.current().and_then(|record| record.checkpoint)
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    pub(super) fn ack(&mut self, ack: AckId, session: Option<SessionId>, revision: Revision) {
        if self.last_session.is_some() && session.is_some() && session != self.last_session {
            self.reply(ack, Err(AckRefusal::Superseded));
        } else if let Some(durable) = self.writes.durable_checkpoint()
            && revision <= durable
        {
            self.reply(ack, Ok(durable));
        } else if self.ledger.delivered() < Some(revision) || self.last_session.is_none() {
            let refusal = self.ack_refusal_without_delivery();
            self.reply(ack, Err(refusal));
        } else {
            self.move_checkpoint(revision, Proof::Acked);
            self.writes.waiting.push((ack, revision));
        }
    }

    /// The transport took everything up to `revision`.
    pub(super) fn handed(&mut self, revision: Revision) {
        let is_auto = self
            .session
            .as_ref()
            .is_some_and(|session| session.request.auto_ack);
        if is_auto && Some(revision) <= self.ledger.delivered() {
            self.move_checkpoint(revision, Proof::Acked);
        }
    }

    /// Moves the checkpoint up to `revision`, which is delivered in full and
    /// of which nothing needs an acknowledgement any more.
    pub(super) fn move_checkpoint(&mut self, revision: Revision, proof: Proof) {
        debug_assert!(Some(revision) <= self.ledger.delivered());
        if self.writes.current_checkpoint() >= Some(revision) {
            return;
        }
        let Some(mut record) = self.writes.current().cloned() else {
            return;
        };
        record.checkpoint = Some(revision);
        record.proof = proof;
        record.assumed = record.assumed.filter(|&assumed| assumed > revision);
        record.pending_snapshot = None;
        record.history.cluster_id = self.seen.cluster_id;
        record.history.raft_term = self.seen.raft_term;
        record.history.fingerprint = self.ledger.fingerprint_at(revision);
        self.writes.want(record);
    }

    /// Starts the next write, if one is due.
    pub(super) fn write(&mut self) {
        if self.writes.in_flight.is_none()
            && let Some(record) = self.writes.wanted.take()
        {
            self.writes.in_flight = Some(record.clone());
            self.commands.push_back(Command::Persist(record));
        }
    }

    pub(super) fn persisted(&mut self, outcome: Result<(), StoreFailed>) {
        match outcome {
            Ok(()) => {
                debug_assert!(self.writes.in_flight.is_some(), "nothing was being written");
                self.writes.durable = self.writes.in_flight.take().or(self.writes.durable.take());
                self.settle();
            }
            Err(failed) => {
                self.writes.in_flight = None;
                self.writes.wanted = None;
                self.fail_acks(&AckRefusal::StoreFailed(failed.clone()));
                if self
                    .session
                    .as_ref()
                    .is_some_and(|session| matches!(session.opening, Opening::Ready(_)))
                {
                    self.end(EndReason::StoreFailed(failed));
                }
            }
        }
        self.store_is_idle();
    }

    pub(super) fn fail_acks(&mut self, refusal: &AckRefusal) {
        for (ack, _) in std::mem::take(&mut self.writes.waiting) {
            self.reply(ack, Err(refusal.clone()));
        }
    }

    fn settle(&mut self) {
        let Some(checkpoint) = self.writes.durable_checkpoint() else {
            return;
        };
        self.ledger.settle(checkpoint);
        let (covered, waiting) = std::mem::take(&mut self.writes.waiting)
            .into_iter()
            .partition(|&(_, revision)| revision <= checkpoint);
        self.writes.waiting = waiting;
        let covered: Vec<(AckId, Revision)> = covered;
        for (ack, _) in covered {
            self.reply(ack, Ok(checkpoint));
        }
    }

    fn reply(&mut self, ack: AckId, answer: Result<Revision, AckRefusal>) {
        self.commands.push_back(Command::ReplyAck(ack, answer));
    }
}
