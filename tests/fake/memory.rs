//! A store that forgets: the same contract as on disk (`tests/store/contract.rs`
//! holds both to it), and writes that can be held back or made to fail.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};

use watchmark::{
    resume::{ClientId, Record},
    store::{self, CheckpointStore, Committed, StoreError},
};

/// Checkpoints in memory.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    records_by_client_id: BTreeMap<ClientId, Record>,
    held: VecDeque<Held>,
    holds: Holds,
    failure: Option<StoreError>,
}

/// Which changes are held back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Holds {
    #[default]
    None,
    Puts,
    All,
}

#[derive(Debug)]
struct Held {
    client_id: ClientId,
    write: Option<Record>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that takes writes.
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            ready: watch::Sender::new(true),
        }
    }

    /// Answers no change until [`MemoryStore::release`] or [`MemoryStore::release_one`].
    pub(crate) fn hold(&self) {
        self.lock().holds = Holds::All;
    }

    /// As [`MemoryStore::hold`], but removals go through.
    pub(crate) fn hold_puts(&self) {
        self.lock().holds = Holds::Puts;
    }

    /// Makes what was held back durable, in order, and holds nothing back any more.
    pub(crate) fn release(&self) {
        self.lock().holds = Holds::None;
        while self.release_one() {}
    }

    /// Makes the oldest change that was held back durable, or fails it if the
    /// store fails; says whether there was one.
    pub(crate) fn release_one(&self) -> bool {
        let mut inner = self.lock();
        let Some(held) = inner.held.pop_front() else {
            return false;
        };
        inner.apply(held);
        true
    }

    /// How many changes are being held back.
    pub(crate) fn held_count(&self) -> usize {
        self.lock().held.len()
    }

    /// Fails what is held back and every change from now on with
    /// [`StoreError::Unavailable`]; not ready. Reads go on.
    pub(crate) fn fail(&self, cause: &str) {
        let mut inner = self.lock();
        inner.failure = Some(StoreError::Unavailable {
            path: "memory".to_owned(),
            cause: cause.to_owned(),
        });
        while let Some(held) = inner.held.pop_front() {
            inner.apply(held);
        }
        self.ready.send_replace(false);
    }

    /// Takes writes again.
    pub(crate) fn recover(&self) {
        self.lock().failure = None;
        self.ready.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, client_id: &ClientId, write: Option<Record>) -> Committed {
        let (done, committed) = oneshot::channel();
        let job = Held {
            client_id: client_id.clone(),
            write,
            done,
        };
        let mut inner = self.lock();
        let is_held = match inner.holds {
            Holds::None => false,
            Holds::Puts => job.write.is_some(),
            Holds::All => true,
        };
        if is_held && inner.failure.is_none() {
            inner.held.push_back(job);
        } else {
            inner.apply(job);
        }
        committed
    }
}

impl Inner {
    fn apply(&mut self, job: Held) {
        let Held {
            client_id,
            write,
            done,
        } = job;
        let answer = match (&self.failure, write) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(record)) => match store::check(&record) {
                Ok(()) => {
                    self.records_by_client_id.insert(client_id, record);
                    Ok(())
                }
                Err(cause) => Err(StoreError::Refused { client_id, cause }),
            },
            (None, None) => {
                self.records_by_client_id.remove(&client_id);
                Ok(())
            }
        };
        // Nobody waits any more: the change counts all the same.
        let _ = done.send(answer);
    }
}

impl CheckpointStore for MemoryStore {
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError> {
        Ok(self.lock().records_by_client_id.get(client_id).cloned())
    }

    fn client_ids(&self) -> Vec<ClientId> {
        self.lock().records_by_client_id.keys().cloned().collect()
    }

    fn count(&self) -> usize {
        self.lock().records_by_client_id.len()
    }

    fn put(&self, client_id: &ClientId, record: Record) -> Committed {
        self.submit(client_id, Some(record))
    }

    fn remove(&self, client_id: &ClientId) -> Committed {
        self.submit(client_id, None)
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}
