//! How an attempt on etcd begins and fails, and what its guard means.

use super::{Phase, Subscription, session::Opened, snapshot::Snapshotting, watching::Watching};
use crate::resume::{
    AckRefusal, Command, EndReason, Fingerprint, Guard, Header, History, IdleProof, Item, Proof,
    Record, Revision, Selection, SnapshotReason, StreamState, Time, WatchOpened,
    batch::Assembler,
    history::{Suspicion, Verdict, judge},
    ledger::Ledger,
};

/// What an attempt is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Read etcd's newest revision, then watch from there.
    Head,
    /// Watch from right after a position.
    Watch(Base),
    /// Read the range, then watch from right after its revision.
    Snapshot {
        reason: SnapshotReason,
        compact_revision: Option<Revision>,
    },
}

/// A position to watch from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    /// The watch starts right after it.
    pub(super) revision: Revision,
    pub(super) source: Source,
}

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The stored checkpoint.
    Checkpoint,
    /// The stored assumption of the delay rule.
    Assumed,
    /// The subscriber's request.
    ResumeAfter,
    /// etcd's newest revision when the subscription began.
    Head,
    /// What this session delivered.
    Delivered,
}

impl<E: Item, K: Item> Subscription<E, K> {
    /// Ends the current attempt, if any, and begins another.
    pub(super) fn begin_attempt(&mut self, plan: Plan) {
        self.attempt.0 += 1;
        let attempt = self.attempt;
        match plan {
            Plan::Head => {
                self.phase = Phase::ReadingHead;
                self.commands.push_back(Command::ReadHead(attempt));
            }
            Plan::Watch(base) => {
                let Some(key) = self.guarded_key(base) else {
                    return;
                };
                self.phase = Phase::Opening(base);
                self.commands.push_back(Command::OpenWatch {
                    attempt,
                    guard: Guard {
                        revision: base.revision,
                        key,
                    },
                    avoid_last_member: self.avoid_last_member,
                });
            }
            Plan::Snapshot {
                reason,
                compact_revision,
            } => {
                self.phase = Phase::Snapshotting(Snapshotting::new(reason, compact_revision));
                self.commands.push_back(Command::ReadSnapshot(attempt));
            }
        }
    }

    /// Ends the current attempt and begins another at `at`.
    pub(super) fn wait(&mut self, plan: Plan, at: Time) {
        self.attempt.0 += 1;
        self.assembler.restart();
        self.phase = Phase::Waiting { at, plan };
        self.commands.push_back(Command::CloseUpstream);
    }

    /// Goes on from what this session delivered.
    pub(super) fn plan_to_continue(&self) -> Option<Plan> {
        self.ledger.delivered().map(|revision| {
            Plan::Watch(Base {
                revision,
                source: Source::Delivered,
            })
        })
    }

    /// The attempt failed; it may succeed later.
    pub(super) fn lost(&mut self, now: Time) {
        self.note_health(now);
        let plan = match &self.phase {
            Phase::ReadingHead => Some(Plan::Head),
            Phase::Opening(base) => Some(Plan::Watch(*base)),
            Phase::Watching(_) => self.plan_to_continue(),
            Phase::Snapshotting(snapshot) => Some(snapshot.plan()),
            Phase::Idle | Phase::AwaitingStore | Phase::Waiting { .. } | Phase::Parked { .. } => {
                None
            }
        };
        let Some(plan) = plan else {
            return;
        };
        let Some(plan) = self.open_without_etcd(plan) else {
            return self.end(EndReason::UpstreamUnavailable);
        };
        self.set_state(StreamState::UpstreamLost);
        self.avoid_last_member = true;
        let at = now + self.backoff.next_delay();
        self.wait(plan, at);
    }

