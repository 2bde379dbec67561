//! Subscribers that stop reading, beside healthy ones.

use std::time::Instant;

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use crate::{
    live::writer,
    measure::{forget_peak, median, peak_mib, percentile, runs},
    stage::{Stage, next, subscribe},
    table::Table,
};

const HEALTHY: usize = 10;
const STALLED: usize = 200;
const COUNT: usize = 5000;

pub(crate) async fn figures(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        without.push(healthy_p99(&stage).await);
        forget_peak(stage.pid());
        let head = stage.etcd.head().await;
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            // Each on a connection of its own; opened, then never read.
            let mut stream = subscribe(&mut stage.watchmark.client().await, head).await;
            next(&mut stream).await;
            stalled.push(stream);
        }
        beside.push(healthy_p99(&stage).await);
        drop(stalled);
    }
    let (without, beside) = (median(&mut without), median(&mut beside));
    table.row(
        "200 that stop reading: p99 of 10 healthy ones, beside them / without",
        "<= 1.2",
        format!("{:.2}", beside / without),
        format!("{beside:.2} ms / {without:.2} ms behind the first to receive"),
    );
    table.row(
        "the same: peak memory",
        "<= 64 MiB",
        format!("{:.0} MiB", peak_mib(stage.pid())),
        "resident memory of watchmark".to_owned(),
    );
}

/// From the put's begin to the event's arrival, in milliseconds.
async fn healthy_p99(stage: &Stage) -> f64 {
    let head = stage.etcd.head().await;
    let mut readers = Vec::new();
    for _ in 0..HEALTHY {
        let mut stream = subscribe(&mut stage.watchmark.client().await, head).await;
        readers.push(tokio::spawn(async move {
            let mut at = Vec::with_capacity(COUNT);
            while at.len() < COUNT {
                if let Message::Events(events) = next(&mut stream).await {
                    let now = Instant::now();
                    at.extend(
                        events
                            .events
                            .iter()
                            .map(|it| (it.kv.as_ref().unwrap().mod_revision, now)),
                    );
                }
            }
            at
        }));
    }
    let mut client = stage.etcd.client().await;
    let mut watch = crate::stage::direct_watch(&mut client, head, false).await;
    let direct = tokio::spawn(async move {
        let mut at = std::collections::HashMap::new();
        while at.len() < COUNT {
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
    writer(stage.etcd.client().await, COUNT).await.unwrap();
    let direct = direct.await.unwrap();
    let mut late = Vec::new();
    for reader in readers {
        let at = reader.await.unwrap();
        late.extend(at.iter().map(|(revision, at)| {
            at.saturating_duration_since(direct[revision]).as_secs_f64() * 1e3
        }));
    }
    percentile(&mut late, 99.0)
}
