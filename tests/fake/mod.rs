//! A store and an etcd that do exactly what a test says: for what the real
//! ones cannot be made to do.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod memory;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use watchmark::{
    metrics::Sessions,
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue},
    },
    resume::{
        ClientId, Guard, GuardReading, Header, KeyRange, OnCompaction, ProbeSample, Record,
        Revision, Selection, SessionRequest, Settings, Start, WatchOpened, input::Upstream as Said,
    },
    session::{Message, Receiver, Registry, RegistrySettings},
    store::{CheckpointStore, Committed, StoreError},
    upstream::{GuardAnswer, Upstream, UpstreamEvents, Watch, WatchSpec},
};

use self::memory::MemoryStore;

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Who subscribes.
pub(crate) const PEER: &str = "10.1.2.3:5555";

/// Waits for `future`, not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {DEADLINE:?}"),
    }
}

/// Waits until `is_so`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let polling = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, polling).await;
}

/// Records in memory, and a bug on demand.
#[derive(Default)]
pub(crate) struct FakeStore {
    pub(crate) memory: MemoryStore,
    pub(crate) loads: AtomicUsize,
    panics_on_put: AtomicBool,
}

impl FakeStore {
    /// The next write panics in the task that asks for it.
    pub(crate) fn panic_on_next_put(&self) {
        self.panics_on_put.store(true, Ordering::Relaxed);
    }

    pub(crate) fn checkpoint(&self, name: &str) -> Option<i64> {
        let record = self.memory.load(&client_id(name)).unwrap()?;
        record.checkpoint.map(Revision::get)
    }

    pub(crate) async fn insert(&self, name: &str, record: Record) {
        let stored = self.memory.put(&client_id(name), record);
        stored.await.unwrap().unwrap();
    }
}

impl CheckpointStore for FakeStore {
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.memory.load(client_id)
    }

    fn client_ids(&self) -> Vec<ClientId> {
        self.memory.client_ids()
    }

    fn count(&self) -> usize {
        self.memory.count()
    }

    fn put(&self, client_id: &ClientId, record: Record) -> Committed {
        let panics = self.panics_on_put.swap(false, Ordering::Relaxed);
        assert!(!panics, "a bug, as the test ordered");
        self.memory.put(client_id, record)
    }

    fn remove(&self, client_id: &ClientId) -> Committed {
        self.memory.remove(client_id)
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.memory.readiness()
    }
}

/// What a driver asked etcd for.
pub(crate) enum Asked {
    Watch(WatchSpec, Attempt),
    Head(Attempt),
    Snapshot(Attempt),
}

/// One attempt, as etcd sees it.
pub(crate) struct Attempt {
    say: mpsc::Sender<Said<Event, KeyValue>>,
    asked_progress: mpsc::Receiver<()>,
}

impl Attempt {
    pub(crate) async fn say(&self, said: Said<Event, KeyValue>) {
        soon("the driver reads", self.say.send(said)).await.unwrap();
    }

    /// Whether the driver has given it up.
    pub(crate) fn is_closed(&self) -> bool {
        self.say.is_closed()
    }

    /// Whether progress was asked for, and nobody looked.
    pub(crate) fn is_asked(&self) -> bool {
        !self.asked_progress.is_empty()
    }

    /// Whether all that was said has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.say.capacity() == self.say.max_capacity()
    }

    pub(crate) async fn ended(&self) {
        soon("the attempt ends", self.say.closed()).await;
    }

    pub(crate) async fn say_opened(&self, head: i64) {
        self.say_resumed(head, None).await;
    }

    /// The guarded key was changed last at `mod_revision`.
    pub(crate) async fn say_resumed(&self, head: i64, mod_revision: Option<i64>) {
        self.say(Said::WatchOpened(WatchOpened {
            member_id: 1,
            can_ask_progress: true,
            guard: GuardReading::Present {
                header: header(head),
                mod_revision: mod_revision.map(rev),
            },
        }))
        .await;
    }

    pub(crate) async fn say_put(&self, revision: i64, value_bytes: usize) {
        self.say(Said::Events {
            events: vec![put(revision, value_bytes)],
            fragment: false,
        })
        .await;
    }
}

