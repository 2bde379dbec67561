//! The delay rule: the evidence of `Proof::Delay`, where etcd certifies nothing.
//!
//! When no event came for x, the revision that the same member reported at
//! least y ago, after this watch was created, is assumed to lie behind the
//! watch. That can be wrong, so it may only ever replace a snapshot: what it
//! moves, and when, is in `subscription::idle`.
//!
//! What counts is time in which the watch could be heard. A process that was
//! stopped finds its timers due before it has read what came meanwhile.

use std::collections::VecDeque;

use super::{ProbeSample, Revision, Time};

/// Samples closer together than y over this are not kept, which bounds them.
const SAMPLES_PER_LAG: u32 = 16;
/// Between two looks at the clock, y over this counts at most: more than a
/// running process lets pass. So at least half of y was spent running, unless
/// the process was stopped twice with nothing read between.
const LAG_PER_LOOK: u32 = 2;

/// The samples of one watch.
#[derive(Debug)]
pub(super) struct DelayRule {
    member_id: u64,
    opened_at: Time,
    lag: Time,
    /// When the clock was last looked at.
    looked_at: Time,
    /// How much of the time since the watch was created counts.
    lived: Time,
    /// Old enough.
    ripe: Option<Revision>,
    /// Not old enough yet, each with what had been lived when it was received;
    /// ascending.
    green: VecDeque<(Time, Revision)>,
}

impl DelayRule {
    /// For a watch that `member_id` (0: unknown, which rules samples out)
    /// created by `opened_at`; `lag` is y.
    pub(super) const fn new(member_id: u64, opened_at: Time, lag: Time) -> Self {
        Self {
            member_id,
            opened_at,
            lag,
            looked_at: opened_at,
            lived: Time::ZERO,
            ripe: None,
            green: VecDeque::new(),
        }
    }

    /// Takes in a sample that was received at `now`.
    pub(super) fn sample(&mut self, sample: ProbeSample, now: Time) {
        self.look(now);
        let is_of_this_watch = self.member_id != 0
            && sample.member_id == self.member_id
            && sample.asked_at > self.opened_at;
        let is_spaced = self
            .green
            .back()
            .is_none_or(|&(at, _)| self.lived >= at + self.lag / SAMPLES_PER_LAG);
        if is_of_this_watch && is_spaced {
            self.green.push_back((self.lived, sample.revision));
        }
        // Here too: nobody may ask for what is ripe for as long as events come.
        self.ripe(now);
    }

    /// The newest revision sampled at least y before `now`.
    pub(super) fn ripe(&mut self, now: Time) -> Option<Revision> {
        self.look(now);
        let lived = self.lived;
        let is_ripe = |&mut (at, _): &mut (Time, Revision)| at + self.lag <= lived;
        while let Some((_, revision)) = self.green.pop_front_if(is_ripe) {
            self.ripe = self.ripe.max(Some(revision));
        }
        self.ripe
    }

    /// When the next sample is old enough, if the clock is looked at till then.
    pub(super) fn ripens_at(&self) -> Option<Time> {
        let remaining = |&(at, _): &(Time, Revision)| (at + self.lag).saturating_sub(self.lived);
        let first = self.green.front();
        first.map(|sample| self.looked_at + remaining(sample))
    }

    /// Time has passed. Call it whenever the watch could be heard.
    pub(super) fn look(&mut self, now: Time) {
        let passed = now.saturating_sub(self.looked_at);
        self.lived += passed.min(self.lag / LAG_PER_LOOK);
        self.looked_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Time = Time::from_secs(60);

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn sample(member_id: u64, asked_at: u64, revision: i64) -> ProbeSample {
        ProbeSample {
            member_id,
            asked_at: at(asked_at),
            revision: Revision::new(revision).unwrap(),
        }
    }

    #[test]
    fn a_sample_counts_once_it_is_y_old() {
        let mut rule = DelayRule::new(1, at(100), LAG);
        rule.sample(sample(1, 110, 7), at(112));
        assert_eq!(rule.ripens_at(), Some(at(172)));
        rule.look(at(142));
        assert_eq!(rule.ripe(at(171)), None);
        assert_eq!(rule.ripens_at(), Some(at(172)));
        assert_eq!(rule.ripe(at(172)), Revision::new(7));
    }

    #[test]
    fn time_in_which_the_process_stood_still_makes_no_sample_old() {
        let mut rule = DelayRule::new(1, at(100), LAG);
        rule.sample(sample(1, 110, 7), at(112));
        assert_eq!(rule.ripe(at(5000)), None);
        assert_eq!(rule.ripens_at(), Some(at(5030)));
        assert_eq!(rule.ripe(at(9000)), Revision::new(7), "half of y was lived");
    }

    #[test]
    fn a_sample_of_another_member_or_from_before_the_watch_never_counts() {
        let mut rule = DelayRule::new(1, at(100), LAG);
        rule.sample(sample(2, 110, 7), at(112));
        rule.sample(sample(1, 100, 8), at(112));
        let mut behind_proxy = DelayRule::new(0, at(100), LAG);
        behind_proxy.sample(sample(0, 110, 9), at(112));
        for second in 112..=999 {
            assert_eq!(rule.ripe(at(second)), None);
            assert_eq!(behind_proxy.ripe(at(second)), None);
        }
    }

    #[test]
    fn samples_that_nobody_asks_for_are_bounded_too() {
        let mut rule = DelayRule::new(1, at(0), LAG);
        for second in 1..=1000_u32 {
            let asked_at = u64::from(second);
            rule.sample(sample(1, asked_at, i64::from(second)), at(asked_at));
        }
        assert!(rule.green.len() <= 17, "{}", rule.green.len());
    }

    #[test]
    fn the_newest_ripe_sample_wins_and_the_number_kept_is_bounded() {
        let mut rule = DelayRule::new(1, at(0), LAG);
        for second in 1..=1000_u32 {
            let asked_at = u64::from(second);
            rule.sample(sample(1, asked_at, i64::from(second)), at(asked_at));
            rule.ripe(at(asked_at));
            assert!(rule.green.len() <= 17);
        }
        let ripe = rule.ripe(at(1000)).unwrap().get();
        assert!((930..=940).contains(&ripe), "{ripe}");
    }
}
