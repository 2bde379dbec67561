//! The state of the range, in brackets.

use super::harness::*;
use crate::resume::{OnCompaction, SessionRequest, input::Upstream};

#[test]
fn a_snapshot_below_what_was_delivered_must_repeat_and_then_ends_the_live_stream() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 120)]));
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    assert_eq!(
        machine.says(watch_opened(compacted_at(130))),
        ["snapshot #4"]
    );
    for attempt in [6, 8, 10] {
        assert_eq!(
            machine.says(Upstream::SnapshotBegun(header(110))),
            ["close"]
        );
        assert_eq!(machine.at_next_timer(), [format!("snapshot #{attempt}")]);
    }
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(110))),
        [
            "s1 end HistoryReplaced",
            "close",
            "persist 0 fresh pending HistoryReplaced c0 t0"
        ]
    );
}

#[test]
fn a_stale_snapshot_is_read_again_and_raises_no_alarm() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 120)]));
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    machine.says(watch_opened(compacted_at(130)));
    machine.says(Upstream::SnapshotBegun(header(110)));
    machine.at_next_timer();
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(140))),
        ["s1 state CatchingUp 120", "s1 begin 140 Compacted 130"]
    );
}

#[test]
fn a_snapshot_in_place_of_a_compacted_resume_after_voids_a_later_checkpoint() {
    let mut machine = Machine::stored(record(100));
    let back = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, back);
    assert_eq!(
        machine.says(watch_opened(compacted_at(60))),
        ["snapshot #2", "persist 0 fresh pending Compacted c1 t2"]
    );
    machine.persisted();
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(100))),
        [
            "s1 opened 0 fresh c1",
            "s1 state CatchingUp 0",
            "s1 begin 100 Compacted 60"
        ]
    );
    assert_eq!(
        machine.says(Upstream::SnapshotEnded),
        ["s1 end 100 of 0", "watch #3 after 100 guard a/"]
    );
    assert_eq!(machine.ack(1, 100), ["persist 100 acked c1 t2"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 100"]);
    assert!(!machine.subscription.has_unacked());
}

#[test]
fn a_stream_that_begins_with_a_snapshot_claims_nothing_delivered_before_it() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.says(watch_opened(compacted_at(130)));
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(140))),
        [
            "s1 opened 0 fresh c1",
            "s1 state CatchingUp 0",
            "s1 begin 140 Compacted 130"
        ]
    );
}

#[test]
fn a_compacted_resume_after_is_named_when_the_subscriber_chose_to_fail() {
    let mut machine = Machine::stored(record(100));
    let back = SessionRequest {
        resume_after: Some(revision(50)),
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    machine.subscribe_as(1, back);
    assert_eq!(
        machine.says(watch_opened(compacted_at(60))),
        [
            "s1 end Compacted { checkpoint: Some(Revision(50)), compact_revision: Some(Revision(60)) }",
            "close"
        ]
    );
    assert_eq!(machine.checkpoint(), 100);
}
