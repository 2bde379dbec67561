//! Positions that move without events.

use std::time::Duration;

use super::harness::*;
use crate::resume::{IdleProof, Record, Settings};

#[test]
fn an_assumed_position_is_written_when_it_ripens() {
    let mut machine = Machine::watching_mute(100);
    assert_eq!(machine.after_secs(13), ["s1 progress 100"]);
    assert_eq!(machine.probe(MEMBER, 500), NOTHING);
    let mut lines = vec!["s1 progress 100".into()];
    while lines == ["s1 progress 100"] {
        lines = machine.at_next_timer();
    }
    assert_eq!(lines, ["persist 100 acked assumed 500 c1 t2 a@100"]);
    assert_eq!(machine.now(), Duration::from_secs(600));
}

#[test]
fn a_replayed_event_does_not_disprove_an_assumption() {
    let stored = Record {
        assumed: Some(revision(500)),
        ..record(100)
    };
    let settings = Settings {
        idle_proof: IdleProof::Delay,
        ..Settings::default()
    };
    let mut machine = Machine::with(Some(stored), settings);
    machine.subscribe(1);
    machine.says(watch_opened(present(600, 100)));
    assert_eq!(machine.says(response([put("a/old", 90)])), NOTHING);
    assert_eq!(
        machine.says(response([put("a/1", 400)])),
        ["persist 100 acked c1 t2 a@100", "s1 events 400 [a/1@400]"]
    );
}
