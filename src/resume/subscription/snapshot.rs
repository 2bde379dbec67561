//! The state of the range at one revision, when there is no history to resume.

use std::collections::VecDeque;

use super::{
    Phase, Subscription,
    plan::{Loss, Plan, Source},
    watching::fingerprint,
};
use crate::resume::{
    Fingerprint, Header, Item, Message, Revision, SnapshotReason, StreamState, Time,
    batch::Assembler, history::is_another,
};

/// Where a chunk ends, unless a single pair is larger.
const CHUNK_BYTES_SOFT: usize = 128 * 1024;

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshotting<E, K> {
    pub(super) loss: Loss,
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
    pub(super) fn snapshot_begun(&mut self, loss: Loss, header: Header, now: Time) {
        let revision = header.revision;
        // Below what was delivered, it would take the subscriber backwards.
        let delivered = self.ledger.delivered();
        if delivered.max(self.writes.current_checkpoint()) > Some(revision) {
            return self.behind(Source::Delivered, Plan::Snapshot(loss), now);
        }
        // A new history may be compacted too: the guard could not tell.
        if loss.reason == SnapshotReason::Compacted && is_another(&self.seen, header) {
            return self.behind(Source::Delivered, Plan::Snapshot(loss), now);
        }
        self.suspicion.clear();
        self.seen.cluster_id = header.cluster_id;
        self.seen.raft_term = header.raft_term;
        self.set_opened(None);
        self.set_state(StreamState::CatchingUp);
        let begin = Message::SnapshotBegin {
            revision,
            reason: loss.reason,
            compact_revision: loss.compact_revision,
        };
        self.phase = Phase::Snapshotting(Snapshotting {
            loss,
            revision,
            messages: [begin].into(),
            count: 0,
            newest: None,
            newest_revision: None,
        });
    }

    /// Compaction overtook the snapshot: it starts again.
    pub(super) fn snapshot_compacted(&mut self, at: Option<Revision>, now: Time) {
        if let Some(Plan::Snapshot(mut loss)) = self.plan() {
            let at = at.filter(|_| loss.reason == SnapshotReason::Compacted);
            loss.compact_revision = at.or(loss.compact_revision);
            self.back_off(Plan::Snapshot(loss), now);
        }
    }

    /// Sends the next message of the snapshot. After its end, the watch follows.
    pub(super) fn deliver_snapshot(&mut self, now: Time) {
        if let Phase::Snapshotting(snapshot) = &mut self.phase
            && let Some(message) = snapshot.messages.pop_front()
        {
            let is_end = matches!(message, Message::SnapshotEnd { .. });
            let revision = snapshot.revision;
            let newest = snapshot.newest.take_if(|_| is_end);
            self.send(message, now);
            if is_end {
                self.ledger.deliver_snapshot(revision, newest, now);
                self.assembler = Assembler::new(Some(revision));
                self.backoff.reset();
                self.begin_attempt(Plan::watch(revision, Source::Delivered));
            }
        }
    }
}
