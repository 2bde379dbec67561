//! The state machine against a simulated world: random histories, an etcd that
//! is faithful in what it says and adversarial in how, a store that fails, a
//! process that crashes, a subscriber that does as it likes. After every step
//! the promises P1 to P12 are checked, as far as they can be seen from outside;
//! at the end the faults stop, and everything must arrive.
//!
//! `PROPTEST_CASES` says how many worlds are tried. A failure prints the seed
//! and the shrunk steps, which then become a test in `found.rs`;
//! `RESUME_MODEL_SEED` repeats it and `RESUME_MODEL_LOG` shows what happened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of a test, which clippy does not recognise as such"
)]

mod acks;
mod check;
mod etcd;
mod found;
mod steps;
mod store;
mod upstream;
mod world;

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::steps::{Setup, run};

/// About ten seconds. The planted mistakes that show from outside need fewer.
const CASES: u32 = 600;

#[test]
fn every_promise_holds_in_every_world() {
    let seed = number_from("RESUME_MODEL_SEED").unwrap_or_else(rand_seed);
    let cases = number_from("PROPTEST_CASES").unwrap_or(u64::from(CASES));
    println!("RESUME_MODEL_SEED={seed} PROPTEST_CASES={cases}");
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let worlds = (
        any_setup(),
        prop::collection::vec(steps::any_step(), 1..120),
    );
    let outcome = TestRunner::new_with_rng(config, rng).run(&worlds, |(setup, steps)| {
        run(&setup, &steps);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("RESUME_MODEL_SEED={seed}\n{error}");
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Another one every time.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn any_setup() -> impl Strategy<Value = Setup> {
    let filters = prop_oneof![
        4 => Just((false, false)),
        1 => Just((true, false)),
        1 => Just((false, true)),
    ];
    (filters, any::<bool>(), 0..3_u8).prop_map(|((no_put, no_delete), asks, proof)| Setup {
        no_put,
        no_delete,
        can_ask_progress: asks,
        idle_proof: proof,
    })
}
