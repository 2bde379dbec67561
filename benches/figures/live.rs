//! Events as they happen.

use std::net::SocketAddr;

use etcd_client::Client;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use watchmark::proto::watchmark::v1::AckMode;

use crate::{
    bare::{self, GrpcRelay},
    measure::{Load, median, percentile, runs},
    stage::{Arrivals, Reader, Stage, direct_arrivals, direct_watch, later, write},
    table::{
        Bar::{AtMost, ForScale},
        Table,
    },
};

/// One measurement.
const SECONDS: f64 = 6.0;

/// 1,000 puts a second of 256 B, one subscriber.
pub(crate) async fn one(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let for_scale = true;
    let runs = measure(&stage, 1000.0, 256, AckMode::Manual, for_scale).await;
    let of = format!(
        "paired event by event with a direct watch; a second direct one: {}, one behind a bare \
         relay of bytes: {}, behind a bare relay by tonic: {}",
        runs.direct.said(),
        runs.byte_relay.said(),
        runs.grpc_relay.said()
    );
    table.row(
        "live, 1,000 put/s: added latency, p50",
        median(runs.added.p50),
        "us",
        AtMost(50.0),
        of.clone(),
    );
    table.row(
        "live, 1,000 put/s: added latency, p99",
        median(runs.added.p99),
        "us",
        AtMost(500.0),
        of,
    );
    table.row(
        "live, 1,000 put/s: CPU of watchmark",
        median(runs.cpu),
        "%",
        AtMost(8.0),
        "of a core; an ack every second".to_owned(),
    );
    let auto = measure(&stage, 1000.0, 256, AckMode::Auto, !for_scale).await;
    table.row(
        "live, 1,000 put/s, ACK_MODE_AUTO: CPU of watchmark",
        median(auto.cpu),
        "%",
        ForScale,
        format!(
            "of a core; added latency p50 {:.0} us, p99 {:.0} us",
            median(auto.added.p50),
            median(auto.added.p99)
        ),
    );
}

/// How the cost grows with the size of values.
pub(crate) async fn sizes(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    for (name, bytes, per_second) in [
        ("64 B", 64, 1000.0),
        ("1 KiB", 1 << 10, 1000.0),
        ("16 KiB", 1 << 14, 500.0),
        ("256 KiB", 1 << 18, 40.0),
        ("1 MiB", 1 << 20, 10.0),
    ] {
        let runs = measure(&stage, per_second, bytes, AckMode::Manual, false).await;
        table.row(
            &format!("live, values of {name}: added latency, p50"),
            median(runs.added.p50),
            "us",
            ForScale,
            format!(
                "p99 {:.0} us; {:.0} us of CPU per event at {per_second}/s",
                median(runs.added.p99),
                median(runs.cpu) * 1e4 / per_second
            ),
        );
    }
}

/// Of each run.
#[derive(Default)]
struct Runs {
    added: Added,
    /// Of watchmark, in per cent of a core.
    cpu: Vec<f64>,
    direct: Added,
    byte_relay: Added,
    grpc_relay: Added,
}

/// Added latency, in microseconds.
#[derive(Default)]
struct Added {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Added {
    fn push(&mut self, [p50, p99]: [f64; 2]) {
        self.p50.push(p50);
        self.p99.push(p99);
    }

