//! etcd compacts what a subscriber has not received yet.

use etcd_client::TxnOp;
use tonic::Code;
use watchmark::proto::watchmark::v1::{
    CompactionPolicy, SnapshotReason, Start, SubscribeRequest, subscribe_response::Message,
};

use crate::support::{Scenario, client::request};

fn latest(client_id: &str, policy: CompactionPolicy) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        on_compaction: policy.into(),
        ..request(client_id, "a/")
    }
}

/// Far more than fits into all buffers between etcd and a subscriber.
async fn fill(scenario: &Scenario) -> i64 {
    let mut last = 0;
    for block in 0..200 {
        let ops = (0..100).map(|n| {
            let key = format!("a/{:05}", block * 100 + n);
            TxnOp::put(key, vec![block as u8; 2_000], None)
        });
        last = scenario.writer.txn(ops.collect()).await.unwrap();
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_checkpoint_while_away_a_snapshot_comes_first() {
    let mut scenario = Scenario::start(&[]).await;
    let resync = latest("app", CompactionPolicy::Resync);
    let mut subscriber = scenario.open(resync.clone()).await.unwrap();
    let acked = scenario.writer.put_many("a/", 20).await;
    subscriber.events_until(acked).await;
    subscriber.ack(acked).await.unwrap();
    drop(subscriber);
    scenario.writer.put_many("a/", 50).await;
    scenario.writer.delete("a/07").await;
    let compacted = scenario.compact_to_head().await;

    // Both while watchmark lives and after it was killed.
    for _ in 0..2 {
        let mut subscriber = scenario.open(resync.clone()).await.unwrap();
        let snapshot = subscriber.snapshot().await;
        assert_eq!(snapshot.reason, SnapshotReason::Compacted);
        assert!(snapshot.revision >= compacted);
        assert!(snapshot.kvs.iter().all(|kv| kv.key != "a/07"));
        scenario.watchmark.kill();
        drop(subscriber);
        scenario.watchmark.restart().await;
    }
    let mut subscriber = scenario.open(resync).await.unwrap();
    let snapshot = subscriber.snapshot().await;
    subscriber.ack(snapshot.revision).await.unwrap();
    let next = scenario.writer.put("a/next", "").await;
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (next, 1));
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_checkpoint_while_away_the_stream_fails_if_it_should() {
    let scenario = Scenario::start(&[]).await;
    let fail = latest("app", CompactionPolicy::Fail);
    let subscriber = scenario.open(fail.clone()).await.unwrap();
    let checkpoint = subscriber.opened().checkpoint;
    drop(subscriber);
    let last = scenario.writer.put_many("a/", 50).await;
    let compacted = scenario.compact_to_head().await;
    assert_eq!(compacted, last);
    let ended = match scenario.open(fail.clone()).await {
        Ok(mut subscriber) => subscriber.end().await,
        Err(ended) => ended,
    };
    assert_eq!(ended.cause(), (Code::OutOfRange, "COMPACTED"));
    assert_eq!(ended.metadata["checkpoint"], checkpoint.to_string());
    assert_eq!(ended.metadata["compact_revision"], compacted.to_string());
    // The way out that the message names: its own position.
    let own = SubscribeRequest {
        resume_after: compacted,
        ..fail
    };
    let mut subscriber = scenario.open(own).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, compacted);
    let next = scenario.writer.put("a/next", "").await;
    assert_eq!(subscriber.next_events().await.0, next);
    drop(subscriber);
    scenario.finish().await;
}

/// On many versions a watch that starts at the compact revision itself lacks
/// the deletions made there (etcd#18089), and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_at_the_compact_revision_is_not_lost() {
    let scenario = Scenario::start(&[]).await;
    let resync = latest("app", CompactionPolicy::Resync);
    scenario.writer.put("a/gone", "").await;
    let mut subscriber = scenario.open(resync.clone()).await.unwrap();
    let acked = scenario.writer.put("a/kept", "").await;
    subscriber.events_until(acked).await;
    subscriber.ack(acked).await.unwrap();
    drop(subscriber);
    let deleted = scenario.writer.delete("a/gone").await;
    assert_eq!(scenario.compact_to_head().await, deleted);
    scenario.writer.put("a/kept", "again").await;
    let mut subscriber = scenario.open(resync).await.unwrap();
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
    let keys: Vec<_> = snapshot.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(keys, ["a/kept"]);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_up_to_the_checkpoint_nothing_is_lost_and_no_snapshot_comes() {
    let scenario = Scenario::start(&[]).await;
    let fail = latest("app", CompactionPolicy::Fail);
    let mut subscriber = scenario.open(fail.clone()).await.unwrap();
    let acked = scenario.writer.put_many("a/", 20).await;
    subscriber.events_until(acked).await;
    subscriber.ack(acked).await.unwrap();
    // A live watch that keeps up is not disturbed either.
    scenario.compact_to_head().await;
    let live = scenario.writer.put("a/live", "").await;
    assert_eq!(subscriber.next_events().await.0, live);
    drop(subscriber);
    let mut subscriber = scenario.open(fail).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, acked);
    assert_eq!(subscriber.next_events().await.0, live);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_snapshot_the_snapshot_starts_again() {
    let scenario = Scenario::start(&["--snapshot-page-bytes=256KiB"]).await;
    fill(&scenario).await;
    let mut subscriber = scenario.subscribe("app", "a/").await;
    let begun = subscriber
        .next_of("the first chunk", {
            let mut begun = 0;
            move |message| match message {
                Message::SnapshotBegin(begin) => {
                    begun = begin.revision;
                    None
                }
                Message::SnapshotChunk(_) => Some(begun),
                _ => None,
            }
        })
        .await;
    // It is not read any further until its revision is gone.
    for n in 0..3 {
        scenario.writer.put("a/00001", format!("{n}")).await;
    }
    let compacted = scenario.compact_to_head().await;
    assert!(compacted > begun);
    let mut begins = Vec::new();
    let ended = subscriber.next_of("the end of a snapshot", |message| match message {
        Message::SnapshotBegin(begin) => {
            begins.push(begin.revision);
            None
        }
        Message::SnapshotEnd(end) => Some(end.revision),
        _ => None,
    });
    let ended = ended.await;
    assert!(ended >= compacted);
    assert_eq!(begins.last(), Some(&ended));
    assert_eq!(subscriber.ack(ended).await.unwrap(), ended);
    let next = scenario.writer.put("a/next", "").await;
    assert_eq!(subscriber.next_events().await.0, next);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_a_live_slow_subscriber_it_resyncs_or_fails_as_it_chose() {
    let scenario = Scenario::start(&[]).await;
    let resync = latest("resync", CompactionPolicy::Resync);
    let mut resync = scenario.open(resync).await.unwrap();
    let fail = latest("fail", CompactionPolicy::Fail);
    let mut fail = scenario.open(fail).await.unwrap();
    // Neither reads while 40 MB are written and compacted away.
    fill(&scenario).await;
    let compacted = scenario.compact_to_head().await;

    let ended = fail.end().await;
    assert_eq!(ended.cause(), (Code::OutOfRange, "COMPACTED"));
    let snapshot = resync.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
    assert!(snapshot.revision >= compacted);
    assert_eq!(snapshot.kvs.len(), 20_000);
    assert_eq!(
        resync.ack(snapshot.revision).await.unwrap(),
        snapshot.revision
    );
    let next = scenario.writer.put("a/next", "").await;
    assert_eq!(resync.next_events().await.0, next);
    drop((resync, fail));
    scenario.finish().await;
}
