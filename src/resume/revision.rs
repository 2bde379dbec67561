//! etcd's revision.

use std::fmt;

/// A revision of etcd's store: always above zero.
///
/// One revision is one change of the store: a put, a transaction, a
/// `DeleteRange` or a lease expiry, with all the keys that it touched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(i64);

impl Revision {
    /// `None` unless `revision` is above zero.
    pub const fn new(revision: i64) -> Option<Self> {
        if revision > 0 {
            Some(Self(revision))
        } else {
            None
        }
    }

    /// The number, as etcd writes it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The revision after this one: where a watch starts that continues here.
    pub const fn successor(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// `position` as a number on the wire, where 0 means none.
    pub fn to_wire(position: Option<Self>) -> i64 {
        position.map_or(0, Self::get)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
