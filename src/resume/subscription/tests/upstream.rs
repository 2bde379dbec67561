//! Watches that break, stall, are cancelled and come back.

use super::harness::*;
use crate::resume::input::Upstream;

#[test]
fn a_compaction_that_cancels_the_watch_before_its_guard_is_read_is_not_overheard() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    let cancelled = Upstream::Compacted {
        compact_revision: revision(150),
    };
    assert_eq!(machine.says(cancelled), ["snapshot #2"]);
}

#[test]
fn a_cancelled_watch_whose_position_is_not_compacted_is_opened_again() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    let cancelled = Upstream::Compacted {
        compact_revision: revision(100),
    };
    assert_eq!(machine.says(cancelled), ["close"]);
    assert_eq!(machine.at_next_timer(), ["watch #3 after 100 guard a"]);
}

#[test]
fn short_retries_come_back_after_a_long_healthy_silence() {
    let mut machine = Machine::watching_mute(100);
    for _ in 0..20 {
        machine.after_secs(3600);
        machine.says(Upstream::Lost);
        let before = machine.now();
        machine.at_next_timer();
        assert!(machine.now() - before <= std::time::Duration::from_millis(200));
        machine.says(mute_watch_opened(present(100, 100)));
    }
}
