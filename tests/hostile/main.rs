//! Input that nobody sane would send. What is sent over the port of a real
//! watchmark is in `scenarios/hostile.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;

mod upstream;

proptest! {
    #![proptest_config(ProptestConfig {
        // `PROPTEST_CASES` asks for more.
        cases: ProptestConfig::default().cases.max(600),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_absurdity_of_etcd_panics_or_takes_a_subscriber_backwards(story in upstream::stories(60)) {
        upstream::live(story)?;
    }
}
