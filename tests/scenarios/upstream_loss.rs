//! etcd goes away and comes back: the stream stays, says so, and loses nothing.

use std::time::{Duration, Instant};

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    Start, StreamState, SubscribeRequest, subscribe_response::Message,
};

use crate::support::{Scenario, Watchmark, client::request, writer::Traffic};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

fn traffic() -> Traffic {
    Traffic {
        prefixes: vec!["a/".to_owned(), "b/".to_owned()],
        keys: 200,
        txn_keys: 1..=16,
        value_bytes: 0..=300,
        delete_every: 25,
        seed: 11,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_restarts_under_traffic_and_the_stream_goes_on() {
    let mut scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    subscriber.until_state(StreamState::Live).await;
    let running = scenario.writer.run(traffic());
    for round in 0..3 {
        for _ in 0..20 {
            let (revision, _) = subscriber.next_events().await;
            subscriber.ack(revision).await.unwrap();
        }
        if round % 2 == 0 {
            scenario.etcd.stop(0).await;
        } else {
            scenario.etcd.kill(0);
        }
        subscriber.until_state(StreamState::UpstreamLost).await;
        scenario.etcd.restart(0).await;
        subscriber.until_state(StreamState::Live).await;
    }
    assert!(running.stop().await > 0);
    let last = scenario.writer.put("a/last", "").await;
    subscriber.events_until(last).await;
    assert_eq!(subscriber.ack(last).await.unwrap(), last);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_away_for_20_seconds_and_acks_are_taken_meanwhile() {
    const AWAY: Duration = Duration::from_secs(20);
    let mut scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let first = scenario.writer.put("a/1", "").await;
    subscriber.events_until(first).await;
    scenario.etcd.kill(0);
    let left = Instant::now();
    subscriber.until_state(StreamState::UpstreamLost).await;
    assert_eq!(subscriber.ack(first).await.unwrap(), first);

    // Known subscriptions open without etcd; new ones have no position yet.
    drop(subscriber);
    let mut subscriber = scenario.subscribe("app", "a/").await;
    assert_eq!(subscriber.opened().checkpoint, first);
    subscriber.until_state(StreamState::UpstreamLost).await;
    let refused = scenario.open(latest("stranger")).await.err().unwrap();
    assert_eq!(refused.cause(), (Code::Unavailable, "UPSTREAM_UNAVAILABLE"));
    assert!(refused.retry_delay.is_some());

    // How long the fault lasts; the stream must live through all of it.
    while let Some(rest) = AWAY.checked_sub(left.elapsed()) {
        if let Ok(Err(ended)) = tokio::time::timeout(rest, subscriber.next_unbounded()).await {
            panic!("the stream ended: {ended:?}");
        }
    }
    scenario.etcd.restart(0).await;
    let second = scenario.writer.put("a/2", "").await;
    subscriber.until_state(StreamState::Live).await;
    let mut subscriber = {
        drop(subscriber);
        scenario.subscribe("app", "a/").await
    };
    assert_eq!(subscriber.events_until(second).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_is_noticed_though_its_connections_stay_open() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    subscriber.until_state(StreamState::Live).await;
    scenario.etcd.pause(0);
    subscriber.until_state(StreamState::UpstreamLost).await;
    scenario.etcd.resume(0);
    subscriber.until_state(StreamState::Live).await;
    let last = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(last).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_opens_in_time_though_a_frozen_etcd_does_not_answer() {
    let scenario = Scenario::start(&[]).await;
    drop(scenario.open(latest("app")).await.unwrap());
    scenario.etcd.pause(0);
    // Less than etcd is given to answer one call.
    let in_time = Duration::from_secs(9);
    for client_id in ["app", "stranger"] {
        let opened = tokio::time::timeout(in_time, scenario.subscribe(client_id, "a/"));
        let mut subscriber = opened.await.expect("opened in time");
        assert_eq!(subscriber.opened().resumed, client_id == "app");
        subscriber.until_state(StreamState::CatchingUp).await;
        subscriber.until_state(StreamState::UpstreamLost).await;
    }
    scenario.etcd.resume(0);
    let mut subscriber = scenario.subscribe("app", "a/").await;
    let last = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(last).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_in_the_list_does_no_harm() {
    let mut scenario = Scenario::start(&[]).await;
    scenario.watchmark.kill();
    let nobody = crate::support::host::Host::claim();
    let endpoints = [
        nobody.url(2379),
        scenario.etcd.endpoint(0),
        nobody.url(2378),
    ];
    scenario.watchmark = Watchmark::start_on(&endpoints, &[]).await;
    for client_id in ["one", "two", "three"] {
        let mut subscriber = scenario.open(latest(client_id)).await.unwrap();
        subscriber.until_state(StreamState::Live).await;
        let last = scenario.writer.put("a/1", client_id).await;
        assert_eq!(subscriber.events_until(last).await.len(), 1);
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_is_heard_of_all_the_time() {
    let scenario = Scenario::start(&["--progress-interval=500ms"]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    subscriber.until_state(StreamState::Live).await;
    let started = Instant::now();
    for _ in 0..6 {
        subscriber
            .next_of("a heartbeat", |message| {
                matches!(message, Message::Progress(_)).then_some(())
            })
            .await;
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(subscriber);
    scenario.finish().await;
}
