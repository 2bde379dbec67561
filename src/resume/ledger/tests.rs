use super::*;

/// When everything is delivered, where that does not matter.
const AT: Time = Time::from_secs(1);

fn revision(at: i64) -> Revision {
    Revision::new(at).unwrap()
}

/// Of key `k`, changed at `at`.
fn known(at: i64) -> Option<Fingerprint> {
    Some(Fingerprint {
        key: "k".into(),
        mod_revision: revision(at),
        deleted: false,
    })
}

/// From 10, with one event each at these revisions.
fn delivered(revisions: impl IntoIterator<Item = i64>) -> Ledger {
    let mut ledger = Ledger::new(Revision::new(10), known(9));
    for at in revisions {
        ledger.deliver(revision(at), 1, known(at), AT);
    }
    ledger
}

#[test]
fn a_new_ledger_has_its_position_delivered_and_nothing_unacknowledged() {
    let ledger = delivered([]);
    assert_eq!(ledger.delivered(), Revision::new(10));
    assert_eq!(ledger.unacked_events(), 0);
    assert!(!ledger.has_unacked());
    assert_eq!(ledger.fingerprint_at(revision(10)), known(9));
}

#[test]
fn what_is_settled_is_no_longer_unacknowledged_and_the_rest_is() {
    let mut ledger = delivered([11, 13, 15]);
    assert_eq!(ledger.unacked_events(), 3);
    ledger.settle(revision(14));
    assert_eq!(ledger.unacked_events(), 1);
    assert!(ledger.has_unacked());
    ledger.settle(revision(15));
    assert_eq!(ledger.unacked_events(), 0);
    assert!(!ledger.has_unacked());
    assert_eq!(ledger.delivered(), Revision::new(15));
}

#[test]
fn the_fingerprint_of_a_position_is_of_the_last_event_at_or_below_it() {
    let mut ledger = delivered([11, 13]);
    assert_eq!(ledger.fingerprint_at(revision(10)), known(9));
    assert_eq!(ledger.fingerprint_at(revision(12)), known(11));
    assert_eq!(ledger.fingerprint_at(revision(13)), known(13));
    ledger.settle(revision(12));
    assert_eq!(ledger.fingerprint_at(revision(12)), known(11));
}

#[test]
fn an_advance_delivers_and_leaves_nothing_unacknowledged() {
    let mut ledger = delivered([]);
    ledger.advance(revision(20));
    ledger.advance(revision(15));
    assert_eq!(ledger.delivered(), Revision::new(20));
    assert!(!ledger.has_unacked());
    assert_eq!(ledger.fingerprint_at(revision(20)), known(9));
}

#[test]
fn a_snapshot_counts_no_events_but_must_be_acknowledged() {
    let mut ledger = delivered([11]);
    ledger.deliver_snapshot(revision(20), known(18), AT);
    assert_eq!(ledger.delivered(), Revision::new(20));
    assert_eq!(ledger.unacked_events(), 1);
    ledger.settle(revision(11));
    assert_eq!(ledger.unacked_events(), 0);
    assert!(ledger.has_unacked());
    ledger.settle(revision(20));
    assert!(!ledger.has_unacked());
    assert_eq!(ledger.fingerprint_at(revision(20)), known(18));
}

#[test]
fn what_was_last_before_a_revision_that_a_snapshot_leaps_over_is_not_known() {
    let mut ledger = delivered([11]);
    ledger.advance(revision(13));
    ledger.deliver_snapshot(revision(20), known(18), AT);
    assert_eq!(ledger.fingerprint_at(revision(13)), known(11));
    for leapt in [14, 19] {
        assert_eq!(ledger.fingerprint_at(revision(leapt)), None);
    }
    ledger.settle(revision(15));
    assert_eq!(ledger.fingerprint_at(revision(15)), None);
    assert!(ledger.is_ordered());
}

#[test]
fn a_snapshot_at_the_delivered_revision_is_delivered_again() {
    let mut ledger = delivered([11]);
    ledger.deliver_snapshot(revision(11), known(11), AT);
    assert_eq!(ledger.delivered(), Revision::new(11));
    assert_eq!(ledger.unacked_events(), 0);
    assert!(ledger.has_unacked());
    assert!(ledger.is_ordered());
}

#[test]
fn marks_that_do_not_ascend_or_were_not_delivered_break_the_invariant() {
    assert!(delivered([11, 12]).is_ordered());
    let mut repeated = delivered([11, 12]);
    repeated.marks[1].first = revision(11);
    assert!(!repeated.is_ordered());
    let mut undelivered = delivered([11, 12]);
    undelivered.delivered = Revision::new(11);
    assert!(!undelivered.is_ordered());
}

#[test]
fn memory_is_bounded_and_nothing_unacknowledged_is_forgotten() {
    let mut ledger = delivered(11..=100_010);
    assert!(ledger.marks.len() <= MARKS_MAX, "{}", ledger.marks.len());
    assert!(ledger.is_ordered());
    assert_eq!(ledger.unacked_events(), 100_000);
    let mut settled = 10;
    while settled < 100_010 {
        settled += 777;
        ledger.settle(revision(settled));
        let exact = u64::try_from(100_010 - settled).unwrap_or(0);
        assert!(ledger.unacked_events() >= exact, "too low at {settled}");
        assert_eq!(ledger.has_unacked(), settled < 100_010);
    }
    assert_eq!(ledger.unacked_events(), 0);
}

#[test]
fn between_merged_revisions_no_fingerprint_is_claimed() {
    let mut ledger = delivered(11..=1500);
    assert_eq!(ledger.fingerprint_at(revision(11)), None);
    assert_eq!(ledger.fingerprint_at(revision(12)), known(12));
    assert_eq!(ledger.fingerprint_at(revision(1500)), known(1500));
    ledger.settle(revision(11));
    assert!(ledger.has_unacked());
    assert_eq!(ledger.unacked_events(), 1490);
}
