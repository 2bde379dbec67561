//! Whether this process has much to hand on. Then each subscription takes what
//! etcd says in turns of [`REST_MILLIS`], which joins into one wake-up and one
//! write what would be many; else everything goes on at once. Owns one count for all
//! subscriptions; a race costs it a response, and nobody an event.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::resume::Time;

/// How long a subscription leaves etcd unread, about, after it took all there was.
const REST_MILLIS: u64 = 5;
/// What is counted together.
const WINDOW_MILLIS: u128 = 10;
/// More responses of etcd in a window are much: 10,000 a second.
const RESPONSES_MAX: u64 = 100;

#[derive(Debug, Default)]
pub(super) struct Pace {
    window: AtomicU64,
    responses: AtomicU64,
    /// Of the window before, while nothing was counted since: of that.
    responses_before: AtomicU64,
}

impl Pace {
    /// Counts a response at `now`, and says whether there are many.
    pub(super) fn is_busy(&self, now: Time) -> bool {
        let window = u64::try_from(now.as_millis() / WINDOW_MILLIS).unwrap_or(u64::MAX);
        let before = self.window.fetch_max(window, Ordering::Relaxed);
        if before < window {
            let responses = self.responses.swap(0, Ordering::Relaxed);
            let is_adjacent = before + 1 == window;
            let responses = if is_adjacent { responses } else { 0 };
            self.responses_before.store(responses, Ordering::Relaxed);
        }
        let responses = self.responses.fetch_add(1, Ordering::Relaxed) + 1;
        responses.max(self.responses_before.load(Ordering::Relaxed)) > RESPONSES_MAX
    }
}

/// Until when who took all there was at `now` rests: at least half of
/// [`REST_MILLIS`], and all until the same moments, so that the thread wakes up
/// once for all of them.
pub(super) fn rest_until(now: Time) -> Time {
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let nearest = millis.saturating_add(REST_MILLIS / 2) / REST_MILLIS;
    Duration::from_millis((nearest + 1).saturating_mul(REST_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(pace: &Pace, responses: u64, at: u64) -> bool {
        let at = Duration::from_millis(at);
        (0..responses).fold(false, |_, _| pace.is_busy(at))
    }

    #[test]
    fn many_responses_in_a_window_are_busy_until_one_has_few() {
        let pace = Pace::default();
        assert!(!last(&pace, RESPONSES_MAX, 1000));
        assert!(pace.is_busy(Duration::from_millis(1009)));
        assert!(last(&pace, 1, 1010), "as the window before was");
        assert!(!last(&pace, 1, 1020));
    }

    #[test]
    fn all_rest_until_the_same_moments_neither_short_nor_long() {
        let until = |millis| rest_until(Duration::from_millis(millis)).as_millis();
        assert_eq!([3, 5, 7].map(until), [10; 3]);
        assert_eq!([8, 10, 12].map(until), [15; 3]);
    }

    #[test]
    fn what_was_long_ago_counts_no_more() {
        let pace = Pace::default();
        assert!(last(&pace, 2 * RESPONSES_MAX, 1000));
        assert!(!last(&pace, 1, 1020));
    }
}
