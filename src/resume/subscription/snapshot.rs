//! The state of the range at one revision, when there is no history to resume.

use std::collections::VecDeque;

use super::{
    Phase, Subscription,
    opening::{Plan, Source},
    watching::fingerprint,
};
use crate::resume::{
    Fingerprint, Header, Item, Message, Revision, SnapshotReason, StreamState, Time,
    batch::Assembler,
};

/// Where a chunk ends, unless a single pair is larger.
const CHUNK_BYTES_SOFT: usize = 128 * 1024;

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshotting<E, K> {
    pub(super) plan: Plan,
    /// The revision it is pinned to.
    revision: Revision,
    /// What is to be delivered of it.
    pub(super) messages: VecDeque<Message<E, K>>,
    count: u64,
    /// The newest pair's.
    newest: Option<Fingerprint>,
    newest_revision: Option<Revision>,
}

impl<E, K: Item> Snapshotting<E, K> {
    pub(super) fn page(&mut self, kvs: Vec<K>) {
        let mut bytes = CHUNK_BYTES_SOFT;
        for kv in kvs {
            if Some(kv.mod_revision()) > self.newest_revision {
                self.newest_revision = Some(kv.mod_revision());
                self.newest = fingerprint(&kv);
            }
            self.count += 1;
            bytes += kv.size_bytes();
            match self.messages.back_mut() {
                Some(Message::SnapshotChunk(chunk)) if bytes <= CHUNK_BYTES_SOFT => chunk.push(kv),
                _ => {
                    bytes = kv.size_bytes();
                    self.messages.push_back(Message::SnapshotChunk(vec![kv]));
                }
            }
        }
    }

    /// Every pair was read.
    pub(super) fn ended(&mut self) {
        self.messages.push_back(Message::SnapshotEnd {
            revision: self.revision,
            count: self.count,
        });
    }
}

impl<E: Item, K: Item> Subscription<E, K> {
    pub(super) fn snapshot_begun(
        &mut self,
        reason: SnapshotReason,
        compact_revision: Option<Revision>,
        header: Header,
        now: Time,
    ) {
        let plan = Plan::Snapshot {
            reason,
            compact_revision,
        };
        let revision = header.revision;
        // Below what was delivered, it would take the subscriber backwards.
        let delivered = self.ledger.delivered();
        if delivered.max(self.writes.current_checkpoint()) > Some(revision) {
            return self.behind(Source::Delivered, plan, now);
        }
        self.suspicion.clear();
        self.seen.cluster_id = header.cluster_id;
        self.seen.raft_term = header.raft_term;
        self.set_opened(None);
        self.set_state(StreamState::CatchingUp);
        let begin = Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        };
        self.phase = Phase::Snapshotting(Snapshotting {
            plan,
            revision,
            messages: [begin].into(),
            count: 0,
            newest: None,
            newest_revision: None,
        });
    }

    /// Compaction overtook the snapshot: it starts again.
    pub(super) fn snapshot_compacted(&mut self, now_known: Option<Revision>, now: Time) {
        if let Some(Plan::Snapshot {
            reason,
            compact_revision,
        }) = self.plan()
        {
            let known = now_known.filter(|_| reason == SnapshotReason::Compacted);
            let plan = Plan::Snapshot {
                reason,
                compact_revision: known.or(compact_revision),
            };
            self.back_off(plan, now);
        }
    }

    /// The next message of the snapshot that is being read. After its end,
    /// the watch follows.
    pub(super) fn next_snapshot_message(&mut self, now: Time) -> Option<Message<E, K>> {
        let Phase::Snapshotting(snapshot) = &mut self.phase else {
            return None;
        };
        let message = snapshot.messages.pop_front()?;
        if let Message::SnapshotEnd { revision, .. } = message {
            let newest = snapshot.newest.take();
            self.ledger.deliver_snapshot(revision, newest, now);
            self.assembler = Assembler::new(Some(revision));
            self.backoff.reset();
        }
        Some(message)
    }
}
