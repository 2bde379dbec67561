//! The Ack table.

use super::harness::*;
use crate::resume::{OnCompaction, SessionRequest, input::Upstream};

#[test]
fn an_ack_without_a_session_is_not_taken_for_what_the_superseded_session_delivered() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101), put("a/2", 102)]));
    machine.ack(1, 101);
    machine.subscribe(2);
    assert_eq!(machine.ack(2, 102), ["ack 2 beyond 101"]);
    assert_eq!(machine.ack_of(2, 3, 102), ["ack 3 beyond 101"]);
    assert_eq!(machine.ack(4, 101), NOTHING);
    assert_eq!(
        machine.persisted(),
        [
            "ack 1 ok 101",
            "ack 4 ok 101",
            "watch #3 after 101 guard a/1"
        ]
    );
}

#[test]
fn an_ack_above_a_checkpoint_that_is_moving_backwards_is_beyond_what_is_delivered() {
    let mut machine = Machine::stored(record(100));
    let request = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, request);
    assert_eq!(
        machine.says(watch_opened(present(100, 7))),
        ["persist 50 acked c1 t2", "ask progress"]
    );
    assert_eq!(machine.ack(1, 80), ["ack 1 beyond 50"]);
    assert_eq!(machine.ack(2, 50), ["ack 2 ok 50"]);
    assert_eq!(
        machine.persisted(),
        ["s1 opened 50 resumed acked c1", "s1 state CatchingUp 50"]
    );
}

#[test]
fn a_delivered_revision_is_acknowledged_after_the_flush() {
    let mut machine = delivered_up_to_103();
    assert_eq!(machine.ack(1, 102), ["persist 102 acked c1 t2 a/2@102"]);
    assert_eq!(machine.checkpoint(), 100);
    assert_eq!(machine.persisted(), ["ack 1 ok 102"]);
    assert_eq!(machine.checkpoint(), 102);
    assert_eq!(machine.subscription.unacked_events(), 1);
}

#[test]
fn a_repeated_ack_is_answered_at_once_and_changes_nothing() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 102);
    machine.persisted();
    assert_eq!(machine.ack(2, 102), ["ack 2 ok 102"]);
    assert_eq!(machine.ack(3, 1), ["ack 3 ok 102"]);
    assert_eq!(machine.ack_of(1, 4, 100), ["ack 4 ok 102"]);
}

#[test]
fn a_repeated_ack_of_a_write_under_way_waits_for_it() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 102);
    assert_eq!(machine.ack(2, 102), NOTHING);
    assert_eq!(machine.ack(3, 101), NOTHING);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 102", "ack 2 ok 102", "ack 3 ok 102"]
    );
}

#[test]
fn acks_during_a_write_share_the_next_one() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    assert_eq!(machine.ack(2, 102), NOTHING);
    assert_eq!(machine.ack(3, 103), NOTHING);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "persist 103 acked c1 t2 a/3@103"]
    );
    assert_eq!(machine.persisted(), ["ack 2 ok 103", "ack 3 ok 103"]);
}

#[test]
fn an_ack_beyond_what_is_delivered_changes_nothing() {
    let mut machine = delivered_up_to_103();
    assert_eq!(machine.ack(1, 104), ["ack 1 beyond 103"]);
    assert_eq!(machine.ack_of(1, 2, i64::MAX), ["ack 2 beyond 103"]);
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn an_ack_inside_a_partial_revision_is_beyond_what_is_delivered() {
    let mut machine = Machine::watching(100);
    machine.says(fragment(vec![sized("a/1", 101, MIB); 4]));
    assert_eq!(machine.ack(1, 101), ["ack 1 beyond 100"]);
    assert_eq!(
        machine.says(response([sized("a/2", 101, 10)])),
        ["s1 events 101 [a/1@101 a/2@101]"]
    );
    assert_eq!(machine.subscription.unacked_events(), 5);
    assert_eq!(machine.ack(2, 101), ["persist 101 acked c1 t2 a/2@101"]);
}

#[test]
fn an_ack_inside_an_unfinished_snapshot_is_beyond_what_is_delivered() {
    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persisted();
    machine.says(Upstream::SnapshotBegun(header(50)));
    machine.says(Upstream::SnapshotPage(vec![put("a/1", 40)]));
    assert_eq!(machine.ack(1, 40), ["ack 1 beyond 0"]);
    assert_eq!(machine.ack(2, 50), ["ack 2 beyond 0"]);
    machine.says(Upstream::SnapshotEnded);
    assert_eq!(machine.ack(3, 50), ["persist 50 acked c1 t2 a/1@40"]);
}

#[test]
fn a_late_ack_of_a_superseded_session_is_refused() {
    let mut machine = delivered_up_to_103();
    machine.subscribe(2);
    machine.says(watch_opened(present(103, 100)));
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.ack_of(1, 1, 101), ["ack 1 superseded"]);
    assert_eq!(machine.ack_of(1, 2, 100), ["ack 2 superseded"]);
    assert_eq!(
        machine.ack_of(2, 3, 101),
        ["persist 101 acked c1 t2 a/1@101"]
    );
}

