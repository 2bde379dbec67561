//! Durable acks: the store alone, and through gRPC.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use watchmark::{
    proto::watchmark::v1::{AckRequest, SubscribeRequest, subscribe_response::Message},
    resume::{ClientId, KeyRange, Record, Selection},
    store::{CheckpointStore, DiskStore, OnCorruptStore},
};

use crate::{
    measure::{median, percentile, runs},
    stage::{Stage, new_client_id, next},
    table::Table,
};

const WRITERS: usize = 100;
const ONE: usize = 1000;
const LASTING: Duration = Duration::from_secs(3);

pub(crate) async fn store(table: &mut Table) {
    // The disk under the build, not a tmpfs.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = open(&directory.path().join("store"));
    let (mut bare, mut one, mut rate) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        bare.push(bare_sync(directory.path()));
        one.push(one_writer(&store).await);
        rate.push(hundred_writers(&store).await);
    }
    let [bare, one, rate] = [bare, one, rate].map(|mut it| median(&mut it));
    table.row(
        "durable ack, store alone, 1 writer: p50 / fdatasync",
        "<= 2",
        format!("{:.2}", one / bare),
        format!("{:.0} us / {:.0} us", one * 1e6, bare * 1e6),
    );
    table.row(
        "durable acks, store alone, 100 writers: rate / that of fdatasync",
        ">= 15",
        format!("{:.1}", rate * bare),
        format!("{rate:.0}/s, {:.0}/s", 1.0 / bare),
    );
}

pub(crate) fn open(path: &Path) -> DiskStore {
    DiskStore::open(path, OnCorruptStore::Fail).unwrap()
}

pub(crate) fn record() -> Record {
    Record::new(Selection {
        range: KeyRange::prefix("bench/".into()),
        no_put: false,
        no_delete: false,
    })
}

pub(crate) fn id(n: usize) -> ClientId {
    ClientId::parse(&format!("bench-{n}")).unwrap()
}

/// p50 of a 4 KiB append and its fdatasync, in seconds.
fn bare_sync(directory: &Path) -> f64 {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let file = options.open(directory.join("bare")).unwrap();
    let sync = |n| {
        let began = Instant::now();
        file.write_all_at(&[7; 4096], n as u64 * 4096).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64()
    };
    median(&mut (0..ONE).map(sync).collect::<Vec<_>>())
}

async fn one_writer(store: &DiskStore) -> f64 {
    let mut times = Vec::new();
    for n in 0..ONE {
        let began = Instant::now();
        store
            .put(&id(n % WRITERS), record())
            .await
            .unwrap()
            .unwrap();
        times.push(began.elapsed().as_secs_f64());
    }
    median(&mut times)
}

async fn hundred_writers(store: &DiskStore) -> f64 {
    let began = Instant::now();
    let write = |writer| async move {
        let mut acks = 0_u32;
        while began.elapsed() < LASTING {
            store.put(&id(writer), record()).await.unwrap().unwrap();
            acks += 1;
        }
        f64::from(acks)
    };
    let acks: f64 = join_all((0..WRITERS).map(write)).await.iter().sum();
    acks / began.elapsed().as_secs_f64()
}

/// 100 subscribers, each with one ack under way.
pub(crate) async fn through_grpc(table: &mut Table) {
    const REVISIONS: usize = 2000;
    let stage = Stage::new(&[]).await;
    let from = stage.put(REVISIONS, 16).await;
    let mut rates = Vec::new();
    let mut all = Vec::new();
    for _ in 0..runs() {
        let mut subscribers = Vec::new();
        for _ in 0..WRITERS {
            let mut api = stage.watchmark.client().await;
            let client_id = new_client_id();
            let request = SubscribeRequest {
                client_id: client_id.clone(),
                prefix: "bench/".into(),
                resume_after: from,
                ..SubscribeRequest::default()
            };
            let mut stream = api.subscribe(request).await.unwrap().into_inner();
            let mut received = 0;
            let mut last = 0;
            while received < REVISIONS {
                if let Message::Events(events) = next(&mut stream).await {
                    received += events.events.len();
                    last = events.revision;
                }
            }
            subscribers.push((api, client_id, stream, last));
        }
        let began = Instant::now();
        let ack = |(mut api, client_id, stream, last): (
            watchmark::proto::watchmark::v1::watch_service_client::WatchServiceClient<
                tonic::transport::Channel,
            >,
            String,
            _,
            i64,
        )| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                for revision in from + 1..=last {
                    let began = Instant::now();
                    let request = AckRequest {
                        client_id: client_id.clone(),
                        revision,
                        session_id: 0,
                    };
                    api.ack(request).await.unwrap();
                    times.push(began.elapsed().as_secs_f64());
                }
                drop(stream);
                times
            })
        };
        let times = join_all(subscribers.into_iter().map(ack)).await;
        let took = began.elapsed().as_secs_f64();
        let times: Vec<f64> = times.into_iter().flat_map(Result::unwrap).collect();
        rates.push(times.len() as f64 / took);
        all.extend(times);
    }
    table.row(
        "durable acks through gRPC, 100 subscribers in closed loop",
        ">= 12,000/s",
        format!("{:.0}/s", median(&mut rates)),
        format!(
            "p50 {:.1} ms, p99 {:.1} ms, with the client on the same cores",
            percentile(&mut all, 50.0) * 1e3,
            percentile(&mut all, 99.0) * 1e3
        ),
    );
}
