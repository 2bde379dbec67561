//! The beginning: how fast it serves, and what is shipped.

use std::{fs, time::Instant};

use futures_util::future::join_all;
use watchmark::store::CheckpointStore;

use crate::{
    acks::{id, open, record},
    measure::{median, runs},
    support::{Etcd, Watchmark},
    table::Table,
};

const STORED: usize = 10_000;

pub(crate) async fn figures(table: &mut Table) {
    let etcd = Etcd::single(&[]).await;
    let flags = ["--log=info", "--max-subscriptions=10000"];
    let mut watchmark = Watchmark::unstarted(&etcd.endpoints(), &flags);
    let store = open(&watchmark.data_dir());
    for some in (0..STORED).collect::<Vec<_>>().chunks(1000) {
        let stored = join_all(some.iter().map(|&n| store.put(&id(n), record()))).await;
        stored.into_iter().for_each(|it| it.unwrap().unwrap());
    }
    drop(store);
    let mut took = Vec::new();
    for _ in 0..runs() {
        let began = Instant::now();
        watchmark.launch();
        let endpoint = watchmark.endpoint();
        while endpoint.connect().await.is_err() {}
        took.push(began.elapsed().as_secs_f64());
        watchmark.kill();
    }
    table.row(
        "start with 10,000 stored subscriptions, until it serves",
        "<= 200 ms",
        format!("{:.0} ms", median(&mut took) * 1e3),
        "from the exec to an HTTP/2 connection".to_owned(),
    );
}

pub(crate) async fn binary(table: &mut Table) {
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_watchmark")).unwrap().len();
    table.row(
        "binary, stripped",
        "<= 12 MB",
        format!("{:.2} MB", bytes as f64 / 1e6),
        "release profile".to_owned(),
    );
}
