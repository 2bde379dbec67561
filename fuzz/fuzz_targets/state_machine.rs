//! Anything that etcd, subscribers, the store and the clock may do to a subscription.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

#[path = "../../tests/hostile/upstream.rs"]
mod upstream;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // The bytes are the random numbers from which the story is made.
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let Ok(story) = upstream::stories().new_tree(&mut runner) else {
        return Corpus::Reject;
    };
    let story = story.current();
    if let Err(why) = upstream::live(story.clone()) {
        panic!("{why}: {story:#?}");
    }
    Corpus::Keep
});
