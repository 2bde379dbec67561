//! What a running watch says, and what its silence means.

use super::{Phase, Subscription, idle::Evidence, plan::Source};
use crate::resume::{
    Command, Fingerprint, Item, OutboxRoom, ProbeSample, Revision, StreamState, Time, WatchOpened,
};

/// How long a subscriber may leave events waiting before its watch is closed
/// and its history left to etcd.
const PARK_AFTER: Time = Time::from_secs(1);
/// The first repetition of a progress request that a watch still catching up
/// leaves unanswered; each further one waits twice as long.
const ASK_AGAIN_AFTER: Time = Time::from_millis(200);
/// By how much repeated stalls lengthen `stall_timeout`, at most: a sparse and
/// deep backlog looks like a stall.
const STALL_FACTOR_MAX: u32 = 16;
/// Where a member can't tell that a watch has caught up: silence of this long,
/// and this much more for every revision it had to read, is taken for it. etcd
/// reads 4,600 revisions a second when it is slow.
const CAUGHT_UP_AFTER: Time = Time::from_secs(1);
const CAUGHT_UP_AFTER_PER_REVISION: Time = Time::from_micros(300);
/// A watch that ran this long was healthy, though it may have been silent.
const HEALTHY_AFTER: Time = Time::from_secs(30);

/// A watch that etcd created and whose guard held.
#[derive(Debug)]
pub(super) struct Watching {
    /// Who serves it; 0: unknown.
    member_id: u64,
    opened_at: Time,
    /// Progress requests are sound on its member, and not forbidden.
    pub(super) asks: bool,
    /// Its member is known to have a revision that the watch starts at or before:
    /// the guard's answer or a sample said so, or the watch itself by saying
    /// anything. Until then etcd answers no progress request (etcd#20221), and
    /// silence says nothing.
    is_answerable: bool,
    /// The watch starts right after it.
    base: Revision,
    /// etcd's newest revision when the watch was created.
    target: Revision,
    pub(super) is_caught_up: bool,
    pub(super) evidence: Evidence,
    /// The highest revision that etcd certified; told once events drained.
    pub(super) bookmark: Option<Revision>,
    /// When etcd last said anything.
    heard_at: Time,
    /// When the last event came, or the watch was created.
    pub(super) event_at: Time,
    /// Since when a progress request is unanswered.
    asked_at: Option<Time>,
    pub(super) ask_at: Time,
    /// How much later it is asked again; grows to `progress_interval`.
    ask_again_after: Time,
    /// Since when events wait that the subscriber does not take.
    blocked_since: Option<Time>,
}

impl Watching {
    pub(super) const fn new(
        opened: &WatchOpened,
        base: Revision,
        target: Revision,
        now: Time,
        asks: bool,
        evidence: Evidence,
    ) -> Self {
        Self {
            member_id: opened.member_id,
            opened_at: now,
            asks,
            is_answerable: target.get() > base.get(),
            base,
            target,
            is_caught_up: false,
            evidence,
            bookmark: None,
            heard_at: now,
            event_at: now,
            asked_at: None,
            ask_at: now,
            ask_again_after: ASK_AGAIN_AFTER,
            blocked_since: None,
        }
    }

    /// Whether heartbeats must come from us: etcd certifies nothing in time,
    /// or is not being read.
    pub(super) const fn needs_heartbeats(&self) -> bool {
        let is_certified = self.asks && self.is_answerable;
        (self.is_caught_up && !is_certified) || self.blocked_since.is_some()
    }

    /// The probe sampled some member's revision.
    pub(super) fn sampled(&mut self, sample: ProbeSample, now: Time) {
        self.evidence.sampled(sample, now);
        let is_answerable = sample.member_id == self.member_id && sample.revision > self.base;
        if is_answerable && !self.is_answerable {
            self.is_answerable = true;
            self.ask_at = now;
        }
    }

    /// etcd said something on this watch, so it can answer; or it is read again,
    /// after events that the subscriber did not take.
    pub(super) fn heard(&mut self, now: Time) {
        self.heard_at = now;
        self.asked_at = None;
        self.is_answerable = true;
        self.ask_at = now + self.ask_again_after;
    }

    fn ask_due(&self) -> Option<Time> {
        let is_read = self.blocked_since.is_none();
        (self.asks && self.is_answerable && is_read).then_some(self.ask_at)
    }

    fn stall_due(&self, stall_after: Time) -> Option<Time> {
        let asked_at = self.asked_at.filter(|_| self.blocked_since.is_none())?;
        Some(asked_at + stall_after)
    }

    fn park_due(&self) -> Option<Time> {
        self.blocked_since.map(|since| since + PARK_AFTER)
    }

