//! Events as they happen, at 1,000 puts a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use etcd_client::Client;
use tokio::task::JoinHandle;
use watchmark::proto::watchmark::v1::subscribe_response::Message;

use crate::{
    measure::{cpu, median, percentile, runs},
    stage::{Stage, direct_watch, next, subscribe},
    table::Table,
};

/// One measurement.
const SECONDS: u64 = 6;
pub(crate) const VALUE_BYTES: usize = 256;

/// One subscriber beside one direct watch, each event paired by its revision.
pub(crate) async fn one(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let (mut p50, mut p99, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        let head = stage.etcd.head().await;
        let count = SECONDS as usize * 1000;
        let mut client = stage.etcd.client().await;
        let mut watch = direct_watch(&mut client, head, false).await;
        let mut stream = subscribe(&mut stage.watchmark.client().await, head).await;
        // Both are live before the first put.
        while !matches!(next(&mut stream).await, Message::State(it) if it.state().as_str_name() == "STREAM_STATE_LIVE")
        {
        }
        let direct = tokio::spawn(async move {
            let mut at = HashMap::new();
            while at.len() < count {
                let response = watch.message().await.unwrap().unwrap();
                let now = Instant::now();
                at.extend(
                    response
                        .events()
                        .iter()
                        .map(|it| (it.kv().unwrap().mod_revision(), now)),
                );
            }
            at
        });
        let relayed = tokio::spawn(async move {
            let mut at = HashMap::new();
            while at.len() < count {
                let message = next(&mut stream).await;
                let now = Instant::now();
                if let Message::Events(events) = message {
                    at.extend(
                        events
                            .events
                            .iter()
                            .map(|it| (it.kv.as_ref().unwrap().mod_revision, now)),
                    );
                }
            }
            at
        });
        let before = cpu(stage.pid());
        let began = Instant::now();
        writer(stage.etcd.client().await, count).await.unwrap();
        let (direct, relayed) = (direct.await.unwrap(), relayed.await.unwrap());
        used.push((cpu(stage.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64());
        let mut added: Vec<f64> = relayed
            .iter()
            .map(|(revision, at)| micros(*at, direct[revision]))
            .collect();
        p50.push(percentile(&mut added, 50.0));
        p99.push(percentile(&mut added, 99.0));
    }
    table.row(
        "live, 1,000 put/s: added latency p50 / p99",
        "<= 50 / <= 500 us",
        format!("{:.0} / {:.0} us", median(&mut p50), median(&mut p99)),
        format!("{SECONDS} s a run, against a direct watch of the same process"),
    );
    table.row(
        "the same: CPU of watchmark",
        "<= 8 %",
        format!("{:.1} %", median(&mut used) * 100.0),
        "of a core".to_owned(),
    );
}

/// 50 subscribers of one range, each on a connection of its own.
pub(crate) async fn fifty(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let mut used = Vec::new();
    for _ in 0..runs() {
        let head = stage.etcd.head().await;
        let count = SECONDS as usize * 1000;
        let mut readers = Vec::new();
        for _ in 0..50 {
            let mut stream = subscribe(&mut stage.watchmark.client().await, head).await;
            readers.push(tokio::spawn(async move {
                let mut received = 0;
                while received < count {
                    received += crate::stage::events_of(&mut stream).await;
                }
            }));
        }
        let before = cpu(stage.pid());
        let began = Instant::now();
        writer(stage.etcd.client().await, count).await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
        used.push((cpu(stage.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64());
    }
    table.row(
        "live, 1,000 put/s, 50 subscribers of one range: CPU of watchmark",
        "<= 25 %",
        format!("{:.1} %", median(&mut used) * 100.0),
        "of a core".to_owned(),
    );
}

/// Puts 1,000 times a second, whatever the answers take.
pub(crate) fn writer(client: Client, count: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut puts = tokio::task::JoinSet::new();
        for n in 0..count {
            tick.tick().await;
            let mut kv = client.kv_client();
            puts.spawn(async move {
                let key = format!("bench/{:05}", n % 10_000);
                kv.put(key, vec![b'v'; VALUE_BYTES], None).await.unwrap();
            });
        }
        puts.join_all().await;
    })
}

/// How much later than `b`, in microseconds.
fn micros(a: Instant, b: Instant) -> f64 {
    let later = a.saturating_duration_since(b).as_secs_f64();
    let earlier = b.saturating_duration_since(a).as_secs_f64();
    (later - earlier) * 1e6
}
