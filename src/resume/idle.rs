//! The delay rule: a position without events, where etcd certifies none.
//!
//! When no event came for x, the revision that the same member reported at
//! least y ago, after this watch was created, is assumed to lie behind the
//! watch. It is a belief, not a proof: it may only ever replace a snapshot.

use std::collections::VecDeque;

use super::{ProbeSample, Revision, Time};

/// Samples closer together than y over this are not kept, which bounds them.
const SAMPLES_PER_LAG: u32 = 16;

/// The samples of one watch.
#[derive(Debug)]
pub(super) struct DelayRule {
    member_id: u64,
    opened_at: Time,
    lag: Time,
    /// Old enough.
    ripe: Option<Revision>,
    /// Not old enough yet, each with the time it was received; ascending.
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
            ripe: None,
            green: VecDeque::new(),
        }
    }

    /// Takes in a sample that was received at `now`.
    pub(super) fn sample(&mut self, sample: ProbeSample, now: Time) {
        let is_of_this_watch = self.member_id != 0
            && sample.member_id == self.member_id
            && sample.asked_at > self.opened_at;
        let is_spaced = self
            .green
            .back()
            .is_none_or(|&(at, _)| now >= at + self.lag / SAMPLES_PER_LAG);
        if is_of_this_watch && is_spaced {
            self.green.push_back((now, sample.revision));
        }
        // Here too: nobody may ask for what is ripe for as long as events come.
        self.ripe(now);
    }

    /// The newest revision sampled at least y before `now`.
    pub(super) fn ripe(&mut self, now: Time) -> Option<Revision> {
        while let Some((_, revision)) = self.green.pop_front_if(|&mut (at, _)| at + self.lag <= now)
        {
            self.ripe = self.ripe.max(Some(revision));
        }
        self.ripe
    }

    /// When the next sample is old enough.
    pub(super) fn ripens_at(&self) -> Option<Time> {
        self.green.front().map(|&(at, _)| at + self.lag)
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
        assert_eq!(rule.ripe(at(171)), None);
        assert_eq!(rule.ripens_at(), Some(at(172)));
        assert_eq!(rule.ripe(at(172)), Revision::new(7));
    }

    #[test]
    fn a_sample_of_another_member_or_from_before_the_watch_never_counts() {
        let mut rule = DelayRule::new(1, at(100), LAG);
        rule.sample(sample(2, 110, 7), at(112));
        rule.sample(sample(1, 100, 8), at(112));
        let mut behind_proxy = DelayRule::new(0, at(100), LAG);
        behind_proxy.sample(sample(0, 110, 9), at(112));
        assert_eq!(rule.ripe(at(999)), None);
        assert_eq!(behind_proxy.ripe(at(999)), None);
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
