//! The endpoints and the choice among them. Owns which endpoint failed when,
//! which member answers there, and the open connections; refuses to give up on
//! an endpoint for good. Invariant: every choice lists every endpoint once.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};
use tonic::codegen::http::Uri;

use super::{
    condition::{self, Condition},
    config::{EtcdConfig, EtcdConfigError},
    connect::{Connection, Dialer, Purpose, WatchSlot},
    error::Failure,
    maintenance::Member,
    status::EndpointStatus,
};
use crate::resume::Revision;

/// How long an endpoint is passed over after its first failure; it doubles.
const PASSED_OVER_MIN: Duration = Duration::from_millis(500);
/// Independent of a subscription's backoff, whatever that is: an endpoint that
/// came back is put last for this long at most.
const PASSED_OVER_MAX: Duration = Duration::from_secs(30);

/// All endpoints.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    reached: Arc<watch::Sender<bool>>,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// As configured, for the log.
    pub(super) name: String,
    /// Its place among those configured.
    place: usize,
    dialer: Dialer,
    state: Mutex<State>,
    condition: Mutex<Condition>,
    /// Whether any endpoint ever was.
    reached: Arc<watch::Sender<bool>>,
    /// The server does not know `RangeStream`.
    no_range_stream: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    passed_over_until: Option<Instant>,
    /// Who answered last.
    member_id: Option<u64>,
    watches: Vec<Weak<Connection>>,
    unary: Option<Arc<Connection>>,
    probe: Option<Arc<Connection>>,
    /// Open watches, over all connections.
    watch_count: usize,
}

impl Endpoints {
    /// # Errors
    /// TLS files that cannot be read or used.
    pub(super) fn new(uris: Vec<Uri>, config: &Arc<EtcdConfig>) -> Result<Self, EtcdConfigError> {
        let reached = Arc::new(watch::Sender::new(false));
        let mut all = uris
            .into_iter()
            .enumerate()
            .map(|(place, uri)| {
                Ok(Arc::new(Endpoint {
                    name: uri.to_string().trim_end_matches('/').to_owned(),
                    place,
                    dialer: Dialer::new(uri, Arc::clone(config))?,
                    state: Mutex::default(),
                    condition: Mutex::default(),
                    reached: Arc::clone(&reached),
                    no_range_stream: AtomicBool::new(false),
                }))
            })
            .collect::<Result<Vec<_>, EtcdConfigError>>()?;
        // Not every sidecar begins with the first endpoint.
        let seed = RandomState::new().hash_one(all.len());
        let count = u64::try_from(all.len()).unwrap_or(1).max(1);
        all.rotate_left(usize::try_from(seed % count).unwrap_or(0));
        Ok(Self { all, reached })
    }

    /// Whether etcd ever answered, as that changes.
    pub(super) fn reached(&self) -> watch::Receiver<bool> {
        self.reached.subscribe()
    }

    /// Every endpoint as an operator sees it, in the order configured.
    pub(super) fn statuses(&self) -> Vec<EndpointStatus> {
        let mut all: Vec<&Arc<Endpoint>> = self.all.iter().collect();
        all.sort_by_key(|endpoint| endpoint.place);
        all.into_iter().map(|endpoint| endpoint.status()).collect()
    }

    /// The cluster_id and the newest revision that greetings were answered with.
    pub(super) fn greetings(&self) -> (u64, Option<(Revision, SystemTime)>) {
        let mut cluster_id = 0;
        let mut newest = None;
        for endpoint in &self.all {
            let condition = endpoint.condition();
            cluster_id = condition.member().map_or(cluster_id, |it| it.cluster_id);
            newest = newest.max(condition.revision());
        }
        (cluster_id, newest)
    }

    pub(super) fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// Every endpoint, best first: not failed lately, then least failed.
    pub(super) fn for_unary(&self) -> Vec<Arc<Endpoint>> {
        let mut choice = self.all.clone();
        choice.sort_by_key(|endpoint| endpoint.state().passed_over());
        choice
    }

