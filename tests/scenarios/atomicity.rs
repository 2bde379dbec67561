//! Large and wide revisions: each arrives in one acknowledgeable unit, no
//! message is too large, and memory stays bounded.

use etcd_client::TxnOp;
use watchmark::proto::watchmark::v1::{
    Start, SubscribeRequest, event::EventType, subscribe_response::Message,
};

use crate::support::{Scenario, client::request, writer::TXN_OPS_MAX};

/// A sidecar that holds a whole backlog in memory needs more than this.
const RESIDENT_BYTES_MAX: u64 = 160 << 20;

fn latest(client_id: &str, prefix: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, prefix)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_128_keys_is_one_unit() {
    let scenario = Scenario::start(&[]).await;
    let mut live = scenario.open(latest("live", "a/")).await.unwrap();
    drop(scenario.open(latest("late", "a/")).await.unwrap());
    let keys: Vec<_> = (0..TXN_OPS_MAX).map(|n| format!("a/{n:03}")).collect();
    let mut last = 0;
    for _ in 0..20 {
        last = scenario.writer.put_all(&keys).await;
        let (revision, events) = live.next_events().await;
        assert_eq!((revision, events.len()), (last, TXN_OPS_MAX));
        assert_eq!(live.ack(revision).await.unwrap(), revision);
    }
    // The same from history, where etcd puts many revisions into one answer.
    let mut late = scenario.open(request("late", "a/")).await.unwrap();
    assert_eq!(late.events_until(last).await.len(), 20 * TXN_OPS_MAX);
    drop((live, late));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_transaction_is_never_acknowledged_by_a_crash() {
    let mut scenario = Scenario::start(&[]).await;
    let keys: Vec<_> = (0..TXN_OPS_MAX).map(|n| format!("a/{n:03}")).collect();
    let mut subscriber = scenario.open(latest("app", "a/")).await.unwrap();
    let first = scenario.writer.put_all(&keys).await;
    let second = scenario.writer.put_all(&keys).await;
    subscriber.events_until(second).await;
    subscriber.ack(first).await.unwrap();
    scenario.watchmark.kill();
    drop(subscriber);
    scenario.watchmark.restart().await;
    let mut subscriber = scenario.open(request("app", "a/")).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, first);
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (second, TXN_OPS_MAX));
    drop(subscriber);
    scenario.finish().await;
}

/// Puts `keys` keys with values of that size below a/.
async fn fill(scenario: &Scenario, keys: usize, value_bytes: usize) {
    for block in 0..keys / 100 {
        let ops = (0..100).map(|n| {
            let key = format!("a/{:05}", block * 100 + n);
            TxnOp::put(key, vec![b'v'; value_bytes], None)
        });
        scenario.writer.txn(ops.collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_of_20_000_keys_is_one_revision() {
    const KEYS: usize = 20_000;
    let scenario = Scenario::start(&[]).await;
    fill(&scenario, KEYS, 100).await;
    let mut live = scenario.open(latest("live", "a/")).await.unwrap();
    let deleted = scenario.writer.delete_prefix("a/").await;
    let after = scenario.writer.put("a/after", "").await;
    for _ in 0..2 {
        let (revision, events) = live.next_events().await;
        assert_eq!((revision, events.len()), (deleted, KEYS));
        assert!(events.iter().all(|e| e.r#type() == EventType::Delete));
        assert_eq!(live.next_events().await.0, after);
        // Not acknowledged: it comes again, whole.
        drop(live);
        live = scenario.open(request("live", "a/")).await.unwrap();
    }
    let (revision, _) = live.next_events().await;
    assert_eq!(live.ack(revision).await.unwrap(), deleted);
    drop(live);
    assert!(scenario.watchmark.process().peak_resident_bytes() < RESIDENT_BYTES_MAX);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_larger_than_a_message_comes_in_parts() {
    // 12 MB with what was there before.
    const KEYS: usize = 3_000;
    let scenario = Scenario::start(&[]).await;
    fill(&scenario, KEYS, 4_000).await;
    let with_prev = SubscribeRequest {
        prev_kv: true,
        ..latest("app", "a/")
    };
    let mut subscriber = scenario.open(with_prev).await.unwrap();
    let deleted = scenario.writer.delete_prefix("a/").await;
    let after = scenario.writer.put("a/after", "").await;
    let (mut parts, mut count) = (0, 0);
    subscriber
        .next_of("the last part", |message| {
            let Message::Events(batch) = message else {
                return None;
            };
            assert_eq!(batch.revision, deleted);
            parts += 1;
            count += batch.events.len();
            assert!(batch.events.iter().all(|e| e.prev_kv.is_some()));
            (!batch.partial).then_some(())
        })
        .await;
    assert_eq!(count, KEYS);
    assert!(parts > 2);
    assert_eq!(subscriber.next_events().await.0, after);
    assert_eq!(subscriber.ack(deleted).await.unwrap(), deleted);
    drop(subscriber);
    assert!(scenario.watchmark.process().peak_resident_bytes() < RESIDENT_BYTES_MAX);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_mebibyte_arrive_live_and_from_history() {
    const VALUES: usize = 60;
    let scenario = Scenario::start(&[]).await;
    let with_prev = SubscribeRequest {
        prev_kv: true,
        ..latest("prev", "a/")
    };
    drop(scenario.open(latest("late", "a/")).await.unwrap());
    drop(scenario.open(with_prev.clone()).await.unwrap());
    let mut live = scenario.open(latest("live", "a/")).await.unwrap();
    let mut last = 0;
    for n in 0..VALUES {
        let value = vec![n as u8; 1 << 20];
        last = scenario.writer.put(&format!("a/{}", n % 3), value).await;
        assert_eq!(live.next_events().await.0, last);
    }
    let mut late = scenario.open(request("late", "a/")).await.unwrap();
    assert_eq!(late.events_until(last).await.len(), VALUES);
    let mut prev = scenario.open(with_prev).await.unwrap();
    let events = prev.events_until(last).await;
    let lengths = events
        .iter()
        .filter_map(|e| Some(e.prev_kv.as_ref()?.value.len()));
    assert_eq!(lengths.filter(|len| *len == 1 << 20).count(), VALUES - 3);
    // And as a snapshot.
    let mut fresh = scenario.subscribe("fresh", "a/").await;
    assert_eq!(fresh.snapshot().await.kvs.len(), 3);
    drop((live, late, prev, fresh));
    let peak = scenario.watchmark.process().peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak}");
    scenario.finish().await;
}
