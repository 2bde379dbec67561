//! What an attempt on etcd is for, and where the position comes from that it
//! begins at.

use crate::resume::{Proof, Revision, SnapshotReason};

/// What an attempt is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Read etcd's newest revision, then watch from there.
    Head,
    /// Watch from right after a position.
    Watch(Base),
    /// Read the range, then watch from right after its revision.
    Snapshot(Loss),
}

/// Why there is no history to resume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    pub(super) reason: SnapshotReason,
    /// etcd's compact_revision, if it is known and the reason.
    pub(super) compact_revision: Option<Revision>,
}

/// A position to watch from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    /// The watch starts right after it.
    pub(super) revision: Revision,
    pub(super) source: Source,
}

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The stored checkpoint.
    Checkpoint,
    /// What is stored as assumed, and why.
    Assumed(Proof),
    /// The subscriber's request.
    ResumeAfter,
    /// etcd's newest revision when the subscription began.
    Head,
    /// What this session delivered.
    Delivered,
}

impl Source {
    pub(super) const fn is_assumed(self) -> bool {
        matches!(self, Self::Assumed(_))
    }
}

impl From<SnapshotReason> for Loss {
    fn from(reason: SnapshotReason) -> Self {
        Self {
            reason,
            compact_revision: None,
        }
    }
}

impl Plan {
    pub(super) const fn watch(revision: Revision, source: Source) -> Self {
        Self::Watch(Base { revision, source })
    }
}
