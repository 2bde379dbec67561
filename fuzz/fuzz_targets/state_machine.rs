//! Anything that etcd, subscribers, the store and the clock may do to a subscription.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

#[path = "../../tests/hostile/upstream.rs"]
mod upstream;

/// Every so many bytes are the seed of a few steps: what one changes of them
/// leaves the others as they are. (As random numbers themselves, the bytes end,
/// and drawing from zeros alone never does.)
const SEED_BYTES: usize = 4;
const SEEDS_MAX: usize = 64;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut whole: Option<upstream::Story> = None;
    for seed in bytes.chunks(SEED_BYTES).take(SEEDS_MAX) {
        let mut key = [0; 32];
        key[..seed.len()].copy_from_slice(seed);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &key);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let Ok(story) = upstream::stories(4).new_tree(&mut runner) else {
            return Corpus::Reject;
        };
        match &mut whole {
            Some(whole) => whole.go_on(story.current()),
            None => whole = Some(story.current()),
        }
    }
    let Some(story) = whole else {
        return Corpus::Reject;
    };
    if let Err(why) = upstream::live(story.clone()) {
        panic!("{why}: {story:#?}");
    }
    Corpus::Keep
});
