//! How streams begin, take over and end.

use super::harness::*;
use crate::resume::{
    OnCompaction, OutboxRoom, Record, Refusal, RefusalKind, SessionRequest, SnapshotReason, Start,
    input::Upstream,
};

fn latest() -> SessionRequest {
    SessionRequest {
        start: Start::Latest,
        ..request()
    }
}

fn own_position(at: i64) -> SessionRequest {
    SessionRequest {
        resume_after: Some(revision(at)),
        ..request()
    }
}

#[test]
fn a_new_subscriber_gets_the_state_first_and_then_the_events() {
    let mut machine = Machine::new();
    assert_eq!(
        machine.subscribe(1),
        ["snapshot #1", "persist 0 fresh c0 t0"]
    );
    assert_eq!(machine.persisted(), NOTHING);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(50))),
        [
            "s1 opened 0 fresh c1",
            "s1 state CatchingUp 0",
            "s1 begin 50 First 0"
        ]
    );
    assert_eq!(
        machine.says(Upstream::SnapshotPage(vec![put("a/1", 40), put("a/2", 9)])),
        ["s1 chunk [a/1@40 a/2@9]"]
    );
    assert_eq!(
        machine.says(Upstream::SnapshotEnded),
        ["s1 end 50 of 2", "watch #2 after 50 guard a/1"]
    );
    assert_eq!(
        machine.says(watch_opened(present(50, 40))),
        ["caught up", "s1 state Live 50"]
    );
    assert_eq!(
        machine.says(response([put("a/3", 51)])),
        ["s1 events 51 [a/3@51]"]
    );
    assert_eq!(machine.ack(1, 50), ["persist 50 acked c1 t2 a/1@40"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 50"]);
}

#[test]
fn latest_reads_the_head_and_is_opened_only_when_it_is_durable() {
    let mut machine = Machine::new();
    assert_eq!(
        machine.subscribe_as(1, latest()),
        ["head #1", "persist 0 fresh c0 t0"]
    );
    assert_eq!(
        machine.says(Upstream::Head(header(70))),
        ["watch #2 after 70 guard a/"]
    );
    assert_eq!(machine.persisted(), ["persist 70 acked c1 t2"]);
    assert_eq!(machine.says(watch_opened(present(70, 0))), ["caught up"]);
    assert_eq!(machine.says(response([put("a/1", 71)])), NOTHING);
    assert_eq!(
        machine.persisted(),
        [
            "s1 opened 70 fresh c1",
            "s1 state Live 70",
            "s1 events 71 [a/1@71]"
        ]
    );
}

#[test]
fn latest_that_crashed_before_its_head_was_durable_begins_again() {
    let mut machine = Machine::stored(Record::new(selection()));
    assert_eq!(machine.subscribe_as(1, latest()), ["head #1"]);
}

#[test]
fn latest_that_crashed_after_its_head_was_durable_misses_nothing() {
    let mut machine = Machine::stored(record(70));
    assert_eq!(
        machine.subscribe_as(1, latest()),
        ["watch #1 after 70 guard a"]
    );
}

#[test]
fn a_stored_subscription_resumes_right_after_its_checkpoint() {
    let mut machine = Machine::stored(record(100));
    assert_eq!(machine.subscribe(1), ["watch #1 after 100 guard a"]);
    assert_eq!(
        machine.says(watch_opened(present(105, 100))),
        [
            "s1 opened 100 resumed acked c1",
            "ask progress",
            "s1 state CatchingUp 100"
        ]
    );
    assert_eq!(
        machine.says(response([put("a/1", 101), put("a/2", 105)])),
        [
            "s1 events 105 [a/1@101 a/2@105]",
            "caught up",
            "s1 state Live 105"
        ]
    );
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn opened_says_how_the_checkpoint_was_established() {
    let mut machine = Machine::stored(Record {
        proof: crate::resume::Proof::Progress,
        ..record(100)
    });
    machine.subscribe(1);
    assert_eq!(
        machine.says(watch_opened(present(100, 100)))[..2],
        ["s1 opened 100 resumed progress c1", "caught up"]
    );
}

#[test]
fn another_range_is_refused_and_the_live_stream_stays() {
    let mut machine = Machine::watching(100);
    let mut other = request();
    other.selection.no_delete = true;
    assert_eq!(machine.subscribe_as(2, other), ["s2 end RangeMismatch"]);
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s1 events 101 [a/1@101]"]
    );
}

#[test]
fn another_range_than_a_stored_position_speaks_of_is_refused_after_a_restart_too() {
    let owed = Record {
        pending_snapshot: Some(SnapshotReason::HistoryReplaced),
        ..Record::new(selection())
    };
    let mut other = request();
    other.selection.no_delete = true;
    for stored in [record(100), owed] {
        let mut machine = Machine::stored(stored);
        assert_eq!(
            machine.subscribe_as(1, other.clone()),
            ["s1 end RangeMismatch"]
        );
    }
}

#[test]
fn another_range_may_be_asked_for_as_long_as_there_is_no_position_to_lie_about() {
    let denied = || {
        Upstream::Refused(Refusal {
            kind: RefusalKind::PermissionDenied,
            message: String::new(),
        })
    };
    let mut other = request();
    other.selection.no_delete = true;

    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persisted();
    machine.says(denied());
    let said = machine.subscribe_as(2, other.clone());
    assert_eq!(said, ["snapshot #3", "persist 0 fresh c0 t0"]);
    machine.persisted();
    let stored = machine.subscription.record().unwrap();
    assert_eq!(stored.selection, other.selection);

    // Once a stream was opened, its range holds.
    machine.says(Upstream::SnapshotBegun(header(50)));
    machine.closes(2);
    assert_eq!(machine.subscribe(3), ["s3 end RangeMismatch"]);
}

#[test]
fn resume_after_becomes_the_checkpoint_before_the_stream_opens() {
    for at in [50, 150] {
        let mut machine = Machine::stored(record(100));
        assert_eq!(
            machine.subscribe_as(1, own_position(at)),
            [format!("watch #1 after {at} guard a/")]
        );
        assert_eq!(
            machine.says(watch_opened(present(200, 0))),
            [format!("persist {at} acked c1 t2"), "ask progress".into()]
        );
        assert_eq!(
            machine.persisted(),
            [
                format!("s1 opened {at} resumed acked c1"),
                format!("s1 state CatchingUp {at}")
            ]
        );
        assert_eq!(machine.checkpoint(), at);
    }
}

#[test]
fn resume_after_at_the_checkpoint_is_checked_against_its_fingerprint() {
    let mut machine = Machine::stored(record(100));
    assert_eq!(
        machine.subscribe_as(1, own_position(100)),
        ["watch #1 after 100 guard a"]
    );
    assert_eq!(
        machine.says(watch_opened(present(100, 99))),
        [
            "snapshot #2",
            "persist 0 fresh pending HistoryReplaced c1 t2"
        ]
    );
}

#[test]
fn resume_after_above_the_head_must_repeat_and_is_then_a_replaced_history() {
    use crate::resume::GuardReading;
    let mut machine = Machine::stored(record(100));
    machine.subscribe_as(1, own_position(9999));
    for attempt in [3, 5, 7] {
        assert_eq!(machine.says(watch_opened(GuardReading::Future)), ["close"]);
        assert_eq!(
            machine.at_next_timer(),
            [format!("watch #{attempt} after 9999 guard a/ elsewhere")]
        );
    }
    assert_eq!(
        machine.says(watch_opened(GuardReading::Future)),
        [
            "snapshot #8",
            "persist 0 fresh pending HistoryReplaced c1 t2"
        ]
    );
    machine.persisted();
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(100))),
        [
            "s1 opened 0 fresh c1",
            "s1 state CatchingUp 0",
            "s1 begin 100 HistoryReplaced 0"
        ]
    );
}

