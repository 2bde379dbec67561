//! What may be sent, and when.

use super::harness::*;
use crate::resume::{OutboxRoom, SessionRequest};

#[test]
fn an_oversized_revision_still_coming_in_does_not_slip_under_the_window() {
    let window = SessionRequest {
        max_unacked_events: Some(10),
        ..request()
    };
    let mut machine = Machine::watching_as(102, window);
    machine.says(response([put("a/1", 101)]));
    let large: Vec<_> = (0..5).map(|_| sized("a/2", 102, MIB)).collect();
    assert_eq!(machine.says(fragment(large)), NOTHING);
    machine.ack(1, 101);
    assert_eq!(
        machine.persisted(),
        [
            "ack 1 ok 101",
            "s1 events 102 [a/2@102 a/2@102 a/2@102] partial"
        ]
    );
}

#[test]
fn a_watch_that_waits_for_a_slow_store_is_not_left_unread() {
    let mut machine = Machine::stored(record(100));
    let back = SessionRequest {
        resume_after: Some(revision(50)),
        ..request()
    };
    machine.subscribe_as(1, back);
    machine.says(watch_opened(present(100, 7)));
    machine.says(response([put("a/1", 60)]));
    assert_eq!(machine.after_secs(1), ["close"]);
    assert_eq!(machine.after_secs(100), NOTHING);
    assert_eq!(
        machine.persisted(),
        [
            "s1 opened 50 resumed acked c1",
            "s1 state CatchingUp 50",
            "watch #3 after 50 guard a/"
        ]
    );
}

#[test]
fn a_parked_stream_does_not_look_live() {
    let mut machine = Machine::watching(100);
    machine.room = OutboxRoom::None;
    machine.says(response([put("a/1", 101)]));
    machine.says(response([put("a/2", 102)]));
    assert_eq!(machine.after_secs(1), ["close"]);
    machine.room = OutboxRoom::Some;
    assert_eq!(
        machine.outbox(1, OutboxRoom::Some),
        ["s1 state CatchingUp 101"]
    );
    assert_eq!(
        machine.outbox(1, OutboxRoom::Empty),
        ["watch #3 after 101 guard a/1"]
    );
}