    /// Every endpoint, best first: `avoid_member` last, then as above, then
    /// the one with the fewest watches.
    pub(super) fn for_watch(&self, avoid_member: Option<u64>) -> Vec<Arc<Endpoint>> {
        let mut choice = self.all.clone();
        choice.sort_by_cached_key(|endpoint| {
            let state = endpoint.state();
            let avoided = avoid_member.is_some() && state.member_id == avoid_member;
            (avoided, state.passed_over(), state.watch_count)
        });
        choice
    }
}

impl State {
    /// When this endpoint may be preferred again, if not now.
    fn passed_over(&self) -> Option<Instant> {
        self.passed_over_until
            .filter(|&until| until > Instant::now())
    }
}

impl Endpoint {
    /// It answered.
    pub(super) fn succeeded(&self, member_id: Option<u64>) {
        self.works();
        self.answered(member_id);
    }

    /// It answered that it will not do what it was asked: no reason to pass it
    /// over. Whom it does not accept it does not serve, operators are told.
    pub(super) fn refused(&self, failure: &Failure) {
        if condition::of(failure).is_some() {
            self.note(failure);
        } else {
            self.works();
        }
        self.answered(None);
    }

    fn answered(&self, member_id: Option<u64>) {
        let mut state = self.state();
        state.failures = 0;
        state.passed_over_until = None;
        state.member_id = member_id.or(state.member_id);
    }

    /// It did what it was asked: for operators, and for no choice.
    pub(super) fn works(&self) {
        self.condition().works(&self.name);
        self.reached
            .send_if_modified(|it| !std::mem::replace(it, true));
    }

    /// It answered a greeting; see [`works`](Self::works).
    pub(super) fn greeted(&self, member: Member, revision: Option<Revision>) {
        self.condition().greeted(&self.name, member, revision);
        self.reached
            .send_if_modified(|it| !std::mem::replace(it, true));
    }

    /// It did not do what it was asked: for operators, and for no choice.
    pub(super) fn note(&self, failure: &Failure) {
        if let Some((kind, message)) = condition::of(failure) {
            self.condition().fails(&self.name, kind, message);
        }
    }

    fn status(&self) -> EndpointStatus {
        let condition = self.condition();
        let member = condition.member();
        let version = member.and_then(|member| member.version);
        EndpointStatus {
            url: self.name.clone(),
            version: version.map(|version| version.to_string()),
            member_id: member.map_or(0, |member| member.member_id),
            can_ask_progress: version.is_some_and(|it| it.answers_progress_soundly()),
            failure: condition.failure().cloned(),
        }
    }

    /// It did not answer as it should. What fails together counts once.
    pub(super) fn failed(&self, failure: &Failure) {
        self.note(failure);
        let mut state = self.state();
        if state.passed_over().is_some() {
            return;
        }
        let passed_over = PASSED_OVER_MIN
            .saturating_mul(1 << state.failures.min(16))
            .min(PASSED_OVER_MAX);
        state.failures = state.failures.saturating_add(1);
        state.passed_over_until = Some(Instant::now() + passed_over);
    }

    /// A place for one watch.
    pub(super) fn watch_slot(&self) -> WatchSlot {
        let mut state = self.state();
        state.watches.retain(|connection| {
            connection
                .upgrade()
                .is_some_and(|connection| connection.is_usable())
        });
        loop {
            let free = state.watches.iter().find_map(|connection| {
                connection
                    .upgrade()
                    .and_then(|connection| connection.reserve_watch())
            });
            if let Some(slot) = free {
                return slot;
            }
            let connection = self.dialer.connection(Purpose::Watches);
            state.watches.push(Arc::downgrade(&connection));
            if let Some(slot) = connection.reserve_watch() {
                return slot;
            }
        }
    }

    /// The connection for reads, and whether it was used before: a broken one
    /// shows only at its next use.
    pub(super) fn unary(&self) -> (Arc<Connection>, bool) {
        usable(&mut self.state().unary, || {
            self.dialer.connection(Purpose::Unary)
        })
    }

    /// The probe's own connection, and whether it was used before.
    pub(super) fn probe(&self) -> (Arc<Connection>, bool) {
        usable(&mut self.state().probe, || {
            self.dialer.connection(Purpose::Probe)
        })
    }

    /// Counts a watch that is open here, until dropped.
    pub(super) fn count_watch(self: &Arc<Self>) -> CountedWatch {
        self.state().watch_count += 1;
        CountedWatch(Arc::clone(self))
    }

