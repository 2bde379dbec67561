//! The one thread that writes.
//!
//! Takes whatever changes wait, writes them as one group, and answers each
//! once the tree and the witness hold it durably. While the disk refuses, it
//! answers everything with the refusal, at once, and opens the store again
//! until that works.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use super::{
    StoreError,
    directory::Directory,
    fault::{DiskSync, Fault},
    opening::{self, OpenStore},
    rows::{Change, Contents, Group},
    sled::Tree,
    witness::Witness,
};
use crate::metrics;

/// Changes that may wait: several of each of the 1,000 subscriptions that are
/// the default limit. A committer this far behind is not going to catch up.
pub(super) const QUEUED_CHANGES_MAX: usize = 8192;
/// More per group gains nothing: the syncs are shared by 1,000 already.
const GROUP_CHANGES_MAX: usize = 1024;
/// Bounds what is encoded twice in memory, however large the keys are.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Between attempts to open a failed store again; doubles.
const REOPEN_AFTER_MIN: Duration = Duration::from_millis(100);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);

/// A disk that owes an answer for so long is in trouble, whatever it says later.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// A change and who waits for it.
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// What the thread and the callers both see.
pub(super) struct Shared {
    /// Exactly what is durable. Locked for moments only, by nobody who waits.
    contents: RwLock<Contents>,
    ready: watch::Sender<bool>,
    /// Why not, and since when.
    trouble: Mutex<Option<(StoreError, SystemTime)>>,
    /// Since when the disk owes an answer; `None`: it owes none.
    asked: Mutex<Option<(Instant, SystemTime)>>,
    path: String,
}

impl Shared {
    pub(super) fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> T {
        read(&self.contents.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, write: impl FnOnce(&mut Contents)) {
        write(
            &mut self
                .contents
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    pub(super) fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    pub(super) fn trouble(&self) -> Option<(StoreError, SystemTime)> {
        let trouble = self.trouble.lock();
        let trouble = trouble.unwrap_or_else(PoisonError::into_inner).clone();
        trouble.or_else(|| self.hanging())
    }

    /// The thread that would say so waits for the disk itself.
    fn hanging(&self) -> Option<(StoreError, SystemTime)> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, since) = asked.filter(|(at, _)| at.elapsed() >= HANGS_AFTER)?;
        let error = StoreError::Unavailable {
            path: self.path.clone(),
            cause: "the disk does not answer".to_owned(),
        };
        Some((error, since))
    }

    fn set_asked(&self, asked: Option<(Instant, SystemTime)>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    fn set_trouble(&self, error: Option<StoreError>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let since = trouble.as_ref().map_or_else(SystemTime::now, |it| it.1);
        *trouble = error.map(|error| (error, since));
    }
}

enum State {
    Writing {
        tree: Tree,
        witness: Witness,
    },
    Failed {
        error: StoreError,
        retry_at: Instant,
        retry_after: Duration,
    },
}

/// What runs in the thread.
pub(super) struct Committer {
    directory: Directory,
    sync: Arc<dyn DiskSync>,
    jobs: Receiver<Box<Job>>,
    shared: Arc<Shared>,
    metrics: metrics::Store,
    state: State,
}

impl Committer {
    pub(super) fn new(
        directory: Directory,
        sync: Arc<dyn DiskSync>,
        jobs: Receiver<Box<Job>>,
        store: OpenStore,
        metrics: metrics::Store,
    ) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared {
            contents: RwLock::new(store.contents),
            ready: watch::Sender::new(true),
            trouble: Mutex::default(),
            asked: Mutex::default(),
            path: directory.data_dir().display().to_string(),
        });
        let committer = Self {
            directory,
            sync,
            jobs,
            shared: Arc::clone(&shared),
            metrics,
            state: State::Writing {
                tree: store.tree,
                witness: store.witness,
            },
        };
        (committer, shared)
    }

