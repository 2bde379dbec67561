//! Three members: the leader dies, a follower is cut off or lags behind.

use std::{sync::Arc, time::Duration};

use watchmark::proto::watchmark::v1::{Start, StreamState, SubscribeRequest};

use crate::support::{
    Etcd, Scenario, Watchmark,
    client::request,
    history::Truth,
    wait,
    writer::{Traffic, Writer},
};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

fn traffic(seed: u64) -> Traffic {
    Traffic {
        prefixes: vec!["a/".to_owned(), "b/".to_owned()],
        keys: 200,
        txn_keys: 1..=16,
        value_bytes: 0..=300,
        delete_every: 25,
        seed,
    }
}

/// The scene with writer and direct watch on one member, and watchmark on some.
async fn scene(etcd: Etcd, trusted: usize, endpoints: &[usize], flags: &[&str]) -> Scenario {
    let truth = Arc::new(Truth::watch(etcd.client_of(trusted).await));
    let writer = Writer::new(etcd.client_of(trusted).await, Arc::clone(&truth));
    let endpoints: Vec<_> = endpoints.iter().map(|&at| etcd.endpoint(at)).collect();
    Scenario {
        watchmark: Watchmark::start_on(&endpoints, flags).await,
        recorder: crate::support::history::Recorder::default(),
        truth,
        writer,
        etcd,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_under_traffic_and_nothing_is_lost() {
    let etcd = Etcd::cluster(&[]).await;
    let leader = etcd.leader().await;
    let mut scenario = scene(etcd, (leader + 1) % 3, &[0, 1, 2], &[]).await;
    let mut subscribers = Vec::new();
    for n in 0..4 {
        subscribers.push(scenario.open(latest(&format!("app-{n}"))).await.unwrap());
    }
    let running = scenario.writer.run(traffic(3));
    for subscriber in &mut subscribers {
        for _ in 0..10 {
            let (revision, _) = subscriber.next_events().await;
            subscriber.ack(revision).await.unwrap();
        }
    }
    scenario.etcd.kill(leader);
    let mut client = scenario.etcd.client_of((leader + 1) % 3).await;
    let elected = wait::until("a new leader to take a write", async || {
        let put = client.put("a/elected", "", None).await.ok()?;
        Some(put.header()?.revision())
    })
    .await;
    for subscriber in &mut subscribers {
        let events = subscriber.events_until(elected).await;
        assert!(!events.is_empty());
        subscriber.ack(elected).await.unwrap();
    }
    scenario.etcd.restart(leader).await;
    assert!(running.stop().await > 0);
    let last = scenario.writer.put("a/last", "").await;
    for subscriber in &mut subscribers {
        subscriber.events_until(last).await;
        subscriber.until_state(StreamState::Live).await;
    }
    drop(subscribers);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_from_its_peers_is_left_for_another_member() {
    let etcd = Etcd::cluster(&[]).await;
    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    // It prefers nobody, so a watch is certain to hang on the follower only if
    // there is nothing else; the others come back before it is cut off.
    let others = [leader, (leader + 2) % 3];
    let scenario = scene(etcd, leader, &[follower, others[0], others[1]], &[]).await;
    let mut subscribers = Vec::new();
    for n in 0..6 {
        subscribers.push(scenario.open(latest(&format!("app-{n}"))).await.unwrap());
    }
    for round in 0..2 {
        let cut_off = [follower, others[1]][round];
        scenario.etcd.isolate(cut_off);
        let writer = &scenario.writer;
        let written = wait::until("a write without it", async || {
            writer.try_put("a/cut-off", format!("{round}")).await.ok()
        })
        .await;
        for subscriber in &mut subscribers {
            // While it is still cut off: the stream went to another member.
            subscriber.events_until(written).await;
            subscriber.until_state(StreamState::Live).await;
            subscriber.ack(written).await.unwrap();
        }
        scenario.etcd.heal();
        scenario.etcd.ready(cut_off).await;
    }
    drop(subscribers);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_other_member_a_cut_off_follower_means_upstream_lost() {
    let etcd = Etcd::cluster(&[]).await;
    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    let scenario = scene(etcd, leader, &[follower], &[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    subscriber.until_state(StreamState::Live).await;
    scenario.etcd.isolate(follower);
    let writer = &scenario.writer;
    let written = wait::until("a write without it", async || {
        writer.try_put("a/cut-off", "").await.ok()
    })
    .await;
    subscriber.until_state(StreamState::UpstreamLost).await;
    scenario.etcd.heal();
    // Its own etcd has it first, or it would be no proof.
    assert!(!subscriber.events_until(written).await.is_empty());
    subscriber.until_state(StreamState::Live).await;
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_member_raises_no_false_alarm() {
    let etcd = Etcd::cluster(&[]).await;
    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    let mut scenario = scene(etcd, leader, &[leader], &[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    scenario.etcd.pause(follower);
    let writer = &scenario.writer;
    let last = wait::until("a write without it", async || {
        writer.try_put("a/1", "").await.ok()?;
        Some(writer.put_many("a/", 3000).await)
    })
    .await;
    subscriber.events_until(last).await;
    assert_eq!(subscriber.ack(last).await.unwrap(), last);
    drop(subscriber);

    // watchmark comes back on the member that has to catch up first.
    let behind = scenario.etcd.endpoint(follower);
    scenario.watchmark.kill();
    scenario.watchmark.use_endpoints(&[behind]);
    scenario.etcd.resume(follower);
    scenario.watchmark.restart().await;
    let mut subscriber = scenario.open(request("app", "a/")).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, last);
    assert!(subscriber.opened().resumed);
    let next = scenario.writer.put("a/next", "").await;
    // Longer than a false alarm would take.
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (next, 1));
    let quiet = tokio::time::timeout(Duration::from_secs(5), subscriber.next_events());
    assert!(quiet.await.is_err());
    drop(subscriber);
    scenario.finish().await;
}
