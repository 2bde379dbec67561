//! What an operator moves and sees.

use super::harness::*;
use crate::resume::{
    Activity, GuardReading, Header, OnCompaction, OutboxRoom, Record, SessionRequest, Settings,
    input::Upstream,
};

#[test]
fn a_seek_ends_the_stream_and_is_answered_when_it_is_durable() {
    let mut machine = delivered_up_to_103();
    assert_eq!(
        machine.seek(1, 50),
        ["s1 end Sought", "close", "persist 50 acked c1 t2"]
    );
    assert_eq!(machine.checkpoint(), 100);
    assert_eq!(machine.persisted(), ["op 1 ok, was 100"]);
    assert_eq!(machine.checkpoint(), 50);
    assert_eq!(machine.subscribe(2), ["watch #3 after 50 guard a/"]);
    assert_eq!(
        machine.says(watch_opened(present(103, 100))),
        [
            "s2 opened 50 resumed acked c1",
            "ask progress",
            "s2 state CatchingUp 50"
        ]
    );
    assert_eq!(
        machine.says(response([put("a/1", 101)])),
        ["s2 events 101 [a/1@101]"]
    );
}

#[test]
fn a_seek_forwards_skips_what_lies_between() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 102);
    machine.persisted();
    assert_eq!(machine.subscribe(2), ["watch #3 after 102 guard a/"]);
}

#[test]
fn a_seek_to_the_checkpoint_keeps_what_is_known_of_its_history() {
    let mut machine = delivered_up_to_103();
    assert_eq!(
        machine.seek(1, 100),
        ["s1 end Sought", "close", "persist 100 acked c1 t2 a@100"]
    );
    machine.persisted();
    assert_eq!(machine.subscribe(2), ["watch #3 after 100 guard a"]);
}

#[test]
fn a_seek_drops_what_the_delay_rule_assumed() {
    let mut machine = Machine::stored(Record {
        assumed: Some(assumed(200)),
        ..record(100)
    });
    assert_eq!(machine.seek(1, 150), ["persist 150 acked c1 t2"]);
}

#[test]
fn a_seek_to_a_snapshot_makes_the_next_stream_begin_with_one() {
    let mut machine = delivered_up_to_103();
    assert_eq!(
        machine.seek_snapshot(1),
        [
            "s1 end Sought",
            "close",
            "persist 0 fresh pending Requested c1 t2"
        ]
    );
    assert_eq!(machine.persisted(), ["op 1 ok, was 100"]);
    assert_eq!(machine.subscribe(2), ["snapshot #3"]);
    assert_eq!(
        machine.says(Upstream::SnapshotBegun(header(110))),
        [
            "s2 opened 0 fresh c1",
            "s2 state CatchingUp 0",
            "s2 begin 110 Requested 0"
        ]
    );
}

