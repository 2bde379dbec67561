//! Durable acks: the store alone, and through gRPC.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Channel};
use watchmark::{
    proto::watchmark::v1::{
        AckMode, AckRequest, SubscribeRequest, SubscribeResponse,
        watch_service_client::WatchServiceClient,
    },
    resume::{ClientId, KeyRange, Record, Selection},
    store::{CheckpointStore, DiskStore, OnCorruptStore},
};

use crate::{
    measure::{median, median_ratio, percentile, runs, seconds},
    stage::{Stage, all_after, events_of},
    table::{
        Bar::{AtLeast, AtMost},
        Table,
    },
};

const WRITERS: usize = 100;
const ONE: usize = 1000;
const REVISIONS: usize = 1000;
const LASTING: Duration = Duration::from_secs(3);

pub(crate) async fn store(table: &mut Table) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let file = options.open(directory.path().join("bare")).unwrap();
    let (mut bare, mut overwrite, mut one) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_rate, mut rate) = (Vec::new(), Vec::new());
    for run in 0..runs() {
        let (mut bares, mut overwrites, mut ones) = (Vec::new(), Vec::new(), Vec::new());
        // One by one in turn: the disk is others' as well.
        for n in 0..ONE {
            bares.push(bare_sync(&file, (run * ONE + n) as u64 * 4096));
            ones.push(one_ack(&store, n).await);
            overwrites.push(bare_sync(&file, 0));
        }
        bare_rate.push(ONE as f64 / bares.iter().sum::<f64>());
        rate.push(hundred_writers(&store).await);
        bare.push(median(bares));
        overwrite.push(median(overwrites));
        one.push(median(ones));
    }
    table.row(
        "durable ack, store alone, 1 writer, p50: ack / fdatasync",
        median_ratio(&one, &bare),
        "x",
        AtMost(2.0),
        format!(
            "{:.0} us / {:.0} us of 4 KiB appended, {:.0} us overwritten",
            median(one) * 1e6,
            median(bare) * 1e6,
            median(overwrite) * 1e6
        ),
    );
    table.row(
        "durable acks, store alone, 100 writers: acks / fdatasyncs in the same time",
        median_ratio(&rate, &bare_rate),
        "x",
        AtLeast(15.0),
        format!("{:.0}/s / {:.0}/s", median(rate), median(bare_rate)),
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

/// How many seconds it takes to write 4 KiB at `offset` and sync them.
fn bare_sync(file: &File, offset: u64) -> f64 {
    let began = Instant::now();
    file.write_all_at(&[7; 4096], offset).unwrap();
    file.sync_data().unwrap();
    seconds(began.elapsed())
}

async fn one_ack(store: &DiskStore, n: usize) -> f64 {
    let began = Instant::now();
    let stored = store.put(&id(n % WRITERS), record()).await;
    stored.unwrap().unwrap();
    seconds(began.elapsed())
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
    acks / seconds(began.elapsed())
}

/// 100 subscribers, each with one ack under way.
pub(crate) async fn through_grpc(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let from = stage.put(REVISIONS, 16).await;
    let (mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        let receivers = (0..WRITERS).map(|_| Acker::new(&stage, from));
        let ackers = join_all(receivers).await;
        let began = Instant::now();
        let acking: JoinSet<_> = ackers.into_iter().map(|it| it.ack_all(from)).collect();
        let mut times = acking.join_all().await.concat();
        rates.push(times.len() as f64 / seconds(began.elapsed()));
        p50.push(percentile(&mut times, 50.0) * 1e3);
        p99.push(percentile(&mut times, 99.0) * 1e3);
    }
    table.row(
        "durable acks through gRPC, 100 subscribers in closed loop",
        median(rates),
        "/s",
        AtLeast(12_000.0),
        format!(
            "p50 {:.1} ms, p99 {:.1} ms; the client has the same cores",
            median(p50),
            median(p99)
        ),
    );
}

/// One subscriber that has received all and acknowledged nothing.
struct Acker {
    api: WatchServiceClient<Channel>,
    client_id: String,
    _stream: Streaming<SubscribeResponse>,
}

impl Acker {
    async fn new(stage: &Stage, from: i64) -> Self {
        let mut api = stage.watchmark.client().await;
        let request = SubscribeRequest {
            ack_mode: AckMode::Manual.into(),
            ..all_after(from)
        };
        let client_id = request.client_id.clone();
        let mut stream = api.subscribe(request).await.unwrap().into_inner();
        let mut received = 0;
        while received < REVISIONS {
            received += events_of(&mut stream).await.len();
        }
        Self {
            api,
            client_id,
            _stream: stream,
        }
    }

    /// One revision after the other; how many seconds each took.
    async fn ack_all(mut self, from: i64) -> Vec<f64> {
        let mut times = Vec::with_capacity(REVISIONS);
        for revision in from + 1..=from + REVISIONS as i64 {
            let request = AckRequest {
                client_id: self.client_id.clone(),
                revision,
                session_id: 0,
            };
            let began = Instant::now();
            self.api.ack(request).await.unwrap();
            times.push(seconds(began.elapsed()));
        }
        times
    }
}