    fn said(&self) -> String {
        let [p50, p99] = [&self.p50, &self.p99].map(|it| median(it.clone()));
        format!("{p50:.0} / {p99:.0} us")
    }
}

/// A direct watch and one other, paired by revision: the subscriber, then, if
/// wanted for scale, one behind each bare relay and a second direct one. No more
/// than these two at a time, on machines with two cores.
async fn measure(
    stage: &Stage,
    per_second: f64,
    value_bytes: usize,
    ack_mode: AckMode,
    for_scale: bool,
) -> Runs {
    let count = (SECONDS * per_second) as usize;
    let url = stage.etcd.endpoint(0);
    let endpoint = url.replace("http://", "");
    let relays = for_scale.then(|| (bare::relay(endpoint), GrpcRelay::start(&url)));
    let mut measured = Runs::default();
    for _ in 0..runs() {
        let pair = async |beside: Beside| {
            let head = stage.etcd.head().await;
            let watch = async |mut client: Client| direct_watch(&mut client, head, false).await;
            let direct = direct_arrivals(watch(stage.etcd.client().await).await, count);
            let other = match beside {
                Beside::Subscriber => {
                    let reader = Reader::open(stage, head, ack_mode).await;
                    reader.arrivals(count)
                }
                Beside::Relay(address) => {
                    let client = Client::connect([address.to_string()], None).await.unwrap();
                    direct_arrivals(watch(client).await, count)
                }
                Beside::Direct => direct_arrivals(watch(stage.etcd.client().await).await, count),
            };
            let load = Load::of(stage.pid());
            let client = stage.etcd.client().await;
            let writer = write(client, "bench/", per_second, value_bytes, count);
            tokio::spawn(writer).await.unwrap();
            let (direct, other) = (direct.await.unwrap(), other.await.unwrap());
            // Of the time it was to take: a busy machine takes longer.
            let cpu = load.seconds() / SECONDS * 100.0;
            let mut added = added(&other, &direct);
            let percentiles = [50.0, 99.0].map(|it| percentile(&mut added, it));
            (percentiles, cpu)
        };
        let (added, cpu) = pair(Beside::Subscriber).await;
        measured.added.push(added);
        measured.cpu.push(cpu);
        if let Some((byte_relay, grpc_relay)) = &relays {
            let byte_relay = Beside::Relay(*byte_relay);
            measured.byte_relay.push(pair(byte_relay).await.0);
            let grpc_relay = Beside::Relay(grpc_relay.address);
            measured.grpc_relay.push(pair(grpc_relay).await.0);
            measured.direct.push(pair(Beside::Direct).await.0);
        }
    }
    measured
}

/// What a direct watch is compared with.
enum Beside {
    Subscriber,
    Relay(SocketAddr),
    Direct,
}

/// How much later each revision arrived, in microseconds.
fn added(arrivals: &Arrivals, direct: &Arrivals) -> Vec<f64> {
    // Everything is warm after a sixth of it.
    let first = direct.keys().min().unwrap() + direct.len() as i64 / 6;
    let warm = arrivals.iter().filter(|it| *it.0 >= first);
    warm.map(|(revision, at)| later(*at, direct[revision]) * 1e6)
        .collect()
}

/// 50 subscribers of one range, each on a connection of its own; and for scale
/// as many watches behind a relay by tonic.
pub(crate) async fn fan_out(table: &mut Table) {
    const SUBSCRIBERS: usize = 50;
    let stage = Stage::new(&[]).await;
    let relay = GrpcRelay::start(&stage.etcd.endpoint(0));
    let count = (SECONDS * 1000.0) as usize;
    let [mut own, mut etcd, mut bare] = [const { Vec::new() }; 3];
    for _ in 0..runs() {
        let head = stage.etcd.head().await;
        let open = (0..SUBSCRIBERS).map(|_| Reader::open(&stage, head, AckMode::Manual));
        let readers = join_all(open).await;
        let readers = readers.into_iter().map(|it| it.arrivals(count));
        let [watchmark, of_etcd] =
            loads(&stage, [stage.pid(), stage.etcd_pid()], readers.collect()).await;
        own.push(watchmark);
        etcd.push(of_etcd);

        let head = stage.etcd.head().await;
        let open = (0..SUBSCRIBERS).map(async |_| {
            let client = Client::connect([relay.address.to_string()], None).await;
            direct_watch(&mut client.unwrap(), head, false).await
        });
        let watches = join_all(open).await.into_iter();
        let readers = watches.map(|watch| direct_arrivals(watch, count));
        bare.push(loads(&stage, [relay.pid()], readers.collect()).await[0]);
    }
    table.row(
        "live, 1,000 put/s, 50 subscribers of one range: CPU of watchmark",
        median(own),
        "%",
        AtMost(25.0),
        format!(
            "of a core; {:.0} % of etcd; {:.0} % of a bare relay by tonic with 50 watches",
            median(etcd),
            median(bare)
        ),
    );
}

/// The CPU that processes use while 1,000 put/s arrive, in per cent of a core.
async fn loads<const N: usize>(
    stage: &Stage,
    pids: [u32; N],
    readers: Vec<JoinHandle<Arrivals>>,
) -> [f64; N] {
    let loads = pids.map(Load::of);
    let count = (SECONDS * 1000.0) as usize;
    let writer = write(stage.etcd.client().await, "bench/", 1000.0, 256, count);
    tokio::spawn(writer).await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    loads.map(|it| it.seconds() / SECONDS * 100.0)
}
