//! The life of a few subscriptions in one process, and of the next process.

mod deaths;

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::{FutureExt, StreamExt};
use tokio::{task::JoinHandle, time::Instant};
use watchmark::{
    resume::{
        self, AckRefusal, ClientId, EndReason, OnCompaction, Selection, SessionId, SessionRequest,
        Settings, Start,
    },
    session::{AckError, Ended, Message, Receiver, Registry, RegistrySettings, Rendering},
    store::CheckpointStore,
    upstream::Upstream,
};

use super::{
    Shared,
    store::SimStore,
    upstream::{SimUpstream, from_wire, range_of},
};
use crate::{
    check::{Arrival, Stream},
    etcd::{Change, Etcd, rev},
    seeds::take_panic,
    tally::Tally,
    upstream::Act,
};

const CLIENTS: usize = 3;
const STEPS: usize = 150;

/// One world.
struct World {
    random: Rng,
    etcd: Shared<Etcd>,
    upstream: SimUpstream,
    store: Arc<SimStore>,
    registry: Arc<Registry>,
    supervisor: JoinHandle<()>,
    clients: Vec<Client>,
    acks: Vec<(String, JoinHandle<()>)>,
    /// A driver panicked as ordered: streams may end without a word.
    panicked: bool,
    tally: Tally,
    log: Shared<Vec<String>>,
}

/// A name, and who subscribes under it.
struct Client {
    number: usize,
    id: ClientId,
    live: Option<Live>,
    /// Of this process: the numbers of earlier sessions, if a driver that has
    /// heard of them still runs.
    superseded: Vec<SessionId>,
    /// An `Ack` was answered OK for it.
    acked: Shared<i64>,
}

/// A stream, and what it has received.
struct Live {
    session: SessionId,
    messages: Receiver<Message>,
    seen: Stream,
    auto_ack: bool,
    /// The newest revision received whole.
    received: i64,
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
            panicked: false,
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
                self.panicked = true;
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

    /// A new stream; the older one, if there is one, has ended for that.
    async fn subscribe(&mut self, number: usize) {
        let auto_ack = self.random.u8(0..4) == 0;
        let request = SessionRequest {
            selection: Selection {
                range: range_of(number),
                no_put: false,
                no_delete: false,
            },
            start: if self.random.u8(0..4) == 0 {
                Start::Latest
            } else {
                Start::Snapshot
            },
            resume_after: None,
            on_compaction: OnCompaction::Resync,
            auto_ack,
            max_unacked_events: None,
        };
        let id = self.clients[number].id.clone();
        if request.start == Start::Latest {
            self.store.may_begin_at_newest(&id);
        }
        let new =
            self.registry
                .subscribe(&id, request, Rendering::default(), "a client".to_owned());
        let new = new.await.expect("a new stream");
        self.log.lock().push(format!("{id} subscribes"));
        self.settle_once().await;
        let client = &mut self.clients[number];
        if let Some(mut old) = client.live.take() {
            self.tally.count("takeover");
            let mut end = None;
            while let Some(Some(said)) = old.messages.next().now_or_never() {
                assert!(end.is_none(), "something after the end");
                end = Some(said);
            }
            let is_abandoned = self.panicked && end == Some(Err(Ended::Abandoned));
            let superseded = Some(Err(Ended::By(EndReason::Superseded)));
            let had_ended = matches!(end, Some(Err(_))) && end != superseded;
            assert!(
                end == superseded || is_abandoned || had_ended,
                "P10: the older stream says {end:?}"
            );
            client.superseded.push(old.session);
        }
        client.live = Some(Live {
            session: new.session,
            messages: new.messages,
            seen: Stream::new(new.session.0, None),
            auto_ack,
            received: 0,
        });
    }

