//! How the process is doing: for `/readyz`, `/metrics`, the status page and
//! the admin service, which all tell the same.
//!
//! Costs nothing while nobody asks; who asks at the same time, or within a
//! second, shares one answer. Decides nothing.

mod problems;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

pub use self::problems::{Problem, Reason};
use crate::{
    session::{Overview, Registry},
    store::CheckpointStore,
    upstream::{EtcdStatus, Upstream},
};

/// An answer this old is good enough, however many ask.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Tasks answer within milliseconds. One that hangs must not take the rest of
/// the answer with it.
const OVERVIEWS_TIMEOUT: Duration = Duration::from_secs(3);

/// Where answers come from.
pub struct Surveyor {
    sources: Sources,
    started_at: SystemTime,
    is_draining: watch::Sender<bool>,
    last: Mutex<Option<(Instant, Arc<Survey>)>>,
}

/// What a [`Surveyor`] asks.
pub struct Sources {
    /// The subscriptions.
    pub registry: Arc<Registry>,
    /// etcd.
    pub upstream: Arc<dyn Upstream>,
    /// The checkpoints.
    pub store: Arc<dyn CheckpointStore>,
    /// The certificates in use, as they are now.
    pub certificates: Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>,
    /// Where a corrupt store was moved to at the start.
    pub quarantined: Option<String>,
    /// `--max-subscriptions`.
    pub subscriptions_max: usize,
}

/// How the process is doing, at one moment.
#[derive(Clone, Debug)]
pub struct Survey {
    /// When that was.
    pub at: SystemTime,
    /// When the process began.
    pub started_at: SystemTime,
    /// Whether callers should come.
    pub readiness: Readiness,
    /// etcd.
    pub etcd: EtcdStatus,
    /// Every subscription, ordered by client_id; `None`: they could not be asked.
    pub subscriptions: Option<Vec<Overview>>,
    /// `--max-subscriptions`.
    pub subscriptions_max: usize,
    /// The certificates in use.
    pub certificates: Vec<Certificate>,
    /// What a person should look at, worst first.
    pub problems: Vec<Problem>,
}

/// Whether callers should come, and if not why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// Positions can be made durable.
    pub is_store_ready: bool,
    /// etcd answered at least once. Losing it later changes nothing here.
    pub is_etcd_reached: bool,
    /// The process is about to end.
    pub is_draining: bool,
}

/// A certificate in use.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The flag that names it.
    pub flag: &'static str,
    /// When it expires; `None`: it does not tell.
    pub not_after: Option<SystemTime>,
    /// Why its files cannot be used as they are now.
    pub problem: Option<String>,
}

impl Readiness {
    /// Callers should come.
    pub const fn is_ready(self) -> bool {
        self.is_store_ready && self.is_etcd_reached && !self.is_draining
    }
}

impl Surveyor {
    /// Over `sources`.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            started_at: SystemTime::now(),
            is_draining: watch::Sender::new(false),
            last: Mutex::default(),
        }
    }

    /// From here on the process is not ready any more.
    pub fn drain(&self) {
        self.is_draining.send_replace(true);
    }

    /// Whether callers should come, at this moment.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            is_store_ready: self.sources.store.is_ready(),
            is_etcd_reached: *self.sources.upstream.reached().borrow(),
            is_draining: *self.is_draining.borrow(),
        }
    }

    /// Whether the process can still do its work, or get back to it by itself.
    pub fn is_alive(&self) -> bool {
        self.sources.store.is_alive()
    }

    /// Tells the readiness, and every change of it. Never returns.
    pub async fn follow_readiness(&self, mut tell: impl AsyncFnMut(Readiness)) {
        let mut store = self.sources.store.readiness();
        let mut reached = self.sources.upstream.reached();
        let mut draining = self.is_draining.subscribe();
        loop {
            tell(self.readiness()).await;
            tokio::select! {
                Ok(()) = store.changed() => {}
                Ok(()) = reached.changed() => {}
                Ok(()) = draining.changed() => {}
                // Nothing of it changes any more.
                else => return std::future::pending().await,
            }
        }
    }

    /// How the process is doing.
    pub async fn survey(&self) -> Arc<Survey> {
        let mut last = self.last.lock().await;
        if let Some((at, survey)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return Arc::clone(survey);
        }
        let survey = Arc::new(self.ask().await);
        *last = Some((Instant::now(), Arc::clone(&survey)));
        survey
    }

    async fn ask(&self) -> Survey {
        let overviews = timeout(OVERVIEWS_TIMEOUT, self.sources.registry.overviews());
        let mut survey = Survey {
            subscriptions: overviews.await.ok().and_then(Result::ok),
            at: SystemTime::now(),
            started_at: self.started_at,
            readiness: self.readiness(),
            etcd: self.sources.upstream.status(),
            subscriptions_max: self.sources.subscriptions_max,
            certificates: (self.sources.certificates)(),
            problems: Vec::new(),
        };
        let trouble = self.sources.store.trouble();
        let quarantined = self.sources.quarantined.as_deref();
        survey.problems = problems::problems(&survey, trouble, quarantined);
        survey
    }
}

impl Survey {
    /// etcd's newest revision that anybody here has seen; 0: none.
    pub fn etcd_revision(&self) -> i64 {
        let told = self.etcd.revision.map(|(revision, _)| revision);
        let delivered = self.subscriptions.iter().flatten().map(|it| it.delivered);
        delivered.fold(told, Option::max).map_or(0, |it| it.get())
    }
}
