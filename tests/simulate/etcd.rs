//! An etcd of three members: its histories of revisions, what each member has
//! applied of the newest, and what a member answers from that.

use std::collections::BTreeMap;

use bytes::Bytes;
use watchmark::resume::{
    GuardReading, Header, Item, KeyRange, Revision, Selection, SnapshotReason,
};

/// A revision of a history; the first names the history.
pub(crate) type Position = (usize, i64);

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

/// What a restore leaves of the cluster's identity.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Identity {
    /// Another cluster_id.
    New,
    /// The same ids; the term begins again.
    SameFlags,
    /// The same ids and the same term: only what is in it differs.
    SameTerm,
}

/// One history: a backup that takes over begins another.
struct History {
    cluster_id: u64,
    revisions: Vec<Vec<Entry>>,
}

/// What one member has applied. One that lags stands still; it answers what
/// needs no leader from there, and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    pub(crate) applied: i64,
    pub(crate) compacted: i64,
    pub(crate) term: u64,
    pub(crate) lags: bool,
}

/// Every history there was; the last one is etcd's.
pub(crate) struct Etcd {
    histories: Vec<History>,
    /// By member_id, less one.
    members: [Member; MEMBERS],
    pub(crate) compacted: i64,
    term: u64,
    /// All answers come through etcd's grpc-proxy, which names nobody.
    pub(crate) is_proxied: bool,
    pub(crate) selection: Selection,
}

pub(crate) const MEMBERS: usize = 3;

impl Etcd {
    pub(crate) fn new(no_put: bool, no_delete: bool, is_proxied: bool) -> Self {
        let member = Member {
            applied: 1,
            compacted: 0,
            term: 2,
            lags: false,
        };
        Self {
            histories: vec![History {
                cluster_id: 1,
                revisions: Vec::new(),
            }],
            members: [member; MEMBERS],
            compacted: 0,
            term: 2,
            is_proxied,
            selection: Selection {
                range: range(),
                no_put,
                no_delete,
            },
        }
    }

    pub(crate) fn epoch(&self) -> usize {
        self.histories.len() - 1
    }

    /// The newest revision; the first transaction makes 2.
    pub(crate) fn head(&self) -> i64 {
        self.histories[self.epoch()].revisions.len() as i64 + 1
    }

    pub(crate) fn commit(&mut self, changes: &[Change]) {
        let (epoch, revision) = (self.epoch(), self.head() + 1);
        let mut entries: Vec<Entry> = Vec::new();
        for change in changes {
            let entry = Entry {
                key: KEYS[usize::from(change.key) % KEYS.len()].into(),
                revision,
                bytes: if change.large && !change.delete {
                    1_500_000
                } else {
                    10
                },
                deleted: change.delete,
                epoch,
            };
            let is_void = entry.deleted && self.changed(&entry.key, revision - 1).is_none();
            if !is_void && entries.iter().all(|other| other.key != entry.key) {
                entries.push(entry);
            }
        }
        if !entries.is_empty() {
            self.histories[epoch].revisions.push(entries);
        }
        self.replicate();
    }

    pub(crate) fn compact(&mut self, at: i64) {
        self.compacted = self.compacted.max(at.min(self.head()));
        self.replicate();
    }

    pub(crate) fn elect(&mut self) {
        self.term += 1;
        self.replicate();
    }

    /// A member stands still from now on; the others are a quorum.
    pub(crate) fn lag(&mut self, member: usize) {
        for (other, it) in self.members.iter_mut().enumerate() {
            it.lags = other == member;
        }
        self.replicate();
    }

    /// Nobody lags any more. Returns who did.
    pub(crate) fn catch_up(&mut self) -> Option<usize> {
        let lagged = self.members.iter().position(|member| member.lags);
        for member in &mut self.members {
            member.lags = false;
        }
        self.replicate();
        lagged
    }

    /// A backup of an earlier state takes over.
    pub(crate) fn replace(&mut self, keep: i64, identity: Identity) {
        let kept = usize::try_from(keep.clamp(1, self.head()) - 1).unwrap();
        let epoch = self.histories.len();
        let last = &self.histories[epoch - 1];
        let mut revisions = last.revisions[..kept].to_vec();
        for entry in revisions.iter_mut().flatten() {
            entry.epoch = epoch;
        }
        let is_new = identity == Identity::New;
        self.histories.push(History {
            cluster_id: last.cluster_id + u64::from(is_new),
            revisions,
        });
        self.compacted = self.compacted.min(self.head());
        if identity != Identity::SameTerm {
            self.term = 2;
        }
        for member in &mut self.members {
            member.lags = false;
        }
        self.replicate();
    }

    fn replicate(&mut self) {
        let (applied, compacted, term) = (self.head(), self.compacted, self.term);
        for member in self.members.iter_mut().filter(|member| !member.lags) {
            *member = Member {
                applied,
                compacted,
                term,
                lags: false,
            };
        }
    }

    pub(crate) fn member(&self, member: usize) -> Member {
        self.members[member]
    }

    /// As answers name it; 0 behind the proxy.
    pub(crate) fn member_id(&self, member: usize) -> u64 {
        if self.is_proxied {
            0
        } else {
            member as u64 + 1
        }
    }

    /// Whether a linearizable read on this member is answered.
    pub(crate) fn is_current(&self, member: usize) -> bool {
        let member = self.member(member);
        member.applied == self.head()
            && member.compacted == self.compacted
            && member.term == self.term
    }

    /// Of an answer that a member which lags by as much as `like` gives.
    pub(crate) fn header(&self, like: Member) -> Header {
        let cluster_id = self.histories[self.epoch()].cluster_id;
        Header {
            cluster_id: if self.is_proxied { 0 } else { cluster_id },
            raft_term: like.term,
            revision: rev(like.applied),
        }
    }

    /// What a `Range` of `key` at `revision` finds on a member.
    pub(crate) fn guard(&self, member: usize, key: &[u8], revision: i64) -> GuardReading {
        let member = self.member(member);
        if revision < member.compacted {
            GuardReading::Compacted {
                compact_revision: Revision::new(member.compacted),
            }
        } else if revision > member.applied {
            GuardReading::Future
        } else {
            GuardReading::Present {
                header: self.header(member),
                mod_revision: self.changed(key, revision).map(rev),
            }
        }
    }

    /// The in-range events of `epoch` that the filters let through, in (from, to].
    pub(crate) fn events(&self, epoch: usize, from: i64, to: i64) -> Vec<Entry> {
        let revisions = self.histories[epoch].revisions.iter().flatten();
        revisions
            .filter(|entry| entry.revision > from && entry.revision <= to)
            .filter(|entry| in_range(entry) && self.passes(entry))
            .cloned()
            .collect()
    }

    /// The pairs in range at `revision` of `epoch`, in key order.
    pub(crate) fn state(&self, epoch: usize, revision: i64) -> Vec<Entry> {
        let mut state = BTreeMap::new();
        for entry in self.histories[epoch].revisions.iter().flatten() {
            if entry.revision <= revision && in_range(entry) {
                state.insert(entry.key.clone(), entry.clone());
            }
        }
        state.into_values().filter(|entry| !entry.deleted).collect()
    }

    /// Whether a snapshot for this reason is called for, for a stream at
    /// `position`.
    pub(crate) fn calls_for(&self, reason: SnapshotReason, position: Option<Position>) -> bool {
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
        let mut entries = self.histories[self.epoch()].revisions.iter().flatten();
        entries
            .rfind(|entry| entry.key == key && entry.revision <= revision)
            .filter(|entry| !entry.deleted)
            .map(|entry| entry.revision)
    }
}
