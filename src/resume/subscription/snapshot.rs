//! The state of the range at one revision, when there is no history to resume.

use std::collections::VecDeque;

use super::{
    Phase, Subscription,
    opening::{Plan, Source},
    session::Opened,
    watching::fingerprint,
};
use crate::resume::{
    Fingerprint, Header, Item, Message, Revision, SnapshotReason, StreamState, Time,
    batch::Assembler, history::Suspicion,
};

/// Where a chunk ends, unless a single pair is larger.
const CHUNK_BYTES_SOFT: usize = 128 * 1024;

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshotting<K> {
    reason: SnapshotReason,
    compact_revision: Option<Revision>,
    /// The revision it is pinned to, once etcd has said it.
    revision: Option<Revision>,
    begin_sent: bool,
    kvs: VecDeque<K>,
    /// Every pair was read.
    is_whole: bool,
    count: u64,
    /// The newest pair's.
    newest: Option<Fingerprint>,
    newest_revision: Option<Revision>,
}

impl<K: Item> Snapshotting<K> {
    pub(super) const fn new(reason: SnapshotReason, compact_revision: Option<Revision>) -> Self {
        Self {
            reason,
            compact_revision,
            revision: None,
            begin_sent: false,
            kvs: VecDeque::new(),
            is_whole: false,
            count: 0,
            newest: None,
            newest_revision: None,
        }
    }

    /// The same again.
    pub(super) const fn plan(&self) -> Plan {
        Plan::Snapshot {
            reason: self.reason,
            compact_revision: self.compact_revision,
        }
    }

    /// Whether anything waits to be delivered.
    pub(super) fn is_waiting(&self) -> bool {
        (self.revision.is_some() && !self.begin_sent) || !self.kvs.is_empty() || self.is_whole
    }

    fn take_in(&mut self, kvs: Vec<K>) {
        for kv in &kvs {
            if Some(kv.mod_revision()) > self.newest_revision {
                self.newest_revision = Some(kv.mod_revision());
                self.newest = fingerprint(kv);
            }
        }
        self.count += kvs.len() as u64;
        self.kvs.extend(kvs);
    }

    /// The next message, if any waits.
    fn next_message<E>(&mut self) -> Option<Message<E, K>> {
        let revision = self.revision?;
        if !self.begin_sent {
            self.begin_sent = true;
            return Some(Message::SnapshotBegin {
                revision,
                reason: self.reason,
                compact_revision: self.compact_revision,
            });
        }
        if !self.kvs.is_empty() {
            let mut bytes = 0;
            let fitting = self.kvs.iter().take_while(|kv| {
                bytes += kv.size_bytes();
                bytes <= CHUNK_BYTES_SOFT
            });
            let count = fitting.count().max(1);
            return Some(Message::SnapshotChunk(self.kvs.drain(..count).collect()));
        }
        self.is_whole.then_some(Message::SnapshotEnd {
            revision,
            count: self.count,
        })
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    pub(super) fn snapshot_begun(&mut self, header: Header, now: Time) {
        let Phase::Snapshotting(snapshot) = &mut self.phase else {
            return;
        };
        // Below what was delivered, it would take the subscriber backwards.
        let position = self
            .ledger
            .delivered()
            .max(self.writes.current_checkpoint());
        if position > Some(header.revision) {
            let plan = snapshot.plan();
            return if self.suspicion.confirm(now) {
                self.replaced(Source::Delivered);
            } else {
                self.wait(plan, now + Suspicion::REPEAT_AFTER);
            };
        }
        snapshot.revision = Some(header.revision);
        self.suspicion.clear();
        self.seen.cluster_id = header.cluster_id;
        self.seen.raft_term = header.raft_term;
        self.set_opened(Opened::BEFORE_SNAPSHOT);
        self.set_state(StreamState::CatchingUp);
    }

    pub(super) fn snapshot_page(&mut self, kvs: Vec<K>) {
        if let Phase::Snapshotting(snapshot) = &mut self.phase {
            snapshot.take_in(kvs);
        }
    }

    pub(super) fn snapshot_ended(&mut self) {
        if let Phase::Snapshotting(snapshot) = &mut self.phase {
            snapshot.is_whole = snapshot.revision.is_some();
        }
    }

    /// Compaction overtook the snapshot: it starts again.
    pub(super) fn snapshot_compacted(&mut self, compact_revision: Option<Revision>, now: Time) {
        if let Phase::Snapshotting(snapshot) = &mut self.phase {
            if snapshot.reason == SnapshotReason::Compacted {
                snapshot.compact_revision = compact_revision.or(snapshot.compact_revision);
            }
            let plan = snapshot.plan();
            let at = now + self.backoff.next_delay();
            self.wait(plan, at);
        }
    }

    /// The next message of the snapshot that is being read. After its end,
    /// the watch follows.
    pub(super) fn next_snapshot_message(&mut self, now: Time) -> Option<Message<E, K>> {
        let Phase::Snapshotting(snapshot) = &mut self.phase else {
            return None;
        };
        let message = snapshot.next_message()?;
        if let Message::SnapshotEnd { revision, .. } = message {
            let newest = snapshot.newest.take();
            self.ledger.deliver_snapshot(revision, newest, now);
            self.assembler = Assembler::new(Some(revision));
            self.backoff.reset();
        }
        Some(message)
    }
}
