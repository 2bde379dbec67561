//! Writes that fail, and what waits for them.

use super::harness::*;
use crate::resume::{OutboxRoom, Record, SessionRequest, Start};

#[test]
fn a_new_subscription_that_cannot_be_stored_ends_instead_of_waiting_forever() {
    let mut machine = Machine::new();
    assert_eq!(
        machine.subscribe(1),
        ["snapshot #1", "persist 0 fresh c0 t0"]
    );
    assert_eq!(
        machine.persist_fails(),
        ["s1 end StoreFailed(StoreFailed(\"full\"))", "close",]
    );
    assert_eq!(machine.subscription.record(), None);
}

#[test]
fn a_latest_start_whose_first_write_fails_ends_instead_of_waiting_forever() {
    let mut machine = Machine::new();
    let request = SessionRequest {
        start: Start::Latest,
        ..request()
    };
    machine.subscribe_as(1, request);
    assert_eq!(
        machine.persist_fails(),
        ["s1 end StoreFailed(StoreFailed(\"full\"))", "close",]
    );
}

#[test]
fn a_failed_write_of_the_last_session_does_not_end_the_next_one() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.subscribe(2), ["s1 end Superseded", "close"]);
    assert_eq!(
        machine.persist_fails(),
        ["ack 1 store failed: full", "watch #3 after 100 guard a"]
    );
}

/// The stream between had begun nothing, and knew of the event only what was
/// about to be written.
#[test]
fn an_ack_repeated_after_a_failed_write_knows_the_last_event_although_a_stream_came_and_went() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    machine.ack(1, 101);
    machine.subscribe(2);
    machine.closes(2);
    machine.persist_fails();
    assert_eq!(machine.ack(2, 101), ["persist 101 acked c1 t2 a/1@101"]);
}

#[test]
fn an_automatic_ack_that_could_not_be_stored_is_stored_later_without_being_asked() {
    let request = SessionRequest {
        auto_ack: true,
        max_unacked_events: Some(1),
        ..request()
    };
    let mut machine = Machine::watching_as(102, request);
    assert_eq!(
        machine.says(response([put("a/1", 101), put("a/2", 102)])),
        ["s1 events 101 [a/1@101]"]
    );
    assert_eq!(machine.handed(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.persist_fails(), NOTHING);
    assert_eq!(
        machine.at_next_timer(),
        ["close", "persist 101 acked c1 t2 a/1@101"]
    );
    machine.persisted();
    assert_eq!(machine.checkpoint(), 101);
    machine.outbox(1, OutboxRoom::Free);
}

#[test]
fn acks_that_could_not_be_stored_say_so_and_can_be_repeated() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101), put("a/2", 102)]));
    machine.ack(1, 101);
    machine.ack(2, 102);
    assert_eq!(
        machine.persist_fails(),
        ["ack 1 store failed: full", "ack 2 store failed: full"]
    );
    assert_eq!(machine.subscription.unacked_events(), 2);
    assert_eq!(machine.ack(3, 102), ["persist 102 acked c1 t2 a/2@102"]);
    assert_eq!(machine.persisted(), ["ack 3 ok 102"]);
}

#[test]
fn a_failed_write_does_not_end_a_stream_that_is_open() {
    let mut machine = Machine::watching(100);
    machine.says(bookmark(110));
    assert_eq!(machine.persist_fails(), NOTHING);
    assert_eq!(machine.checkpoint(), 100);
    assert_eq!(
        machine.says(bookmark(120)),
        ["s1 progress 120", "persist 120 progress c1 t2 a@100"]
    );
}

#[test]
fn a_position_brought_along_that_cannot_be_stored_ends_the_stream() {
    let mut machine = Machine::stored(record(100));
    let own = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, own);
    machine.says(watch_opened(present(100, 7)));
    assert_eq!(
        machine.persist_fails(),
        ["s1 end StoreFailed(StoreFailed(\"full\"))", "close"]
    );
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn a_failed_write_that_took_the_checkpoint_back_is_undone_before_it_is_relied_on() {
    let mut machine = Machine::stored(record(100));
    let own = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, own);
    machine.says(watch_opened(present(100, 7)));
    machine.persist_fails();
    assert_eq!(machine.ack(1, 100), ["persist 100 acked c1 t2 a@100"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 100"]);
    assert_eq!(machine.ack(2, 100), ["ack 2 ok 100"]);
}

#[test]
fn a_failed_write_that_left_the_checkpoint_alone_puts_no_answer_off() {
    let mut machine = Machine::stored(Record {
        assumed: Some(assumed(500)),
        ..record(100)
    });
    machine.subscribe(1);
    machine.says(watch_opened(present(600, 100)));
    assert_eq!(
        machine.says(response([put("a/1", 400)])),
        ["persist 100 acked c1 t2 a@100", "s1 events 400 [a/1@400]"]
    );
    machine.persist_fails();
    assert_eq!(machine.ack(1, 100), ["ack 1 ok 100"]);
}

#[test]
fn an_ack_does_not_count_the_position_of_a_stream_that_could_not_be_opened() {
    let mut machine = Machine::stored(Record::new(selection()));
    let own = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, own);
    machine.says(watch_opened(present(100, 7)));
    machine.persist_fails();
    assert_eq!(machine.ack(1, 50), ["ack 1 beyond 0"]);
}
