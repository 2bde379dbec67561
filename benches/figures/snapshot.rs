//! The state of a range, up to a large one.

use std::time::Instant;

use etcd_client::GetOptions;
use watchmark::proto::watchmark::v1::{SubscribeRequest, subscribe_response::Message};

use crate::{
    measure::{MIB, forget_peak, median, median_ratio, peak, runs, seconds},
    stage::{Stage, new_client_id, next},
    table::{
        Bar::{AtLeast, AtMost, ForScale},
        Table,
    },
};

const KEYS: usize = 1_000_000;
/// For a direct reader; the best is what watchmark is measured against.
const PAGES: [i64; 4] = [10_000, 50_000, 250_000, KEYS as i64];
/// Keys are numbered with seven digits, so these have so many.
const RANGES: [(&str, usize); 5] = [
    ("bench/9", 0),
    ("bench/0000", 1000),
    ("bench/000", 10_000),
    ("bench/00", 100_000),
    ("bench/0", KEYS),
];

pub(crate) async fn figures(table: &mut Table) {
    let stage = Stage::new(&[]).await;
    stage.put_by_transactions(KEYS, 100).await;
    // Each twice: what was written is read for the first time by somebody.
    let mut by_page = Vec::new();
    for page in PAGES {
        paged(&stage, "bench/", KEYS, page).await;
        by_page.push((paged(&stage, "bench/", KEYS, page).await, page));
    }
    let (_, page) = *by_page.iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    forget_peak(stage.pid());
    for (prefix, keys) in RANGES {
        let (mut direct, mut relayed) = (Vec::new(), Vec::new());
        for _ in 0..runs() {
            direct.push(paged(&stage, prefix, keys, page).await);
            relayed.push(subscribed(&stage, prefix, keys).await);
        }
        let is_all = keys == KEYS;
        table.row(
            &format!("snapshot of {keys} keys of 100 B: direct paging / relayed"),
            median_ratio(&direct, &relayed),
            "x",
            if is_all { AtLeast(0.8) } else { ForScale },
            format!(
                "{:.1} ms by pages of {page} / {:.1} ms",
                median(direct) * 1e3,
                median(relayed) * 1e3
            ),
        );
    }
    table.row(
        "snapshot of 1000000 keys: peak memory",
        peak(stage.pid()) / 1e6,
        "MB",
        AtMost(48.0),
        format!(
            "resident memory of watchmark ({:.0} MiB)",
            peak(stage.pid()) / MIB
        ),
    );
}

async fn paged(stage: &Stage, prefix: &str, keys: usize, page: i64) -> f64 {
    let client = stage.etcd.client().await;
    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let began = Instant::now();
    let (mut key, mut revision, mut count) = (prefix.as_bytes().to_vec(), 0, 0);
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(page)
            .with_revision(revision);
        let answer = kv.get(key, Some(options)).await.unwrap();
        revision = answer.header().unwrap().revision();
        count += answer.kvs().len();
        if !answer.more() {
            assert_eq!(count, keys);
            return seconds(began.elapsed());
        }
        key = [answer.kvs().last().unwrap().key(), b"\0"].concat();
    }
}

async fn subscribed(stage: &Stage, prefix: &str, keys: usize) -> f64 {
    let mut api = stage.watchmark.client().await;
    let began = Instant::now();
    let request = SubscribeRequest {
        client_id: new_client_id(),
        prefix: prefix.to_owned().into(),
        ..SubscribeRequest::default()
    };
    let mut stream = api.subscribe(request).await.unwrap().into_inner();
    let mut count = 0;
    loop {
        match next(&mut stream).await {
            Message::SnapshotChunk(chunk) => count += chunk.kvs.len(),
            Message::SnapshotEnd(end) => {
                assert_eq!((count, end.count), (keys, keys as i64));
                return seconds(began.elapsed());
            }
            _ => {}
        }
    }
}