#[test]
fn a_requested_snapshot_comes_also_to_who_chose_to_fail() {
    let mut machine = Machine::stored(record(100));
    machine.seek_snapshot(1);
    machine.persisted();
    let fails = SessionRequest {
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    assert_eq!(machine.subscribe_as(1, fails), ["snapshot #1"]);
}

#[test]
fn a_replaced_history_stays_the_reason_of_a_snapshot_that_is_asked_for() {
    let mut machine = Machine::stored(Record {
        checkpoint: None,
        proof: crate::resume::Proof::Fresh,
        pending_snapshot: Some(crate::resume::SnapshotReason::HistoryReplaced),
        ..Record::new(selection())
    });
    assert_eq!(
        machine.seek_snapshot(1),
        ["persist 0 fresh pending HistoryReplaced c0 t0"]
    );
}

#[test]
fn who_chose_to_fail_and_was_told_of_the_replaced_history_gets_the_snapshot_asked_for() {
    for (on_compaction, reason) in [
        (OnCompaction::Fail, "Requested"),
        (OnCompaction::Resync, "HistoryReplaced"),
    ] {
        let request = SessionRequest {
            on_compaction,
            ..request()
        };
        let mut machine = Machine::watching_as(100, request.clone());
        machine.says(Upstream::Lost);
        machine.at_next_timer();
        let ended = machine.says(watch_opened(present(200, 99)));
        assert_eq!(ended[0], "s1 end HistoryReplaced");
        machine.persisted();
        let pending = format!("persist 0 fresh pending {reason} c0 t0");
        assert_eq!(machine.seek_snapshot(1), [pending]);
        machine.persisted();
        assert_eq!(machine.seek(2, 90), ["persist 90 acked c0 t0"]);
        machine.persisted();
        machine.seek_snapshot(3);
        machine.persisted();
        assert_eq!(machine.subscribe_as(2, request), ["snapshot #5"]);
    }
}

/// Nobody was told of the second one.
#[test]
fn a_snapshot_asked_for_after_the_next_replaced_history_says_so_again() {
    let mut machine = Machine::stored(record(100));
    let fails = SessionRequest {
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    machine.subscribe_as(1, fails);
    machine.says(watch_opened(present(200, 99)));
    machine.persisted();
    machine.seek_as(1, 90, header(200));
    machine.persisted();
    machine.subscribe(2);
    machine.says(watch_opened(GuardReading::Present {
        header: Header {
            cluster_id: 2,
            ..header(300)
        },
        mod_revision: None,
    }));
    machine.closes(2);
    machine.persisted();
    assert_eq!(
        machine.seek_snapshot(2),
        ["persist 0 fresh pending HistoryReplaced c0 t0"]
    );
}

#[test]
fn a_stored_selection_without_a_checkpoint_can_be_moved() {
    let mut machine = Machine::stored(Record::new(selection()));
    assert_eq!(machine.seek(1, 50), ["persist 50 acked c0 t0"]);
    assert_eq!(machine.persisted(), ["op 1 ok, was 0"]);
    assert_eq!(machine.subscribe(1), ["watch #1 after 50 guard a/"]);
}

#[test]
fn a_seek_remembers_whose_history_it_is_in_but_forgets_no_other() {
    let asked = |cluster_id, raft_term| crate::resume::Header {
        cluster_id,
        raft_term,
        revision: revision(200),
    };
    let known = || Machine::stored(record(100));
    let mut unknown = Machine::stored(Record::new(selection()));
    assert_eq!(
        unknown.seek_as(1, 50, asked(9, 5)),
        ["persist 50 acked c9 t5"]
    );
    assert_eq!(
        known().seek_as(1, 50, asked(1, 5)),
        ["persist 50 acked c1 t5"]
    );
    // Restored, or another cluster: the next stream finds that out and says so.
    assert_eq!(
        known().seek_as(1, 50, asked(1, 1)),
        ["persist 50 acked c1 t2"]
    );
    assert_eq!(
        known().seek_as(1, 50, asked(9, 5)),
        ["persist 50 acked c1 t2"]
    );
}

#[test]
fn what_is_not_there_can_be_neither_moved_nor_deleted() {
    let mut machine = Machine::new();
    assert_eq!(machine.seek(1, 50), ["op 1 not found"]);
    assert_eq!(machine.seek_snapshot(2), ["op 2 not found"]);
    assert_eq!(machine.delete(3), ["op 3 not found"]);
    assert_eq!(machine.ack(1, 1), ["ack 1 not found"]);
    assert!(machine.subscription.is_vacant());
}

#[test]
fn what_was_delivered_before_a_seek_can_not_be_acknowledged_after_it() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 50);
    assert_eq!(machine.ack_of(1, 1, 103), ["ack 1 sought"]);
    assert_eq!(machine.ack(2, 51), ["ack 2 sought"]);
    assert_eq!(machine.ack(3, 50), ["ack 3 ok 50"]);
    machine.persisted();
    assert_eq!(machine.ack_of(1, 4, 103), ["ack 4 sought"]);
    assert_eq!(machine.ack_of(1, 5, 50), ["ack 5 ok 50"]);
    machine.subscribe(2);
    assert_eq!(machine.ack_of(1, 6, 50), ["ack 6 superseded"]);
    assert_eq!(machine.ack(7, 103), ["ack 7 beyond 50"]);
}

#[test]
fn an_ack_below_a_forward_seek_waits_for_it() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 200);
    assert_eq!(machine.ack(1, 100), ["ack 1 ok 100"]);
    assert_eq!(machine.ack(2, 103), NOTHING);
    assert_eq!(machine.ack(3, 201), ["ack 3 sought"]);
    assert_eq!(machine.persisted(), ["ack 2 ok 200", "op 1 ok, was 100"]);
}

/// Between the two writes the checkpoint on disk is below it.
#[test]
fn an_ack_of_where_a_seek_returns_to_after_a_write_that_falls_waits_for_the_seek() {
    let mut machine = Machine::stored(record(100));
    let back = SessionRequest {
        resume_after: Some(revision(90)),
        ..request()
    };
    machine.subscribe_as(1, back);
    machine.says(watch_opened(present(200, 0)));
    machine.seek(1, 100);
    assert_eq!(machine.ack(1, 100), NOTHING);
    assert_eq!(machine.persisted(), ["persist 100 acked c1 t2"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 100", "op 1 ok, was 90"]);
}

#[test]
fn an_ack_below_a_forward_seek_that_fails_is_told_so() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 200);
    machine.ack(1, 150);
    assert_eq!(
        machine.persist_fails(),
        ["ack 1 store failed: full", "op 1 store failed: full"]
    );
    assert_eq!(machine.ack(2, 150), ["ack 2 sought"]);
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn an_ack_that_is_being_written_is_answered_before_the_seek() {
    let mut machine = delivered_up_to_103();
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.ack(2, 103), NOTHING);
    assert_eq!(
        machine.seek(1, 50),
        ["s1 end Sought", "close", "ack 2 sought"]
    );
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 50 acked c1 t2"]
    );
    assert_eq!(machine.persisted(), ["op 1 ok, was 101"]);
}

