//! Snapshots: pinned to one revision, in pages, whole or not ended.

use std::collections::BTreeSet;

use bytes::Bytes;
use etcd_client::{Txn, TxnOp};
use watchmark::{
    proto::{PairOptions, watchmark::v1::KeyValue},
    resume::{Header, KeyRange},
    upstream::{Etcd, EtcdConfig, Upstream, UpstreamEvents},
};

use super::{
    harness::{Item, ended, keys_only, next, prefix, revision},
    server::Server,
};

/// Puts `a/000000`..; the newest revision.
pub(crate) async fn fill(server: &Server, count: usize, value: &str) -> i64 {
    let mut client = server.client().await;
    let mut last = 0;
    let keys: Vec<_> = (0..count).map(|n| format!("a/{n:06}")).collect();
    let chunk = ((1 << 20) / value.len().max(1)).clamp(1, 128);
    for keys in keys.chunks(chunk) {
        let puts = keys.iter();
        let puts: Vec<_> = puts
            .map(|key| TxnOp::put(key.clone(), value, None))
            .collect();
        let answer = client.txn(Txn::new().and_then(puts)).await.unwrap();
        last = answer.header().unwrap().revision();
    }
    last
}

async fn begun(events: &mut UpstreamEvents) -> Header {
    match next(events).await {
        Item::SnapshotBegun(header) => header,
        other => panic!("{other:?}"),
    }
}

/// All pages, each with its pairs, to the end.
async fn pages(events: &mut UpstreamEvents) -> Vec<Vec<KeyValue>> {
    let mut pages = Vec::new();
    loop {
        match next(events).await {
            Item::SnapshotPage(pairs) => pages.push(pairs),
            Item::SnapshotEnded => break,
            other => panic!("{other:?}"),
        }
    }
    ended(events).await;
    pages
}

#[tokio::test]
async fn an_empty_range_is_a_whole_snapshot() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("b/1", "x")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    assert_eq!(begun(&mut events).await.revision, revision(last));
    assert!(pages(&mut events).await.is_empty());
}

#[tokio::test]
async fn one_key_and_every_key_are_ranges_too() {
    let server = Server::start(&[]).await;
    server.put(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    for (range, expected) in [
        (KeyRange::new("b".into(), Bytes::new()).unwrap(), vec!["b"]),
        (KeyRange::prefix(Bytes::new()), vec!["a", "b", "c"]),
    ] {
        let mut events = etcd.snapshot(range, keys_only());
        begun(&mut events).await;
        let pairs = pages(&mut events).await.concat();
        assert!(pairs.iter().all(|pair| pair.value.is_empty()));
        assert_eq!(
            pairs.into_iter().map(|p| p.key).collect::<Vec<_>>(),
            expected
        );
    }
}

#[tokio::test]
async fn a_snapshot_is_pinned_to_one_revision_while_others_write() {
    let server = Server::start(&[]).await;
    let last = fill(&server, 30_000, "old").await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    assert_eq!(begun(&mut events).await.revision, revision(last));
    let Item::SnapshotPage(first) = next(&mut events).await else {
        panic!("no page");
    };
    assert_eq!(first.len(), 1_000);
    // Everything changes, something comes and something goes before the third
    // page is asked for; the second, of 16,000 keys, is on its way.
    fill(&server, 30_001, "new").await;
    let mut client = server.client().await;
    client.delete("a/029999", None).await.unwrap();
    let rest = pages(&mut events).await.concat();
    assert_eq!(first.len() + rest.len(), 30_000);
    for pair in first.iter().chain(&rest) {
        assert_eq!(pair.value, "old");
        assert!(pair.mod_revision <= last);
    }
    let keys: BTreeSet<_> = first.iter().chain(&rest).map(|pair| &pair.key).collect();
    assert_eq!(keys.len(), 30_000);
}

#[tokio::test]
async fn compaction_in_mid_paging_ends_the_snapshot_as_compacted() {
    let server = Server::start(&[]).await;
    let value = "old".repeat(100);
    fill(&server, 30_000, &value).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    begun(&mut events).await;
    // What is asked for after the compaction notices it: not the second page,
    // of 16,000 keys, which is on its way.
    let last = fill(&server, 1, "new").await;
    server.compact(last).await;
    loop {
        match next(&mut events).await {
            Item::SnapshotPage(_) => {}
            Item::SnapshotCompacted { compact_revision } => {
                assert_eq!(compact_revision, Some(revision(last)));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    ended(&mut events).await;
}

#[tokio::test]
async fn what_comes_at_once_stays_small_however_large_a_page_is() {
    let server = Server::start(&[]).await;
    // Small pairs first, so that pages grow, then large ones.
    fill(&server, 3_000, "small").await;
    let mut client = server.client().await;
    let value = "v".repeat(64 << 10);
    for n in 0..100 {
        let puts = (0..15).map(|m| TxnOp::put(format!("a/large/{n:03}/{m}"), &*value, None));
        client
            .txn(Txn::new().and_then(puts.collect::<Vec<_>>()))
            .await
            .unwrap();
    }
    let config = EtcdConfig {
        snapshot_page_bytes: 1 << 20,
        ..server.config()
    };
    let etcd = Etcd::connect(config).unwrap();
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    begun(&mut events).await;
    let pages = pages(&mut events).await;
    assert_eq!(pages.iter().map(Vec::len).sum::<usize>(), 4_500);
    let bytes = |page: &Vec<KeyValue>| page.iter().map(|pair| pair.value.len()).sum::<usize>();
    let largest = pages.iter().map(bytes).max().unwrap();
    // The chunks of etcd 3.7 are not cut.
    assert!(largest <= 8 << 20, "{largest}");
}

#[tokio::test]
async fn a_pair_larger_than_a_page_still_comes() {
    let server = Server::start(&["--max-request-bytes=12582912"]).await;
    let value = "v".repeat(9 << 20);
    server
        .put(&[("a/1", "x"), ("a/2", &value), ("a/3", "y")])
        .await;
    let config = EtcdConfig {
        snapshot_page_bytes: 1 << 20,
        ..server.config()
    };
    let etcd = Etcd::connect(config).unwrap();
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    begun(&mut events).await;
    let pairs = pages(&mut events).await.concat();
    let sizes: Vec<_> = pairs.iter().map(|pair| pair.value.len()).collect();
    assert_eq!(sizes, [1, 9 << 20, 1]);
}
