//! What the figures are measured on: etcd, watchmark, and one subscriber of
//! each kind, as an ordinary application writes them.

use std::time::{Duration, Instant};

use etcd_client::{Client, TxnOp, WatchOptions};
use futures_util::{StreamExt, stream};
use tonic::{Streaming, transport::Channel};
use watchmark::proto::watchmark::v1::{
    AckMode, SubscribeRequest, SubscribeResponse, subscribe_response::Message,
    watch_service_client::WatchServiceClient,
};

use crate::support::{Etcd, Watchmark};

/// How many writes are under way at a time.
const WRITERS: usize = 200;

/// One etcd without limits that a benchmark meets, and a sidecar as it comes.
pub(crate) struct Stage {
    pub(crate) etcd: Etcd,
    pub(crate) watchmark: Watchmark,
}

impl Stage {
    pub(crate) async fn new(flags: &[&str]) -> Self {
        let etcd = Etcd::single(&["--quota-backend-bytes=8589934592"]).await;
        let flags = [&["--log=info"], flags].concat();
        let watchmark = Watchmark::start(&etcd, &flags).await;
        Self { etcd, watchmark }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.watchmark.process().pid()
    }

    /// `count` puts, a revision each, over 10,000 keys. Returns the revision
    /// before the first.
    pub(crate) async fn put(&self, count: usize, value_bytes: usize) -> i64 {
        let before = self.etcd.head().await;
        let client = &self.etcd.client().await;
        stream::iter(0..count)
            .for_each_concurrent(WRITERS, |n| async move {
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

    /// How long a direct watch takes to receive `count` events from right after `revision`.
    pub(crate) async fn direct(&self, revision: i64, count: usize, fragment: bool) -> Duration {
        let mut client = self.etcd.client().await;
        let began = Instant::now();
        let mut watch = direct_watch(&mut client, revision, fragment).await;
        let mut received = 0;
        while received < count {
            received += watch.message().await.unwrap().unwrap().events().len();
        }
        began.elapsed()
    }

    /// How long a new subscriber takes to receive them through watchmark.
    pub(crate) async fn relayed(&self, revision: i64, count: usize) -> Duration {
        let mut api = self.watchmark.client().await;
        let began = Instant::now();
        let mut stream = subscribe(&mut api, revision).await;
        let mut received = 0;
        while received < count {
            received += events_of(&mut stream).await;
        }
        began.elapsed()
    }
}

/// Everything below `bench/`, from right after `revision`.
pub(crate) async fn direct_watch(
    client: &mut Client,
    revision: i64,
    fragment: bool,
) -> etcd_client::WatchStream {
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
    let request = SubscribeRequest {
        client_id: new_client_id(),
        prefix: "bench/".into(),
        resume_after: revision,
        ack_mode: AckMode::Auto.into(),
        ..SubscribeRequest::default()
    };
    api.subscribe(request).await.unwrap().into_inner()
}

pub(crate) fn new_client_id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How many events the next message has.
pub(crate) async fn events_of(stream: &mut Streaming<SubscribeResponse>) -> usize {
    match next(stream).await {
        Message::Events(events) => events.events.len(),
        _ => 0,
    }
}

pub(crate) async fn next(stream: &mut Streaming<SubscribeResponse>) -> Message {
    let response = stream.message().await.unwrap().unwrap();
    response.message.unwrap()
}
