//! Is etcd's history still the one that was watched?
//!
//! cluster_id, member_id and raft_term survive a restore with the same flags,
//! so none of them proves that a history is the same; each can prove that it
//! is another. What a guard reads at the position resumed from settles the
//! rest, as far as it can be settled: a new history that has overtaken the
//! position, with a higher term and an equal fingerprint, goes unseen.

use std::time::Duration;

use super::{Guard, GuardReading, Header, History, Record, Revision, Selection, Time};

/// How often etcd must be found behind the position before that counts: old
/// servers answer stale reads (etcd#20418).
const CONFIRMATIONS: u32 = 3;
/// ... and over how long.
const CONFIRMED_AFTER: Duration = Duration::from_secs(3);

/// What a guard's reading means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Resuming loses nothing.
    Intact(Header),
    /// History after the position is gone.
    Compacted(Option<Revision>),
    /// etcd is behind the position or its term fell: true only if it repeats.
    Behind,
    /// Another history.
    Replaced,
}

/// Judges what the guard read against what is known of the watched history.
pub(super) fn judge(reading: &GuardReading, known: &History, selection: &Selection) -> Verdict {
    let (header, mod_revision) = match *reading {
        GuardReading::Compacted { compact_revision } => {
            return Verdict::Compacted(compact_revision);
        }
        GuardReading::Future => return Verdict::Behind,
        GuardReading::Present {
            header,
            mod_revision,
        } => (header, mod_revision),
    };
    if is_other_cluster(known, header) || !fingerprint_holds(known, mod_revision, selection) {
        Verdict::Replaced
    } else if header.raft_term < known.raft_term {
        Verdict::Behind
    } else {
        Verdict::Intact(header)
    }
}

impl Record {
    /// What to read of etcd, to find out whether its history still is the one
    /// that the checkpoint belongs to. `None`: there is nothing to go by.
    pub fn guard(&self) -> Option<Guard> {
        Some(self.guard_at(self.checkpoint?, &self.history))
    }

    /// As `guard`, of another position.
    pub(super) fn guard_at(&self, revision: Revision, known: &History) -> Guard {
        let known = known.fingerprint.as_ref().map(|last| &last.key);
        let key = known.unwrap_or(self.selection.range.key()).clone();
        Guard { revision, key }
    }

    /// Whether what the guard read says that it is not. One reading, which an
    /// old server may have given from a past state.
    pub fn is_denied_by(&self, reading: &GuardReading) -> bool {
        let verdict = judge(reading, &self.history, &self.selection);
        matches!(verdict, Verdict::Replaced | Verdict::Behind)
    }
}

/// Whether etcd's history is another one by who answers, as far as that tells:
/// true only if it repeats.
pub(super) const fn is_another(known: &History, header: Header) -> bool {
    is_other_cluster(known, header) || header.raft_term < known.raft_term
}

const fn is_other_cluster(known: &History, header: Header) -> bool {
    known.cluster_id != 0 && header.cluster_id != 0 && known.cluster_id != header.cluster_id
}

/// Filters hide changes of the key from us, so they excuse a difference.
fn fingerprint_holds(known: &History, found: Option<Revision>, selection: &Selection) -> bool {
    let Some(expected) = &known.fingerprint else {
        return true;
    };
    match (expected.deleted, found) {
        (false, Some(found)) if selection.no_put => found >= expected.mod_revision,
        (false, Some(found)) => found == expected.mod_revision,
        (false, None) => selection.no_delete,
        (true, None) => true,
        (true, Some(found)) => selection.no_put && found > expected.mod_revision,
    }
}

/// How often and since when etcd was found behind.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    since: Option<Time>,
    times: u32,
}

impl Suspicion {
    /// How long to wait before the reading is repeated.
    pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(1);

    /// etcd was found behind once more; `true`: it is confirmed.
    pub(super) fn confirm(&mut self, now: Time) -> bool {
        let since = *self.since.get_or_insert(now);
        self.times = self.times.saturating_add(1);
        self.times >= CONFIRMATIONS && now.saturating_sub(since) >= CONFIRMED_AFTER
    }

    /// Whether etcd was found behind, and not well since.
    pub(super) const fn is_raised(&self) -> bool {
        self.since.is_some()
    }

    /// etcd was found where it should be.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::resume::{Fingerprint, KeyRange};

    fn revision(revision: i64) -> Revision {
        Revision::new(revision).unwrap()
    }