#[test]
fn what_a_stream_delivered_may_be_acknowledged_after_it_ended() {
    let mut machine = delivered_up_to_103();
    machine.closes(1);
    assert_eq!(machine.ack(1, 102), ["persist 102 acked c1 t2 a/2@102"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 102"]);
    assert_eq!(machine.ack_of(1, 2, 104), ["ack 2 beyond 103"]);
}

#[test]
fn after_a_restart_only_what_is_acknowledged_already_is() {
    let mut machine = Machine::stored(record(100));
    assert_eq!(machine.ack(1, 101), ["ack 1 no session"]);
    assert_eq!(machine.ack_of(7, 2, 101), ["ack 2 no session"]);
    assert_eq!(machine.ack_of(7, 3, 100), ["ack 3 ok 100"]);
}

#[test]
fn without_a_checkpoint_nothing_is_acknowledged_after_a_restart() {
    let mut machine = Machine::stored(crate::resume::Record::new(selection()));
    assert_eq!(machine.ack(1, 1), ["ack 1 no session"]);
}

#[test]
fn a_progress_revision_can_be_acknowledged() {
    let mut machine = delivered_up_to_103();
    assert_eq!(machine.says(bookmark(110)), ["s1 progress 110"]);
    assert_eq!(machine.ack(1, 110), ["persist 110 acked c1 t2 a/3@103"]);
}

#[test]
fn handing_over_acknowledges_only_where_that_was_asked_for() {
    let mut manual = delivered_up_to_103();
    assert_eq!(manual.handed(1, 103), NOTHING);
    let auto = SessionRequest {
        auto_ack: true,
        ..request()
    };
    let mut machine = Machine::watching_as(100, auto);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.handed(1, 102), NOTHING);
    assert_eq!(machine.handed(2, 101), NOTHING);
    assert_eq!(machine.handed(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.persisted(), NOTHING);
}

fn watching_automatically(max_unacked_events: Option<u32>) -> Machine {
    watching_automatically_as(SessionRequest {
        max_unacked_events,
        ..request()
    })
}

fn watching_automatically_as(request: SessionRequest) -> Machine {
    let auto = SessionRequest {
        auto_ack: true,
        ..request
    };
    let mut machine = Machine::watching_as(100, auto);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.handed(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    machine.persisted();
    machine.says(response([put("a/2", 102)]));
    machine
}

#[test]
fn what_is_handed_over_soon_after_is_stored_a_little_later() {
    let mut machine = watching_automatically(None);
    assert_eq!(machine.handed(1, 102), NOTHING);
    assert_eq!(machine.at_next_timer(), ["persist 102 acked c1 t2 a/2@102"]);
}

#[test]
fn what_was_handed_over_is_stored_when_its_stream_ends() {
    let mut machine = watching_automatically(None);
    assert_eq!(machine.handed(1, 102), NOTHING);
    assert!(
        machine
            .closes(1)
            .contains(&"persist 102 acked c1 t2 a/2@102".to_owned())
    );
}

#[test]
fn a_stream_that_takes_over_begins_after_what_was_handed_over() {
    let mut machine = watching_automatically(None);
    assert_eq!(machine.handed(1, 102), NOTHING);
    assert!(
        machine
            .subscribe(2)
            .contains(&"persist 102 acked c1 t2 a/2@102".to_owned())
    );
    assert_eq!(machine.persisted(), ["watch #3 after 102 guard a/2"]);
}

#[test]
fn a_stream_that_ends_for_a_compaction_says_what_was_handed_over() {
    let mut machine = watching_automatically_as(SessionRequest {
        on_compaction: OnCompaction::Fail,
        ..request()
    });
    machine.says(response([put("a/3", 103)]));
    machine.says(Upstream::Lost);
    machine.after_secs(1);
    assert_eq!(machine.handed(1, 102), ["persist 102 acked c1 t2 a/2@102"]);
    assert_eq!(machine.handed(1, 103), NOTHING);
    let lines = machine.says(watch_opened(compacted_at(150)));
    assert_eq!(
        lines[..1],
        [
            "s1 end Compacted { checkpoint: Some(Revision(103)), compact_revision: Some(Revision(150)) }"
        ]
    );
}

#[test]
fn a_stream_that_waits_for_what_it_hands_over_has_it_stored_at_once() {
    let mut machine = watching_automatically(Some(1));
    assert_eq!(machine.handed(1, 102), ["persist 102 acked c1 t2 a/2@102"]);
}
