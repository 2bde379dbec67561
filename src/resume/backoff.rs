//! How long to wait before trying again. Owns the growth of the pauses and
//! their jitter; refuses to give up, or to say when enough is enough: that is
//! its caller's. Invariant: no delay exceeds the ceiling it was made with.
//!
//! Two use it: a subscription between attempts on etcd (the ceiling is
//! `Settings::backoff_max`), and `watchmark tail` between its streams (one of
//! its own: it is another program, before another server).

use std::time::Duration;

/// Before the first repetition, at most.
const FIRST: Duration = Duration::from_millis(200);

/// Jittered exponential backoff that never gives up: the n-th delay lies
/// between half and all of `min(FIRST * 2^n, max)`.
#[derive(Debug)]
pub struct Backoff {
    max: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// No delay is longer than `max`; the same `seed` gives the same delays.
    pub const fn new(max: Duration, seed: u64) -> Self {
        Self {
            max,
            failures: 0,
            random: seed,
        }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let ceiling = FIRST.saturating_mul(factor).min(self.max);
        self.failures = self.failures.saturating_add(1);
        ceiling / 2 + (ceiling / 2).mul_f64(self.next_fraction())
    }

    /// Begins again with short delays; call it when things are well.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Uniform in [0, 1).
    fn next_fraction(&mut self) -> f64 {
        const TWO_TO_THE_32: f64 = 4_294_967_296.0;
        let high_bits = u32::try_from(self.next_random() >> 32).unwrap_or(0);
        f64::from(high_bits) / TWO_TO_THE_32
    }

    /// splitmix64.
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn delays_double_from_200_ms_to_30_s_and_stay_within_their_jitter() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(MAX, seed);
            for ceiling_ms in [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
                let ceiling = Duration::from_millis(ceiling_ms);
                let delay = backoff.next_delay();
                assert!((ceiling / 2..=ceiling).contains(&delay), "{delay:?}");
            }
        }
    }

    #[test]
    fn every_ceiling_is_reached_and_none_passed() {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        for max in [Duration::from_millis(1), days(1), days(365)] {
            let mut backoff = Backoff::new(max, 3);
            let delays: Vec<Duration> = (0..100).map(|_| backoff.next_delay()).collect();
            assert!(delays.iter().all(|&delay| delay <= max), "{delays:?}");
            assert!(delays[99] >= max / 2, "{max:?}: {:?}", delays[99]);
        }
    }

    #[test]
    fn health_brings_short_delays_back() {
        let mut backoff = Backoff::new(MAX, 7);
        for _ in 0..40 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }

    /// The numbers of its author's own program, <https://prng.di.unimi.it/splitmix64.c>.
    #[test]
    fn jitter_comes_from_splitmix64() {
        let mut backoff = Backoff::new(MAX, 1_234_567);
        let numbers = [(); 3].map(|()| backoff.next_random());
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn two_seeds_do_not_march_in_step() {
        let first_delay = |seed| Backoff::new(MAX, seed).next_delay();
        assert_ne!(first_delay(1), first_delay(2));
    }
}
