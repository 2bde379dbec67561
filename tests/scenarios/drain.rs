//! SIGTERM: streams end with a reason, late acks are taken, the exit is clean.

use std::time::Duration;

use tonic::Code;
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest};

use crate::support::{Scenario, client::request, wait, writer::Traffic};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_traffic_ends_streams_and_takes_late_acks() {
    let mut scenario = Scenario::start(&["--drain-timeout=30s"]).await;
    let mut subscribers = Vec::new();
    for n in 0..5 {
        subscribers.push(scenario.open(latest(&format!("app-{n}"))).await.unwrap());
    }
    let running = scenario.writer.run(Traffic {
        prefixes: vec!["a/".to_owned()],
        keys: 100,
        txn_keys: 1..=10,
        value_bytes: 0..=100,
        delete_every: 0,
        seed: 5,
    });
    let mut received = Vec::new();
    for subscriber in &mut subscribers {
        received.push(subscriber.next_events().await.0);
    }
    scenario.watchmark.terminate();
    for subscriber in &mut subscribers {
        let ended = subscriber.end().await;
        assert_eq!(ended.cause(), (Code::Unavailable, "DRAINING"));
        assert!(ended.retry_delay.is_some());
    }
    // What was delivered may still be acknowledged, and only by those who can.
    for (subscriber, revision) in subscribers.iter().zip(&received) {
        assert_eq!(subscriber.ack(*revision).await.unwrap(), *revision);
    }
    drop(subscribers);
    assert_eq!(scenario.watchmark.exit_code(wait::DEADLINE).await, Some(0));
    assert!(running.stop().await > 0);

    scenario.watchmark.restart().await;
    for (n, revision) in received.iter().enumerate() {
        let request = request(&format!("app-{n}"), "a/");
        let subscriber = scenario.open(request).await.unwrap();
        assert_eq!(subscriber.opened().checkpoint, *revision);
    }
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_watchmark_stops_at_once() {
    let mut scenario = Scenario::start(&["--drain-timeout=50s"]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let last = scenario.writer.put("a/1", "").await;
    subscriber.events_until(last).await;
    subscriber.ack(last).await.unwrap();
    scenario.watchmark.terminate();
    let ended = subscriber.end().await;
    assert_eq!(ended.cause(), (Code::Unavailable, "DRAINING"));
    // Nothing is left to acknowledge: it does not wait for the timeout.
    let code = scenario.watchmark.exit_code(Duration::from_secs(20)).await;
    assert_eq!(code, Some(0));
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_watchmark_takes_no_new_streams_and_gives_up_in_time() {
    let mut scenario = Scenario::start(&["--drain-timeout=3s"]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let last = scenario.writer.put("a/1", "").await;
    subscriber.events_until(last).await;
    let connection = scenario.watchmark.client().await;
    scenario.watchmark.terminate();
    let ended = subscriber.end().await;
    assert_eq!(ended.cause(), (Code::Unavailable, "DRAINING"));
    let another = crate::support::Subscriber::open(connection, &scenario.recorder, latest("new"));
    // Refused with a reason, or not even connected any more.
    let refused = another.await.err().unwrap();
    assert_eq!(refused.code, Code::Unavailable);
    // The subscriber stays and never acknowledges.
    let code = scenario.watchmark.exit_code(Duration::from_secs(20)).await;
    assert_eq!(code, Some(0));
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_it_starts_is_a_clean_stop_once_the_port_is_bound() {
    let mut scenario = Scenario::start(&[]).await;
    for _ in 0..5 {
        scenario.watchmark.kill();
        // The port is bound before the store is open.
        scenario.watchmark.restart().await;
        scenario.watchmark.terminate();
        assert_eq!(scenario.watchmark.exit_code(wait::DEADLINE).await, Some(0));
        scenario.watchmark.launch();
    }
    let subscriber = scenario.open(latest("app")).await.unwrap();
    drop(subscriber);
    scenario.finish().await;
}
