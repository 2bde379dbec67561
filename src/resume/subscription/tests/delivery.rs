//! What may be sent, and when.

use std::time::Duration;

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
        machine.outbox(1, OutboxRoom::Free),
        ["watch #3 after 101 guard a/1"]
    );
}

fn window_of(events: u32) -> SessionRequest {
    SessionRequest {
        max_unacked_events: Some(events),
        ..request()
    }
}

#[test]
fn what_is_delivered_and_what_of_it_is_unacknowledged_is_shown() {
    let mut machine = Machine::watching(101);
    machine.says(response([put("a/1", 101), put("a/2", 101)]));
    machine.says(bookmark(105));
    assert_eq!(machine.subscription.delivered(), Some(revision(105)));
    assert_eq!(machine.subscription.unacked_events(), 2);
}

#[test]
fn nothing_is_sent_into_a_full_outbox() {
    let mut machine = Machine::watching(100);
    machine.outbox(1, OutboxRoom::None);
    assert_eq!(machine.says(response([put("a/1", 101)])), NOTHING);
    assert!(!machine.subscription.wants_upstream());
    assert_eq!(
        machine.outbox(1, OutboxRoom::Some),
        ["s1 events 101 [a/1@101]"]
    );
    assert!(machine.subscription.wants_upstream());
}

#[test]
fn a_window_stops_sending_until_acks_are_durable() {
    let mut machine = Machine::watching_as(103, window_of(2));
    assert_eq!(
        machine.says(response([
            put("a/1", 101),
            put("a/2", 102),
            put("a/3", 103)
        ])),
        ["s1 events 102 [a/1@101 a/2@102]"]
    );
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(
        machine.persisted(),
        [
            "ack 1 ok 101",
            "s1 events 103 [a/3@103]",
            "caught up",
            "s1 state Live 103"
        ]
    );
}

#[test]
fn a_revision_larger_than_the_window_is_sent_alone() {
    let mut machine = Machine::watching_as(102, window_of(2));
    let transaction = [put("a/1", 101), put("a/2", 101), put("a/3", 101)];
    let mut events = transaction.to_vec();
    events.push(put("a/4", 102));
    assert_eq!(
        machine.says(response(events)),
        ["s1 events 101 [a/1@101 a/2@101 a/3@101]"]
    );
    machine.ack(1, 101);
    assert_eq!(
        machine.persisted()[..2],
        ["ack 1 ok 101", "s1 events 102 [a/4@102]"]
    );
}

#[test]
fn a_subscriber_that_is_slow_for_a_second_is_parked_and_resumed_when_it_drained() {
    let mut machine = Machine::watching(103);
    machine.room = OutboxRoom::None;
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.outbox(1, OutboxRoom::None), NOTHING);
    machine.says(response([put("a/2", 102)]));
    assert_eq!(machine.after(Duration::from_millis(999)), NOTHING);
    assert!(!machine.subscription.is_parked());
    assert_eq!(machine.after(Duration::from_millis(1)), ["close"]);
    assert!(machine.subscription.is_parked());
    assert!(!machine.subscription.wants_upstream());
    assert_eq!(machine.says_to(1, response([put("a/3", 103)])), NOTHING);
    assert_eq!(machine.outbox(1, OutboxRoom::Some), NOTHING);
    assert_eq!(
        machine.outbox(1, OutboxRoom::Free),
        ["watch #3 after 101 guard a/1"]
    );
}

#[test]
fn a_short_pause_does_not_park() {
    let mut machine = Machine::watching(103);
    machine.outbox(1, OutboxRoom::None);
    machine.says(response([put("a/1", 101)]));
    machine.after(Duration::from_millis(900));
    assert_eq!(
        machine.outbox(1, OutboxRoom::Free),
        ["s1 events 101 [a/1@101]"]
    );
    machine.outbox(1, OutboxRoom::None);
    machine.says(response([put("a/2", 102)]));
    assert_eq!(machine.after(Duration::from_millis(900)), NOTHING);
}

#[test]
fn a_parked_window_is_resumed_when_what_waits_fits_and_is_told_it_is_alive() {
    let mut machine = Machine::watching_as(110, window_of(3));
    let pair = |at| [put("a/1", at), put("a/2", at)];
    let events = [pair(101), pair(102)].concat();
    assert_eq!(
        machine.says(response(events)),
        ["s1 events 101 [a/1@101 a/2@101]"]
    );
    assert_eq!(machine.after_secs(1), ["close"]);
    assert_eq!(machine.after_secs(9), ["s1 progress 101"]);
    assert_eq!(machine.after_secs(10), ["s1 progress 101"]);
    machine.ack(1, 101);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "watch #3 after 101 guard a/2"]
    );
}

#[test]
fn an_oversized_revision_goes_on_where_it_was_when_it_is_unparked() {
    let mut machine = Machine::watching(103);
    machine.room = OutboxRoom::None;
    assert_eq!(
        machine.says(response(vec![sized("a/1", 101, MIB); 5])),
        ["s1 events 101 [a/1@101 a/1@101 a/1@101] partial"]
    );
    assert_eq!(machine.after_secs(1), ["close"]);
    assert_eq!(
        machine.outbox(1, OutboxRoom::Free),
        ["watch #3 after 100 guard a"]
    );
    machine.says(watch_opened(present(103, 100)));
    assert_eq!(
        machine.says(response(vec![sized("a/1", 101, MIB); 5])),
        ["s1 events 101 [a/1@101 a/1@101]"]
    );
}

#[test]
fn heartbeats_come_from_us_where_etcd_certifies_nothing_in_time() {
    let mut machine = Machine::watching_mute(100);
    assert_eq!(machine.at_next_timer(), ["s1 progress 100"]);
    machine.after_secs(5);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.after_secs(5), NOTHING);
    assert_eq!(machine.after_secs(5), ["s1 progress 101"]);
}

#[test]
fn a_subscriber_that_was_told_that_etcd_is_away_hears_that_we_are_not() {
    let mut machine = Machine::watching_mute(100);
    let lost = machine.says(crate::resume::input::Upstream::Lost);
    assert_eq!(lost.last().unwrap(), "s1 state UpstreamLost 100");
    machine.at_next_timer();
    for _ in 0..10 {
        assert_eq!(machine.after_secs(10), ["s1 progress 100"]);
    }
}

#[test]
fn a_state_that_passes_while_the_subscriber_does_not_read_is_not_told() {
    let mut machine = Machine::watching(100);
    machine.outbox(1, OutboxRoom::None);
    machine.says(crate::resume::input::Upstream::Lost);
    machine.at_next_timer();
    machine.says(watch_opened(present(100, 100)));
    assert_eq!(machine.outbox(1, OutboxRoom::Free), NOTHING);
    assert_eq!(
        machine.subscription.stream_state(),
        Some(crate::resume::StreamState::Live)
    );
}
