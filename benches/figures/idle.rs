//! What subscriptions cost of which nothing happens.

use std::time::Duration;

use watchmark::proto::watchmark::v1::SubscribeRequest;

use crate::{
    measure::{Load, median, resident, runs},
    stage::{Stage, new_client_id},
    table::{Bar::AtMost, Table},
};

const CONNECTIONS: usize = 50;
/// What is left of opening them is over.
const SETTLED: Duration = Duration::from_secs(15);
/// Twice the default --progress-interval: asking etcd for progress is in it.
const LASTING: Duration = Duration::from_secs(20);

pub(crate) async fn figures(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    let streams = stage.open(1000, CONNECTIONS, alone).await;
    tokio::time::sleep(SETTLED).await;
    let (mut own, mut etcd) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        let loads = [stage.pid(), stage.etcd_pid()].map(Load::of);
        tokio::time::sleep(LASTING).await;
        own.push(loads[0].percent());
        etcd.push(loads[1].percent());
    }
    table.row(
        "CPU, 1,000 idle subscriptions, default settings",
        median(own),
        "%",
        AtMost(1.0),
        format!("of a core; {:.1} % of etcd", median(etcd)),
    );
    drop((streams, stage));

    let (mut empty, mut each, mut of_etcd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs() {
        const COUNT: usize = 5000;
        let stage = Stage::new(&["--max-subscriptions=5000"]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let pids = [stage.pid(), stage.etcd_pid()];
        let before = pids.map(resident);
        let streams = stage.open(COUNT, CONNECTIONS, alone).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let after = pids.map(resident);
        let grown = |at: usize| (after[at] - before[at]) / COUNT as f64 / 1e3;
        empty.push(before[0] / 1e6);
        each.push(grown(0));
        of_etcd.push(grown(1));
        drop(streams);
    }
    table.row(
        "memory without subscriptions",
        median(empty),
        "MB",
        AtMost(9.0),
        "resident memory of watchmark".to_owned(),
    );
    table.row(
        "memory per idle subscription, 5,000 of them",
        median(each),
        "KB",
        AtMost(16.0),
        format!(
            "on {CONNECTIONS} connections; {:.0} KB of etcd",
            median(of_etcd)
        ),
    );
}

/// A range of its own.
fn alone() -> SubscribeRequest {
    let client_id = new_client_id();
    SubscribeRequest {
        prefix: format!("idle/{client_id}/").into(),
        client_id,
        ..SubscribeRequest::default()
    }
}
