//! How long to wait before trying again.

use std::time::Duration;

/// Before the first repetition, at most.
const FIRST: Duration = Duration::from_millis(200);
/// Before any repetition, at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Jittered exponential backoff that never gives up: the n-th delay lies
/// between half and all of `min(FIRST * 2^n, LONGEST)`.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// The same `seed` gives the same delays.
    pub const fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: seed,
        }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
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

    #[test]
    fn delays_double_from_200_ms_to_30_s_and_stay_within_their_jitter() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            for ceiling_ms in [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
                let ceiling = Duration::from_millis(ceiling_ms);
                let delay = backoff.next_delay();
                assert!((ceiling / 2..=ceiling).contains(&delay), "{delay:?}");
            }
        }
    }

    #[test]
    fn health_brings_short_delays_back() {
        let mut backoff = Backoff::new(7);
        for _ in 0..40 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }

    /// The numbers of its author's own program, <https://prng.di.unimi.it/splitmix64.c>.
    #[test]
    fn jitter_comes_from_splitmix64() {
        let mut backoff = Backoff::new(1_234_567);
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
        assert_ne!(Backoff::new(1).next_delay(), Backoff::new(2).next_delay());
    }
}
