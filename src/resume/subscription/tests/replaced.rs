//! Histories that are not the one that was watched.

use super::harness::*;
use crate::resume::{
    GuardReading, Header, OnCompaction, Record, Revision, SessionRequest, SnapshotReason, Start,
    input::Upstream,
};

fn replaced() -> Record {
    Record {
        pending_snapshot: Some(SnapshotReason::HistoryReplaced),
        ..Record::new(selection())
    }
}

#[test]
fn a_position_from_before_the_history_was_replaced_does_not_silence_the_snapshot() {
    let mut machine = Machine::stored(replaced());
    let own = SessionRequest {
        resume_after: Some(revision(80)),
        ..request()
    };
    assert_eq!(machine.subscribe_as(1, own), ["snapshot #1"]);
}

#[test]
fn who_chose_to_fail_is_told_of_the_replaced_history_once_and_may_then_bring_a_position() {
    let mut machine = Machine::stored(replaced());
    let own = SessionRequest {
        resume_after: Some(revision(80)),
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    assert_eq!(
        machine.subscribe_as(1, own.clone()),
        ["s1 end HistoryReplaced", "close"]
    );
    assert_eq!(machine.subscribe_as(2, own), ["watch #2 after 80 guard a/"]);
}

#[test]
fn a_second_replacement_is_told_again() {
    let fail = |at| SessionRequest {
        resume_after: Revision::new(at),
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    let mut machine = Machine::stored(replaced());
    machine.subscribe_as(1, fail(0));
    machine.subscribe_as(2, fail(80));
    machine.says(watch_opened(answer(9, 2, 0)));
    machine.persisted();
    machine.closes(2);
    machine.subscribe(3);
    assert_eq!(
        machine.says(watch_opened(answer(8, 2, 0))),
        ["snapshot #5", FORGETS]
    );
    machine.persisted();
    assert_eq!(
        machine.subscribe_as(4, fail(50)),
        [
            "s3 end Superseded",
            "close",
            "s4 end HistoryReplaced",
            "close"
        ]
    );
}

/// The guard's answer from a cluster with this id and term, at 200.
fn answer(cluster_id: u64, raft_term: u64, found: i64) -> GuardReading {
    GuardReading::Present {
        header: Header {
            cluster_id,
            raft_term,
            revision: revision(200),
        },
        mod_revision: Revision::new(found),
    }
}

const FORGETS: &str = "persist 0 fresh pending HistoryReplaced c0 t0";

#[test]
fn a_stored_position_in_a_replaced_history_begins_with_a_snapshot() {
    for reading in [answer(9, 2, 100), answer(1, 2, 99), answer(1, 2, 0)] {
        let mut machine = Machine::stored(record(100));
        machine.subscribe(1);
        assert_eq!(
            machine.says(watch_opened(reading)),
            ["snapshot #2", FORGETS]
        );
        machine.persisted();
        assert_eq!(
            machine.says(Upstream::SnapshotBegun(header(60))),
            [
                "s1 opened 0 fresh c1",
                "s1 state CatchingUp 0",
                "s1 begin 60 HistoryReplaced 0"
            ]
        );
        machine.says(Upstream::SnapshotEnded);
        assert_eq!(machine.ack(1, 60), ["persist 60 acked c1 t2"]);
    }
}

#[test]
fn a_live_stream_ends_when_its_history_is_replaced_and_the_next_begins_with_a_snapshot() {
    let mut machine = Machine::watching(101);
    machine.says(response([put("a/1", 101)]));
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    assert_eq!(
        machine.says(watch_opened(answer(1, 2, 55))),
        ["s1 end HistoryReplaced", "close", FORGETS]
    );
    assert_eq!(machine.ack(1, 101), ["ack 1 history replaced"]);
    assert_eq!(machine.ack(2, 100), ["ack 2 history replaced"]);
    assert_eq!(machine.subscribe(2), NOTHING);
    assert_eq!(machine.persisted(), ["snapshot #5"]);
}

#[test]
fn acks_that_wait_when_the_history_turns_out_replaced_are_refused() {
    let mut machine = Machine::watching(101);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    assert_eq!(
        machine.says(watch_opened(answer(9, 2, 101))),
        ["ack 1 history replaced", "s1 end HistoryReplaced", "close"]
    );
    assert_eq!(machine.persisted(), [FORGETS]);
}

#[test]
fn who_chose_to_fail_is_told_of_a_replaced_history_by_the_error() {
    let mut machine = Machine::stored(record(100));
    let fail = SessionRequest {
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    machine.subscribe_as(1, fail);
    assert_eq!(
        machine.says(watch_opened(answer(9, 2, 100))),
        ["s1 end HistoryReplaced", "close", FORGETS]
    );
}

#[test]
fn a_fallen_term_or_a_future_position_counts_only_when_it_repeats() {
    for reading in [answer(1, 1, 100), GuardReading::Future] {
        let mut machine = Machine::stored(record(100));
        machine.subscribe(1);
        for attempt in [3, 5, 7] {
            assert_eq!(machine.says(watch_opened(reading.clone())), ["close"]);
            assert_eq!(machine.at_next_timer().len(), 1);
            assert_eq!(machine.subscription.stream_state(), None, "#{attempt}");
        }
        assert_eq!(
            machine.says(watch_opened(reading)),
            ["snapshot #8", FORGETS]
        );
    }
}

/// Of a cluster with this id and term, beyond everything.
fn snapshot_of(cluster_id: u64, raft_term: u64) -> Upstream<Entry, Entry> {
    Upstream::SnapshotBegun(Header {
        cluster_id,
        raft_term,
        revision: revision(200),
    })
}

#[test]
fn a_new_history_that_is_compacted_too_ends_a_live_stream_by_who_answers() {
    for (cluster_id, raft_term) in [(1, 1), (9, 2)] {
        let mut machine = Machine::watching(101);
        machine.says(response([put("a/1", 101)]));
        machine.says(Upstream::Lost);
        machine.at_next_timer();
        assert_eq!(
            machine.says(watch_opened(compacted_at(150)))[0],
            "snapshot #4"
        );
        for _ in 0..3 {
            assert_eq!(machine.says(snapshot_of(cluster_id, raft_term)), ["close"]);
            machine.at_next_timer();
        }
        assert_eq!(
            machine.says(snapshot_of(cluster_id, raft_term)),
            ["s1 end HistoryReplaced", "close", FORGETS]
        );
    }
}

#[test]
fn a_new_history_that_is_compacted_too_is_the_reason_of_the_snapshot() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.says(watch_opened(compacted_at(150)));
    for _ in 0..3 {
        assert_eq!(machine.says(snapshot_of(1, 1)), ["close"]);
        machine.at_next_timer();
    }
    machine.says(snapshot_of(1, 1));
    machine.persisted();
    assert_eq!(
        machine.says(snapshot_of(1, 1)).last().unwrap(),
        "s1 begin 200 HistoryReplaced 0"
    );
}

#[test]
fn one_snapshot_of_a_fallen_term_may_be_a_stale_answer() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.says(watch_opened(compacted_at(150)));
    machine.says(snapshot_of(1, 1));
    machine.at_next_timer();
    assert_eq!(
        machine.says(snapshot_of(1, 2)).last().unwrap(),
        "s1 begin 200 Compacted 150"
    );
}

#[test]
fn a_member_that_merely_lags_raises_no_alarm() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    for _ in 0..2 {
        assert_eq!(machine.says(watch_opened(GuardReading::Future)), ["close"]);
        machine.at_next_timer();
    }
    assert_eq!(
        machine.says(watch_opened(present(100, 100)))[0],
        "s1 opened 100 resumed acked c1"
    );
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    assert_eq!(machine.says(watch_opened(GuardReading::Future)), ["close"]);
}

