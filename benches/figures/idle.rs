//! What subscriptions cost of which nothing happens.

use std::time::{Duration, Instant};

use watchmark::proto::watchmark::v1::{SubscribeRequest, subscribe_response::Message};

use crate::{
    measure::{cpu, resident_mib},
    stage::{Stage, new_client_id, next},
    table::Table,
};

const CONNECTIONS: usize = 50;

pub(crate) async fn figures(table: &mut Table) {
    let flags = ["--max-subscriptions=6000", "--max-connections-per-peer=200"];
    let stage = Stage::new(&flags).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let empty = resident_mib(stage.pid());
    table.row(
        "memory, no subscription",
        "<= 9 MB",
        format!("{:.1} MB", empty * 1.048_576),
        "resident memory of watchmark".to_owned(),
    );
    let mut streams = Vec::new();
    open(&stage, &mut streams, 1000).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (before, began) = (cpu(stage.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let used = (cpu(stage.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    table.row(
        "CPU, 1,000 idle subscriptions",
        "<= 1 %",
        format!("{:.1} %", used * 100.0),
        "of a core, over a minute".to_owned(),
    );
    open(&stage, &mut streams, 5000).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let per = (resident_mib(stage.pid()) - empty) * 1024.0 / 5000.0;
    table.row(
        "memory per idle subscription, 5,000 of them",
        "<= 16 KB",
        format!("{:.1} KB", per * 1.024),
        format!("on {CONNECTIONS} connections, each of a range of its own"),
    );
}

type Streams = Vec<tonic::Streaming<watchmark::proto::watchmark::v1::SubscribeResponse>>;

/// Up to `count`, each live.
async fn open(stage: &Stage, streams: &mut Streams, count: usize) {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(stage.watchmark.client().await);
    }
    while streams.len() < count {
        let client_id = new_client_id();
        let request = SubscribeRequest {
            prefix: format!("idle/{client_id}/").into(),
            client_id,
            ..SubscribeRequest::default()
        };
        let api = &mut clients[streams.len() % CONNECTIONS];
        let mut stream = api.subscribe(request).await.unwrap().into_inner();
        while !matches!(next(&mut stream).await, Message::SnapshotEnd(_)) {}
        streams.push(stream);
    }
}
