//! The life of a few subscriptions in one process, and of the next process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::{FutureExt, StreamExt};
use tokio::{task::JoinHandle, time::Instant};
use watchmark::{
    resume::{ClientId, Settings},
    session::{Registry, RegistrySettings},
    store::CheckpointStore,
    upstream::Upstream,
};

use super::{Shared, store::SimStore, subscriber::Client, upstream::SimUpstream};
use crate::{
    etcd::{Change, Etcd, rev},
    seeds::take_panic,
    tally::Tally,
    upstream::Act,
};

const CLIENTS: usize = 3;
const STEPS: usize = 150;

/// One world.
pub(super) struct World {
    pub(super) random: Rng,
    pub(super) etcd: Shared<Etcd>,
    pub(super) upstream: SimUpstream,
    pub(super) store: Arc<SimStore>,
    pub(super) registry: Arc<Registry>,
    pub(super) supervisor: JoinHandle<()>,
    pub(super) clients: Vec<Client>,
    pub(super) acks: Vec<(String, JoinHandle<()>)>,
    /// A driver panicked as ordered: streams may end without a word.
    pub(super) panicked: Arc<AtomicBool>,
    pub(super) tally: Tally,
    pub(super) log: Shared<Vec<String>>,
}

/// From the seed alone.
pub(super) async fn live(seed: u64, log: Shared<Vec<String>>) -> Tally {
    let mut world = World::new(seed, log);
    for number in 0..STEPS {
        world.step(number).await;
        world.settle().await;
    }
    world.end().await;
    world.tally
}

impl World {
    fn new(seed: u64, log: Shared<Vec<String>>) -> Self {
        let etcd = Shared::new(Etcd::new(false, false, false));
        let store = Arc::new(SimStore::new(etcd.clone()));
        let upstream = SimUpstream::new(etcd.clone());
        let (registry, supervisor) = start(seed, &upstream, &store);
        let clients = (0..CLIENTS).map(|number| Client {
            number,
            id: ClientId::parse(&format!("client-{number}")).unwrap(),
            live: None,
            superseded: Vec::new(),
            acked: Shared::new(0),
            handed: 0,
        });
        Self {
            random: Rng::with_seed(seed),
            etcd,
            upstream,
            store,
            registry,
            supervisor,
            clients: clients.collect(),
            acks: Vec::new(),
            panicked: Arc::default(),
            tally: Tally::default(),
            log,
        }
    }