    fn selection(no_put: bool, no_delete: bool) -> Selection {
        Selection {
            range: KeyRange::prefix("a/".into()),
            no_put,
            no_delete,
        }
    }

    fn known(deleted: bool) -> History {
        History {
            cluster_id: 1,
            raft_term: 5,
            fingerprint: Some(Fingerprint {
                key: Bytes::from("a/k"),
                mod_revision: revision(10),
                deleted,
            }),
        }
    }

    fn present(cluster_id: u64, raft_term: u64, found: Option<i64>) -> GuardReading {
        GuardReading::Present {
            header: Header {
                cluster_id,
                raft_term,
                revision: revision(20),
            },
            mod_revision: found.map(revision),
        }
    }

    fn is_intact(reading: &GuardReading, deleted: bool, no_put: bool, no_delete: bool) -> bool {
        let verdict = judge(reading, &known(deleted), &selection(no_put, no_delete));
        matches!(verdict, Verdict::Intact(_))
    }

    #[test]
    fn the_same_history_is_intact() {
        assert!(is_intact(&present(1, 5, Some(10)), false, false, false));
        assert!(is_intact(&present(1, 9, Some(10)), false, false, false));
        assert!(is_intact(&present(0, 5, Some(10)), false, false, false));
        assert!(is_intact(&present(1, 5, None), true, false, false));
    }

    #[test]
    fn another_cluster_or_another_fingerprint_is_another_history() {
        let judged = |reading, deleted| judge(&reading, &known(deleted), &selection(false, false));
        assert_eq!(judged(present(2, 5, Some(10)), false), Verdict::Replaced);
        assert_eq!(judged(present(1, 5, Some(9)), false), Verdict::Replaced);
        assert_eq!(judged(present(1, 5, Some(11)), false), Verdict::Replaced);
        assert_eq!(judged(present(1, 5, None), false), Verdict::Replaced);
        assert_eq!(judged(present(1, 5, Some(11)), true), Verdict::Replaced);
    }

    #[test]
    fn what_a_filter_hides_is_no_difference() {
        assert!(is_intact(&present(1, 5, None), false, false, true));
        assert!(is_intact(&present(1, 5, Some(11)), true, true, false));
        assert!(is_intact(&present(1, 5, Some(11)), false, true, false));
        assert!(!is_intact(&present(1, 5, Some(9)), false, true, true));
        assert!(!is_intact(&present(1, 5, Some(11)), true, false, true));
        // No revision both puts and deletes a key.
        assert!(!is_intact(&present(1, 5, Some(10)), true, true, false));
    }

    #[test]
    fn a_fallen_term_or_a_future_position_must_repeat() {
        let plain = selection(false, false);
        let term = judge(&present(1, 4, Some(10)), &known(false), &plain);
        assert_eq!(term, Verdict::Behind);
        let future = judge(&GuardReading::Future, &known(false), &plain);
        assert_eq!(future, Verdict::Behind);
    }

    #[test]
    fn a_record_is_denied_by_another_history_and_by_nothing_else() {
        let mut record = Record::new(selection(false, false));
        assert_eq!(record.guard(), None);
        record.checkpoint = Some(revision(15));
        let key = |record: &Record| record.guard().unwrap().key;
        assert_eq!(key(&record), "a/");
        record.history = known(false);
        assert_eq!(
            (key(&record), record.guard().unwrap().revision),
            ("a/k".into(), revision(15))
        );
        for denied in [
            present(1, 5, None),
            present(2, 5, Some(10)),
            present(1, 4, Some(10)),
            GuardReading::Future,
        ] {
            assert!(record.is_denied_by(&denied), "{denied:?}");
        }
        let compact_revision = None;
        for possible in [
            present(1, 5, Some(10)),
            GuardReading::Compacted { compact_revision },
        ] {
            assert!(!record.is_denied_by(&possible), "{possible:?}");
        }
    }

    #[test]
    fn being_behind_is_confirmed_by_three_readings_over_three_seconds() {
        let at = Duration::from_millis;
        let mut suspicion = Suspicion::default();
        assert!(!suspicion.confirm(at(0)));
        assert!(!suspicion.confirm(at(10)));
        assert!(!suspicion.confirm(at(20)));
        assert!(suspicion.confirm(at(3000)));
        suspicion.clear();
        assert!(!suspicion.confirm(at(9000)));
        assert!(!suspicion.confirm(at(12_000)));
        assert!(suspicion.confirm(at(12_001)));
    }
}