/// Hands what is asked of it to the test.
pub(crate) struct FakeEtcd {
    asked: mpsc::Sender<Asked>,
    probe: watch::Sender<Vec<ProbeSample>>,
    /// What guards read: the compact_revision (0: none) and the newest one;
    /// `None`: they are not answered.
    pub(crate) history: Mutex<Option<(i64, i64)>>,
    pub(crate) guards_read: AtomicUsize,
}

impl FakeEtcd {
    fn attempt(&self, asked: impl FnOnce(Attempt) -> Asked) -> (UpstreamEvents, mpsc::Sender<()>) {
        let (say, said) = mpsc::channel(4);
        let (ask_progress, asked_progress) = mpsc::channel(1);
        let attempt = Attempt {
            say,
            asked_progress,
        };
        // Nobody looks at it: then it never answers.
        let _ = self.asked.try_send(asked(attempt));
        let events = futures_util::stream::unfold(said, |mut said| async {
            said.recv().await.map(|it| (it, said))
        });
        (events.boxed(), ask_progress)
    }
}

impl Upstream for FakeEtcd {
    fn watch(&self, spec: WatchSpec) -> Watch {
        let (events, ask_progress) = self.attempt(|attempt| Asked::Watch(spec, attempt));
        Watch {
            events,
            ask_progress,
            catching_up: Default::default(),
        }
    }

    fn head(&self, _range: KeyRange) -> UpstreamEvents {
        self.attempt(Asked::Head).0
    }

    fn snapshot(&self, _range: KeyRange, _: PairOptions) -> UpstreamEvents {
        self.attempt(Asked::Snapshot).0
    }

    fn read_guard(&self, guard: Guard) -> GuardAnswer {
        self.guards_read.fetch_add(1, Ordering::Relaxed);
        let history = *self.history.lock().unwrap();
        Box::pin(async move {
            let Some((compacted, head)) = history else {
                return std::future::pending().await;
            };
            // The last event known was at the checkpoint itself.
            let mod_revision = Some(guard.revision);
            Ok(if guard.revision.get() < compacted {
                GuardReading::Compacted {
                    compact_revision: Revision::new(compacted),
                }
            } else if guard.revision.get() > head {
                GuardReading::Future
            } else {
                GuardReading::Present {
                    header: header(head),
                    mod_revision,
                }
            })
        })
    }

    fn probe(&self) -> watch::Receiver<Vec<ProbeSample>> {
        self.probe.subscribe()
    }
}