    fn caught_up_due(&self, delivered: Option<Revision>) -> Option<Time> {
        let behind = self.target.get() - Revision::to_wire(delivered);
        let behind = u32::try_from(behind).unwrap_or(u32::MAX);
        (!self.is_caught_up && !self.asks).then(|| {
            self.heard_at + CAUGHT_UP_AFTER + CAUGHT_UP_AFTER_PER_REVISION.saturating_mul(behind)
        })
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    /// etcd is well.
    pub(super) fn is_well(&mut self) {
        self.backoff.reset();
        self.stalls = 0;
    }

    pub(super) fn events(&mut self, events: Vec<E>, fragment: bool) {
        let delivered = self.ledger.delivered();
        let mut revisions = events.iter().map(Item::mod_revision);
        if let Some(first) = revisions.find(|&revision| Some(revision) > delivered) {
            self.belie_assumed(first);
        }
        if self.assembler.is_belied_by(&events) {
            return self.replaced(Source::Delivered);
        }
        self.assembler.push(events, fragment);
    }

    /// What the passing of time means for a running watch.
    pub(super) fn watch_time(&mut self, now: Time) {
        let is_blocked = self.is_blocked();
        let is_due = |due: Option<Time>| due.is_some_and(|at| at <= now);
        let delivered = self.ledger.delivered();
        let is_idle = self.assembler.is_idle();
        let stall_after = self.stall_after();
        let Phase::Watching(watching) = &mut self.phase else {
            return;
        };
        watching.evidence.look(now);
        if is_blocked {
            watching.blocked_since.get_or_insert(now);
        } else if watching.blocked_since.take().is_some() {
            watching.heard(now);
        }
        if is_due(watching.park_due()) {
            return self.park();
        }
        if is_due(watching.stall_due(stall_after)) {
            self.stalls = self.stalls.saturating_add(1);
            return self.lost(now);
        }
        let reached = delivered.max(watching.bookmark) >= Some(watching.target)
            || is_due(watching.caught_up_due(delivered));
        if is_idle && reached && !watching.is_caught_up {
            watching.is_caught_up = true;
            watching.ask_again_after = self.settings.progress_interval;
            watching.ask_at = watching.ask_at.max(now + watching.ask_again_after);
            self.commands.push_back(Command::CaughtUp);
            self.set_state(StreamState::Live);
        } else if is_due(watching.ask_due()) {
            watching.asked_at.get_or_insert(now);
            watching.ask_at = now + watching.ask_again_after;
            let longer = watching.ask_again_after * 2;
            watching.ask_again_after = longer.min(self.settings.progress_interval);
            self.commands.push_back(Command::AskProgress);
        }
        self.assume(now);
    }

    /// When `watch_time` has something to do.
    pub(super) fn watching_timeout(&self, watching: &Watching) -> Option<Time> {
        let delivered = self.ledger.delivered();
        let is_idle = self.assembler.is_idle();
        let due = [
            watching.ask_due(),
            watching.stall_due(self.stall_after()),
            watching.park_due(),
            watching.caught_up_due(delivered).filter(|_| is_idle),
            self.assume_due(watching),
        ];
        due.into_iter().flatten().min()
    }

    /// The subscriber does not take what waits: etcd's history is the buffer.
    fn park(&mut self) {
        let needs = self.assembler.next_needs().unwrap_or(0);
        self.set_state(StreamState::CatchingUp);
        self.close_attempt(Phase::Parked { needs });
    }

    pub(super) fn unpark(&mut self, needs: u64) {
        let session = self.session.as_ref();
        let has_kept_up = session.is_some_and(|session| session.room == OutboxRoom::Free);
        if has_kept_up
            && self.window().is_none_or(|window| window.admits(needs))
            && let Some(plan) = self.plan_to_continue()
        {
            self.begin_attempt(plan);
        }
    }

    /// A watch that was silent and healthy brings short delays back.
    pub(super) fn note_health(&mut self, now: Time) {
        if let Phase::Watching(watching) = &self.phase
            && now >= watching.opened_at + HEALTHY_AFTER
            && watching.asked_at.is_none()
        {
            self.backoff.reset();
        }
    }

    fn stall_after(&self) -> Time {
        let factor = 1_u32.checked_shl(self.stalls).unwrap_or(STALL_FACTOR_MAX);
        self.settings.stall_timeout * factor.min(STALL_FACTOR_MAX)
    }
}

/// What is remembered of an event, so that its history can be recognised.
pub(super) fn fingerprint<I: Item>(item: &I) -> Option<Fingerprint> {
    /// Longer keys would make records, and what is unacknowledged, too large.
    const KEY_BYTES_MAX: usize = 1024;
    (item.key().len() <= KEY_BYTES_MAX).then(|| Fingerprint {
        // A copy: a slice would keep the whole message in memory.
        key: bytes::Bytes::copy_from_slice(item.key()),
        mod_revision: item.mod_revision(),
        deleted: item.is_delete(),
    })
}
