//! The Ack table.

use super::harness::*;
use crate::resume::SessionRequest;

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