    /// Whether a watch is open here.
    pub(super) fn serves_a_watch(&self) -> bool {
        self.state().watch_count > 0
    }

    pub(super) fn has_range_stream(&self) -> bool {
        !self.no_range_stream.load(Ordering::Relaxed)
    }

    /// Never asked again: a server that is upgraded is found out at the
    /// sidecar's next start.
    pub(super) fn set_no_range_stream(&self) {
        self.no_range_stream.store(true, Ordering::Relaxed);
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usable(
    slot: &mut Option<Arc<Connection>>,
    dial: impl FnOnce() -> Arc<Connection>,
) -> (Arc<Connection>, bool) {
    if let Some(connection) = slot.as_ref().filter(|connection| connection.is_usable()) {
        return (Arc::clone(connection), true);
    }
    let connection = dial();
    *slot = Some(Arc::clone(&connection));
    (connection, false)
}

/// One open watch of an endpoint.
#[derive(Debug)]
pub(super) struct CountedWatch(Arc<Endpoint>);

impl Drop for CountedWatch {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.watch_count = state.watch_count.saturating_sub(1);
        if state.watch_count == 0 {
            state.probe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u16) -> Endpoints {
        let uris = (1..=count)
            .map(|port| format!("http://127.0.0.1:{port}").parse().unwrap())
            .collect();
        Endpoints::new(uris, &Arc::new(EtcdConfig::default())).unwrap()
    }

    fn lost() -> Failure {
        Failure::lost("gone")
    }

    fn names(choice: &[Arc<Endpoint>]) -> Vec<&str> {
        choice.iter().map(|e| e.name.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_endpoint_comes_last_until_its_time_is_over() {
        let endpoints = endpoints(3);
        let first = Arc::clone(&endpoints.for_unary()[0]);
        first.failed(&lost());
        assert_eq!(endpoints.for_unary()[2].name, first.name);
        tokio::time::advance(PASSED_OVER_MIN).await;
        assert_eq!(endpoints.for_unary()[0].name, first.name);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_failed_the_one_that_is_due_first_comes_first() {
        let endpoints = endpoints(2);
        let [a, b] = [&endpoints.all()[0], &endpoints.all()[1]];
        a.failed(&lost());
        tokio::time::advance(PASSED_OVER_MIN).await;
        a.failed(&lost());
        b.failed(&lost());
        assert_eq!(names(&endpoints.for_unary()), [&b.name, &a.name]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watches_of_one_broken_connection_count_as_one_failure() {
        let endpoints = endpoints(2);
        let first = Arc::clone(&endpoints.for_unary()[0]);
        (0..100).for_each(|_| first.failed(&lost()));
        tokio::time::advance(PASSED_OVER_MIN).await;
        assert_eq!(endpoints.for_unary()[0].name, first.name);
    }

    #[tokio::test]
    async fn an_avoided_member_comes_last_but_is_not_left_out() {
        let endpoints = endpoints(3);
        let avoided = Arc::clone(&endpoints.all()[0]);
        avoided.succeeded(Some(7));
        let choice = endpoints.for_watch(Some(7));
        assert_eq!((choice.len(), &choice[2].name), (3, &avoided.name));
    }

    #[tokio::test]
    async fn watches_spread_over_the_endpoints() {
        let endpoints = endpoints(2);
        let first = Arc::clone(&endpoints.for_watch(None)[0]);
        let counted = first.count_watch();
        assert_ne!(endpoints.for_watch(None)[0].name, first.name);
        drop(counted);
        assert_eq!(endpoints.for_watch(None)[0].name, first.name);
    }

    #[tokio::test]
    async fn a_connection_takes_a_hundred_watches_and_then_another_is_dialled() {
        let endpoint = Arc::clone(&endpoints(1).all()[0]);
        let slots: Vec<_> = (0..101).map(|_| endpoint.watch_slot()).collect();
        let same = |a: &WatchSlot, b: &WatchSlot| Arc::ptr_eq(a.connection(), b.connection());
        assert!(same(&slots[0], &slots[99]));
        assert!(!same(&slots[0], &slots[100]));
    }
}
