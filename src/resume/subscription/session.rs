//! How a stream begins, opens and ends.

use super::{
    Phase, Subscription,
    plan::{Base, Loss, Plan, Source},
};
use crate::resume::{
    Command, EndReason, History, Item, Message, OnCompaction, OutboxRoom, Proof, Record, Revision,
    Selection, SessionId, SessionRequest, SnapshotReason, Start, StreamState, Time,
    batch::Assembler, ledger::Ledger,
};

/// How long a stream waits for etcd, or for its turn to ask it, before it is
/// opened at what the store says.
const OPEN_WITHIN: Time = Time::from_secs(5);

/// A live stream.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) request: SessionRequest,
    pub(super) opening: Opening,
    pub(super) room: OutboxRoom,
    /// The state to tell next, unless it was told last.
    pub(super) state: Option<StreamState>,
    pub(super) told: Option<StreamState>,
    pub(super) sent_at: Time,
    /// What the transport took, where that acknowledges it.
    pub(super) handed: Option<Revision>,
    pub(super) hand_again_at: Time,
}

/// The `opened` message of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opening {
    /// Not known yet.
    Unknown,
    /// To be sent once the store holds what it says: where the stream begins;
    /// `None`: with a snapshot.
    Ready(Option<Base>),
    /// Sent.
    Sent,
}

impl Session {
    /// Whether a message may be sent: the stream is opened and has room.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.opening, Opening::Sent) && self.room != OutboxRoom::None
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    pub(super) fn subscribe(&mut self, id: SessionId, request: SessionRequest, now: Time) {
        if self.draining {
            return self.refuse(id, EndReason::Draining);
        }
        if self.is_bound_to_another(&request.selection, self.session.is_some()) {
            return self.refuse(id, EndReason::RangeMismatch);
        }
        self.end(EndReason::Superseded);
        self.session = Some(Session {
            id,
            request,
            opening: Opening::Unknown,
            room: OutboxRoom::Free,
            state: None,
            told: None,
            sent_at: now,
            handed: None,
            hand_again_at: now,
        });
        self.last_session = Some(id);
        // What the last session delivered is not this one's to acknowledge.
        self.rewind_ledger();
        self.phase = Phase::AwaitingStore;
        self.begin();
    }

    /// Nothing is delivered but what is acknowledged, or about to be.
    pub(super) fn rewind_ledger(&mut self) {
        let record = self.writes.current();
        self.ledger = record.map_or_else(Ledger::default, |record| {
            Ledger::new(record.checkpoint, record.history.fingerprint.clone())
        });
    }

    /// Whether the record speaks of another range or other filters.
    fn is_bound_to_another(&self, selection: &Selection, has_session: bool) -> bool {
        self.writes.current().is_some_and(|record| {
            let is_bound = record.says_where() || has_session || self.was_opened;
            is_bound && record.selection != *selection
        })
    }

    /// Begins the session that waits for it, if no write is under way: its
    /// position is what is durable.
    pub(super) fn begin(&mut self) {
        let waits = matches!(self.phase, Phase::AwaitingStore) && self.writes.are_done();
        let Some(session) = self.session.as_ref().filter(|_| waits) else {
            return;
        };
        let request = session.request.clone();
        // It was let in because the record was about to be removed, and is not.
        if self.is_bound_to_another(&request.selection, false) {
            return self.end(EndReason::RangeMismatch);
        }
        let record = self.writes.current().cloned();
        let record = record
            .filter(|record| record.selection == request.selection)
            .unwrap_or_else(|| Record::new(request.selection.clone()));
        self.seen = History {
            fingerprint: None,
            ..record.history
        };
        self.suspicion.clear();
        self.backoff.reset();
        self.void = None;
        self.avoid_last_member = false;
        self.stalls = 0;
        self.writes.want(record.clone());
        self.rewind_ledger();

        if let Some(revision) = request.resume_after
            && !self.must_tell_replacement(&record, &request)
        {
            return self.begin_attempt(Plan::watch(revision, Source::ResumeAfter));
        }
        let source = Source::Checkpoint;
        match (record.pending_snapshot, record.checkpoint, request.start) {
            (Some(reason), ..) => self.resync(source, reason.into()),
            (None, Some(revision), _) => self.begin_attempt(Plan::watch(revision, source)),
            (None, None, Start::Latest) => self.begin_attempt(Plan::Head),
            (None, None, Start::Snapshot) => self.resync(source, SnapshotReason::First.into()),
        }
    }

    /// A position that the subscriber brings may be from before the history was
    /// replaced, and no guard can tell: it counts again once the snapshot is
    /// acknowledged or, for who chose to fail, once the error was sent.
    fn must_tell_replacement(&self, record: &Record, request: &SessionRequest) -> bool {
        record.pending_snapshot == Some(SnapshotReason::HistoryReplaced)
            && (request.on_compaction == OnCompaction::Resync || self.replacement_told.is_none())
    }

