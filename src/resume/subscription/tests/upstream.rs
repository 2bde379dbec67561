//! Watches that break, stall, are cancelled and come back.

use std::time::Duration;

use super::harness::*;
use crate::resume::{SessionRequest, Start, input::Upstream};

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
        assert!(machine.now() - before <= Duration::from_millis(200));
        machine.says(mute_watch_opened(present(100, 100)));
    }
}

#[test]
fn retries_are_short_again_after_an_event() {
    let mut machine = Machine::watching_mute(200);
    for n in 1..20 {
        machine.says(response([put("a/1", 100 + n)]));
        machine.says(Upstream::Lost);
        let before = machine.now();
        machine.at_next_timer();
        assert!(machine.now() - before <= Duration::from_millis(200));
        machine.says(mute_watch_opened(present(200, 100 + n)));
    }
}

#[test]
fn a_lost_watch_is_reported_and_resumed_right_after_what_was_delivered() {
    let mut machine = Machine::watching(101);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(
        machine.says(Upstream::Lost),
        ["close", "s1 state UpstreamLost 101"]
    );
    assert_eq!(
        machine.at_next_timer(),
        ["watch #3 after 101 guard a/1 elsewhere"]
    );
    assert_eq!(
        machine.says(watch_opened(present(103, 101))),
        ["ask progress", "s1 state CatchingUp 101"]
    );
    assert_eq!(
        machine.says(response([put("a/1", 101), put("a/3", 103)])),
        ["s1 events 103 [a/3@103]", "caught up", "s1 state Live 103"]
    );
}

#[test]
fn what_was_half_received_is_asked_for_again() {
    let mut machine = Machine::watching(105);
    assert_eq!(
        machine.says(fragment([put("a/1", 101), put("a/2", 102)])),
        ["s1 events 101 [a/1@101]"]
    );
    machine.says(Upstream::Lost);
    assert_eq!(
        machine.at_next_timer(),
        ["watch #3 after 101 guard a/1 elsewhere"]
    );
    machine.says(watch_opened(present(105, 101)));
    assert_eq!(
        machine.says(response([put("a/2", 102), put("a/3", 102)])),
        ["s1 events 102 [a/2@102 a/3@102]"]
    );
}

#[test]
fn parts_of_an_oversized_revision_are_not_repeated_after_a_break() {
    let mut machine = Machine::watching(105);
    assert_eq!(
        machine.says(fragment(vec![sized("a/1", 101, MIB); 4])),
        ["s1 events 101 [a/1@101 a/1@101 a/1@101] partial"]
    );
    machine.says(Upstream::Lost);
    assert_eq!(
        machine.at_next_timer(),
        ["watch #3 after 100 guard a elsewhere"]
    );
    machine.says(watch_opened(present(105, 100)));
    assert_eq!(
        machine.says(fragment(vec![sized("a/1", 101, MIB); 2])),
        NOTHING
    );
    let mut rest = vec![sized("a/1", 101, MIB); 2];
    rest.push(put("a/2", 101));
    assert_eq!(
        machine.says(response(rest)),
        ["s1 events 101 [a/1@101 a/2@101]"]
    );
    assert_eq!(machine.subscription.unacked_events(), 5);
}

#[test]
fn what_an_earlier_attempt_says_changes_nothing() {
    let mut machine = Machine::watching(105);
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    machine.says(watch_opened(present(105, 100)));
    for said in [
        response([put("a/1", 101)]),
        bookmark(105),
        Upstream::Lost,
        Upstream::SnapshotEnded,
        Upstream::Compacted {
            compact_revision: revision(105),
        },
    ] {
        assert_eq!(machine.says_to(1, said), NOTHING);
    }
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s1 events 101 [a/1@101]"]
    );
}

#[test]
fn a_stored_stream_opens_although_etcd_is_away() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    assert_eq!(
        machine.says(Upstream::Lost),
        [
            "close",
            "s1 opened 100 resumed acked c1",
            "s1 state UpstreamLost 100"
        ]
    );
}

#[test]
fn a_stream_without_a_position_does_not_open_while_etcd_is_away() {
    let mut machine = Machine::new();
    let latest = SessionRequest {
        start: Start::Latest,
        ..request()
    };
    machine.subscribe_as(1, latest);
    assert_eq!(
        machine.says(Upstream::Lost),
        ["s1 end UpstreamUnavailable", "close"]
    );
    let mut machine = Machine::stored(record(100));
    let own = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, own);
    assert_eq!(
        machine.says(Upstream::Lost),
        ["s1 end UpstreamUnavailable", "close"]
    );
}

#[test]
fn a_new_subscriber_may_open_and_wait_for_its_snapshot_while_etcd_is_away() {
    let mut machine = Machine::new();
    machine.subscribe(1);
    assert_eq!(machine.says(Upstream::Lost), ["close"]);
    assert_eq!(
        machine.persisted(),
        ["s1 opened 0 fresh c0", "s1 state UpstreamLost 0"]
    );
    assert_eq!(machine.at_next_timer(), ["snapshot #3"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(50))),
        ["s1 state CatchingUp 0", "s1 begin 50 First 0"]
    );
}

#[test]
fn a_stream_that_etcd_keeps_waiting_opens_at_what_the_store_says() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    assert_eq!(
        machine.at_next_timer(),
        ["s1 opened 100 resumed acked c1", "s1 state CatchingUp 100"]
    );
    assert_eq!(machine.now(), Duration::from_secs(5));
    // And goes on as if etcd had been quick.
    machine.says(watch_opened(present(101, 100)));
    assert_eq!(
        machine.says(response([put("a", 101)])),
        ["s1 events 101 [a@101]", "caught up", "s1 state Live 101"]
    );

    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.at_next_timer();
    let said = machine.says(watch_opened(compacted_at(150)));
    assert_eq!(said, ["snapshot #2"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(200))),
        ["s1 begin 200 Compacted 150"]
    );

    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persisted();
    assert_eq!(
        machine.at_next_timer(),
        ["s1 opened 0 fresh c0", "s1 state CatchingUp 0"]
    );
}

