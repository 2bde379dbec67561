//! What chance decides in a test is the same in every run, unless another seed
//! is asked for: what is red then is the change's doing.

/// `WATCHMARK_TEST_SEED`, else always the same.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("WATCHMARK_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("WATCHMARK_TEST_SEED={seed}");
    seed
}
