//! An event for tests that need no keys.

use bytes::Bytes;

use super::{Item, Revision};

/// An event of a revision; `id` tells it from others of the same revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Event {
    pub(super) at: i64,
    pub(super) id: usize,
    pub(super) bytes: usize,
}

static KEY: Bytes = Bytes::from_static(b"key");

impl Item for Event {
    fn key(&self) -> &Bytes {
        &KEY
    }
    fn mod_revision(&self) -> Revision {
        revision(self.at)
    }
    fn size_bytes(&self) -> usize {
        self.bytes
    }
    fn is_delete(&self) -> bool {
        false
    }
}

pub(super) fn revision(at: i64) -> Revision {
    Revision::new(at).unwrap()
}