#[test]
fn a_stream_that_brings_its_position_waits_for_etcd_to_open() {
    let mut machine = Machine::stored(record(100));
    let brought = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, brought);
    assert_eq!(machine.after_secs(60), NOTHING);
}

#[test]
fn retries_never_end_and_never_come_faster_than_100_ms() {
    let mut machine = Machine::watching(100);
    let mut waits = Vec::new();
    for _ in 0..30 {
        let before = machine.now();
        machine.says(Upstream::Lost);
        while machine.at_next_timer() == ["s1 progress 100"] {}
        waits.push(machine.now() - before);
    }
    assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(100)));
    assert!(waits[29] >= Duration::from_secs(15));
    assert!(waits[29] <= Duration::from_secs(30));
}

#[test]
fn a_live_watch_that_compaction_overtook_is_reopened_and_no_loss_by_itself() {
    let mut machine = Machine::watching(100);
    let cancelled = Upstream::Compacted {
        compact_revision: revision(90),
    };
    assert_eq!(
        machine.says(cancelled),
        ["close", "s1 state CatchingUp 100"]
    );
    assert_eq!(machine.at_next_timer(), ["watch #3 after 100 guard a"]);
    assert_eq!(
        machine.says(watch_opened(present(100, 100))),
        ["caught up", "s1 state Live 100"]
    );
}

/// etcd answers no progress request to a watch that starts above its head.
#[test]
fn a_watch_that_etcd_cannot_answer_yet_is_not_asked_and_not_taken_for_stalled() {
    let mut machine = Machine::watching(100);
    for _ in 0..20 {
        assert_eq!(machine.after_secs(10), ["s1 progress 100"]);
        assert!(machine.probe(MEMBER, 100).is_empty());
        assert!(machine.probe(MEMBER + 1, 101).is_empty());
    }
    assert_eq!(machine.probe(MEMBER, 101), ["ask progress"]);
    assert_eq!(machine.says(bookmark(101))[0], "s1 progress 101");
}

#[test]
fn silence_is_asked_about_and_an_answer_is_enough() {
    let mut machine = Machine::watching(100);
    machine.probe(MEMBER, 101);
    assert_eq!(machine.after_secs(10), ["ask progress"]);
    assert_eq!(machine.says(bookmark(100)), ["s1 progress 100"]);
    for _ in 0..20 {
        assert_eq!(machine.after_secs(10), ["ask progress"]);
        machine.says(bookmark(100));
    }
}

#[test]
fn silence_without_an_answer_is_a_stall_and_another_member_is_tried() {
    let mut machine = Machine::watching(100);
    assert_eq!(machine.probe(MEMBER, 101), ["ask progress"]);
    for _ in 0..2 {
        assert_eq!(machine.after_secs(10), ["ask progress"]);
    }
    assert_eq!(
        machine.after_secs(10),
        ["close", "s1 state UpstreamLost 100"]
    );
    assert_eq!(
        machine.at_next_timer(),
        ["watch #3 after 100 guard a elsewhere"]
    );
}

#[test]
fn repeated_stalls_are_given_more_time() {
    let mut machine = Machine::watching(100);
    machine.probe(MEMBER, 101);
    let mut lasted = Vec::new();
    for _ in 0..7 {
        let opened_at = machine.now();
        while machine
            .at_next_timer()
            .last()
            .is_none_or(|line| line == "ask progress")
        {}
        lasted.push((machine.now() - opened_at).as_secs());
        machine.at_next_timer();
        machine.says(watch_opened(present(200, 100)));
    }
    assert_eq!(lasted[0], 30);
    assert_eq!(lasted[1..], [60, 120, 240, 480, 480, 480]);
}

#[test]
fn a_member_that_cannot_be_asked_is_never_taken_for_stalled() {
    let mut machine = Machine::watching_mute(100);
    for _ in 0..1000 {
        assert_eq!(machine.after_secs(10), ["s1 progress 100"]);
    }
}

#[test]
fn live_is_told_once_the_head_of_the_opening_is_delivered() {
    let mut machine = Machine::watching(102);
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s1 events 101 [a/1@101]"]
    );
    assert_eq!(
        machine.says(bookmark(102)),
        [
            "caught up",
            "s1 state Live 101",
            "s1 progress 102",
            "persist 102 progress c1 t2 a/1@101"
        ][..3]
    );
}

#[test]
fn a_watch_still_catching_up_is_asked_often_and_then_less_often() {
    let mut machine = Machine::watching(500);
    let mut at = Vec::new();
    for _ in 0..7 {
        assert_eq!(machine.at_next_timer(), ["ask progress"]);
        at.push(machine.now().as_millis());
    }
    assert_eq!(at, [200, 600, 1400, 3000, 6200, 12_600, 22_600]);
}

#[test]
fn where_nothing_is_certified_a_silence_that_grows_with_the_backlog_counts_as_caught_up() {
    let mut machine = Machine::watching_mute(10_100);
    assert_eq!(machine.after(Duration::from_millis(3999)), NOTHING);
    assert_eq!(
        machine.after(Duration::from_millis(1)),
        ["caught up", "s1 state Live 100"]
    );
}
