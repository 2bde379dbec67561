//! The state of the range, in brackets.

use super::harness::*;
use crate::resume::{OnCompaction, OutboxRoom, Revision, SessionRequest, input::Upstream};

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
fn a_snapshot_of_exactly_what_was_delivered_is_taken() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 120)]));
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    machine.says(watch_opened(compacted_at(130)));
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(120))),
        ["s1 state CatchingUp 120", "s1 begin 120 Compacted 130"]
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

/// Resumed from 100, which is compacted.
fn compacted(on_compaction: OnCompaction) -> (Machine, Vec<String>) {
    let mut machine = Machine::stored(record(100));
    let request = SessionRequest {
        on_compaction,
        ..request()
    };
    machine.subscribe_as(1, request);
    let lines = machine.says(watch_opened(compacted_at(150)));
    (machine, lines)
}

#[test]
fn a_compacted_checkpoint_is_followed_by_a_snapshot_and_then_by_events() {
    let (mut machine, lines) = compacted(OnCompaction::Resync);
    assert_eq!(lines, ["snapshot #2"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(200))),
        [
            "s1 opened 0 fresh c1",
            "s1 state CatchingUp 0",
            "s1 begin 200 Compacted 150"
        ]
    );
    machine.says(Upstream::SnapshotPage(vec![put("a/1", 180)]));
    assert_eq!(
        machine.says(Upstream::SnapshotEnded),
        ["s1 end 200 of 1", "watch #3 after 200 guard a/1"]
    );
    assert_eq!(machine.checkpoint(), 100);
    machine.says(watch_opened(present(200, 180)));
    assert_eq!(
        machine.says(response([put("a/1", 199), put("a/2", 201)])),
        ["s1 events 201 [a/2@201]"]
    );
    assert_eq!(machine.ack(1, 200), ["persist 200 acked c1 t2 a/1@180"]);
}

#[test]
fn a_compacted_checkpoint_ends_the_stream_of_who_chose_to_fail() {
    let (machine, lines) = compacted(OnCompaction::Fail);
    assert_eq!(
        lines,
        [
            "s1 end Compacted { checkpoint: Some(Revision(100)), compact_revision: Some(Revision(150)) }",
            "close"
        ]
    );
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn a_live_stream_whose_next_revision_is_compacted_gets_a_snapshot_in_the_same_stream() {
    let mut machine = Machine::watching(101);
    machine.says(response([put("a/1", 101)]));
    machine.says(Upstream::Compacted {
        compact_revision: revision(150),
    });
    machine.at_next_timer();
    assert_eq!(
        machine.says(watch_opened(compacted_at(150))),
        ["snapshot #4"]
    );
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(200))),
        ["s1 begin 200 Compacted 150"]
    );
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
}

#[test]
fn compaction_during_a_snapshot_restarts_it() {
    let (mut machine, _) = compacted(OnCompaction::Resync);
    machine.says(Upstream::SnapshotBegun(header(200)));
    machine.says(Upstream::SnapshotPage(vec![put("a/1", 180)]));
    let overtaken = Upstream::SnapshotCompacted {
        compact_revision: Revision::new(210),
    };
    assert_eq!(machine.says(overtaken), ["close"]);
    assert_eq!(machine.at_next_timer(), ["snapshot #4"]);
    assert_eq!(machine.says_to(2, Upstream::SnapshotEnded), NOTHING);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(220))),
        ["s1 begin 220 Compacted 210"]
    );
    machine.says(Upstream::SnapshotPage(vec![put("a/2", 215)]));
    assert_eq!(
        machine.says(Upstream::SnapshotEnded),
        ["s1 end 220 of 1", "watch #5 after 220 guard a/2"]
    );
}

#[test]
fn what_waits_of_an_overtaken_snapshot_is_not_sent() {
    let (mut machine, _) = compacted(OnCompaction::Resync);
    machine.says(Upstream::SnapshotBegun(header(200)));
    machine.outbox(1, OutboxRoom::None);
    machine.says(Upstream::SnapshotPage(vec![put("a/1", 180)]));
    let overtaken = Upstream::SnapshotCompacted {
        compact_revision: None,
    };
    machine.says(overtaken);
    assert_eq!(machine.outbox(1, OutboxRoom::Free), NOTHING);
    assert_eq!(machine.at_next_timer(), ["snapshot #4"]);
}

#[test]
fn a_snapshot_that_is_lost_begins_again() {
    let (mut machine, _) = compacted(OnCompaction::Resync);
    machine.says(Upstream::SnapshotBegun(header(200)));
    assert_eq!(
        machine.says(Upstream::Lost),
        ["close", "s1 state UpstreamLost 0"]
    );
    assert_eq!(machine.at_next_timer(), ["snapshot #4"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(201))),
        ["s1 state CatchingUp 0", "s1 begin 201 Compacted 150"]
    );
}

#[test]
fn a_snapshot_that_was_not_acknowledged_is_sent_again() {
    let (mut machine, _) = compacted(OnCompaction::Resync);
    machine.says(Upstream::SnapshotBegun(header(200)));
    machine.says(Upstream::SnapshotEnded);
    machine.closes(1);
    assert_eq!(machine.subscribe(2), ["watch #5 after 100 guard a"]);
    assert_eq!(
        machine.says(watch_opened(compacted_at(150))),
        ["snapshot #6"]
    );
}

#[test]
fn chunks_are_of_128_kib_and_no_more_is_read_while_they_wait() {
    let (mut machine, _) = compacted(OnCompaction::Resync);
    machine.says(Upstream::SnapshotBegun(header(200)));
    machine.outbox(1, OutboxRoom::None);
    assert!(machine.subscription.wants_upstream());
    let pairs = vec![
        sized("a/1", 11, 100_000),
        sized("a/2", 12, 40_000),
        sized("a/3", 13, 5 * MIB),
        sized("a/4", 14, 10),
        sized("a/5", 15, 128 * 1024 - 10),
        sized("a/6", 16, 1),
    ];
    assert_eq!(machine.says(Upstream::SnapshotPage(pairs)), NOTHING);
    assert!(!machine.subscription.wants_upstream());
    assert_eq!(
        machine.outbox(1, OutboxRoom::Free),
        [
            "s1 chunk [a/1@11]",
            "s1 chunk [a/2@12]",
            "s1 chunk [a/3@13]",
            "s1 chunk [a/4@14 a/5@15]",
            "s1 chunk [a/6@16]"
        ]
    );
    assert!(machine.subscription.wants_upstream());
}