#[test]
fn a_new_stream_ends_the_live_one_and_begins_at_the_checkpoint() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(
        machine.subscribe(2),
        ["s1 end Superseded", "close", "watch #3 after 100 guard a"]
    );
    assert_eq!(machine.says_to(1, response([put("a/2", 102)])), NOTHING);
    machine.says(watch_opened(present(101, 100)));
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s2 events 101 [a/1@101]", "caught up", "s2 state Live 101"]
    );
}

#[test]
fn a_takeover_waits_for_the_writes_under_way() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101), put("a/2", 102)]));
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.ack(2, 102), NOTHING);
    assert_eq!(machine.subscribe(2), ["s1 end Superseded", "close"]);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 102 acked c1 t2 a/2@102"]
    );
    assert_eq!(
        machine.persisted(),
        ["ack 2 ok 102", "watch #3 after 102 guard a/2"]
    );
}

#[test]
fn a_stream_that_waits_for_the_store_can_be_superseded_or_closed_too() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    machine.ack(1, 101);
    machine.subscribe(2);
    assert_eq!(machine.subscribe(3), ["s2 end Superseded", "close"]);
    assert_eq!(machine.closes(2), NOTHING);
    assert_eq!(machine.closes(3), ["close"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 101"]);
    assert_eq!(machine.subscription.session(), None);
}

#[test]
fn a_subscriber_that_goes_away_ends_its_use_of_etcd() {
    let mut machine = Machine::watching(100);
    assert_eq!(machine.closes(1), ["close"]);
    assert_eq!(machine.says(response([put("a/1", 101)])), NOTHING);
    assert_eq!(machine.subscription.poll_timeout(), None);
    assert!(!machine.subscription.wants_upstream());
}

#[test]
fn what_etcd_refuses_for_good_ends_the_stream() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    let refusal = Refusal {
        kind: RefusalKind::PermissionDenied,
        message: "no".into(),
    };
    assert_eq!(
        machine.says(Upstream::Refused(refusal.clone())),
        [format!("s1 end Refused({refusal:?})"), "close".into()]
    );
}

#[test]
fn draining_ends_the_stream_refuses_new_ones_and_still_takes_acks() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.drain(), ["s1 end Draining", "close"]);
    assert_eq!(machine.subscribe(2), ["s2 end Draining"]);
    assert!(machine.subscription.has_unacked());
    assert_eq!(
        machine.ack_of(1, 1, 101),
        ["persist 101 acked c1 t2 a/1@101"]
    );
    assert_eq!(machine.persisted(), ["ack 1 ok 101"]);
    assert!(!machine.subscription.has_unacked());
}

#[test]
fn a_requested_snapshot_is_sent_whatever_the_policy() {
    let mut machine = Machine::stored(Record {
        pending_snapshot: Some(SnapshotReason::Requested),
        ..Record::new(selection())
    });
    let fail = SessionRequest {
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    assert_eq!(machine.subscribe_as(1, fail), ["snapshot #1"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(50)))[2],
        "s1 begin 50 Requested 0"
    );
}

#[test]
fn room_of_another_session_changes_nothing() {
    let mut machine = Machine::watching(100);
    machine.room = OutboxRoom::Some;
    assert_eq!(
        machine.handle(crate::resume::Input::Outbox(
            crate::resume::SessionId(9),
            OutboxRoom::None
        )),
        NOTHING
    );
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s1 events 101 [a/1@101]"]
    );
}
