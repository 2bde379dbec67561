//! What outlives a restart: one record per subscription.

use bytes::Bytes;

use super::{KeyRange, Revision};

/// Of what a record can say. Raise it with every variant of an enum in here, and
/// whenever an older watchmark would misread a record: it takes what it does not
/// know for damage, and a newer version for what it is.
pub const RECORD_VERSION: u32 = 1;

/// Everything that the store keeps of one subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What is watched. Fixed for the life of the subscription.
    pub selection: Selection,
    /// At or below it everything in range is acknowledged. `None`: nothing yet.
    pub checkpoint: Option<Revision>,
    /// What moved the checkpoint last; [`Proof::Fresh`] while there is none.
    pub proof: Proof,
    /// Where evidence that can be wrong has it: at or above the checkpoint, used
    /// only when the checkpoint itself is compacted.
    pub assumed: Option<Assumed>,
    /// Which history the checkpoint belongs to.
    pub history: History,
    /// The next session must begin with a snapshot of this reason.
    pub pending_snapshot: Option<SnapshotReason>,
}

impl Record {
    /// The record of a subscription that has not begun.
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            checkpoint: None,
            proof: Proof::Fresh,
            assumed: None,
            history: History::default(),
            pending_snapshot: None,
        }
    }

    /// The same subscription at another position.
    pub(super) fn at(&self, position: Option<Revision>, proof: Proof, history: History) -> Self {
        Self {
            checkpoint: position,
            proof,
            history,
            ..Self::new(self.selection.clone())
        }
    }

    /// Whether it holds a position, which would be a lie for another selection.
    pub(super) const fn says_where(&self) -> bool {
        self.checkpoint.is_some() || self.pending_snapshot.is_some()
    }
}

/// A position that can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assumed {
    /// At or below it nothing is believed to be undelivered.
    pub revision: Revision,
    /// Why it is believed: one that [`can_be_wrong`](Proof::can_be_wrong).
    pub proof: Proof,
}

/// The range and filters that a checkpoint speaks of. Here belongs what says
/// which events there are: stored with the checkpoint, which would be a lie for
/// another selection, and so refused when it changes (`RANGE_MISMATCH`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The keys.
    pub range: KeyRange,
    /// Puts are left out.
    pub no_put: bool,
    /// Deletions are left out.
    pub no_delete: bool,
}

/// What tells one etcd history from another.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct History {
    /// 0: not known yet. Survives a restore with the same flags, so it proves
    /// nothing when it is equal.
    pub cluster_id: u64,
    /// The highest term seen in a linearizable answer; 0: none.
    pub raft_term: u64,
    /// The last event or snapshot pair at or below the checkpoint, if known.
    pub fingerprint: Option<Fingerprint>,
}

/// What one key looked like at the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// The key.
    pub key: Bytes,
    /// The revision that changed it last, at or below the checkpoint.
    pub mod_revision: Revision,
    /// Whether that revision deleted it.
    pub deleted: bool,
}

/// On what evidence a position rests. How strong each is, and how another is
/// added, is in `subscription::idle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// There was none.
    Fresh,
    /// The subscriber acknowledged it.
    Acked,
    /// etcd certified it on the watch's own stream.
    Progress,
    /// The delay rule assumed it, which can be wrong.
    Delay,
}

impl Proof {
    /// Whether an event may come that it said there was none of: such a proof
    /// moves no checkpoint, but [`Record::assumed`].
    pub const fn can_be_wrong(self) -> bool {
        matches!(self, Self::Delay)
    }
}

/// Why a snapshot is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotReason {
    /// There is no checkpoint yet.
    First,
    /// The history after the checkpoint is compacted.
    Compacted,
    /// The checkpoint belongs to another history.
    HistoryReplaced,
    /// An operator asked for it.
    Requested,
}
