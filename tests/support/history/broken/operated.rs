//! What an operator does is no broken promise, and hides none.

use super::*;
use Operated::{Deleted, Moved, MovedToSnapshot};

/// Acknowledged up to 5, and ended by an operator.
fn sought(what: Operated) -> Build {
    let live = build().opened(1, 1, false).events(&[2, 4, 5]).acks(1, 5);
    live.operates(what).ends(sought_end())
}

fn sought_end() -> End {
    End::Status(Code::Aborted, "SUBSCRIPTION_SOUGHT".to_owned())
}

#[test]
fn a_move_back_delivers_again_exactly_what_came_after() {
    let open = |at| sought(Moved(2)).opened(2, at, true);
    open(2).events(&[4, 5, 7]).keeps_all();
    open(2).events(&[4, 5]).acks(2, 5).keeps_all();
    // Not as far back as it was told; further; the old position.
    open(4).breaks(&["P5", "P8"]);
    open(5).breaks(&["P5", "P8"]);
    open(1).breaks(&["P7"]);
    open(2).events(&[5]).breaks(&["P3"]);
}

#[test]
fn a_move_forward_leaves_out_exactly_what_lies_between() {
    let open = |at| sought(Moved(7)).opened(2, at, true);
    open(7).events(&[8]).keeps_all();
    open(5).breaks(&["P7"]);
    open(8).breaks(&["P5", "P8"]);
    // Without the operator it is a skipped event.
    let live = || build().opened(1, 1, false).events(&[2, 4, 5]).acks(1, 5);
    live().dropped().opened(2, 7, true).breaks(&["P5", "P8"]);
    let refused = End::Status(Code::OutOfRange, "COMPACTED".to_owned());
    let refused = live().operation(Moved(7), Some(Err(refused)));
    refused.dropped().opened(2, 7, true).breaks(&["P5", "P8"]);
}

#[test]
fn a_move_that_was_not_answered_may_have_taken_place_or_not() {
    let lost = End::Status(Code::Unavailable, "STORE_UNAVAILABLE".to_owned());
    for answer in [None, Some(Err(lost))] {
        for at in [2, 5] {
            let live = build().opened(1, 1, false).events(&[2, 4, 5]).acks(1, 5);
            let live = live.operation(Moved(2), answer.clone()).dropped();
            live.opened(2, at, true).keeps_all();
        }
    }
}

#[test]
fn what_came_before_a_move_can_not_be_acknowledged_after_it() {
    sought(Moved(2))
        .ack(1, 5, Some(Err(sought_end())))
        .keeps_all();
    sought(Moved(2)).acks(1, 2).keeps_all();
    sought(Moved(2)).acks(1, 5).breaks(&["P10"]);
    sought(Moved(2)).acks(0, 4).breaks(&["P10"]);
    sought(MovedToSnapshot).acks(1, 2).breaks(&["P10"]);
    sought(Deleted).acks(1, 2).breaks(&["P10"]);
}

#[test]
fn an_ack_before_a_move_back_does_not_come_back_after_it() {
    // Its answer is late, and it was taken after the move all the same.
    let mut late = build().opened(1, 1, false).events(&[2, 4, 5]);
    late = late.ack(1, 5, None).operates(Moved(2)).ends(sought_end());
    late.opened(2, 5, true).breaks(&["P5", "P8"]);
}

#[test]
fn a_snapshot_that_was_asked_for_comes() {
    let asked = || sought(MovedToSnapshot);
    let comes = asked().opened(2, 0, false);
    comes.snapshot(6, SnapshotReason::Requested).keeps_all();
    asked().opened(2, 5, true).breaks(&["P7"]);
}

#[test]
fn what_was_deleted_is_gone() {
    sought(Deleted).opened(2, 0, false).keeps_all();
    // As new, it may begin with what comes next.
    sought(Deleted).opened(2, 7, false).events(&[8]).keeps_all();
    sought(Deleted).opened(2, 5, true).breaks(&["P7"]);
}
