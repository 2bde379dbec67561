//! How an attempt on etcd begins and fails, and what its guard means.

use super::{
    Phase, Subscription, idle,
    plan::{Base, Loss, Plan, Source},
    watching::Watching,
};
use crate::resume::{
    AckRefusal, Command, EndReason, Fingerprint, Header, History, Item, Proof, Record, Revision,
    SnapshotReason, StreamState, Time, WatchOpened,
    batch::Assembler,
    history::{Suspicion, Verdict, judge},
    ledger::Ledger,
};

impl<E: Item, K: Item> Subscription<E, K> {
    /// Ends the current attempt, if any, and begins another.
    pub(super) fn begin_attempt(&mut self, plan: Plan) {
        self.attempt.0 += 1;
        let attempt = self.attempt;
        let command = match plan {
            Plan::Head => Command::ReadHead(attempt),
            Plan::Snapshot(_) => Command::ReadSnapshot(attempt),
            Plan::Watch(base) => {
                let Some(record) = self.writes.current() else {
                    return;
                };
                Command::OpenWatch {
                    attempt,
                    guard: record.guard_at(base.revision, &self.history_at(base)),
                    avoid_last_member: self.avoid_last_member,
                }
            }
        };
        self.phase = Phase::Asking(plan);
        self.commands.push_back(command);
    }

    /// Ends the current attempt and begins another at `at`.
    pub(super) fn wait(&mut self, plan: Plan, at: Time) {
        self.close_attempt(Phase::Waiting { at, plan });
    }

    /// As `wait`, until the next delay is over.
    pub(super) fn back_off(&mut self, plan: Plan, now: Time) {
        let at = now + self.backoff.next_delay();
        self.wait(plan, at);
    }

    /// Ends the current attempt; no other is under way in `phase`.
    pub(super) fn close_attempt(&mut self, phase: Phase<E, K>) {
        self.attempt.0 += 1;
        self.assembler.restart();
        self.phase = phase;
        self.commands.push_back(Command::CloseUpstream);
    }

    /// What the current attempt is for, or how to go on after it; `None`:
    /// there is none.
    pub(super) fn plan(&self) -> Option<Plan> {
        match &self.phase {
            Phase::Asking(plan) => Some(*plan),
            Phase::Snapshotting(snapshot) => Some(Plan::Snapshot(snapshot.loss)),
            Phase::Watching(_) | Phase::Parked { .. } => self.plan_to_continue(),
            Phase::Idle | Phase::AwaitingStore | Phase::Waiting { .. } => None,
        }
    }

    /// Goes on from what this session delivered.
    pub(super) fn plan_to_continue(&self) -> Option<Plan> {
        let delivered = self.ledger.delivered();
        delivered.map(|revision| Plan::watch(revision, Source::Delivered))
    }

    /// The attempt failed; it may succeed later.
    pub(super) fn lost(&mut self, now: Time) {
        self.note_health(now);
        let Some(plan) = self.plan() else {
            return;
        };
        let Some(plan) = self.open_without_etcd(plan) else {
            return self.end(EndReason::UpstreamUnavailable);
        };
        self.set_state(StreamState::UpstreamLost);
        self.avoid_last_member = true;
        self.back_off(plan, now);
    }

    /// etcd is away, or busy, before the stream was opened: it opens at what the store
    /// says. `None`: the store says nothing.
    pub(super) fn open_without_etcd(&mut self, plan: Plan) -> Option<Plan> {
        if self.is_open() {
            return Some(plan);
        }
        let base = match plan {
            Plan::Head => return None,
            Plan::Snapshot(_) => None,
            Plan::Watch(base) => match base.source {
                Source::ResumeAfter => return None,
                // Whether the assumption is needed is not known yet.
                Source::Assumed(_) => Some(Base {
                    revision: self.ledger.delivered()?,
                    source: Source::Checkpoint,
                }),
                Source::Checkpoint | Source::Head | Source::Delivered => Some(base),
            },
        };
        self.set_opened(base);
        Some(base.map_or(plan, Plan::Watch))
    }

    pub(super) fn head_read(&mut self, header: Header) {
        self.see(header);
        let history = self.seen.clone();
        self.writes
            .change(|record| record.at(Some(header.revision), Proof::Acked, history));
        self.rewind_ledger();
        self.begin_attempt(Plan::watch(header.revision, Source::Head));
    }