    /// etcd is away, or busy, before the stream was opened: it opens at what the store
    /// says. `None`: the store says nothing.
    pub(super) fn open_without_etcd(&mut self, plan: Plan) -> Option<Plan> {
        if self.is_open() {
            return Some(plan);
        }
        let plan = match plan {
            Plan::Head => return None,
            Plan::Watch(base) => match base.source {
                Source::ResumeAfter => return None,
                // Whether the assumption is needed is not known yet.
                Source::Assumed => Plan::Watch(Base {
                    revision: self.ledger.delivered()?,
                    source: Source::Checkpoint,
                }),
                Source::Checkpoint | Source::Head | Source::Delivered => plan,
            },
            Plan::Snapshot { .. } => plan,
        };
        let opened = match plan {
            Plan::Watch(base) => self.opened_at(base),
            Plan::Head | Plan::Snapshot { .. } => Opened::BEFORE_SNAPSHOT,
        };
        self.set_opened(opened);
        Some(plan)
    }

    pub(super) fn head_read(&mut self, header: Header) {
        if !matches!(self.phase, Phase::ReadingHead) {
            return;
        }
        self.see(header);
        let history = self.seen.clone();
        self.writes
            .change(|record| record.at(Some(header.revision), Proof::Acked, history));
        self.ledger = Ledger::new(Some(header.revision), None);
        self.begin_attempt(Plan::Watch(Base {
            revision: header.revision,
            source: Source::Head,
        }));
    }

    pub(super) fn watch_opened(&mut self, opened: &WatchOpened, now: Time) {
        let Phase::Opening(base) = self.phase else {
            return;
        };
        let Some(selection) = self.selection() else {
            return;
        };
        let known = self.seen_with(self.fingerprint_of(base));
        match judge(&opened.guard, &known, selection) {
            Verdict::Intact(header) => self.resume(base, opened, header, now),
            Verdict::Compacted(compact_revision) => self.compacted(base, compact_revision),
            // An event that the delay rule did not see changed the key.
            Verdict::Replaced if base.source == Source::Assumed => {
                self.resync(SnapshotReason::Compacted, None);
            }
            Verdict::Replaced => self.replaced(base.source),
            Verdict::Behind if self.suspicion.confirm(now) => self.replaced(base.source),
            Verdict::Behind => {
                self.avoid_last_member = true;
                self.wait(Plan::Watch(base), now + Suspicion::REPEAT_AFTER);
            }
        }
    }

    /// History after the position is compacted.
    pub(super) fn compacted(&mut self, base: Base, compact_revision: Option<Revision>) {
        self.suspicion.clear();
        if let Some(assumed) = self.assumed_instead_of(base) {
            self.begin_attempt(Plan::Watch(assumed));
        } else if base.source == Source::ResumeAfter {
            self.resync_own(SnapshotReason::Compacted, compact_revision);
        } else {
            self.resync(SnapshotReason::Compacted, compact_revision);
        }
    }

    fn resume(&mut self, base: Base, opened: &WatchOpened, header: Header, now: Time) {
        self.suspicion.clear();
        self.see(header);
        self.avoid_last_member = false;
        self.set_opened(self.opened_at(base));
        match base.source {
            Source::Delivered => {}
            Source::Checkpoint | Source::Head => {
                self.assembler = Assembler::new(Some(base.revision));
            }
            Source::Assumed => self.start_at(base.revision),
            Source::ResumeAfter => {
                self.accept_resume_after(base);
                self.start_at(base.revision);
            }
        }
        self.set_state(StreamState::CatchingUp);
        self.phase = Phase::Watching(Watching::new(
            opened,
            base.revision,
            header.revision,
            now,
            &self.settings,
        ));
    }

    fn start_at(&mut self, revision: Revision) {
        let fingerprint = self
            .writes
            .current()
            .filter(|record| record.checkpoint == Some(revision))
            .and_then(|record| record.history.fingerprint.clone());
        self.ledger = Ledger::new(Some(revision), fingerprint);
        self.assembler = Assembler::new(Some(revision));
    }

    /// The subscriber's own position becomes the checkpoint, backwards too.
    fn accept_resume_after(&mut self, base: Base) {
        if self.writes.current_checkpoint() != Some(base.revision) {
            let history = self.seen.clone();
            self.writes
                .change(|record| record.at(Some(base.revision), Proof::Acked, history));
        }
    }

