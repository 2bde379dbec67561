//! A history of revisions, and what etcd answers about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use watchmark::resume::{
    GuardReading, Header, Item, KeyRange, Revision, Selection, SnapshotReason,
};

/// An event or a pair; `epoch` is the history it comes from.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    pub(crate) revision: i64,
    pub(crate) bytes: usize,
    pub(crate) deleted: bool,
    pub(crate) epoch: usize,
}

impl Item for Entry {
    fn key(&self) -> &Bytes {
        &self.key
    }
    fn mod_revision(&self) -> Revision {
        rev(self.revision)
    }
    fn size_bytes(&self) -> usize {
        self.bytes
    }
    fn is_delete(&self) -> bool {
        self.deleted
    }
}

pub(crate) fn rev(revision: i64) -> Revision {
    Revision::new(revision).unwrap()
}

/// Four keys in range, two outside.
const KEYS: [&str; 6] = ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1"];

pub(crate) fn range() -> KeyRange {
    KeyRange::prefix("a/".into())
}

fn in_range(entry: &Entry) -> bool {
    entry.key.starts_with(b"a/")
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: u8,
    pub(crate) delete: bool,
    /// Whether a few of these make a revision too large for one message.
    pub(crate) large: bool,
}

/// Every history there was; the last one is etcd's.
pub(crate) struct Etcd {
    epochs: Vec<Vec<Vec<Entry>>>,
    pub(crate) compacted: i64,
    cluster_id: u64,
    pub(crate) term: u64,
    term_fell: bool,
    pub(crate) selection: Selection,
}

impl Etcd {
    pub(crate) fn new(no_put: bool, no_delete: bool) -> Self {
        Self {
            epochs: vec![Vec::new()],
            compacted: 0,
            cluster_id: 1,
            term: 2,
            term_fell: false,
            selection: Selection {
                range: range(),
                no_put,
                no_delete,
            },
        }
    }

    pub(crate) fn epoch(&self) -> usize {
        self.epochs.len() - 1
    }

    /// The newest revision; the first transaction makes 2.
    pub(crate) fn head(&self) -> i64 {
        self.epochs[self.epoch()].len() as i64 + 1
    }

    pub(crate) fn commit(&mut self, changes: &[Change]) {
        let (epoch, revision) = (self.epoch(), self.head() + 1);
        let mut entries: Vec<Entry> = Vec::new();
        for change in changes {
            let entry = Entry {
                key: KEYS[usize::from(change.key) % KEYS.len()].into(),
                revision,
                bytes: if change.large { 1_500_000 } else { 10 },
                deleted: change.delete,
                epoch,
            };
            let is_void = entry.deleted && self.changed(&entry.key, revision - 1).is_none();
            if !is_void && entries.iter().all(|other| other.key != entry.key) {
                entries.push(entry);
            }
        }
        if !entries.is_empty() {
            self.epochs[epoch].push(entries);
        }
    }

    pub(crate) fn compact(&mut self, at: i64) {
        self.compacted = self.compacted.max(at.min(self.head()));
    }

    pub(crate) fn elect(&mut self) {
        // A restored cluster whose term caught up could not be told apart.
        if !self.term_fell {
            self.term += 1;
        }
    }

    /// A backup of an earlier state takes over.
    pub(crate) fn replace(&mut self, keep: i64, new_cluster: bool) {
        let kept = usize::try_from(keep.clamp(1, self.head()) - 1).unwrap();
        let epoch = self.epochs.len();
        let mut history = self.epochs[epoch - 1][..kept].to_vec();
        for entry in history.iter_mut().flatten() {
            entry.epoch = epoch;
        }
        self.epochs.push(history);
        self.compacted = self.compacted.min(self.head());
        if new_cluster || self.term_fell || self.term < 2 {
            self.cluster_id += 1;
        } else {
            self.term = 1;
            self.term_fell = true;
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            cluster_id: self.cluster_id,
            raft_term: self.term,
            revision: rev(self.head()),
        }
    }

    /// What a linearizable `Range` of `key` at `revision` finds.
    pub(crate) fn guard(&self, key: &[u8], revision: i64) -> GuardReading {
        if revision < self.compacted {
            GuardReading::Compacted {
                compact_revision: Revision::new(self.compacted),
            }
        } else if revision > self.head() {
            GuardReading::Future
        } else {
            GuardReading::Present {
                header: self.header(),
                mod_revision: self.changed(key, revision).map(rev),
            }
        }
    }

    /// The in-range events of `epoch` that the filters let through, in (from, to].
    pub(crate) fn events(&self, epoch: usize, from: i64, to: i64) -> Vec<Entry> {
        let revisions = self.epochs[epoch].iter().flatten();
        revisions
            .filter(|entry| entry.revision > from && entry.revision <= to)
            .filter(|entry| in_range(entry) && self.passes(entry))
            .cloned()
            .collect()
    }

    /// The pairs in range at `revision` of `epoch`, in key order.
    pub(crate) fn state(&self, epoch: usize, revision: i64) -> Vec<Entry> {
        let mut state = BTreeMap::new();
        for entry in self.epochs[epoch].iter().flatten() {
            if entry.revision <= revision && in_range(entry) {
                state.insert(entry.key.clone(), entry.clone());
            }
        }
        state.into_values().filter(|entry| !entry.deleted).collect()
    }

    /// Whether a snapshot for this reason is called for, for a stream at
    /// `position`.
    pub(crate) fn calls_for(&self, reason: SnapshotReason, position: Option<(usize, i64)>) -> bool {
        match (reason, position) {
            (SnapshotReason::First, position) => position.is_none(),
            (SnapshotReason::Compacted, Some((epoch, at))) => {
                epoch != self.epoch() || at < self.compacted
            }
            (SnapshotReason::HistoryReplaced, Some((epoch, at))) => {
                epoch != self.epoch() || at > self.head()
            }
            (SnapshotReason::Compacted | SnapshotReason::HistoryReplaced, None) => true,
            (SnapshotReason::Requested, _) => false,
        }
    }

    fn passes(&self, entry: &Entry) -> bool {
        !(entry.deleted && self.selection.no_delete || !entry.deleted && self.selection.no_put)
    }

    /// The mod_revision of `key` at `revision`, if it exists.
    fn changed(&self, key: &[u8], revision: i64) -> Option<i64> {
        let mut entries = self.epochs[self.epoch()].iter().flatten();
        entries
            .rfind(|entry| entry.key == key && entry.revision <= revision)
            .filter(|entry| !entry.deleted)
            .map(|entry| entry.revision)
    }
}