    pub(super) fn watch_opened(&mut self, base: Base, opened: &WatchOpened, now: Time) {
        let Some(record) = self.writes.current() else {
            return;
        };
        match judge(&opened.guard, &self.history_at(base), &record.selection) {
            Verdict::Intact(header) => self.resume(base, opened, header, now),
            Verdict::Compacted(compact_revision) => self.compacted(base, compact_revision),
            // An event that nobody saw changed the key.
            Verdict::Replaced if base.source.is_assumed() => {
                self.resync(base.source, SnapshotReason::Compacted.into());
            }
            Verdict::Replaced => self.replaced(base.source),
            Verdict::Behind => {
                self.avoid_last_member = true;
                self.behind(base.source, Plan::Watch(base), now);
            }
        }
    }

    /// etcd is behind the position, which counts only if it repeats.
    pub(super) fn behind(&mut self, source: Source, plan: Plan, now: Time) {
        if self.suspicion.confirm(now) {
            self.replaced(source);
        } else {
            self.wait(plan, now + Suspicion::REPEAT_AFTER);
        }
    }

    /// The watch was cancelled before its guard was read: it says what that
    /// would say.
    pub(super) fn cancelled(&mut self, base: Base, compact_revision: Revision, now: Time) {
        if compact_revision > base.revision {
            self.compacted(base, Some(compact_revision));
        } else {
            self.back_off(Plan::Watch(base), now);
        }
    }

    /// History after the position is compacted.
    fn compacted(&mut self, base: Base, compact_revision: Option<Revision>) {
        self.suspicion.clear();
        if let Some(assumed) = self.assumed_instead_of(base.source) {
            let source = Source::Assumed(assumed.proof);
            self.begin_attempt(Plan::watch(assumed.revision, source));
        } else {
            let reason = SnapshotReason::Compacted;
            let loss = Loss {
                reason,
                compact_revision,
            };
            self.resync(base.source, loss);
        }
    }

    fn resume(&mut self, base: Base, opened: &WatchOpened, header: Header, now: Time) {
        self.suspicion.clear();
        self.see(header);
        self.avoid_last_member = false;
        self.set_opened(Some(base));
        let position = Some(base.revision);
        if base.source == Source::ResumeAfter && self.writes.current_checkpoint() != position {
            // The subscriber's own position becomes the checkpoint, backwards too.
            let history = self.seen.clone();
            self.writes
                .change(|record| record.at(position, Proof::Acked, history));
        }
        if base.source != Source::Delivered {
            self.rewind_ledger();
            self.assembler = Assembler::new(position);
        }
        if base.source.is_assumed() {
            self.ledger = Ledger::new(position, None);
        }
        self.set_state(StreamState::CatchingUp);
        self.phase = Phase::Watching(Watching::new(
            opened,
            base.revision,
            header.revision,
            now,
            idle::may_ask(opened, &self.settings),
            idle::Evidence::new(opened, &self.settings, now),
        ));
    }

    /// etcd's history is another one. A live stream ends; a stream that has
    /// not begun begins with a snapshot.
    pub(super) fn replaced(&mut self, source: Source) {
        self.suspicion.clear();
        // A position that the subscriber brought says nothing about ours,
        // unless it takes the snapshot.
        if source != Source::ResumeAfter {
            // The checkpoint means nothing any more; a stream that does not get as
            // far as to acknowledge the snapshot is followed by one that is told why.
            self.answer_acks(|_| true, &Err(AckRefusal::HistoryReplaced));
            self.ledger = Ledger::default();
            self.seen = History::default();
            self.forget_checkpoint(SnapshotReason::HistoryReplaced);
            if self.is_open() {
                self.void = Some(AckRefusal::HistoryReplaced);
                return self.end(EndReason::HistoryReplaced);
            }
        }
        self.resync(source, SnapshotReason::HistoryReplaced.into());
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
    fn see(&mut self, header: Header) {
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

    /// What is known of the history up to the position.
    fn history_at(&self, base: Base) -> History {
        // Nothing, of a position that the subscriber brought, unless it is ours.
        let is_ours = base.source != Source::ResumeAfter
            || self.writes.current_checkpoint() == Some(base.revision);
        let fingerprint = self.ledger.fingerprint_at(base.revision);
        self.seen_with(fingerprint.filter(|_| is_ours))
    }
}