#[test]
fn a_stream_whose_history_is_in_doubt_does_not_open_before_etcd_answers() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.says(watch_opened(GuardReading::Future));
    machine.at_next_timer();
    assert_eq!(machine.after_secs(100), NOTHING);
    assert_eq!(
        machine.says(watch_opened(present(100, 100)))[0],
        "s1 opened 100 resumed acked c1"
    );
}

#[test]
fn the_snapshot_of_a_replaced_history_is_owed_until_it_is_acknowledged() {
    let mut machine = Machine::stored(replaced());
    assert_eq!(machine.subscribe(1), ["snapshot #1"]);
    machine.says(Upstream::SnapshotBegun(header(60)));
    machine.says(Upstream::SnapshotEnded);
    machine.closes(1);
    assert_eq!(machine.subscribe(2), ["snapshot #4"]);
    machine.says(Upstream::SnapshotBegun(header(60)));
    machine.says(Upstream::SnapshotEnded);
    assert_eq!(machine.ack(1, 60), ["persist 60 acked c1 t2"]);
    machine.persisted();
    machine.closes(2);
    assert_eq!(machine.subscribe(3), ["watch #7 after 60 guard a/"]);
}

#[test]
fn a_deleted_fingerprint_must_stay_deleted() {
    let mut machine = Machine::watching(101);
    machine.says(response([delete("a/1", 101)]));
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 -a/1@101"]);
    machine.persisted();
    machine.says(Upstream::Lost);
    assert_eq!(
        machine.at_next_timer(),
        ["watch #3 after 101 guard a/1 elsewhere"]
    );
    assert_eq!(
        machine.says(watch_opened(answer(1, 2, 90))),
        ["s1 end HistoryReplaced", "close", FORGETS]
    );
}

#[test]
fn the_highest_term_seen_is_kept_with_the_checkpoint() {
    let mut machine = Machine::stored(record(100));
    machine.subscribe(1);
    machine.says(watch_opened(answer(1, 5, 100)));
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t5 a/1@101"]);
}

/// Of two writes, the second has not begun when etcd answers in a later term.
#[test]
fn a_write_that_waits_says_the_highest_term_seen_until_it_begins() {
    let mut machine = Machine::new();
    let request = SessionRequest {
        start: Start::Latest,
        ..request()
    };
    machine.subscribe_as(1, request);
    // Through a proxy, which names no cluster.
    machine.says(Upstream::Head(Header {
        cluster_id: 0,
        ..header(100)
    }));
    machine.says(watch_opened(answer(1, 3, 0)));
    assert_eq!(machine.persisted(), ["persist 100 acked c1 t3"]);

    machine.persisted();
    machine.says(response([put("a/1", 201), put("a/2", 202)]));
    machine.ack(1, 201);
    machine.ack(2, 202);
    machine.says(Upstream::Lost);
    machine.at_next_timer();
    machine.says(watch_opened(answer(1, 4, 202)));
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 201", "persist 202 acked c1 t4 a/2@202"]
    );
}

/// The guard, at what was delivered whole, can't tell.
#[test]
fn a_new_history_without_the_revision_that_was_half_sent_is_a_replaced_one() {
    for revision in [101, 103] {
        let mut machine = Machine::watching(100);
        let large = || sized("a/1", 102, 2 * MIB);
        let sent = machine.says(fragment([large(), large(), large()]));
        assert_eq!(sent, ["s1 events 102 [a/1@102] partial"; 2]);
        machine.says(Upstream::Lost);
        machine.at_next_timer();
        machine.says(watch_opened(present(110, 100)));
        assert_eq!(
            machine.says(response([put("a/2", revision)])),
            ["s1 end HistoryReplaced", "close", FORGETS]
        );
    }
}
