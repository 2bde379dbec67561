//! A store of several subscriptions: what is written is lost with the process
//! until it is flushed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use tokio::sync::{oneshot, watch};
use watchmark::{
    resume::{ClientId, Record},
    store::{CheckpointStore, Committed, StoreError},
};

use crate::{etcd::Etcd, sessions::Shared};

/// The disk, and what is on its way to it.
pub(crate) struct SimStore {
    inner: Mutex<Inner>,
    etcd: Shared<Etcd>,
    ready: watch::Sender<bool>,
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

#[derive(Default)]
struct Inner {
    durable: BTreeMap<ClientId, Record>,
    waiting: VecDeque<(ClientId, Record, Answer)>,
    /// At or below it everything in range is acknowledged.
    settled: BTreeMap<ClientId, i64>,
    /// Who had a stream that begins at etcd's newest revision, without a position.
    begin_at_newest: BTreeSet<ClientId>,
    panics_on_put: bool,
}

impl SimStore {
    pub(crate) fn new(etcd: Shared<Etcd>) -> Self {
        Self {
            inner: Mutex::default(),
            etcd,
            ready: watch::Sender::new(true),
        }
    }

    pub(crate) fn checkpoint(&self, client_id: &ClientId) -> Option<i64> {
        let inner = self.lock();
        let record = inner.durable.get(client_id)?;
        record.checkpoint.map(|at| at.get())
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Everything in range up to `revision` is acknowledged.
    pub(crate) fn settle(&self, client_id: &ClientId, revision: i64) {
        let mut inner = self.lock();
        let settled = inner.settled.entry(client_id.clone()).or_default();
        *settled = (*settled).max(revision);
    }

    /// A new stream that has no position begins at etcd's newest revision;
    /// that may be written even after a newer stream took over.
    pub(crate) fn may_begin_at_newest(&self, client_id: &ClientId) {
        self.lock().begin_at_newest.insert(client_id.clone());
    }

    /// The next write panics in the task that asks for it.
    pub(crate) fn panic_on_next_put(&self, panics: bool) {
        self.lock().panics_on_put = panics;
    }

    /// The oldest write reaches the disk, or does not.
    pub(crate) fn flush_one(&self, ok: bool) -> bool {
        let mut inner = self.lock();
        let Some((client_id, record, done)) = inner.waiting.pop_front() else {
            return false;
        };
        let answer = if ok {
            inner.durable.insert(client_id, record);
            Ok(())
        } else {
            Err(StoreError::Unavailable {
                path: "memory".into(),
                cause: "full".into(),
            })
        };
        // Whoever asked may be gone.
        let _ = done.send(answer);
        true
    }

    /// The process is gone; what was on its way is lost but for so many writes.
    pub(crate) fn crash(&self, kept: usize) {
        for _ in 0..kept {
            self.flush_one(true);
        }
        self.lock().waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl CheckpointStore for SimStore {
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError> {
        Ok(self.lock().durable.get(client_id).cloned())
    }

    fn client_ids(&self) -> Vec<ClientId> {
        self.lock().durable.keys().cloned().collect()
    }

    fn count(&self) -> usize {
        self.lock().durable.len()
    }

    fn put(&self, client_id: &ClientId, record: Record) -> Committed {
        let mut inner = self.lock();
        let panics = std::mem::take(&mut inner.panics_on_put);
        assert!(!panics, "a bug, as the world ordered");
        let is_waiting = inner.waiting.iter().any(|(of, ..)| of == client_id);
        assert!(!is_waiting, "one write at a time");
        let durable = inner.durable.get(client_id);
        let before = durable.and_then(|record| record.checkpoint);
        assert!(before <= record.checkpoint, "P8: {before:?} falls");
        if let Some(at) = record.checkpoint.map(|at| at.get()) {
            let settled = inner.settled.get(client_id).copied().unwrap_or(0);
            let from = settled.max(before.map_or(0, |at| at.get()));
            let skipped = self.etcd.lock().events(0, from, at);
            let begins = before.is_none() && inner.begin_at_newest.contains(client_id);
            assert!(begins || skipped.is_empty(), "P8: {at} passes {skipped:?}");
        }
        let (done, committed) = oneshot::channel();
        inner.waiting.push_back((client_id.clone(), record, done));
        committed
    }

    fn remove(&self, _: &ClientId) -> Committed {
        unreachable!("nobody asked for that")
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}