    /// The transport takes up to so many messages.
    fn read(&mut self, number: usize, many: usize) {
        for _ in 0..many {
            let client = &mut self.clients[number];
            let Some(live) = &mut client.live else {
                return;
            };
            let message = match live.messages.next().now_or_never() {
                None => return,
                Some(Some(Ok(message))) => message,
                Some(Some(Err(Ended::Abandoned))) => {
                    assert!(self.panicked, "a driver is gone");
                    client.live = None;
                    client.superseded.clear();
                    return;
                }
                Some(Some(Err(Ended::By(reason)))) => {
                    let is_expected = matches!(
                        reason,
                        EndReason::StoreFailed(_) | EndReason::UpstreamUnavailable
                    );
                    assert!(is_expected, "ended with {reason:?}");
                    let session = client.live.take().map(|live| live.session);
                    client.superseded.extend(session);
                    return;
                }
                Some(None) => panic!("no word at the end"),
            };
            self.tally.count("messages");
            let message = from_wire(message);
            self.log.lock().push(format!("{} < {message:?}", client.id));
            let mut resumed_at = None;
            if let resume::Message::Opened {
                checkpoint: Some(at),
                ..
            } = &message
            {
                let acked = *client.acked.lock();
                assert!(at.get() >= acked, "P7: begins at {at} again");
                let durable = self.store.checkpoint(&client.id);
                assert!(Some(at.get()) <= durable, "P5: {at} is not on disk");
                live.received = at.get();
                resumed_at = Some((0, at.get()));
            }
            let etcd = self.etcd.lock();
            live.seen.receive(
                &message,
                &Arrival {
                    etcd: &etcd,
                    acked: 0,
                    resumed_at,
                    fingerprint: None,
                    epoch: 0,
                    mute: true,
                },
            );
            drop(etcd);
            if let resume::Message::Events {
                revision,
                partial: false,
                ..
            }
            | resume::Message::SnapshotEnd { revision, .. } = message
            {
                live.received = revision.get();
                if live.auto_ack {
                    self.store.settle(&client.id, revision.get());
                }
            }
        }
    }

    /// An `Ack` call that runs beside everything else.
    fn ack(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(live) = &client.live else {
            return;
        };
        if live.received == 0 {
            return;
        }
        let kind = self.random.u8(0..8);
        let (session, revision, refused) = match kind {
            0 => {
                self.tally.count("ack beyond what was delivered");
                (None, self.etcd.lock().head() + 1, "BeyondDelivered")
            }
            1 if !client.superseded.is_empty() => {
                self.tally.count("ack of an older session");
                let older = self.random.choice(&client.superseded).copied();
                (older, live.received, "Superseded")
            }
            2 => (Some(live.session), live.received, ""),
            _ => (None, live.received, ""),
        };
        if refused.is_empty() {
            self.store.settle(&client.id, revision);
        }
        let (registry, store) = (Arc::clone(&self.registry), Arc::clone(&self.store));
        let (id, panicked) = (client.id.clone(), self.panicked);
        let what = format!("{id} acks {revision} of {session:?}");
        self.log.lock().push(what.clone());
        let (log, acked) = (self.log.clone(), client.acked.clone());
        let answered = async move {
            let answer = registry.ack(&id, session, rev(revision)).await;
            log.lock()
                .push(format!("{id} acked {revision}: {answer:?}"));
            match &answer {
                Ok(_) if refused.is_empty() => {
                    let durable = store.checkpoint(&id);
                    assert!(durable >= Some(revision), "P7: {revision} is not on disk");
                    let mut acked = acked.lock();
                    *acked = revision.max(*acked);
                }
                Err(AckError::DriverStopped | AckError::Refused(AckRefusal::NoSession)) => {
                    assert!(panicked, "nobody panicked: {answer:?}");
                }
                Err(AckError::Refused(refusal)) => {
                    let said = format!("{refusal:?}");
                    let is_expected = !refused.is_empty() && said.starts_with(refused);
                    let is_store = matches!(refusal, AckRefusal::StoreFailed(_));
                    // A stream that took over meanwhile has delivered nothing yet.
                    let is_late = said.starts_with("Superseded") || said.starts_with("Beyond");
                    let may_be_late = refused.is_empty() && is_late;
                    assert!(is_expected || is_store || may_be_late, "{answer:?}");
                }
                // The driver that knew of it is gone.
                Ok(_) if panicked && refused == "Superseded" => {}
                _ => panic!("P10: {answer:?} instead of {refused}"),
            }
        };
        self.acks.push((what, tokio::spawn(answered)));
    }

    /// Lets everything run until it waits, then checks what must hold then.
    async fn settle(&mut self) {
        self.settle_once().await;
        for client in &self.clients {
            let held = self.upstream.held(client.number);
            assert!(held <= 1, "{held} attempts at a time");
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

    async fn settle_once(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Some(panicked) = take_panic() {
            assert!(panicked.contains("as the world ordered"), "{panicked}");
            self.tally.count("driver panics");
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
