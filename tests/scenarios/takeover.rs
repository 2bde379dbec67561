//! Two streams with one client_id: the newer takes over, and the older can
//! neither receive nor acknowledge any more.

use tonic::Code;
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest};

use crate::support::{
    Scenario,
    client::{Acker, request},
    writer::Traffic,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_takes_over_and_late_acks_are_refused() {
    let scenario = Scenario::start(&[]).await;
    let latest = SubscribeRequest {
        start: Start::Latest.into(),
        ..request("app", "a/")
    };
    let mut old = scenario.open(latest).await.unwrap();
    let acked = scenario.writer.put("a/1", "1").await;
    let unacked = scenario.writer.put("a/2", "2").await;
    old.events_until(unacked).await;
    old.ack(acked).await.unwrap();

    let mut new = scenario.subscribe("app", "a/").await;
    assert!(new.opened().session_id > old.opened().session_id);
    assert_eq!(new.opened().checkpoint, acked);
    assert_eq!(
        old.end().await.cause(),
        (Code::Aborted, "SESSION_SUPERSEDED")
    );

    let (revision, _) = new.next_events().await;
    assert_eq!(revision, unacked);
    let late = old.ack(unacked).await.unwrap_err();
    assert_eq!(late.cause(), (Code::Aborted, "SESSION_SUPERSEDED"));
    // It is refused also when there would be nothing to change.
    let late = old.ack(acked).await.unwrap_err();
    assert_eq!(late.cause(), (Code::Aborted, "SESSION_SUPERSEDED"));
    // Nothing was changed, and the newer one acknowledges as ever.
    assert_eq!(new.ack(1).await.unwrap(), acked);
    let anonymous = Acker {
        session_id: 0,
        ..new.acker()
    };
    assert_eq!(anonymous.ack(unacked).await.unwrap(), unacked);
    drop((old, new));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_take_over_from_each_other_under_traffic_lose_nothing() {
    const TAKEOVERS: usize = 20;
    let scenario = Scenario::start(&[]).await;
    let latest = SubscribeRequest {
        start: Start::Latest.into(),
        ..request("app", "a/")
    };
    let mut current = scenario.open(latest).await.unwrap();
    let running = scenario.writer.run(Traffic {
        prefixes: vec!["a/".to_owned()],
        keys: 50,
        txn_keys: 1..=20,
        value_bytes: 0..=500,
        delete_every: 15,
        seed: 7,
    });
    for _ in 0..TAKEOVERS {
        for _ in 0..3 {
            let (revision, _) = current.next_events().await;
            current.ack(revision).await.unwrap();
        }
        let newer = scenario.subscribe("app", "a/").await;
        let ended = current.end().await;
        assert_eq!(ended.cause(), (Code::Aborted, "SESSION_SUPERSEDED"));
        current = newer;
    }
    assert!(running.stop().await > 0);
    let head = scenario.writer.put("a/last", "").await;
    current.events_until(head).await;
    drop(current);
    scenario.finish().await;
}
