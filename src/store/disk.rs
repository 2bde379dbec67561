//! The store on disk, as its callers see it: a bounded queue in front of the
//! committer, and the durable records in memory.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::SystemTime,
};

use tokio::sync::{oneshot, watch};

use super::{
    CheckpointStore, Committed, OnCorruptStore, StoreError,
    committer::{Committer, Job, QUEUED_CHANGES_MAX, Shared},
    directory::Directory,
    fault::{DiskSync, Fault, FdataSync},
    opening, record,
    rows::{Change, Contents},
};
use crate::{
    metrics,
    resume::{ClientId, Record},
};

/// Checkpoints on disk. Dropping it writes what is queued, waits for that, and
/// gives the directory back.
pub struct DiskStore {
    path: String,
    shared: Arc<Shared>,
    quarantined: Option<PathBuf>,
    /// Both are taken on drop only.
    jobs: Option<SyncSender<Box<Job>>>,
    committer: Option<JoinHandle<()>>,
}

impl DiskStore {
    /// Opens the store in `data_dir`, or creates both. Blocks while it reads
    /// and verifies everything: 10,000 records take about 0.1 s.
    ///
    /// # Errors
    /// Every [`StoreError`] but `Refused`; `Unavailable` when the disk is too
    /// full even to open it. Nothing was overwritten.
    pub fn open(data_dir: &Path, on_corrupt: OnCorruptStore) -> Result<Self, StoreError> {
        Self::open_measured(data_dir, on_corrupt, metrics::Store::default())
    }

    /// As [`DiskStore::open`]; `metrics` is what is counted.
    ///
    /// # Errors
    /// As [`DiskStore::open`].
    pub fn open_measured(
        data_dir: &Path,
        on_corrupt: OnCorruptStore,
        metrics: metrics::Store,
    ) -> Result<Self, StoreError> {
        Self::start(data_dir, on_corrupt, Arc::new(FdataSync), metrics)
            .map_err(|fault| fault.into_error(data_dir))
    }

    /// As [`DiskStore::open`], with another idea of what makes a file durable. For tests.
    ///
    /// # Errors
    /// As [`DiskStore::open`].
    pub fn open_with_sync(
        data_dir: &Path,
        on_corrupt: OnCorruptStore,
        sync: Arc<dyn DiskSync>,
    ) -> Result<Self, StoreError> {
        Self::start(data_dir, on_corrupt, sync, metrics::Store::default())
            .map_err(|fault| fault.into_error(data_dir))
    }

    fn start(
        data_dir: &Path,
        on_corrupt: OnCorruptStore,
        sync: Arc<dyn DiskSync>,
        metrics: metrics::Store,
    ) -> Result<Self, Fault> {
        let directory = Directory::lock(data_dir)?;
        let (store, quarantined) = match on_corrupt {
            OnCorruptStore::Fail => (opening::open(&directory, &sync)?, None),
            OnCorruptStore::Quarantine => opening::open_or_quarantine(&directory, &sync)?,
        };
        // Boxed: the channel allocates, and touches, all its places at once.
        let (jobs, queue) = sync_channel(QUEUED_CHANGES_MAX);
        let (committer, shared) = Committer::new(directory, sync, queue, store, metrics);
        let committer = thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|err: io::Error| Fault::io(data_dir, err))?;
        Ok(Self {
            path: data_dir.display().to_string(),
            shared,
            quarantined,
            jobs: Some(jobs),
            committer: Some(committer),
        })
    }

    /// Where a corrupt store was moved to when this one was opened.
    pub fn quarantined(&self) -> Option<&Path> {
        self.quarantined.as_deref()
    }

    fn submit(&self, client_id: &ClientId, write: Option<(Record, Vec<u8>)>) -> Committed {
        let (done, committed) = oneshot::channel();
        let job = Box::new(Job {
            change: Change {
                client_id: client_id.clone(),
                write,
            },
            done,
        });
        let Some(jobs) = &self.jobs else {
            return committed;
        };
        let (job, cause) = match jobs.try_send(job) {
            Ok(()) => return committed,
            Err(TrySendError::Full(job)) => {
                (job, format!("{QUEUED_CHANGES_MAX} changes are waiting"))
            }
            Err(TrySendError::Disconnected(job)) => {
                (job, "its thread has stopped, restart watchmark".to_owned())
            }
        };
        refuse(
            job.done,
            StoreError::Unavailable {
                path: self.path.clone(),
                cause,
            },
        );
        committed
    }
}

fn refuse(done: oneshot::Sender<Result<(), StoreError>>, error: StoreError) {
    // The receiver is in the caller's hand, or already dropped.
    let _ = done.send(Err(error));
}

impl CheckpointStore for DiskStore {
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError> {
        Ok(self
            .shared
            .read(|contents| contents.record(client_id).cloned()))
    }

    fn client_ids(&self) -> Vec<ClientId> {
        self.shared.read(Contents::client_ids)
    }

    fn count(&self) -> usize {
        self.shared.read(Contents::count)
    }

    fn put(&self, client_id: &ClientId, record: Record) -> Committed {
        match record::encode(client_id, &record, SystemTime::now()) {
            Ok(bytes) => self.submit(client_id, Some((record, bytes))),
            Err(cause) => {
                let (done, committed) = oneshot::channel();
                let client_id = client_id.clone();
                refuse(done, StoreError::Refused { client_id, cause });
                committed
            }
        }
    }

    fn remove(&self, client_id: &ClientId) -> Committed {
        self.submit(client_id, None)
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.shared.readiness()
    }

    fn trouble(&self) -> Option<(StoreError, SystemTime)> {
        self.shared.trouble()
    }

    fn is_alive(&self) -> bool {
        let committer = self.committer.as_ref();
        committer.is_some_and(|committer| !committer.is_finished())
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(committer) = self.committer.take() {
            // It panicked: its message is on stderr, and there is nobody to tell.
            let _ = committer.join();
        }
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore")
            .field("path", &self.path)
            .field("commit", &self.shared.read(Contents::commit))
            .finish_non_exhaustive()
    }
}
