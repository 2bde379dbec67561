//! How the checkpoint moves, and how it becomes durable.
//!
//! One write is under way at a time; what changes meanwhile goes into the
//! next. An `Ack` is answered when a write that covers it is durable, an
//! operator when the write is that was asked for.

use super::{Phase, Subscription, session::Opening};
use crate::resume::{
    AckId, AckRefusal, Command, EndReason, History, Item, OperationId, OperationRefusal, Proof,
    Record, Revision, SessionId, StoreFailed, Time,
};

/// How often automatic acknowledgements are stored while a stream lasts: nobody
/// waits for them. Its end stores what is left, where that means anything still.
const HAND_EVERY: Time = Time::from_millis(100);
/// How long after a failed write an automatic acknowledgement is stored again:
/// nobody else repeats it.
const HAND_AGAIN_AFTER: Time = Time::from_secs(1);

/// The record, as it is on disk and as it should be.
#[derive(Debug)]
pub(super) struct Writes {
    pub(super) durable: Option<Record>,
    in_flight: Option<Change>,
    wanted: Option<Change>,
    /// A write failed that does not only move the checkpoint forward to what is
    /// acknowledged, and it may have reached the disk all the same.
    pub(super) unsure: bool,
    waiting: Vec<(AckId, Revision)>,
}

/// A write.
#[derive(Debug)]
struct Change {
    /// `None`: the record is removed.
    record: Option<Record>,
    /// The operators who wait for it.
    operations: Vec<OperationId>,
}

impl Change {
    fn checkpoint(&self) -> Option<Revision> {
        self.record.as_ref()?.checkpoint
    }
}

impl Writes {
    pub(super) const fn new(durable: Option<Record>) -> Self {
        Self {
            durable,
            in_flight: None,
            wanted: None,
            unsure: false,
            waiting: Vec::new(),
        }
    }

    fn to_come(&self) -> impl Iterator<Item = &Change> {
        [&self.in_flight, &self.wanted].into_iter().flatten()
    }

    /// As it should be, durable or not.
    pub(super) fn current(&self) -> Option<&Record> {
        match self.to_come().last() {
            Some(change) => change.record.as_ref(),
            None => self.durable.as_ref(),
        }
    }

    /// Whether the record is about to be removed.
    pub(super) fn are_forgetting(&self) -> bool {
        !self.are_done() && self.current().is_none()
    }

    /// Whether the record on disk is as it should be.
    pub(super) fn are_done(&self) -> bool {
        self.to_come().next().is_none()
    }

    /// Has `record` written, unless it is written already.
    pub(super) fn want(&mut self, record: Record) {
        let is_known = !self.unsure || !self.are_done();
        if self.current() != Some(&record) || !is_known {
            self.replace(Some(record), None);
        }
    }

    /// Has the record written as `change` makes it, if there is one.
    pub(super) fn change(&mut self, change: impl FnOnce(&Record) -> Record) {
        if let Some(record) = self.current().map(change) {
            self.want(record);
        }
    }

    /// Has `record` written in place of any other that has not begun, for an
    /// operator perhaps. `None`: the record is removed.
    pub(super) fn replace(&mut self, record: Option<Record>, operation: Option<OperationId>) {
        let replaced = self.wanted.take();
        let mut operations = replaced.map_or_else(Vec::new, |change| change.operations);
        operations.extend(operation);
        self.wanted = Some(Change { record, operations });
    }

    /// etcd answered within the history that a write which has not begun speaks
    /// of: it is to say so.
    pub(super) fn note(&mut self, seen: &History) {
        if let Some(record) = self.wanted.as_mut().and_then(|it| it.record.as_mut()) {
            let fingerprint = record.history.fingerprint.take();
            record.history = History {
                fingerprint,
                ..*seen
            };
        }
    }

    fn durable_checkpoint(&self) -> Option<Revision> {
        self.durable.as_ref()?.checkpoint
    }

    /// What is acknowledged for good: on disk, and not about to fall.
    fn settled_checkpoint(&self) -> Option<Revision> {
        let to_come = self.to_come().map(Change::checkpoint);
        to_come.fold(self.durable_checkpoint(), Ord::min)
    }

    /// What the writes under way and to come bring the checkpoint to, at most.
    pub(super) fn reached(&self) -> Option<Revision> {
        self.to_come().filter_map(Change::checkpoint).max()
    }

