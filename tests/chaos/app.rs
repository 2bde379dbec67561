//! The state an application builds from what it receives.

use std::collections::BTreeMap;

use bytes::Bytes;
use watchmark::proto::watchmark::v1::{
    Event, KeyValue, event::EventType, subscribe_response::Message,
};

/// A key's newest change: its revision, and the value unless it is deleted.
type Change = (i64, Option<Bytes>);

/// What an application keeps over its crashes. What it receives again, or from
/// two streams, changes nothing: every change of a key has its revision.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// Which history of etcd the changes are from.
    epoch: usize,
    /// The newest snapshot: older changes, which the stream of a twin may
    /// still bring, are in it.
    snapshot_at: i64,
    changes_by_key: BTreeMap<Bytes, Change>,
}

/// The part of the state that one stream is sending.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Everything in range up to here was received on this stream or before
    /// it; 0: no position yet.
    pub(crate) position: i64,
    snapshot: Option<Vec<KeyValue>>,
}

impl App {
    /// A message of a stream on history `epoch`. Returns how many events it
    /// had, if it ends a unit that can be acknowledged.
    pub(crate) fn process(
        &mut self,
        epoch: usize,
        reading: &mut Reading,
        message: Message,
    ) -> Option<usize> {
        match message {
            Message::Opened(opened) => {
                reading.position = opened.checkpoint;
                None
            }
            Message::Events(batch) => {
                let count = batch.events.len();
                for event in batch.events {
                    self.change(epoch, event);
                }
                if batch.partial {
                    return None;
                }
                reading.position = batch.revision;
                Some(count)
            }
            Message::SnapshotBegin(_) => {
                reading.snapshot = Some(Vec::new());
                None
            }
            Message::SnapshotChunk(chunk) => {
                let kvs = reading.snapshot.as_mut().expect("a begin before");
                kvs.extend(chunk.kvs);
                None
            }
            Message::SnapshotEnd(end) => {
                let kvs = reading.snapshot.take().expect("a begin before");
                let count = kvs.len();
                self.replace(epoch, end.revision, kvs);
                reading.position = end.revision;
                Some(count)
            }
            Message::Progress(progress) => {
                reading.position = reading.position.max(progress.revision);
                None
            }
            Message::State(state) => {
                reading.position = reading.position.max(state.revision);
                None
            }
        }
    }

    fn change(&mut self, epoch: usize, event: Event) {
        let is_delete = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else { return };
        if epoch < self.epoch || kv.mod_revision <= self.snapshot_at {
            return;
        }
        self.set(kv.key, kv.mod_revision, (!is_delete).then_some(kv.value));
    }

    fn set(&mut self, key: Bytes, revision: i64, value: Option<Bytes>) {
        let change = self.changes_by_key.entry(key).or_insert((0, None));
        if change.0 <= revision {
            *change = (revision, value);
        }
    }

    fn replace(&mut self, epoch: usize, at: i64, kvs: Vec<KeyValue>) {
        if epoch > self.epoch {
            // Revisions of the old history mean nothing any more.
            self.changes_by_key.clear();
            self.snapshot_at = 0;
        }
        if epoch < self.epoch || at < self.snapshot_at {
            return;
        }
        self.epoch = epoch;
        self.snapshot_at = at;
        for (revision, value) in self.changes_by_key.values_mut() {
            if *revision <= at {
                *value = None;
            }
        }
        for kv in kvs {
            self.set(kv.key, kv.mod_revision, Some(kv.value));
        }
    }

    /// Every key that exists, with its revision and value.
    pub(crate) fn state(&self) -> BTreeMap<Bytes, (i64, Bytes)> {
        let changes = self.changes_by_key.iter();
        changes
            .filter_map(|(key, (revision, value))| Some((key.clone(), (*revision, value.clone()?))))
            .collect()
    }
}
