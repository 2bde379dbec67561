//! What an operator deletes, and what comes meanwhile.

use super::harness::*;

#[test]
fn a_deletion_ends_the_stream_and_is_answered_when_it_is_durable() {
    let mut machine = delivered_up_to_103();
    assert_eq!(machine.delete(1), ["s1 end Deleted", "close", "forget"]);
    assert!(!machine.subscription.is_vacant());
    assert_eq!(machine.persisted(), ["op 1 ok, was 100"]);
    assert_eq!(machine.subscription.record(), None);
    assert!(machine.subscription.is_vacant());
    for (session, at) in [(1, 103), (1, 50), (9, 1)] {
        assert_eq!(machine.ack_of(session, 7, at), ["ack 7 not found"]);
    }
    assert_eq!(machine.seek(2, 50), ["op 2 not found"]);
    assert_eq!(machine.delete(3), ["op 3 not found"]);
}

#[test]
fn what_is_stored_or_used_is_not_vacant() {
    assert!(Machine::new().subscription.is_vacant());
    assert!(!Machine::stored(record(100)).subscription.is_vacant());
    let mut machine = Machine::new();
    machine.subscribe(1);
    assert!(!machine.subscription.is_vacant());
}

#[test]
fn a_deleted_client_id_is_as_good_as_new() {
    let mut machine = delivered_up_to_103();
    machine.delete(1);
    machine.persisted();
    assert_eq!(
        machine.subscribe_as(2, other_range()),
        ["snapshot #3", "persist 0 fresh c0 t0"]
    );
    assert_eq!(machine.ack_of(1, 1, 50), ["ack 1 superseded"]);
}

#[test]
fn a_deleted_client_id_is_bound_to_no_range_until_a_stream_of_it_was_opened() {
    let mut machine = delivered_up_to_103();
    machine.delete(1);
    machine.persisted();
    machine.subscribe_as(2, other_range());
    machine.persisted();
    machine.closes(2);
    assert_eq!(
        machine.subscribe(3),
        ["snapshot #5", "persist 0 fresh c0 t0"]
    );
}

#[test]
fn an_ack_during_a_deletion_waits_also_where_nothing_was_delivered() {
    let mut machine = Machine::stored(record(100));
    machine.delete(1);
    assert_eq!(machine.ack(1, 50), NOTHING);
    assert_eq!(machine.ack(2, 150), NOTHING);
    assert_eq!(
        machine.persist_fails(),
        [
            "ack 1 store failed: full",
            "ack 2 store failed: full",
            "op 1 store failed: full"
        ]
    );
}

#[test]
fn acks_during_a_deletion_are_answered_with_its_outcome() {
    let mut machine = delivered_up_to_103();
    machine.delete(1);
    assert_eq!(machine.ack(1, 50), NOTHING);
    assert_eq!(machine.ack_of(1, 2, 103), NOTHING);
    assert_eq!(machine.ack(3, 104), NOTHING);
    assert_eq!(
        machine.persisted(),
        [
            "ack 1 not found",
            "ack 2 not found",
            "ack 3 not found",
            "op 1 ok, was 100"
        ]
    );
}

#[test]
fn an_ack_that_is_being_written_is_answered_before_the_deletion() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.ack(2, 103);
    assert_eq!(machine.delete(1), ["s1 end Deleted", "close"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 101", "forget"]);
    assert_eq!(machine.persisted(), ["ack 2 not found", "op 1 ok, was 101"]);
}

#[test]
fn after_a_failed_deletion_everything_is_as_it_was_but_for_the_stream() {
    let mut machine = delivered_up_to_103();
    machine.delete(1);
    machine.ack(1, 103);
    assert_eq!(
        machine.persist_fails(),
        ["ack 1 store failed: full", "op 1 store failed: full"]
    );
    assert_eq!(machine.checkpoint(), 100);
    assert_eq!(
        machine.subscribe_as(2, other_range()),
        ["s2 end RangeMismatch"]
    );
    // The record may be gone from the disk all the same.
    assert_eq!(machine.ack(2, 90), ["persist 100 acked c1 t2 a@100"]);
    assert_eq!(machine.persisted(), ["ack 2 ok 100"]);
    assert_eq!(machine.ack(3, 103), ["persist 103 acked c1 t2 a/3@103"]);
}

#[test]
fn a_stream_that_comes_during_a_deletion_begins_after_it_as_new() {
    let mut machine = delivered_up_to_103();
    machine.delete(1);
    assert_eq!(machine.subscribe_as(2, other_range()), NOTHING);
    assert_eq!(machine.ack(1, 50), ["ack 1 beyond 0"]);
    assert_eq!(machine.ack_of(1, 2, 50), ["ack 2 superseded"]);
    assert_eq!(
        machine.persisted(),
        ["op 1 ok, was 100", "snapshot #3", "persist 0 fresh c0 t0"]
    );
}

#[test]
fn a_stream_that_comes_during_a_deletion_that_fails_finds_what_was_there() {
    let mut same = delivered_up_to_103();
    same.delete(1);
    same.subscribe(2);
    assert_eq!(
        same.persist_fails(),
        [
            "op 1 store failed: full",
            "watch #3 after 100 guard a",
            "persist 100 acked c1 t2 a@100"
        ]
    );
    let mut other = delivered_up_to_103();
    other.delete(1);
    other.subscribe_as(2, other_range());
    assert_eq!(
        other.persist_fails(),
        ["op 1 store failed: full", "s2 end RangeMismatch", "close"]
    );
    assert_eq!(other.checkpoint(), 100);
}

#[test]
fn a_stream_that_waits_for_the_store_is_ended_by_a_deletion() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.subscribe(2);
    assert_eq!(machine.delete(1), ["s2 end Deleted", "close"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 101", "forget"]);
    assert_eq!(machine.persisted(), ["op 1 ok, was 101"]);
    assert!(machine.subscription.is_vacant());
}

#[test]
fn a_deletion_takes_back_a_seek_that_was_not_written_yet() {
    let mut machine = delivered_up_to_103();
    machine.ack(1, 101);
    machine.seek(1, 50);
    assert_eq!(machine.delete(2), NOTHING);
    assert_eq!(machine.seek(3, 60), ["op 3 not found"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 101", "forget"]);
    assert_eq!(
        machine.persisted(),
        ["op 1 ok, was 101", "op 2 ok, was 101"]
    );
}

#[test]
fn a_subscription_whose_first_write_failed_can_be_deleted_for_it_may_be_on_disk() {
    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persist_fails();
    assert_eq!(machine.delete(1), ["forget"]);
    assert_eq!(machine.persisted(), ["op 1 ok, was 0"]);
}
