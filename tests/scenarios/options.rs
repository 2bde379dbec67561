//! What a subscriber may ask for: filters, keys only, previous pairs, ranges.

use watchmark::proto::watchmark::v1::{Start, SubscribeRequest, event::EventType};

use crate::support::{Scenario, client::request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_keys_only_show_what_was_asked_for() {
    let scenario = Scenario::start(&[]).await;
    let of = |id: &str, change: fn(&mut SubscribeRequest)| {
        let mut request = SubscribeRequest {
            start: Start::Latest.into(),
            ..request(id, "a/")
        };
        change(&mut request);
        request
    };
    let open = async |request| scenario.open(request).await.unwrap();
    let mut puts = open(of("puts", |r| r.no_delete = true)).await;
    let mut deletes = open(of("deletes", |r| r.no_put = true)).await;
    let mut keys = open(of("keys", |r| r.keys_only = true)).await;
    let mut previous = open(of("previous", |r| r.prev_kv = true)).await;
    scenario.writer.put("a/1", "one").await;
    scenario.writer.put("b/1", "other").await;
    scenario.writer.put("a/1", "two").await;
    let deleted = scenario.writer.delete("a/1").await;
    let last = scenario.writer.put("a/2", "three").await;

    assert_eq!(puts.events_until(last).await.len(), 3);
    let (revision, events) = deletes.next_events().await;
    assert_eq!((revision, events.len()), (deleted, 1));
    assert_eq!(events[0].r#type(), EventType::Delete);
    let events = keys.events_until(last).await;
    assert_eq!(events.len(), 4);
    assert!(
        events
            .iter()
            .all(|e| e.kv.as_ref().unwrap().value.is_empty())
    );
    let events = previous.events_until(last).await;
    let before = events.iter().map(|event| event.prev_kv.as_ref());
    let before: Vec<_> = before.map(|kv| kv.map(|kv| kv.value.clone())).collect();
    assert_eq!(before, [None, Some("one".into()), Some("two".into()), None]);
    for subscriber in [&puts, &keys, &previous] {
        assert_eq!(subscriber.ack(last).await.unwrap(), last);
    }
    drop((puts, deletes, keys, previous));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_mean_what_they_mean_to_etcd() {
    let scenario = Scenario::start(&["--allow-prefix="]).await;
    let of = |id: &str, key: &'static str, range_end: &'static str| SubscribeRequest {
        start: Start::Latest.into(),
        key: key.into(),
        range_end: range_end.into(),
        ..request(id, "")
    };
    let mut single = scenario.open(of("single", "k", "")).await.unwrap();
    let mut range = scenario.open(of("range", "a", "k")).await.unwrap();
    let mut from = scenario.open(of("from", "k", "\0")).await.unwrap();
    let mut all = scenario.open(of("all", "\0", "\0")).await.unwrap();
    for key in ["a", "k", "k0", "z"] {
        scenario.writer.put(key, "").await;
    }
    let keys: Vec<_> = ["a", "k", "k0", "z"].map(str::to_owned).into();
    let last = scenario.writer.put_all(&keys).await;
    assert_eq!(single.events_until(last).await.len(), 2);
    assert_eq!(range.events_until(last).await.len(), 2);
    assert_eq!(from.events_until(last).await.len(), 6);
    assert_eq!(all.events_until(last).await.len(), 8);
    drop((single, range, from, all));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_prefix_makes_the_client_id_a_whole_request() {
    let scenario = Scenario::start(&["--default-prefix=a/"]).await;
    let bare = SubscribeRequest {
        client_id: "app".to_owned(),
        ..SubscribeRequest::default()
    };
    scenario.writer.put("b/1", "").await;
    let head = scenario.writer.put("a/1", "").await;
    let mut subscriber = scenario.open(bare).await.unwrap();
    let snapshot = subscriber.snapshot().await;
    assert_eq!((snapshot.revision, snapshot.kvs.len()), (head, 1));
    assert_eq!(subscriber.ack(head).await.unwrap(), head);
    drop(subscriber);
    // The stored range, said in full, is the same.
    let again = scenario.subscribe("app", "a/").await;
    assert_eq!(again.opened().checkpoint, head);
    drop(again);
    let history = scenario.truth.until(head).await;
    assert_eq!(history.events.len(), 2);
}
