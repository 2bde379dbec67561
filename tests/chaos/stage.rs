//! What everybody on the stage shares: which history of etcd is played, who is
//! on, and what subscribers are called to do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::sync::{RwLock, watch};

use crate::{
    plan::Journal,
    support::{
        etcd::Access,
        history::{Recorder, Tick, Truth, tick},
        wait,
    },
};

/// One history of etcd, and what was recorded of it.
#[derive(Clone)]
pub(crate) struct Epoch {
    pub(crate) number: usize,
    /// Up to this revision it is also the history of the epoch before.
    pub(crate) common: i64,
    pub(crate) recorder: Recorder,
    pub(crate) truth: Arc<Truth>,
}

/// What subscribers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Whatever they like.
    Play,
    /// The history is about to be replaced by one that ends here: leave if
    /// you have not got further, or have no position at all.
    Replace { common: i64 },
    /// Get to this revision and leave.
    CatchUp { to: i64 },
}

pub(crate) struct Stage {
    /// Held for reading by whoever opens a stream or writes: so the history is
    /// never replaced under them.
    pub(crate) epoch: RwLock<Epoch>,
    pub(crate) calls: watch::Sender<Call>,
    /// Whether writers write.
    pub(crate) writing: watch::Sender<bool>,
    pub(crate) etcd: Access,
    /// Where subscribers connect.
    pub(crate) doors: Vec<String>,
    pub(crate) journal: Journal,
    /// watchmark's process; 0: none.
    pub(crate) pid: AtomicU32,
    /// When watchmark forgot its sessions.
    restarts: Mutex<Vec<Tick>>,
    live: Mutex<BTreeMap<u64, Live>>,
    broken: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Live {
    epoch: usize,
    client_id: String,
    stays: Arc<AtomicBool>,
}

/// A live stream, until dropped.
pub(crate) struct OnStage {
    stage: Arc<Stage>,
    id: u64,
    stays: Arc<AtomicBool>,
}

impl Stage {
    pub(crate) fn new(
        truth: Arc<Truth>,
        etcd: Access,
        doors: Vec<String>,
        journal: Journal,
    ) -> Self {
        Self {
            epoch: RwLock::new(Epoch {
                number: 0,
                common: 0,
                recorder: Recorder::default(),
                truth,
            }),
            calls: watch::channel(Call::Play).0,
            writing: watch::channel(true).0,
            etcd,
            doors,
            journal,
            pid: AtomicU32::new(0),
            restarts: Mutex::default(),
            live: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// watchmark is about to stop or to start.
    pub(crate) fn restarting(&self) {
        self.restarts.lock().unwrap().push(tick());
    }

    /// When it did.
    pub(crate) fn restarts(&self) -> Vec<Tick> {
        self.restarts.lock().unwrap().clone()
    }

    /// A stream of this epoch was opened.
    pub(crate) fn enter(self: &Arc<Self>, epoch: usize, client_id: &str) -> OnStage {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let stays = Arc::new(AtomicBool::new(false));
        let live = Live {
            epoch,
            client_id: client_id.to_owned(),
            stays: Arc::clone(&stays),
        };
        self.live.lock().unwrap().insert(id, live);
        OnStage {
            stage: Arc::clone(self),
            id,
            stays,
        }
    }

    /// Waits until every live stream either ended or is to stay through the
    /// replacement. Returns how many stay.
    pub(crate) async fn all_answered(&self) -> usize {
        wait::until("subscribers to answer the call", async || {
            let live = self.live.lock().unwrap();
            live.values()
                .all(|live| live.stays.load(Ordering::SeqCst))
                .then_some(live.len())
        })
        .await
    }

    /// Whose streams of this epoch, or an earlier one, are live.
    pub(crate) fn live_until(&self, epoch: usize) -> Vec<String> {
        let live = self.live.lock().unwrap();
        let old = live.values().filter(|live| live.epoch <= epoch);
        old.map(|live| live.client_id.clone()).collect()
    }

    /// A promise, or the harness's own expectation, was broken.
    pub(crate) fn broken(&self, what: String) {
        self.journal.say(&format!("BROKEN {what}"));
        self.broken.lock().unwrap().push(what);
    }

    pub(crate) fn all_broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }
}

impl OnStage {
    /// The stream stays through the replacement of the history.
    pub(crate) fn stay(&self) {
        self.stays.store(true, Ordering::SeqCst);
    }
}

impl Drop for OnStage {
    fn drop(&mut self) {
        self.stage.live.lock().unwrap().remove(&self.id);
    }
}
