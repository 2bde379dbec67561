//! The state of a large range.

use std::time::Instant;

use etcd_client::GetOptions;
use watchmark::proto::watchmark::v1::{SubscribeRequest, subscribe_response::Message};

use crate::{
    measure::{forget_peak, median, peak_mib, runs},
    stage::{Stage, new_client_id, next},
    table::Table,
};

const KEYS: usize = 1_000_000;
/// The best page size of a direct reader: larger pages are no faster.
const PAGE: i64 = 50_000;

pub(crate) async fn figures(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    stage.put_by_transactions(KEYS, 100).await;
    forget_peak(stage.pid());
    let (mut direct, mut relayed) = (Vec::new(), Vec::new());
    for _ in 0..runs() {
        direct.push(paged(&stage).await);
        relayed.push(subscribed(&stage).await);
    }
    let (direct, relayed) = (median(&mut direct), median(&mut relayed));
    table.row(
        "snapshot of 1,000,000 keys of 100 B: direct paging / relayed",
        ">= 0.8",
        format!("{:.2}", direct / relayed),
        format!("{direct:.2} s by pages of {PAGE} / {relayed:.2} s"),
    );
    table.row(
        "the same: peak memory",
        "<= 48 MB",
        format!("{:.0} MB", peak_mib(stage.pid()) * 1.048_576),
        "resident memory of watchmark".to_owned(),
    );
}

async fn paged(stage: &Stage) -> f64 {
    let mut kv = stage
        .etcd
        .client()
        .await
        .kv_client()
        .max_decoding_message_size(usize::MAX);
    let began = Instant::now();
    let (mut key, mut revision, mut count) = (b"bench/".to_vec(), 0, 0);
    loop {
        let options = GetOptions::new()
            .with_range("bench0")
            .with_limit(PAGE)
            .with_revision(revision);
        let page = kv.get(key, Some(options)).await.unwrap();
        revision = page.header().unwrap().revision();
        count += page.kvs().len();
        if !page.more() {
            assert_eq!(count, KEYS);
            return began.elapsed().as_secs_f64();
        }
        key = [page.kvs().last().unwrap().key(), b"\0"].concat();
    }
}

async fn subscribed(stage: &Stage) -> f64 {
    let mut api = stage.watchmark.client().await;
    let began = Instant::now();
    let request = SubscribeRequest {
        client_id: new_client_id(),
        prefix: "bench/".into(),
        ..SubscribeRequest::default()
    };
    let mut stream = api.subscribe(request).await.unwrap().into_inner();
    loop {
        if let Message::SnapshotEnd(end) = next(&mut stream).await {
            assert_eq!(end.count, KEYS as i64);
            return began.elapsed().as_secs_f64();
        }
    }
}