    async fn step(&mut self, number: usize) {
        let kind = self.random.u8(0..100);
        let client = self.random.usize(0..CLIENTS);
        self.log.lock().push(format!("{number}: {kind} {client}"));
        self.tally.count("steps");
        match kind {
            0..20 => self.commit(),
            20..45 => {
                let many = self.random.u8(0..5);
                let cut = (self.random.u8(0..4) == 0).then(|| self.random.u8(0..4));
                self.acts(client, &Act::Go { many, cut });
            }
            45..49 => self.acts(client, &Act::Bookmark { back: 0 }),
            49..51 => self.acts(client, &Act::Lost { arrives: true }),
            51..53 => self.acts(client, &Act::Replay { from: 0, many: 9 }),
            53 => {
                let back = self.random.i64(0..8);
                let mut etcd = self.etcd.lock();
                let head = etcd.head();
                etcd.compact(head - back);
                self.tally.count("compaction");
            }
            54..66 => drop(self.store.flush_one(true)),
            66 => {
                if self.store.flush_one(false) {
                    self.tally.count("write failed");
                    self.forget_handed();
                }
            }
            67..82 if self.clients[client].live.is_none() => self.subscribe(client).await,
            67..82 => self.read(client, 4),
            82..89 => self.ack(client),
            89..92 => self.subscribe(client).await,
            92 => {
                if let Some(live) = self.clients[client].live.take() {
                    self.tally.count("subscriber goes away");
                    self.clients[client].superseded.push(live.session);
                }
            }
            93..96 => {
                let millis = self.random.u64(1..40_000);
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            96 if self.random.bool() => self.crash().await,
            97 => {
                self.store.panic_on_next_put(true);
                self.panicked.store(true, Ordering::Relaxed);
            }
            98 if self.random.bool() => self.drain().await,
            96 | 98 => {}
            _ => {
                // Enough for an outbox to fill.
                self.tally.count("slow subscriber");
                for _ in 0..8 {
                    self.commit_as(true);
                    self.acts(client, &Act::Go { many: 0, cut: None });
                    self.settle().await;
                }
                self.read(client, 100);
            }
        }
    }

    fn commit(&mut self) {
        let is_large = self.random.u8(0..12) == 0;
        self.commit_as(is_large);
    }

    fn commit_as(&mut self, large: bool) {
        let changes: Vec<_> = (0..self.random.usize(1..5))
            .map(|_| Change {
                key: self.random.u8(0..6),
                delete: self.random.u8(0..4) == 0,
                large,
            })
            .collect();
        self.etcd.lock().commit(&changes);
    }

    fn acts(&mut self, client: usize, act: &Act) {
        let note = self.upstream.acts(client, act);
        if !note.is_empty() {
            self.tally.count(note);
        }
    }

    /// The process dies, and the next one starts.
    async fn crash(&mut self) {
        self.tally.count("crash of the process");
        let waiting = self.store.waiting();
        let kept = self.random.usize(0..=waiting);
        if kept < waiting {
            self.tally.count("write lost with the process");
        }
        self.restart(kept).await;
    }

    async fn restart(&mut self, kept: usize) {
        for (_, ack) in self.acks.drain(..) {
            ack.abort();
        }
        self.supervisor.abort();
        for client in &mut self.clients {
            client.live = None;
            client.superseded.clear();
            client.handed = 0;
        }
        let seed = self.random.u64(..);
        // What acks and the supervisor still hold goes with them.
        tokio::task::yield_now().await;
        self.upstream = SimUpstream::new(self.etcd.clone());
        let (registry, supervisor) = start(seed, &self.upstream, &self.store);
        let old = std::mem::replace(&mut self.registry, registry);
        self.supervisor = supervisor;
        assert_eq!(
            Arc::strong_count(&old),
            1,
            "somebody holds the dead process"
        );
        drop(old);
        tokio::task::yield_now().await;
        self.store.crash(kept);
        self.store.panic_on_next_put(false);
        // Who still asks the last process looks at its own.
        self.panicked = Arc::default();
    }

    /// The process is asked to stop: it does, once everything is acknowledged.
    async fn drain(&mut self) {
        self.tally.count("drain");
        for client in 0..CLIENTS {
            self.read(client, 100);
        }
        let registry = Arc::clone(&self.registry);
        let mut drain = Box::pin(registry.drain());
        let mut drained = drain.as_mut().now_or_never();
        self.settle_once().await;
        for client in &mut self.clients {
            if let Some(mut live) = client.live.take() {
                // What was received may be acknowledged still.
                let (registry, id) = (Arc::clone(&self.registry), client.id.clone());
                let received = live.received;
                let panicked = Arc::clone(&self.panicked);
                if received > 0 && !live.auto_ack {
                    self.store.settle(&id, received);
                    let ack = async move {
                        let answer = registry.ack(&id, None, rev(received)).await;
                        let may_fail = panicked.load(Ordering::Relaxed);
                        assert!(answer.is_ok() || may_fail, "4.10: {answer:?}");
                    };
                    self.acks
                        .push(("an ack while draining".into(), tokio::spawn(ack)));
                }
                let end = live.messages.next().now_or_never();
                let is_drained = matches!(end, Some(Some(Err(_))));
                assert!(is_drained, "4.10: the stream says {end:?}");
            }
        }
        for number in 0..CLIENTS {
            // Whatever was queued may be acknowledged still.
            let id = self.clients[number].id.clone();
            let head = self.etcd.lock().head();
            let mut acks = Vec::new();
            for revision in 1..=head {
                acks.push(revision);
            }
            self.store.settle(&id, head);
            for revision in acks {
                let registry = Arc::clone(&self.registry);
                let id = id.clone();
                let ack = async move { drop(registry.ack(&id, None, rev(revision)).await) };
                self.acks.push((String::new(), tokio::spawn(ack)));
            }
        }
        for _ in 0..200 {
            self.settle_once().await;
            while self.store.flush_one(true) {}
        }
        drained = drained.or_else(|| drain.as_mut().now_or_never());
        assert!(drained.is_some(), "4.10: a drain never ends");
        drop(drain);
        drop(registry);
        // What the acks were answered.
        self.settle().await;
        self.restart(0).await;
    }

    /// Lets everything run until it waits, then checks what must hold then.
    async fn settle(&mut self) {
        self.settle_once().await;
        for client in &self.clients {
            let held = self.upstream.held(client.number);
            let most = usize::from(client.live.is_some());
            assert!(held <= most, "{held} attempts for {}", client.id);
        }
        let (done, waiting) = std::mem::take(&mut self.acks)
            .into_iter()
            .partition(|(_, ack)| ack.is_finished());
        self.acks = waiting;
        let done: Vec<(String, JoinHandle<()>)> = done;
        for (what, ack) in done {
            if let Err(error) = ack.await {
                panic!("{what}: {error}");
            }
        }
    }

    pub(super) async fn settle_once(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Some(panicked) = take_panic() {
            assert!(panicked.contains("as the world ordered"), "{panicked}");
            self.tally.count("driver panics");
            self.forget_handed();
        }
    }

    /// What the transport took may be delivered once more.
    fn forget_handed(&mut self) {
        for client in &mut self.clients {
            client.handed = 0;
        }
    }

    /// No more faults: everything arrives, is acknowledged, and is on disk.
    async fn end(&mut self) {
        self.log.lock().push("the faults stop".into());
        self.crash().await;
        for number in 0..CLIENTS {
            self.subscribe(number).await;
        }
        for _ in 0..300 {
            for number in 0..CLIENTS {
                self.acts(number, &Act::Go { many: 9, cut: None });
                self.acts(number, &Act::Bookmark { back: 0 });
                self.settle().await;
                self.read(number, 9);
                self.settle().await;
                let client = &self.clients[number];
                let (id, received) = match &client.live {
                    Some(live) => (client.id.clone(), live.received),
                    None => (client.id.clone(), 0),
                };
                if client.live.is_none() {
                    self.subscribe(number).await;
                } else if self.store.checkpoint(&id) < Some(received) && received > 0 {
                    self.store.settle(&id, received);
                    let registry = Arc::clone(&self.registry);
                    let ack = async move { drop(registry.ack(&id, None, rev(received)).await) };
                    self.acks.push((String::new(), tokio::spawn(ack)));
                }
                while self.store.flush_one(true) {}
                self.settle().await;
            }
            if self.acks.is_empty() && self.clients.iter().all(|client| self.is_done(client)) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("not everything arrived");
    }

    fn is_done(&self, client: &Client) -> bool {
        let etcd = self.etcd.lock();
        let position = client.live.as_ref().and_then(|live| live.seen.position);
        let checkpoint = self.store.checkpoint(&client.id);
        position.is_some_and(|(_, at)| at >= etcd.head())
            && checkpoint.is_some_and(|at| etcd.events(0, at, etcd.head()).is_empty())
    }
}

fn start(
    seed: u64,
    upstream: &SimUpstream,
    store: &Arc<SimStore>,
) -> (Arc<Registry>, JoinHandle<()>) {
    let registry = Arc::new(Registry::new(
        Arc::new(upstream.clone()) as Arc<dyn Upstream>,
        Arc::clone(store) as Arc<dyn CheckpointStore>,
        RegistrySettings {
            resume: Settings::default(),
            subscriptions_max: CLIENTS,
            origin: Instant::now(),
            seed,
        },
    ));
    let supervised = Arc::clone(&registry);
    let supervisor = tokio::spawn(async move { supervised.supervise().await });
    (registry, supervisor)
}