    /// Works until every sender of jobs is gone and the queue is empty.
    pub(super) fn run(mut self) {
        // Tells the callers even if this thread panics.
        let _not_ready = NotReadyOnDrop(Arc::clone(&self.shared));
        loop {
            let next = match &self.state {
                State::Writing { .. } => {
                    self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
                State::Failed { retry_at, .. } => {
                    let wait = retry_at.saturating_duration_since(Instant::now());
                    // Not even a full queue keeps the store from healing.
                    if wait.is_zero() {
                        Err(RecvTimeoutError::Timeout)
                    } else {
                        self.jobs.recv_timeout(wait)
                    }
                }
            };
            match next {
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) => self.reopen(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let State::Writing { tree, .. } = self.state {
            tree.close();
        }
    }

    fn work(&mut self, first: Box<Job>) {
        if let State::Failed { error, .. } = &self.state {
            answer([first.done], &Err(error.clone()));
            return;
        }
        let (changes, waiting) = self.collect(first);
        let group = self.shared.read(|contents| contents.group(changes));
        let asked = (Instant::now(), SystemTime::now());
        self.shared.set_asked(Some(asked));
        let committed = self.commit(&group);
        self.shared.set_asked(None);
        match committed {
            Ok(()) => {
                self.shared.write(|contents| contents.accept(group));
                answer(waiting, &Ok(()));
            }
            Err(fault) => {
                let error = self.fail(fault);
                answer(waiting, &Err(error));
            }
        }
    }

    /// `first` and what else waits, as far as it fits a group.
    fn collect(&self, first: Box<Job>) -> (Vec<Change>, Vec<oneshot::Sender<Answer>>) {
        let mut changes = Vec::new();
        let mut waiting = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            let Job { change, done } = *job;
            bytes += change.write.as_ref().map_or(0, |(_, bytes)| bytes.len());
            changes.push(change);
            waiting.push(done);
            let is_full = changes.len() >= GROUP_CHANGES_MAX || bytes >= GROUP_BYTES_MAX;
            next = if is_full {
                None
            } else {
                self.jobs.try_recv().ok()
            };
        }
        (changes, waiting)
    }

    fn commit(&mut self, group: &Group) -> Result<(), Fault> {
        let State::Writing { tree, witness } = &mut self.state else {
            return Ok(());
        };
        let began = Instant::now();
        tree.write(&group.rows)?;
        witness.advance(group.commit, &*self.sync)?;
        self.metrics.flush.observe(began.elapsed());
        Ok(())
    }

    /// Stops writing. Whatever is wrong with the disk, trying again is right.
    fn fail(&mut self, fault: Fault) -> StoreError {
        let cause = match fault {
            Fault::Io { path, source } => format!("{}: {source}", path.display()),
            Fault::Corrupt { path, cause } => format!("{}: {cause}", path.display()),
            Fault::Locked | Fault::Newer { .. } => format!("{fault:?}"),
        };
        let error = StoreError::Unavailable {
            path: self.directory.data_dir().display().to_string(),
            cause,
        };
        self.shared.set_trouble(Some(error.clone()));
        self.shared.ready.send_replace(false);
        error!(%error, "checkpoint store takes no writes");
        let failed = State::Failed {
            error: error.clone(),
            retry_at: Instant::now() + REOPEN_AFTER_MIN,
            retry_after: REOPEN_AFTER_MIN,
        };
        if let State::Writing { tree, .. } = mem::replace(&mut self.state, failed) {
            tree.close();
        }
        error
    }

    fn reopen(&mut self) {
        let State::Failed {
            error, retry_after, ..
        } = &self.state
        else {
            return;
        };
        match opening::reopen(&self.directory, &self.sync) {
            Ok(store) => {
                self.shared.write(|contents| *contents = store.contents);
                self.state = State::Writing {
                    tree: store.tree,
                    witness: store.witness,
                };
                self.shared.set_trouble(None);
                self.shared.ready.send_replace(true);
                info!("checkpoint store takes writes again");
            }
            Err(fault) => {
                let retry_after = (*retry_after * 2).min(REOPEN_AFTER_MAX);
                let new = fault.into_error(self.directory.data_dir());
                if new != *error {
                    self.shared.set_trouble(Some(new.clone()));
                    error!(error = %new, "checkpoint store cannot be opened again");
                }
                self.state = State::Failed {
                    error: new,
                    retry_at: Instant::now() + retry_after,
                    retry_after,
                };
            }
        }
    }
}

type Answer = Result<(), StoreError>;

fn answer(waiting: impl IntoIterator<Item = oneshot::Sender<Answer>>, answer: &Answer) {
    for done in waiting {
        // Nobody waits any more: the change is as durable without.
        let _ = done.send(answer.clone());
    }
}

struct NotReadyOnDrop(Arc<Shared>);

impl Drop for NotReadyOnDrop {
    fn drop(&mut self) {
        self.0.ready.send_replace(false);
    }
}