/// A registry over both fakes.
pub(crate) struct Fixture {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) etcd: Arc<FakeEtcd>,
    pub(crate) metrics: Sessions,
    asked: mpsc::Receiver<Asked>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Fixture {
    pub(crate) fn new(subscriptions_max: usize) -> Self {
        let (to_test, asked) = mpsc::channel(64);
        let store = Arc::new(FakeStore::default());
        let etcd = Arc::new(FakeEtcd {
            asked: to_test,
            probe: watch::Sender::new(Vec::new()),
            history: Mutex::new(Some((0, 10))),
            guards_read: AtomicUsize::new(0),
        });
        let metrics = Sessions::default();
        let registry = Arc::new(Registry::measured(
            Arc::clone(&etcd) as Arc<dyn Upstream>,
            Arc::clone(&store) as Arc<dyn CheckpointStore>,
            RegistrySettings {
                resume: Settings::default(),
                subscriptions_max,
                origin: Instant::now(),
                seed: 1,
            },
            metrics.clone(),
        ));
        let supervisor = tokio::spawn({
            let registry = Arc::clone(&registry);
            async move { registry.supervise().await }
        });
        Self {
            registry,
            store,
            etcd,
            metrics,
            asked,
            supervisor,
        }
    }

    /// From now on nobody notices how drivers end.
    pub(crate) fn stop_supervising(&self) {
        self.supervisor.abort();
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        soon("etcd is asked", self.asked.recv()).await.unwrap()
    }

    /// Whatever etcd was asked for until now is never answered.
    pub(crate) fn forget_asked(&mut self) {
        while self.asked.try_recv().is_ok() {}
    }

    pub(crate) async fn asked_watch(&mut self) -> (WatchSpec, Attempt) {
        match self.asked().await {
            Asked::Watch(spec, attempt) => (spec, attempt),
            Asked::Head(_) | Asked::Snapshot(_) => panic!("asked for something else"),
        }
    }

    pub(crate) async fn asked_head(&mut self) -> Attempt {
        match self.asked().await {
            Asked::Head(attempt) => attempt,
            Asked::Watch(..) | Asked::Snapshot(_) => panic!("asked for something else"),
        }
    }

    pub(crate) async fn asked_snapshot(&mut self) -> Attempt {
        match self.asked().await {
            Asked::Snapshot(attempt) => attempt,
            Asked::Watch(..) | Asked::Head(_) => panic!("asked for something else"),
        }
    }

    pub(crate) async fn subscribe(&self, name: &str, request: SessionRequest) -> Receiver<Message> {
        self.registry
            .subscribe(
                &client_id(name),
                request,
                Default::default(),
                PEER.to_owned(),
            )
            .await
            .unwrap()
            .messages
    }

    /// A stream that begins at etcd's revision 10, and its watch.
    pub(crate) async fn subscribe_at_10(&mut self, name: &str) -> (Receiver<Message>, Attempt) {
        let mut stream = self.subscribe(name, request()).await;
        let head = self.asked_head().await;
        head.say(Said::Head(header(10))).await;
        let (_, watch) = self.asked_watch().await;
        watch.say_opened(10).await;
        assert!(matches!(next(&mut stream).await, Message::Opened { .. }));
        (stream, watch)
    }

    pub(crate) async fn ack(&self, name: &str, revision: i64) -> Result<i64, String> {
        let client = client_id(name);
        let answer = self.registry.ack(&client, None, rev(revision));
        let answer = soon("the ack is answered", answer).await;
        answer
            .map(Revision::get)
            .map_err(|error| format!("{error:?}"))
    }
}

pub(crate) fn client_id(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}

pub(crate) fn rev(revision: i64) -> Revision {
    Revision::new(revision).unwrap()
}

pub(crate) fn header(revision: i64) -> Header {
    Header {
        cluster_id: 77,
        raft_term: 2,
        revision: rev(revision),
    }
}

pub(crate) fn selection() -> Selection {
    Selection {
        range: KeyRange::prefix("a/".into()),
        no_put: false,
        no_delete: false,
    }
}

/// From etcd's newest revision on.
pub(crate) fn request() -> SessionRequest {
    SessionRequest {
        selection: selection(),
        start: Start::Latest,
        resume_after: None,
        on_compaction: OnCompaction::Resync,
        auto_ack: false,
        max_unacked_events: None,
    }
}

pub(crate) fn put(revision: i64, value_bytes: usize) -> Event {
    Event {
        kv: Some(KeyValue {
            key: format!("a/{revision}").into(),
            mod_revision: revision,
            create_revision: revision,
            version: 1,
            value: vec![7; value_bytes].into(),
            lease: 0,
        }),
        ..Event::default()
    }
}

/// The next message, which must not be the end.
pub(crate) async fn next(stream: &mut Receiver<Message>) -> Message {
    soon("a message", stream.next()).await.unwrap().unwrap()
}

/// The revision of the next events; what tells of states and progress is skipped.
pub(crate) async fn next_events(stream: &mut Receiver<Message>) -> i64 {
    loop {
        match next(stream).await {
            Message::Events { revision, .. } => return revision.get(),
            Message::State(..) | Message::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