#[test]
fn a_seek_whose_predecessor_fails_fails_too_and_nothing_has_changed() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.seek(1, 50);
    assert_eq!(
        machine.persist_fails(),
        ["ack 1 store failed: full", "op 1 store failed: full"]
    );
    assert_eq!(machine.subscribe(2), ["watch #3 after 100 guard a"]);
}

#[test]
fn a_seek_that_failed_may_be_on_disk_so_the_next_stream_writes_the_position_again() {
    for to in [50, 200] {
        let mut machine = delivered_up_to_103();
        machine.seek(1, to);
        assert_eq!(machine.persist_fails(), ["op 1 store failed: full"]);
        assert_eq!(machine.checkpoint(), 100);
        assert_eq!(
            machine.subscribe(2),
            [
                "watch #3 after 100 guard a",
                "persist 100 acked c1 t2 a@100"
            ]
        );
        assert_eq!(
            machine.says(watch_opened(present(103, 100)))[..1],
            ["ask progress"]
        );
        assert_eq!(machine.persisted()[0], "s2 opened 100 resumed acked c1");
    }
}

#[test]
fn after_a_failed_seek_an_ack_of_the_old_position_is_written_again_before_it_is_ok() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 50);
    machine.persist_fails();
    assert_eq!(machine.ack(1, 100), ["persist 100 acked c1 t2 a@100"]);
    assert_eq!(machine.ack(2, 103), ["ack 2 sought"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 100"]);
}

#[test]
fn an_ack_that_waits_for_a_seek_is_refused_when_another_takes_its_place() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.seek(1, 200);
    assert_eq!(machine.ack(2, 150), NOTHING);
    assert_eq!(machine.seek(2, 120), ["ack 2 sought"]);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 120 acked c1 t2"]
    );
}

#[test]
fn an_ack_that_waits_for_a_seek_under_way_is_answered_before_the_next_one() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 200);
    assert_eq!(machine.ack(1, 150), NOTHING);
    assert_eq!(machine.seek(2, 40), NOTHING);
    assert_eq!(machine.ack(2, 150), ["ack 2 sought"]);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 200", "op 1 ok, was 100", "persist 40 acked c1 t2"]
    );
    assert_eq!(machine.persisted(), ["op 2 ok, was 200"]);
}

#[test]
fn of_two_seeks_the_later_one_counts_and_both_are_answered() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.seek(1, 50);
    assert_eq!(machine.seek(2, 60), NOTHING);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 60 acked c1 t2"]
    );
    assert_eq!(
        machine.persisted(),
        ["op 1 ok, was 101", "op 2 ok, was 101"]
    );
}

#[test]
fn a_stream_that_waits_for_the_store_is_ended_by_a_seek_and_the_next_begins_there() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    assert_eq!(machine.subscribe(2), ["s1 end Superseded", "close"]);
    assert_eq!(machine.seek(1, 50), ["s2 end Sought", "close"]);
    assert_eq!(machine.ack(2, 80), ["ack 2 sought"]);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 50 acked c1 t2"]
    );
    assert_eq!(machine.subscribe(3), NOTHING);
    assert_eq!(
        machine.persisted(),
        ["op 1 ok, was 101", "watch #4 after 50 guard a/"]
    );
}

#[test]
fn a_stream_that_comes_while_a_seek_is_written_survives_its_failure() {
    let mut machine = delivered_up_to_103();
    machine.seek(1, 200);
    assert_eq!(machine.subscribe(2), NOTHING);
    assert_eq!(
        machine.persist_fails(),
        [
            "op 1 store failed: full",
            "watch #3 after 100 guard a",
            "persist 100 acked c1 t2 a@100"
        ]
    );
    assert_eq!(machine.ack(1, 150), ["ack 1 beyond 100"]);
}

#[test]
fn a_seek_during_a_snapshot_ends_it() {
    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persisted();
    machine.says(Upstream::SnapshotBegun(header(50)));
    machine.says(Upstream::SnapshotPage(vec![put("a/1", 40)]));
    assert_eq!(
        machine.seek(1, 45),
        ["s1 end Sought", "close", "persist 45 acked c0 t0"]
    );
    assert_eq!(machine.says(Upstream::SnapshotEnded), NOTHING);
    machine.persisted();
    assert_eq!(machine.ack(1, 50), ["ack 1 sought"]);
    assert_eq!(machine.subscribe(2), ["watch #3 after 45 guard a/"]);
}