    /// The history after the position is lost: a snapshot, or the end of the
    /// stream, as the subscriber chose.
    pub(super) fn resync(&mut self, source: Source, loss: Loss) {
        let Some(session) = &self.session else {
            return;
        };
        let is_own = source == Source::ResumeAfter;
        let fails = session.request.on_compaction == OnCompaction::Fail;
        if fails && loss.reason == SnapshotReason::HistoryReplaced {
            return self.end(EndReason::HistoryReplaced);
        }
        if fails && loss.reason == SnapshotReason::Compacted {
            let own = session.request.resume_after.filter(|_| is_own);
            self.hand_rest();
            return self.end(EndReason::Compacted {
                checkpoint: own.or(self.writes.current_checkpoint()),
                compact_revision: loss.compact_revision,
            });
        }
        if !self.is_open() {
            // The stream begins with the snapshot: nothing before it
            // was delivered on it.
            self.ledger = Ledger::default();
        }
        self.begin_attempt(Plan::Snapshot(loss));
        if is_own {
            // Ours may lie above the subscriber's own position, and would skip
            // what it says it has not processed.
            self.forget_checkpoint(loss.reason);
        }
    }

    /// What `opened` will say is known.
    pub(super) fn set_opened(&mut self, base: Option<Base>) {
        if let Some(session) = &mut self.session
            && matches!(session.opening, Opening::Unknown)
        {
            session.opening = Opening::Ready(base);
        }
    }

    /// When the stream is to be opened although etcd has not answered, so that
    /// nobody waits without a word. `None`: it is open, or only etcd can say
    /// where it begins.
    pub(super) fn open_due(&self) -> Option<Time> {
        let session = self.session.as_ref().filter(|_| !self.is_open())?;
        let Phase::Asking(plan) = self.phase else {
            return None;
        };
        let store_says = match plan {
            Plan::Head => false,
            Plan::Watch(base) => match base.source {
                Source::Checkpoint => self.assumed_instead_of(base.source).is_none(),
                Source::Head => true,
                Source::Assumed(_) | Source::ResumeAfter | Source::Delivered => false,
            },
            Plan::Snapshot(_) => true,
        };
        // A replaced history is better told by how the stream begins.
        (store_says && !self.suspicion.is_raised()).then(|| session.sent_at + OPEN_WITHIN)
    }

    pub(super) fn open_in_time(&mut self, now: Time) {
        if self.open_due().is_some_and(|at| at <= now)
            && let Some(plan) = self.plan()
        {
            self.open_without_etcd(plan);
            self.set_state(StreamState::CatchingUp);
        }
    }

    /// Sends `opened` once everything it says is durable.
    pub(super) fn open_session(&mut self, now: Time) {
        if let Some(session) = &mut self.session
            && let Opening::Ready(base) = session.opening
            && self.writes.are_done()
        {
            session.opening = Opening::Sent;
            self.was_opened = true;
            let durable = self.writes.durable.as_ref();
            let proof = match base.map(|base| base.source) {
                None | Some(Source::Head) => Proof::Fresh,
                Some(Source::Assumed(proof)) => proof,
                Some(Source::ResumeAfter) => Proof::Acked,
                Some(Source::Checkpoint | Source::Delivered) => {
                    durable.map_or(Proof::Fresh, |record| record.proof)
                }
            };
            let opened = Message::Opened {
                checkpoint: base.map(|base| base.revision),
                resumed: base.is_some_and(|base| base.source != Source::Head),
                proof,
                cluster_id: self.seen.cluster_id,
            };
            self.send(opened, now);
        }
    }

    /// Whether the subscriber was told, or is about to be told, where its
    /// stream begins.
    pub(super) fn is_open(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| !matches!(session.opening, Opening::Unknown))
    }

    /// The state changes; the subscriber is told as soon as it reads.
    pub(super) fn set_state(&mut self, state: StreamState) {
        if let Some(session) = &mut self.session {
            session.state = Some(state);
        }
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.end(EndReason::Draining);
    }

    /// Ends the live stream, if there is one.
    pub(super) fn end(&mut self, reason: EndReason) {
        if !matches!(
            reason,
            // Where what was handed over means nothing any more.
            EndReason::HistoryReplaced | EndReason::Sought | EndReason::Deleted
        ) {
            self.hand_rest();
        }
        if let Some(session) = &self.session {
            let id = session.id;
            if reason == EndReason::HistoryReplaced {
                self.replacement_told = Some(session.request.on_compaction);
            }
            self.commands.push_back(Command::EndSession(id, reason));
            self.leave();
        }
    }

    /// The live stream is gone. What it delivered can still be acknowledged.
    pub(super) fn leave(&mut self) {
        self.session = None;
        self.close_attempt(Phase::Idle);
        self.assembler = Assembler::new(None);
    }

    fn refuse(&mut self, id: SessionId, reason: EndReason) {
        self.commands.push_back(Command::EndSession(id, reason));
    }
}