    pub(super) fn current_checkpoint(&self) -> Option<Revision> {
        self.current()?.checkpoint
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    pub(super) fn ack(&mut self, ack: AckId, session: Option<SessionId>, revision: Revision) {
        if self.last_session.is_some() && session.is_some() && session != self.last_session {
            self.reply(ack, Err(AckRefusal::Superseded));
        } else if let Some(settled) = self.writes.settled_checkpoint()
            && revision <= settled
        {
            if self.writes.unsure {
                self.writes.change(Record::clone);
                self.writes.waiting.push((ack, revision));
            } else {
                self.reply(ack, Ok(settled));
            }
        } else if self.session.is_none() && self.writes.are_forgetting() {
            self.writes.waiting.push((ack, revision));
        } else if self.ledger.delivered() < Some(revision) || self.last_session.is_none() {
            let refusal = self.ack_refusal_without_delivery();
            self.reply(ack, Err(refusal));
        } else {
            self.move_checkpoint(revision, Proof::Acked);
            self.writes.waiting.push((ack, revision));
        }
    }

    /// The transport took everything up to `revision`.
    pub(super) fn handed(&mut self, revision: Revision, now: Time) {
        if Some(revision) <= self.ledger.delivered()
            && let Some(session) = &mut self.session
            && session.request.auto_ack
        {
            session.handed = session.handed.max(Some(revision));
            if session.request.max_unacked_events.is_some() {
                // The stream waits for it.
                session.hand_again_at = now;
            }
            self.hand_again(now);
        }
    }

    /// Moves the checkpoint to what was handed over, if it is not there yet.
    pub(super) fn hand_again(&mut self, now: Time) {
        if self.handed_again_due().is_some_and(|at| at <= now)
            && let Some(session) = &mut self.session
        {
            session.hand_again_at = now + HAND_EVERY;
            self.hand_rest();
        }
    }

    /// Moves the checkpoint to what was handed over.
    pub(super) fn hand_rest(&mut self) {
        if let Some(handed) = self.session.as_ref().and_then(|session| session.handed) {
            self.move_checkpoint(handed, Proof::Acked);
        }
    }

    /// When what was handed over is to be stored, if it is not yet.
    pub(super) fn handed_again_due(&self) -> Option<Time> {
        let session = self.session.as_ref()?;
        (session.handed > self.writes.current_checkpoint()).then_some(session.hand_again_at)
    }

    /// Moves the checkpoint up to `revision`, which is delivered in full and
    /// of which nothing needs an acknowledgement any more.
    pub(super) fn move_checkpoint(&mut self, revision: Revision, proof: Proof) {
        debug_assert!(Some(revision) <= self.ledger.delivered());
        if self.writes.current_checkpoint() >= Some(revision) {
            return;
        }
        let history = self.seen_with(self.ledger.fingerprint_at(revision));
        self.writes.change(|record| Record {
            assumed: record.assumed.filter(|it| it.revision > revision),
            ..record.at(Some(revision), proof, history)
        });
    }

    /// Starts the next write, if one is due.
    pub(super) fn write(&mut self) {
        if self.writes.in_flight.is_none()
            && let Some(change) = self.writes.wanted.take()
        {
            self.commands.push_back(match &change.record {
                Some(record) => Command::Persist(Box::new(record.clone())),
                None => Command::Forget,
            });
            self.writes.in_flight = Some(change);
        }
    }

    pub(super) fn persisted(&mut self, outcome: Result<(), StoreFailed>, now: Time) {
        debug_assert!(self.writes.in_flight.is_some(), "nothing was being written");
        if let Some(change) = self.writes.in_flight.take() {
            match outcome {
                Ok(()) => self.written(change),
                Err(failed) => self.write_failed(change, &failed, now),
            }
        }
        self.begin();
    }

    fn written(&mut self, change: Change) {
        let before = self.writes.durable_checkpoint();
        self.writes.durable = change.record;
        self.writes.unsure = false;
        if self.writes.durable.is_none() {
            self.forgotten();
        }
        if let Some(checkpoint) = self.writes.durable_checkpoint() {
            self.ledger.settle(checkpoint);
            self.answer_acks(|revision| revision <= checkpoint, &Ok(checkpoint));
        }
        self.reply_operations(change.operations, &Ok(before));
    }

    /// Nothing of what was to be written is, as far as anybody may rely on it.
    fn write_failed(&mut self, written: Change, failed: &StoreFailed, now: Time) {
        let is_ack = self.writes.durable.is_some()
            && written.checkpoint() >= self.writes.durable_checkpoint()
            && written.operations.is_empty();
        self.writes.unsure |= !is_ack;
        let mut operations = written.operations;
        let dropped = self.writes.wanted.take();
        operations.extend(dropped.into_iter().flat_map(|it| it.operations));
        self.answer_acks(|_| true, &Err(AckRefusal::StoreFailed(failed.clone())));
        let awaits_store = matches!(self.phase, Phase::AwaitingStore);
        if let Some(session) = &mut self.session {
            session.hand_again_at = now + HAND_AGAIN_AFTER;
            // Before it is opened, a stream can't do without what it
            // writes; one that waits for the last one's writes can.
            if !awaits_store && !matches!(session.opening, Opening::Sent) {
                self.end(EndReason::StoreFailed(failed.clone()));
                // Nor was anything delivered from where it would have begun.
                self.rewind_ledger();
            }
        }
        self.operations_failed(operations, failed);
    }

    /// Answers the acks that wait of these revisions.
    pub(super) fn answer_acks(
        &mut self,
        of: impl Fn(Revision) -> bool,
        answer: &Result<Revision, AckRefusal>,
    ) {
        let answered = self.writes.waiting.extract_if(.., |&mut (_, at)| of(at));
        let replies = answered.map(|(ack, _)| Command::ReplyAck(ack, answer.clone()));
        self.commands.extend(replies);
    }

    pub(super) fn reply_operations(
        &mut self,
        operations: Vec<OperationId>,
        answer: &Result<Option<Revision>, OperationRefusal>,
    ) {
        let reply = |operation| Command::ReplyOperation(operation, answer.clone());
        self.commands.extend(operations.into_iter().map(reply));
    }

    pub(super) fn reply(&mut self, ack: AckId, answer: Result<Revision, AckRefusal>) {
        self.commands.push_back(Command::ReplyAck(ack, answer));
    }
}
