//! Histories that are not the one that was watched.

use super::harness::*;
use crate::resume::{OnCompaction, Record, SessionRequest, SnapshotReason};

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
fn who_chose_to_fail_was_told_of_the_replaced_history_and_may_bring_a_position() {
    let mut machine = Machine::stored(replaced());
    let own = SessionRequest {
        resume_after: Some(revision(80)),
        on_compaction: OnCompaction::Fail,
        ..request()
    };
    assert_eq!(machine.subscribe_as(1, own), ["watch #1 after 80 guard a/"]);
}
