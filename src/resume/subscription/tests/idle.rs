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
        assumed: Some(assumed(500)),
        ..record(100)
    };
    let settings = Settings {
        idle_proof: IdleProof::Delay,
        ..Settings::default()
    };
    let mut machine = Machine::with(Some(stored), settings);
    machine.subscribe(1);
    machine.says(watch_opened(present(600, 100)));
    let replayed = [put("a/old", 90), put("a", 100)];
    assert_eq!(machine.says(response(replayed)), NOTHING);
    assert_eq!(
        machine.says(response([put("a/1", 400)])),
        ["persist 100 acked c1 t2 a@100", "s1 events 400 [a/1@400]"]
    );
}

#[test]
fn an_event_disproves_an_assumption_up_to_its_own_revision() {
    for (at, disproved) in [(499, true), (500, true), (501, false)] {
        let mut machine = Machine::with(Some(assumed_500()), by_delay());
        machine.subscribe(1);
        machine.says(watch_opened(present(600, 100)));
        let said = machine.says(response([put("a/1", at)]));
        assert_eq!(
            said[0].starts_with("persist 100 acked c1"),
            disproved,
            "{said:?}"
        );
    }
}

fn by_delay() -> Settings {
    Settings {
        idle_proof: IdleProof::Delay,
        ..Settings::default()
    }
}

/// Resumed from 100 at the head, where only the delay rule is used.
fn idle_by_delay() -> Machine {
    let mut machine = Machine::with(Some(record(100)), by_delay());
    machine.subscribe(1);
    machine.says(watch_opened(present(100, 100)));
    machine
}

/// Everything but heartbeats that happens in the next `seconds`.
fn in_the_next(machine: &mut Machine, seconds: u64) -> Vec<String> {
    let until = machine.now() + Duration::from_secs(seconds);
    let mut lines = Vec::new();
    while machine.now() < until {
        lines.extend(machine.after_secs(1));
    }
    lines.retain(|line| !line.starts_with("s1 progress"));
    lines
}

#[test]
fn certified_progress_moves_the_checkpoint_and_is_sent_on() {
    let mut machine = Machine::watching(100);
    assert_eq!(
        machine.says(bookmark(150)),
        ["s1 progress 150", "persist 150 progress c1 t2 a@100"]
    );
    assert_eq!(machine.persisted(), NOTHING);
    assert_eq!(machine.checkpoint(), 150);
    assert_eq!(
        machine.says(response([put("a/old", 150), put("a/1", 151)])),
        ["s1 events 151 [a/1@151]"]
    );
}

#[test]
fn progress_does_not_pass_an_unacked_event() {
    let mut machine = Machine::watching(100);
    machine.says(response([put("a/1", 101)]));
    assert_eq!(machine.says(bookmark(150)), ["s1 progress 150"]);
    assert_eq!(machine.ack(1, 101), ["persist 101 acked c1 t2 a/1@101"]);
    assert_eq!(machine.says(bookmark(160)), ["s1 progress 160"]);
    assert_eq!(machine.persisted(), ["ack 1 ok 101"]);
    assert_eq!(
        machine.says(bookmark(170)),
        ["s1 progress 170", "persist 170 progress c1 t2 a/1@101"]
    );
}

#[test]
fn progress_does_not_pass_an_unacked_snapshot() {
    use crate::resume::input::Upstream;
    let mut machine = Machine::new();
    machine.subscribe(1);
    machine.persisted();
    machine.says(Upstream::SnapshotBegun(header(50)));
    machine.says(Upstream::SnapshotEnded);
    machine.says(watch_opened(present(50, 0)));
    assert_eq!(machine.says(bookmark(60)), ["s1 progress 60"]);
}

#[test]
fn progress_waits_for_the_events_before_it() {
    let window = crate::resume::SessionRequest {
        max_unacked_events: Some(1),
        ..request()
    };
    let mut machine = Machine::watching_as(200, window);
    machine.says(response([put("a/1", 101), put("a/2", 102)]));
    assert_eq!(machine.says(bookmark(150)), NOTHING);
    machine.ack(1, 101);
    assert_eq!(
        machine.persisted(),
        ["ack 1 ok 101", "s1 events 102 [a/2@102]", "s1 progress 150"]
    );
}

