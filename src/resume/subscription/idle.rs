//! Idle advance: what moves a position although no event came.
//!
//! etcd's revision is global: the position of a quiet range falls behind until
//! it is compacted, unless something proves that there was nothing to deliver.
//! A [`Proof`] says on what evidence a position rests. Two need no event, and no
//! acknowledgement, because nothing waits for one:
//!
//! - [`Proof::Progress`]: etcd certified, on the watch's own stream, that all up
//!   to a revision was sent (`certify`). It cannot be wrong: it moves the
//!   checkpoint, and is sent on as `Progress`.
//! - [`Proof::Delay`]: long silence, by the delay rule (`assume`). It can be
//!   wrong: it moves `assumed`, beside the checkpoint, which only ever replaces
//!   a snapshot (`assumed_instead_of`) and is dropped when an event belies it.
//!
//! Another is a variant of `Proof` beside `RECORD_VERSION`, which rises with it, a
//! line in each list of `proto::proof`, which all others take it from (but not
//! which of the two above a member's version allows: `upstream::shared`), and a
//! function here: beside `certify`, or, if it can be wrong, in `assume`, with its
//! time in `assume_due`. Neither may pass what is delivered and not acknowledged.
//! What it goes by while a watch is open is `Evidence`; what it has to hear from
//! etcd, if that is new, is an `Input`. In the simulator etcd is never as late as
//! the delay rule allows, so it holds every assumption to the truth; one that is
//! wrong there too is to be let through in its `check_assumed`.

use super::{Phase, Subscription, plan::Source, watching::Watching};
use crate::resume::{
    Assumed, IdleProof, Item, ProbeSample, Proof, Record, Revision, Settings, Time, WatchOpened,
    delay_rule::DelayRule,
};

/// Whether a watch is to be asked for progress: its member can, and nobody
/// forbids it.
pub(super) const fn may_ask(opened: &WatchOpened, settings: &Settings) -> bool {
    opened.can_ask_progress && !matches!(settings.idle_proof, IdleProof::Delay)
}

/// What a watch has seen that can be wrong.
#[derive(Debug)]
pub(super) struct Evidence {
    delay_rule: DelayRule,
}

impl Evidence {
    pub(super) const fn new(opened: &WatchOpened, settings: &Settings, now: Time) -> Self {
        Self {
            delay_rule: DelayRule::new(opened.member_id, now, settings.idle_lag),
        }
    }

    /// The probe sampled some member's revision.
    pub(super) fn sampled(&mut self, sample: ProbeSample, now: Time) {
        self.delay_rule.sample(sample, now);
    }

    /// Time passed in which the watch could be heard.
    pub(super) fn look(&mut self, now: Time) {
        self.delay_rule.look(now);
    }
}

/// What `record` assumes, or `assumed`, whichever is further; never what the
/// checkpoint has already.
fn later(record: &Record, assumed: Assumed) -> Option<Assumed> {
    let position = |it: &Option<Assumed>| it.map(|it| it.revision);
    let reached = record.checkpoint.max(position(&record.assumed));
    if Some(assumed.revision) > reached {
        Some(assumed)
    } else {
        record.assumed
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    /// Goes to where etcd certified that all was sent, once all is delivered
    /// that came before. Returns where, to be told.
    pub(super) fn certify(&mut self) -> Option<Revision> {
        if self.assembler.is_idle()
            && let Phase::Watching(watching) = &mut self.phase
            && let Some(bookmark) = watching.bookmark.take()
            // A member that lags can certify less than was delivered.
            && Some(bookmark) >= self.ledger.delivered()
        {
            self.ledger.advance(bookmark);
            self.assembler.advance(bookmark);
            if !self.ledger.has_unacked() {
                self.move_checkpoint(bookmark, Proof::Progress);
            }
            return Some(bookmark);
        }
        None
    }

    /// Goes, beside the checkpoint, to where evidence that can be wrong has the
    /// watch: that of the delay rule.
    pub(super) fn assume(&mut self, now: Time) {
        if let Phase::Watching(watching) = &self.phase
            && self.may_assume(watching)
            && self.delay_rule_may_at(watching) <= now
            && let Phase::Watching(watching) = &mut self.phase
            && let Some(revision) = watching.evidence.delay_rule.ripe(now)
        {
            let proof = Proof::Delay;
            self.set_assumed(|it| later(it, Assumed { revision, proof }));
        }
    }

    /// When `assume` has something to do: never a time at which it just ran.
    pub(super) fn assume_due(&self, watching: &Watching) -> Option<Time> {
        let ripens_at = watching.evidence.delay_rule.ripens_at()?;
        let due = ripens_at.max(self.delay_rule_may_at(watching));
        self.may_assume(watching).then_some(due)
    }

    /// Whether anything may be assumed, by whatever evidence.
    fn may_assume(&self, watching: &Watching) -> bool {
        !watching.asks
            && self.settings.idle_proof != IdleProof::Progress
            && watching.is_caught_up
            && self.assembler.is_idle()
            && !self.ledger.has_unacked()
            && self.writes.current_checkpoint().is_some()
    }

    /// When the silence is long enough for the delay rule.
    fn delay_rule_may_at(&self, watching: &Watching) -> Time {
        watching.event_at + self.settings.idle_after
    }

    /// An event came: at or below what was assumed, it proves that wrong.
    pub(super) fn belie_assumed(&mut self, event: Revision) {
        self.set_assumed(|it| it.assumed.filter(|assumed| assumed.revision < event));
    }

    fn set_assumed(&mut self, assumed: impl FnOnce(&Record) -> Option<Assumed>) {
        self.writes.change(|record| Record {
            assumed: assumed(record),
            ..record.clone()
        });
    }

    /// What was assumed, if it may replace a snapshot where what `source` says is
    /// compacted.
    pub(super) fn assumed_instead_of(&self, source: Source) -> Option<Assumed> {
        let may = source == Source::Checkpoint
            && !self.is_open()
            && self.settings.idle_proof != IdleProof::Progress;
        self.writes.current()?.assumed.filter(|_| may)
    }
}
