//! The beginning: how fast it serves, and what is shipped.

use std::{fs, time::Instant};

use futures_util::future::join_all;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use watchmark::store::CheckpointStore;

use crate::{
    acks::{id, open, record},
    measure::{median, runs, seconds},
    support::{Etcd, Watchmark, wait::DEADLINE},
    table::{Bar::AtMost, Table},
};

const STORED: usize = 10_000;

pub(crate) async fn figures(table: &mut Table) {
    let etcd = Etcd::single(&[]).await;
    let flags = ["--log=info", "--max-subscriptions=10000"];
    let mut watchmark = Watchmark::unstarted(&etcd.endpoints(), &flags);
    let empty = started(&mut watchmark).await;
    fs::remove_dir_all(watchmark.data_dir()).unwrap();
    let store = open(&watchmark.data_dir());
    for some in (0..STORED).collect::<Vec<_>>().chunks(1000) {
        let stored = join_all(some.iter().map(|&n| store.put(&id(n), record()))).await;
        stored.into_iter().for_each(|it| it.unwrap().unwrap());
    }
    drop(store);
    let mut took = Vec::new();
    for _ in 0..runs() {
        took.push(started(&mut watchmark).await);
    }
    table.row(
        "start with 10,000 stored subscriptions, until it serves",
        median(took),
        "ms",
        AtMost(200.0),
        format!("from exec to health SERVING; {empty:.0} ms with nothing stored"),
    );
}

/// Milliseconds until gRPC health says that it serves. Killed then.
async fn started(watchmark: &mut Watchmark) -> f64 {
    let began = Instant::now();
    watchmark.launch();
    let endpoint = watchmark.endpoint();
    let serves = async || {
        let mut health = HealthClient::new(endpoint.connect().await.ok()?);
        let answer = health.check(HealthCheckRequest::default()).await.ok()?;
        let serving = ServingStatus::Serving as i32;
        (answer.into_inner().status == serving).then_some(())
    };
    while serves().await.is_none() {
        assert!(began.elapsed() < DEADLINE, "{}", watchmark.log());
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let took = seconds(began.elapsed());
    watchmark.kill();
    took * 1e3
}

pub(crate) fn binary(table: &mut Table) {
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_watchmark")).unwrap().len();
    table.row(
        "binary, stripped",
        bytes as f64 / 1e6,
        "MB",
        AtMost(12.0),
        "release profile".to_owned(),
    );
}