#[test]
fn progress_waits_for_the_rest_of_a_fragmented_response() {
    let mut machine = Machine::watching(200);
    assert_eq!(machine.says(fragment([put("a/1", 101)])), NOTHING);
    assert_eq!(machine.says(bookmark(150)), NOTHING);
    assert_eq!(
        machine.says(response([put("a/2", 101)])),
        ["s1 events 101 [a/1@101 a/2@101]", "s1 progress 150"]
    );
}

#[test]
fn progress_below_what_was_delivered_says_nothing() {
    let mut machine = Machine::watching(200);
    machine.says(response([put("a/1", 120)]));
    assert_eq!(machine.says(bookmark(119)), NOTHING);
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn progress_of_an_interrupted_watch_says_nothing() {
    use crate::resume::input::Upstream;
    let mut machine = Machine::watching(200);
    machine.says(Upstream::Lost);
    assert_eq!(machine.says_to(1, bookmark(150)), NOTHING);
    machine.at_next_timer();
    assert_eq!(machine.says(bookmark(150)), NOTHING);
    assert_eq!(machine.checkpoint(), 100);
}

#[test]
fn the_delay_rule_assumes_and_leaves_the_checkpoint() {
    let mut machine = idle_by_delay();
    machine.after_secs(1);
    machine.probe(MEMBER, 500);
    assert_eq!(in_the_next(&mut machine, 598), NOTHING);
    assert_eq!(
        in_the_next(&mut machine, 1),
        ["persist 100 acked assumed 500 c1 t2 a@100"]
    );
}

#[test]
fn the_delay_rule_assumes_nothing_where_the_checkpoint_is_already() {
    let mut machine = idle_by_delay();
    machine.after_secs(1);
    machine.probe(MEMBER, 100);
    assert_eq!(in_the_next(&mut machine, 1000), NOTHING);
}

#[test]
fn the_delay_rule_takes_the_newest_sample_that_is_old_enough() {
    let mut machine = idle_by_delay();
    in_the_next(&mut machine, 535);
    machine.probe(MEMBER, 500);
    in_the_next(&mut machine, 10);
    machine.probe(MEMBER, 600);
    assert_eq!(
        in_the_next(&mut machine, 59),
        ["persist 100 acked assumed 500 c1 t2 a@100"]
    );
    machine.persisted();
    assert_eq!(
        in_the_next(&mut machine, 1),
        ["persist 100 acked assumed 600 c1 t2 a@100"]
    );
}

#[test]
fn the_delay_rule_does_not_pass_an_unacked_event() {
    let mut machine = idle_by_delay();
    machine.says(response([put("a/1", 101)]));
    machine.after_secs(1);
    machine.probe(MEMBER, 500);
    assert_eq!(in_the_next(&mut machine, 1000), NOTHING);
    machine.ack(1, 101);
    assert_eq!(
        machine.persisted(),
        [
            "ack 1 ok 101",
            "persist 101 acked assumed 500 c1 t2 a/1@101"
        ]
    );
}

#[test]
fn the_delay_rule_starts_again_with_every_event() {
    let mut machine = idle_by_delay();
    machine.after_secs(1);
    machine.probe(MEMBER, 500);
    in_the_next(&mut machine, 300);
    machine.says(response([put("a/1", 501)]));
    machine.ack(1, 501);
    machine.persisted();
    machine.after_secs(1);
    machine.probe(MEMBER, 600);
    assert_eq!(in_the_next(&mut machine, 598), NOTHING);
    assert_eq!(
        in_the_next(&mut machine, 1),
        ["persist 501 acked assumed 600 c1 t2 a/1@501"]
    );
}

#[test]
fn the_delay_rule_ignores_another_member() {
    let mut machine = idle_by_delay();
    machine.after_secs(1);
    machine.probe(MEMBER + 1, 500);
    assert_eq!(in_the_next(&mut machine, 1000), NOTHING);
}

#[test]
fn the_delay_rule_ignores_samples_from_before_an_interruption() {
    use crate::resume::input::Upstream;
    let mut machine = idle_by_delay();
    machine.after_secs(1);
    machine.probe(MEMBER, 500);
    in_the_next(&mut machine, 500);
    machine.says(Upstream::Lost);
    // Asked before the watch was created, received after it.
    machine.probe(MEMBER, 501);
    let late = crate::resume::ProbeSample {
        member_id: MEMBER,
        asked_at: machine.now(),
        revision: revision(502),
    };
    machine.at_next_timer();
    machine.says(watch_opened(present(100, 100)));
    machine.handle(crate::resume::Input::Probe(late));
    let lines = in_the_next(&mut machine, 2000);
    assert!(
        lines.iter().all(|line| !line.starts_with("persist")),
        "{lines:?}"
    );
}

#[test]
fn the_delay_rule_is_not_used_where_progress_can_be_asked_for_or_is_demanded() {
    for idle_proof in [IdleProof::Auto, IdleProof::Progress] {
        let settings = Settings {
            idle_proof,
            stall_timeout: Duration::from_secs(100_000),
            ..Settings::default()
        };
        let mut machine = Machine::with(Some(record(100)), settings);
        machine.subscribe(1);
        machine.says(watch_opened(present(100, 100)));
        machine.after_secs(1);
        machine.probe(MEMBER, 500);
        let mut lines = in_the_next(&mut machine, 1000);
        lines.retain(|line| line != "ask progress");
        assert_eq!(lines, NOTHING);
    }
}

fn assumed_500() -> Record {
    Record {
        assumed: Some(assumed(500)),
        ..record(100)
    }
}

#[test]
fn an_assumed_position_is_not_used_while_the_checkpoint_is_there() {
    let mut machine = Machine::stored(assumed_500());
    assert_eq!(machine.subscribe(1), ["watch #1 after 100 guard a"]);
    assert_eq!(
        machine.says(watch_opened(present(600, 100)))[0],
        "s1 opened 100 resumed acked c1"
    );
}

#[test]
fn an_assumed_position_replaces_a_snapshot_and_opened_says_so() {
    let mut machine = Machine::stored(assumed_500());
    machine.subscribe(1);
    assert_eq!(
        machine.says(watch_opened(compacted_at(300))),
        ["watch #2 after 500 guard a"]
    );
    assert_eq!(
        machine.says(watch_opened(present(600, 100)))[0],
        "s1 opened 500 resumed delay c1"
    );
    assert_eq!(machine.checkpoint(), 100);
    assert_eq!(
        machine.says(bookmark(600))[1..],
        [
            "s1 state Live 500",
            "s1 progress 600",
            "persist 600 progress c1 t2"
        ]
    );
}

#[test]
fn an_assumption_is_kept_until_the_checkpoint_has_reached_it() {
    let mut machine = Machine::stored(assumed_500());
    machine.subscribe(1);
    machine.says(watch_opened(present(600, 100)));
    assert_eq!(
        machine.says(bookmark(499)),
        [
            "s1 progress 499",
            "persist 499 progress assumed 500 c1 t2 a@100"
        ]
    );
    machine.persisted();
    assert_eq!(
        machine.says(bookmark(500)),
        ["s1 progress 500", "persist 500 progress c1 t2 a@100"]
    );
}

#[test]
fn an_assumed_position_that_is_compacted_too_leaves_the_snapshot() {
    let mut machine = Machine::stored(assumed_500());
    machine.subscribe(1);
    machine.says(watch_opened(compacted_at(550)));
    assert_eq!(
        machine.says(watch_opened(compacted_at(550))),
        ["snapshot #3"]
    );
}

#[test]
fn an_assumed_position_whose_fingerprint_changed_missed_events_and_is_not_used() {
    let mut machine = Machine::stored(assumed_500());
    machine.subscribe(1);
    machine.says(watch_opened(compacted_at(300)));
    assert_eq!(
        machine.says(watch_opened(present(600, 450))),
        ["snapshot #3"]
    );
}

#[test]
fn who_demands_progress_gets_a_snapshot_instead_of_an_assumption() {
    let settings = Settings {
        idle_proof: IdleProof::Progress,
        ..Settings::default()
    };
    let mut machine = Machine::with(Some(assumed_500()), settings);
    machine.subscribe(1);
    assert_eq!(
        machine.says(watch_opened(compacted_at(300))),
        ["snapshot #2"]
    );
}

#[test]
fn a_stream_that_was_opened_at_the_checkpoint_does_not_jump_to_an_assumption() {
    use crate::resume::input::Upstream;
    let mut machine = Machine::stored(assumed_500());
    machine.subscribe(1);
    assert_eq!(
        machine.says(Upstream::Lost),
        [
            "close",
            "s1 opened 100 resumed acked c1",
            "s1 state UpstreamLost 100"
        ]
    );
    machine.at_next_timer();
    assert_eq!(
        machine.says(watch_opened(compacted_at(300))),
        ["snapshot #4"]
    );
}