    /// The delay rule's position, if it may replace a snapshot here.
    pub(super) fn assumed_instead_of(&self, base: Base) -> Option<Base> {
        let may = base.source == Source::Checkpoint
            && !self.is_open()
            && self.settings.idle_proof != IdleProof::Progress;
        let assumed = self.writes.current()?.assumed?;
        may.then_some(Base {
            revision: assumed,
            source: Source::Assumed,
        })
    }

    /// etcd's history is another one. A live stream ends; a stream that has
    /// not begun begins with a snapshot.
    pub(super) fn replaced(&mut self, source: Source) {
        self.suspicion.clear();
        if source == Source::ResumeAfter {
            // A position that the subscriber brought says nothing about ours,
            // unless it takes the snapshot.
            return self.resync_own(SnapshotReason::HistoryReplaced, None);
        }
        self.forget_history();
        if self.is_open() {
            self.void = Some(AckRefusal::HistoryReplaced);
            self.end(EndReason::HistoryReplaced);
        } else {
            self.resync(SnapshotReason::HistoryReplaced, None);
        }
    }

    /// The checkpoint means nothing any more; a stream that does not get as
    /// far as to acknowledge the snapshot is followed by one that is told why.
    fn forget_history(&mut self) {
        self.fail_acks(&AckRefusal::HistoryReplaced);
        self.ledger = Ledger::default();
        self.seen = History::default();
        self.forget_checkpoint(SnapshotReason::HistoryReplaced);
    }

    /// Which cluster it was is kept as far as it is still true.
    pub(super) fn forget_checkpoint(&mut self, reason: SnapshotReason) {
        if reason == SnapshotReason::HistoryReplaced {
            self.replacement_told = None;
        }
        let history = self.seen.clone();
        self.writes.change(|record| Record {
            pending_snapshot: Some(reason),
            ..record.at(None, Proof::Fresh, history)
        });
    }

    /// Notes which cluster gave a linearizable answer.
    pub(super) fn see(&mut self, header: Header) {
        if header.cluster_id != 0 {
            self.seen.cluster_id = header.cluster_id;
        }
        self.seen.raft_term = self.seen.raft_term.max(header.raft_term);
        self.writes.note(&self.seen);
    }

    /// The history that was seen, and one of its events.
    pub(super) fn seen_with(&self, fingerprint: Option<Fingerprint>) -> History {
        History {
            fingerprint,
            ..self.seen
        }
    }

    /// What the live session watches.
    fn selection(&self) -> Option<&Selection> {
        self.session
            .as_ref()
            .map(|session| &session.request.selection)
    }

    fn opened_at(&self, base: Base) -> Opened {
        let proof = match base.source {
            Source::Assumed => Proof::Delay,
            Source::Head => Proof::Fresh,
            Source::ResumeAfter => Proof::Acked,
            Source::Checkpoint | Source::Delivered => self
                .writes
                .current()
                .map_or(Proof::Fresh, |record| record.proof),
        };
        Opened {
            checkpoint: Some(base.revision),
            resumed: base.source != Source::Head,
            proof,
        }
    }

    /// What is known of the last event at or below the position.
    fn fingerprint_of(&self, base: Base) -> Option<Fingerprint> {
        match base.source {
            Source::Checkpoint | Source::Assumed | Source::Delivered => {
                self.ledger.fingerprint_at(base.revision)
            }
            Source::ResumeAfter => self
                .writes
                .current()
                .filter(|record| record.checkpoint == Some(base.revision))
                .and_then(|record| record.history.fingerprint.clone()),
            Source::Head => None,
        }
    }

    fn guarded_key(&self, base: Base) -> Option<bytes::Bytes> {
        let selection = self.selection()?;
        Some(
            self.fingerprint_of(base)
                .map_or_else(|| selection.range.key().clone(), |known| known.key),
        )
    }
}
