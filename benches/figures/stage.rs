//! What the figures are measured on: etcd, watchmark, and subscribers and
//! writers, as an ordinary application writes them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use etcd_client::{Client, TxnOp, WatchOptions, WatchStream};
use futures_util::{StreamExt, stream};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Status, Streaming, transport::Channel};
use watchmark::proto::watchmark::v1::{
    AckMode, AckRequest, Event, StreamState, SubscribeRequest, SubscribeResponse,
    subscribe_response::Message, watch_service_client::WatchServiceClient,
};

use crate::{
    measure::seconds,
    support::{Etcd, Watchmark, wait},
};

/// One etcd without limits that a benchmark meets, and a sidecar as it comes.
pub(crate) struct Stage {
    pub(crate) etcd: Etcd,
    pub(crate) watchmark: Watchmark,
}

impl Stage {
    pub(crate) async fn new(flags: &[&str]) -> Self {
        let etcd = Etcd::single(&["--quota-backend-bytes=8589934592"]).await;
        // What it logs by default.
        let flags = [&["--log=info"], flags].concat();
        let watchmark = Watchmark::start(&etcd, &flags).await;
        Self { etcd, watchmark }
    }

    /// Of watchmark.
    pub(crate) fn pid(&self) -> u32 {
        self.watchmark.process().pid()
    }

    pub(crate) fn etcd_pid(&self) -> u32 {
        self.etcd.pid(0)
    }

    /// `count` puts, a revision each, over 10,000 keys. Returns the revision
    /// before the first.
    pub(crate) async fn put(&self, count: usize, value_bytes: usize) -> i64 {
        // Large ones in such numbers time out.
        let writers = if value_bytes < 1 << 16 { 200 } else { 4 };
        let before = self.etcd.head().await;
        let client = &self.etcd.client().await;
        stream::iter(0..count)
            .for_each_concurrent(writers, |n| async move {
                let key = format!("bench/{:05}", n % 10_000);
                let mut kv = client.kv_client();
                kv.put(key, vec![b'v'; value_bytes], None).await.unwrap();
            })
            .await;
        before
    }

    /// As many events, 128 to a revision.
    pub(crate) async fn put_by_transactions(&self, events: usize, value_bytes: usize) -> i64 {
        let before = self.etcd.head().await;
        let client = &self.etcd.client().await;
        stream::iter((0..events).step_by(128))
            .for_each_concurrent(8, |first| async move {
                let keys = first..(first + 128).min(events);
                let put = |n| TxnOp::put(format!("bench/{n:07}"), vec![b'v'; value_bytes], None);
                let ops: Vec<_> = keys.map(put).collect();
                let txn = etcd_client::Txn::new().and_then(ops);
                client.kv_client().txn(txn).await.unwrap();
            })
            .await;
        before
    }

    /// How many seconds a direct watch takes to receive `count` events from
    /// right after `revision`.
    pub(crate) async fn direct(&self, revision: i64, count: usize, fragment: bool) -> f64 {
        let mut client = self.etcd.client().await;
        let began = Instant::now();
        let mut watch = direct_watch(&mut client, revision, fragment).await;
        let mut received = 0;
        while received < count {
            received += watch.message().await.unwrap().unwrap().events().len();
        }
        seconds(began.elapsed())
    }

    /// How many seconds a new subscriber takes to receive them through watchmark.
    pub(crate) async fn relayed(&self, revision: i64, count: usize) -> f64 {
        let mut api = self.watchmark.client().await;
        let began = Instant::now();
        let mut stream = subscribe(&mut api, revision).await;
        let mut received = 0;
        while received < count {
            received += events_of(&mut stream).await.len();
        }
        seconds(began.elapsed())
    }

    /// Opens `count` subscriptions on at most `connections` connections, each
    /// live; one list for each connection.
    pub(crate) async fn open(
        &self,
        count: usize,
        connections: usize,
        request: impl Fn() -> SubscribeRequest,
    ) -> Vec<Vec<Streaming<SubscribeResponse>>> {
        let connections = connections.min(count);
        let mut opening = JoinSet::new();
        for at in 0..connections {
            let mut api = self.watchmark.client().await;
            let requests = (at..count).step_by(connections).map(|_| request());
            let requests: Vec<_> = requests.collect();
            opening.spawn(async move {
                let mut streams = Vec::new();
                for request in requests {
                    streams.push(opened(&mut api, request).await);
                }
                streams
            });
        }
        opening.join_all().await
    }
}

/// Everything below `bench/`, from right after `revision`.
pub(crate) async fn direct_watch(
    client: &mut Client,
    revision: i64,
    fragment: bool,
) -> WatchStream {
    let mut options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision + 1);
    if fragment {
        options = options.with_fragment();
    }
    let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
    watches.watch("bench/", Some(options)).await.unwrap()
}

/// The same through watchmark, under a name not used before.
pub(crate) async fn subscribe(
    api: &mut WatchServiceClient<Channel>,
    revision: i64,
) -> Streaming<SubscribeResponse> {
    api.subscribe(all_after(revision))
        .await
        .unwrap()
        .into_inner()
}

