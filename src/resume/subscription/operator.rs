//! What an operator sees, moves and deletes.
//!
//! A move is the operator's word: the checkpoint goes where it says, backwards
//! and forwards. The live stream ends, and what it delivered beyond the new
//! checkpoint cannot be acknowledged any more: an ack that was not durable
//! before is refused. When the store fails, the position is as it was, and the
//! next stream makes sure of it before it opens.

use super::{Phase, Subscription, session::Opening};
use crate::resume::{
    AckRefusal, Activity, EndReason, Header, History, Item, OnCompaction, OperationId,
    OperationRefusal, OutboxRoom, Proof, Record, SeekTo, SnapshotReason, StoreFailed, StreamState,
    Time, ledger::Ledger,
};

impl<E: Item, K: Item> Subscription<E, K> {
    /// What it is doing.
    pub fn activity(&self) -> Activity {
        let Some(session) = &self.session else {
            return Activity::Disconnected;
        };
        let is_shut = self.window().is_some_and(|window| window.free == 0);
        let is_blocked = session.room == OutboxRoom::None
            || is_shut
            || matches!(self.phase, Phase::Parked { .. });
        match session.state {
            Some(StreamState::UpstreamLost) => Activity::UpstreamLost,
            _ if !matches!(session.opening, Opening::Sent) => Activity::Opening,
            _ if is_blocked => Activity::Blocked,
            Some(StreamState::Live) => Activity::Live,
            Some(StreamState::CatchingUp) | None => Activity::CatchingUp,
        }
    }

    /// When the oldest of what is delivered and not acknowledged was delivered.
    pub fn oldest_unacked_at(&self) -> Option<Time> {
        self.ledger.oldest_unacked_at()
    }

    /// Whether there is nothing to remember, and nothing under way.
    pub fn is_vacant(&self) -> bool {
        self.session.is_none() && self.writes.durable.is_none() && self.writes.are_done()
    }

    pub(super) fn seek(&mut self, operation: OperationId, to: SeekTo, header: Option<Header>) {
        let Some(record) = self.writes.current() else {
            return self.reply_operations(vec![operation], &Err(OperationRefusal::NotFound));
        };
        let is_told = self.replacement_told == Some(OnCompaction::Fail);
        let record = moved(record, to, header, is_told);
        self.end(EndReason::Sought);
        self.void = Some(AckRefusal::Sought);
        self.writes.replace(Some(record), Some(operation));
        self.rewind_ledger();
        let reached = self.writes.reached();
        let is_void = |revision| Some(revision) > reached;
        self.answer_acks(is_void, &Err(AckRefusal::Sought));
    }

    pub(super) fn delete(&mut self, operation: OperationId) {
        if self.is_vacant() && !self.writes.unsure {
            return self.reply_operations(vec![operation], &Err(OperationRefusal::NotFound));
        }
        self.end(EndReason::Deleted);
        // Acks that wait, and those to come, are answered with the outcome.
        self.writes.replace(None, Some(operation));
    }

    /// The record is removed for good: the client_id is as good as new. A
    /// stream may wait for just that.
    pub(super) fn forgotten(&mut self) {
        self.answer_acks(|_| true, &Err(AckRefusal::NotFound));
        self.ledger = Ledger::default();
        self.seen = History::default();
        self.last_session = self.session();
        self.was_opened = false;
        self.void = None;
        self.replacement_told = None;
    }

    /// Whatever they asked for did not take place.
    pub(super) fn operations_failed(&mut self, operations: Vec<OperationId>, failed: &StoreFailed) {
        if self.void == Some(AckRefusal::Sought) && !operations.is_empty() {
            // Where nobody has been moved to is no place to acknowledge.
            self.rewind_ledger();
        }
        let refusal = OperationRefusal::StoreFailed(failed.clone());
        self.reply_operations(operations, &Err(refusal));
    }
}

/// The record after a move. What is known of the last event at the checkpoint
/// stays true only of the same checkpoint. A replaced history that nobody was
/// told of yet stays the snapshot's reason: a position from before it, which a
/// subscriber may bring along, would pass for one of the new history.
fn moved(record: &Record, to: SeekTo, header: Option<Header>, told: bool) -> Record {
    let position = match to {
        SeekTo::Revision(revision) => Some(revision),
        SeekTo::Snapshot => None,
    };
    let mut history = record.history.clone();
    if position != record.checkpoint {
        history.fingerprint = None;
    }
    if let Some(header) = header {
        recognise(&mut history, header);
    }
    if position.is_some() {
        return record.at(position, Proof::Acked, history);
    }
    let is_untold = !told && record.pending_snapshot == Some(SnapshotReason::HistoryReplaced);
    Record {
        pending_snapshot: Some(if is_untold {
            SnapshotReason::HistoryReplaced
        } else {
            SnapshotReason::Requested
        }),
        ..record.at(None, Proof::Fresh, history)
    }
}

/// Takes in who answered about the new place, so that a history that replaces
/// theirs shows. One that replaced the known history already must show too.
fn recognise(known: &mut History, header: Header) {
    if known.cluster_id == 0 {
        known.cluster_id = header.cluster_id;
        known.raft_term = header.raft_term;
    } else if known.cluster_id == header.cluster_id {
        known.raft_term = known.raft_term.max(header.raft_term);
    }
}
