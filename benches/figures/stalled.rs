//! Subscribers that stop reading, beside healthy ones.

use futures_util::future::join_all;
use watchmark::proto::watchmark::v1::{AckMode, watch_service_client::WatchServiceClient};

use crate::{
    measure::{MIB, forget_peak, median, median_ratio, peak, percentile, runs},
    stage::{Reader, Stage, direct_arrivals, direct_watch, later, next, subscribe, write},
    table::{
        Bar::{AtMost, ForScale},
        Table,
    },
};

const HEALTHY: usize = 10;
const STALLED: usize = 200;
const COUNT: usize = 5000;
/// What most gRPC libraries have; tonic's own would take in most of a run.
const WINDOW_BYTES: u32 = (1 << 16) - 1;

pub(crate) async fn figures(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let [mut without, mut filling, mut beside] = [(); 3].map(|()| Latencies::default());
    forget_peak(stage.pid());
    for _ in 0..runs() {
        without.push(healthy(&stage).await);
        let head = stage.etcd.head().await;
        let endpoint = stage.watchmark.endpoint();
        let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES);
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            // Each on a connection of its own; opened, then never read.
            let mut api = endpoint
                .connect()
                .await
                .map(WatchServiceClient::new)
                .unwrap();
            let mut stream = subscribe(&mut api, head).await;
            next(&mut stream).await;
            stalled.push(stream);
        }
        // Until their buffers are full they are 200 subscribers more.
        filling.push(healthy(&stage).await);
        beside.push(healthy(&stage).await);
    }
    let filling_ratio = median_ratio(&filling.p99, &without.p99);
    table.row(
        "200 that stop reading: p99 of 10 healthy ones beside them / without",
        median_ratio(&beside.p99, &without.p99),
        "x",
        AtMost(1.2),
        format!(
            "{:.2} ms / {:.2} ms from a put's begin to the event",
            median(beside.p99),
            median(without.p99)
        ),
    );
    table.row(
        "the same, behind a direct watch",
        median_ratio(&beside.added_p99, &without.added_p99),
        "x",
        ForScale,
        format!(
            "{:.2} ms / {:.2} ms from there to the event",
            median(beside.added_p99),
            median(without.added_p99)
        ),
    );
    table.row(
        "the same, while the buffers of the 200 fill",
        filling_ratio,
        "x",
        ForScale,
        format!(
            "{:.2} ms, of the 5 s after they stopped",
            median(filling.p99)
        ),
    );
    table.row(
        "the same: peak memory",
        peak(stage.pid()) / MIB,
        "MiB",
        AtMost(64.0),
        "resident memory of watchmark".to_owned(),
    );
}

/// In milliseconds.
#[derive(Default)]
struct Latencies {
    p99: Vec<f64>,
    added_p99: Vec<f64>,
}

impl Latencies {
    fn push(&mut self, (p99, added_p99): (f64, f64)) {
        self.p99.push(p99);
        self.added_p99.push(added_p99);
    }
}

/// p99 from a put's begin, and from its arrival at a direct watch, in milliseconds.
async fn healthy(stage: &Stage) -> (f64, f64) {
    let head = stage.etcd.head().await;
    let open = (0..HEALTHY).map(|_| Reader::open(stage, head, AckMode::Manual));
    let readers = join_all(open).await;
    let readers: Vec<_> = readers.into_iter().map(|it| it.arrivals(COUNT)).collect();
    let watch = direct_watch(&mut stage.etcd.client().await, head, false).await;
    let direct = direct_arrivals(watch, COUNT);
    let writer = write(stage.etcd.client().await, "bench/", 1000.0, 256, COUNT);
    let puts = tokio::spawn(writer).await.unwrap();
    let direct = direct.await.unwrap();
    let (mut late, mut added) = (Vec::new(), Vec::new());
    for reader in readers {
        for (revision, at) in reader.await.unwrap() {
            late.push(later(at, puts[&revision].0) * 1e3);
            added.push(later(at, direct[&revision]) * 1e3);
        }
    }
    (percentile(&mut late, 99.0), percentile(&mut added, 99.0))
}