pub(crate) fn all_after(revision: i64) -> SubscribeRequest {
    SubscribeRequest {
        client_id: new_client_id(),
        prefix: "bench/".into(),
        resume_after: revision,
        ack_mode: AckMode::Auto.into(),
        ..SubscribeRequest::default()
    }
}

pub(crate) fn new_client_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Live. Subscribes again where it is told to: on a busy machine etcd may not
/// have answered thousands at once in time.
async fn opened(
    api: &mut WatchServiceClient<Channel>,
    request: SubscribeRequest,
) -> Streaming<SubscribeResponse> {
    let began = Instant::now();
    loop {
        match subscribed(api, request.clone()).await {
            Ok(stream) => return stream,
            Err(status) => assert!(began.elapsed() < wait::DEADLINE, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn subscribed(
    api: &mut WatchServiceClient<Channel>,
    request: SubscribeRequest,
) -> Result<Streaming<SubscribeResponse>, Status> {
    let mut stream = api.subscribe(request).await?.into_inner();
    while let Some(response) = stream.message().await? {
        if response.message.as_ref().is_some_and(is_live) {
            return Ok(stream);
        }
    }
    Err(Status::aborted("the stream ended"))
}

fn is_live(message: &Message) -> bool {
    matches!(message, Message::State(it) if it.state() == StreamState::Live)
}

/// Until the stream says so.
async fn live(stream: &mut Streaming<SubscribeResponse>) {
    while !is_live(&next(stream).await) {}
}

/// What the next message has.
pub(crate) async fn events_of(stream: &mut Streaming<SubscribeResponse>) -> Vec<Event> {
    match next(stream).await {
        Message::Events(events) => events.events,
        _ => Vec::new(),
    }
}

pub(crate) async fn next(stream: &mut Streaming<SubscribeResponse>) -> Message {
    let response = stream.message().await.unwrap().unwrap();
    response.message.unwrap()
}

/// When each revision arrived.
pub(crate) type Arrivals = HashMap<i64, Instant>;

/// Of the next `count` revisions.
pub(crate) fn direct_arrivals(mut watch: WatchStream, count: usize) -> JoinHandle<Arrivals> {
    tokio::spawn(async move {
        let mut at = Arrivals::with_capacity(count);
        while at.len() < count {
            let response = watch.message().await.unwrap().unwrap();
            let now = Instant::now();
            let events = response.events().iter();
            at.extend(events.map(|it| (it.kv().unwrap().mod_revision(), now)));
        }
        at
    })
}

/// A subscription that is read.
pub(crate) struct Reader {
    api: WatchServiceClient<Channel>,
    client_id: String,
    stream: Streaming<SubscribeResponse>,
}

impl Reader {
    /// Live, on a connection of its own, from right after `revision`.
    pub(crate) async fn open(stage: &Stage, revision: i64, ack_mode: AckMode) -> Self {
        let mut api = stage.watchmark.client().await;
        let request = SubscribeRequest {
            ack_mode: ack_mode.into(),
            ..all_after(revision)
        };
        let client_id = request.client_id.clone();
        let mut stream = api.subscribe(request).await.unwrap().into_inner();
        live(&mut stream).await;
        Self {
            api,
            client_id,
            stream,
        }
    }

    /// When each of the next `count` revisions arrived. Acknowledges what it
    /// has every second, which nothing changes if watchmark does.
    pub(crate) fn arrivals(self, count: usize) -> JoinHandle<Arrivals> {
        let Self {
            api,
            client_id,
            mut stream,
        } = self;
        tokio::spawn(async move {
            let mut at = Arrivals::with_capacity(count);
            let mut acked = Instant::now();
            while at.len() < count {
                let Message::Events(events) = next(&mut stream).await else {
                    continue;
                };
                let now = Instant::now();
                let arrived = events.events.iter();
                at.extend(arrived.map(|it| (it.kv.as_ref().unwrap().mod_revision, now)));
                if acked.elapsed() >= Duration::from_secs(1) {
                    acked = now;
                    let request = AckRequest {
                        client_id: client_id.clone(),
                        revision: events.revision,
                        session_id: 0,
                    };
                    let mut api = api.clone();
                    tokio::spawn(async move { api.ack(request).await.unwrap() });
                }
            }
            at
        })
    }
}

/// When the put of a revision began, and how many seconds it took.
pub(crate) type Puts = HashMap<i64, (Instant, f64)>;

/// Puts below `prefix` at a steady rate, however long the answers take.
pub(crate) async fn write(
    client: Client,
    prefix: &'static str,
    per_second: f64,
    value_bytes: usize,
    count: usize,
) -> Puts {
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    let mut puts = JoinSet::new();
    for n in 0..count {
        tick.tick().await;
        let mut kv = client.kv_client();
        puts.spawn(async move {
            let key = format!("{prefix}{:05}", n % 10_000);
            let value = vec![b'v'; value_bytes];
            let began = Instant::now();
            let answer = kv.put(key, value, None).await.unwrap();
            let took = seconds(began.elapsed());
            (answer.header().unwrap().revision(), (began, took))
        });
    }
    puts.join_all().await.into_iter().collect()
}

/// How many seconds later than `b`; negative: earlier.
pub(crate) fn later(a: Instant, b: Instant) -> f64 {
    seconds(a.saturating_duration_since(b)) - seconds(b.saturating_duration_since(a))
}