#[test]
fn what_the_transport_takes_after_a_seek_does_not_move_the_checkpoint() {
    let auto = SessionRequest {
        auto_ack: true,
        ..request()
    };
    let mut machine = Machine::watching_as(100, auto);
    machine.says(response([put("a/1", 101), put("a/2", 102)]));
    assert_eq!(machine.handed(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    machine.persist_fails();
    // It would be stored again a second later.
    assert_eq!(
        machine.seek(1, 50),
        ["s1 end Sought", "close", "persist 50 acked c1 t2"]
    );
    assert_eq!(machine.handed(1, 102), NOTHING);
    machine.persisted();
    assert_eq!(machine.after_secs(10), NOTHING);
    assert_eq!(machine.checkpoint(), 50);
}

#[test]
fn progress_and_probes_after_a_seek_do_not_move_the_checkpoint() {
    let mut machine = Machine::watching(100);
    machine.seek(1, 50);
    machine.persisted();
    assert_eq!(machine.says(bookmark(120)), NOTHING);
    assert_eq!(machine.probe(MEMBER, 200), NOTHING);
    assert_eq!(machine.after_secs(3600), NOTHING);
    assert_eq!(machine.checkpoint(), 50);
}

#[test]
fn a_seek_while_draining_is_written_and_answered() {
    let mut machine = delivered_up_to_103();
    machine.drain();
    assert_eq!(machine.seek(1, 50), ["persist 50 acked c1 t2"]);
    assert_eq!(machine.persisted(), ["op 1 ok, was 100"]);
    assert_eq!(machine.ack(1, 103), ["ack 1 sought"]);
}

#[test]
fn a_seek_keeps_the_range_bound() {
    let mut machine = Machine::stored(Record::new(selection()));
    machine.seek(1, 50);
    assert_eq!(
        machine.subscribe_as(1, other_range()),
        ["s1 end RangeMismatch"]
    );
}

#[test]
fn it_is_doing_what_an_operator_should_know() {
    let mut machine = Machine::stored(record(100));
    let activity = |machine: &Machine| machine.subscription.activity();
    assert_eq!(activity(&machine), Activity::Disconnected);
    let window = SessionRequest {
        max_unacked_events: Some(1),
        ..request()
    };
    machine.subscribe_as(1, window);
    assert_eq!(activity(&machine), Activity::Opening);
    machine.says(watch_opened(present(102, 100)));
    assert_eq!(activity(&machine), Activity::CatchingUp);
    machine.says(bookmark(102));
    assert_eq!(activity(&machine), Activity::Live);
    machine.persisted();
    machine.says(response([put("a/1", 103)]));
    assert_eq!(activity(&machine), Activity::Blocked, "its window is full");
    machine.ack(1, 103);
    machine.persisted();
    assert_eq!(activity(&machine), Activity::Live);
    machine.outbox(1, OutboxRoom::None);
    assert_eq!(activity(&machine), Activity::Blocked, "its outbox is full");
    machine.says(response([put("a/2", 104)]));
    machine.after_secs(5);
    machine.outbox(1, OutboxRoom::Some);
    assert_eq!(activity(&machine), Activity::Blocked, "its watch is closed");
    machine.outbox(1, OutboxRoom::Free);
    assert_eq!(activity(&machine), Activity::CatchingUp);
    machine.says(Upstream::Lost);
    assert_eq!(activity(&machine), Activity::UpstreamLost);
    machine.closes(1);
    assert_eq!(activity(&machine), Activity::Disconnected);
}

#[test]
fn the_oldest_unacknowledged_delivery_is_remembered_with_its_time() {
    let mut machine = Machine::with(Some(record(100)), Settings::default());
    machine.subscribe(1);
    machine.says(watch_opened(present(100, 100)));
    assert_eq!(machine.subscription.oldest_unacked_at(), None);
    machine.after_secs(1);
    machine.says(response([put("a/1", 101)]));
    let first = machine.now();
    machine.after_secs(1);
    machine.says(response([put("a/2", 102)]));
    let second = machine.now();
    assert_eq!(machine.subscription.oldest_unacked_at(), Some(first));
    machine.ack(1, 101);
    machine.persisted();
    assert_eq!(machine.subscription.oldest_unacked_at(), Some(second));
    machine.ack(2, 102);
    machine.persisted();
    assert_eq!(machine.subscription.oldest_unacked_at(), None);
}
