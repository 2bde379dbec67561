//! A subscriber or watchmark dies; the next stream goes on where the last
//! durable ack left off.

use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use watchmark::proto::watchmark::v1::{
    AckMode, Proof, SnapshotReason, Start, SubscribeRequest, subscribe_response::Message,
};

use crate::support::{Scenario, client::request, seed::seed};

/// Only the client_id: the stored range, from the checkpoint.
fn resume(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        client_id: client_id.to_owned(),
        ..SubscribeRequest::default()
    }
}

fn latest(client_id: &str, prefix: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, prefix)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_with_the_subscriber_killed_at_random_points() {
    const EVENTS: usize = 10_000;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let scenario = Scenario::start(&[]).await;
    let first = scenario.open(latest("app", "a/")).await.unwrap();
    assert!(!first.opened().resumed);
    drop(first);

    let writer = scenario.writer.clone();
    let writing = tokio::spawn(async move {
        let mut last = 0;
        let mut written = 0;
        let mut n = 0;
        while written < EVENTS {
            let keys = if n % 10 == 0 { 1 + n % 128 } else { 1 };
            let keys: Vec<_> = (0..keys)
                .map(|k| format!("a/{:03}", (n + k) % 500))
                .collect();
            last = writer.put_all(&keys).await;
            written += keys.len();
            n += 1;
        }
        last
    });

    let mut kills = 0;
    let mut acked = 0;
    let last = loop {
        let mut subscriber = scenario.open(resume("app")).await.unwrap();
        assert!(subscriber.opened().resumed);
        assert!(subscriber.opened().checkpoint >= acked);
        if writing.is_finished() {
            let last = writing.await.unwrap();
            if subscriber.opened().checkpoint < last {
                subscriber.events_until(last).await;
            }
            break last;
        }
        let mut read = rng.usize(1..400);
        while read > 0 && !writing.is_finished() {
            let Message::Events(batch) = subscriber.next().await.unwrap() else {
                continue;
            };
            read = read.saturating_sub(batch.events.len());
            if !batch.partial && rng.usize(..3) == 0 {
                acked = subscriber.ack(batch.revision).await.unwrap();
            }
        }
        // Dropped with its connection: to watchmark it is dead.
        kills += 1;
    };
    assert!(kills > 5, "{kills} kills only");
    let history = scenario.truth.until(last).await;
    assert!(history.events.len() >= EVENTS);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_between_deliver_and_ack_delivers_again() {
    let mut scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app", "a/")).await.unwrap();
    let acked = scenario.writer.put_many("a/", 10).await;
    subscriber.events_until(acked).await;
    assert_eq!(subscriber.ack(acked).await.unwrap(), acked);
    let last = scenario.writer.put_many("a/", 10).await;
    let unacked = subscriber.events_until(last).await;
    scenario.watchmark.kill();
    subscriber.end().await;
    scenario.watchmark.restart().await;

    let mut subscriber = scenario.open(resume("app")).await.unwrap();
    let opened = subscriber.opened();
    assert_eq!((opened.checkpoint, opened.proof()), (acked, Proof::Acked));
    assert_eq!(subscriber.events_until(last).await, unacked);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_between_an_ack_and_its_answer_keeps_every_answered_ack() {
    const ROUNDS: u64 = 12;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mut scenario = Scenario::start(&[]).await;
    drop(scenario.open(latest("app", "a/")).await.unwrap());
    let mut answered = 0;
    for round in 0..ROUNDS {
        let mut subscriber = scenario.open(resume("app")).await.unwrap();
        assert!(subscriber.opened().checkpoint >= answered, "round {round}");
        let last = scenario.writer.put("a/1", format!("{round}")).await;
        subscriber.events_until(last).await;
        let acker = subscriber.acker();
        let ack = tokio::spawn(async move { acker.ack(last).await });
        // When the fault strikes, not a wait for anything.
        tokio::time::sleep(Duration::from_micros(rng.u64(..6000))).await;
        scenario.watchmark.kill();
        if let Ok(checkpoint) = ack.await.unwrap() {
            answered = checkpoint;
        }
        scenario.watchmark.restart().await;
    }
    let end = scenario.open(resume("app")).await.unwrap();
    assert!(end.opened().checkpoint >= answered);
    drop(end);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_a_burst_of_concurrent_acks_keeps_every_answered_ack() {
    const SUBSCRIBERS: usize = 30;
    const ROUNDS: usize = 4;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mut scenario = Scenario::start(&[]).await;
    let ids: Vec<_> = (0..SUBSCRIBERS).map(|n| format!("app-{n}")).collect();
    for id in &ids {
        drop(scenario.open(latest(id, "a/")).await.unwrap());
    }
    let mut answered = 0;
    for _ in 0..ROUNDS {
        let mut subscribers = Vec::new();
        for id in &ids {
            subscribers.push(scenario.open(resume(id)).await.unwrap());
        }
        let first = scenario.writer.put("a/0", "").await;
        let last = scenario.writer.put_many("a/", 20).await;
        let mut acks = JoinSet::new();
        for subscriber in &mut subscribers {
            subscriber.events_until(last).await;
            for revision in first..=last {
                let acker = subscriber.acker();
                acks.spawn(async move { acker.ack(revision).await.is_ok() });
            }
        }
        // Once some are answered, at a random one of them.
        let strike = rng.usize(1..SUBSCRIBERS * 15);
        let mut ended = 0;
        while ended < strike && acks.join_next().await.is_some() {
            ended += 1;
        }
        scenario.watchmark.kill();
        while let Some(ok) = acks.join_next().await {
            ended += usize::from(ok.unwrap());
        }
        answered += ended;
        scenario.watchmark.restart().await;
    }
    assert!(answered > ROUNDS);
    for id in &ids {
        drop(scenario.open(resume(id)).await.unwrap());
    }
    // P7 compares every answered ack with what the next streams opened at.
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_latest_is_durable_before_it_opens() {
    let mut scenario = Scenario::start(&[]).await;
    let head = scenario.writer.put("a/old", "").await;
    let opened = scenario.open(latest("app", "a/")).await.unwrap();
    assert_eq!(opened.opened().checkpoint, head);
    assert!(!opened.opened().resumed);
    scenario.watchmark.kill();
    drop(opened);
    let missed = scenario.writer.put("a/new", "").await;
    scenario.watchmark.restart().await;
    let mut subscriber = scenario.open(resume("app")).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, head);
    assert!(subscriber.opened().resumed);
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (missed, 1));
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_comes_again_until_it_is_acknowledged() {
    let mut scenario = Scenario::start(&[]).await;
    let head = scenario.writer.put_many("a/", 50).await;
    for _ in 0..2 {
        let mut subscriber = scenario.subscribe("app", "a/").await;
        assert_eq!(subscriber.opened().checkpoint, 0);
        let snapshot = subscriber.snapshot().await;
        assert_eq!(snapshot.reason, SnapshotReason::First);
        assert_eq!((snapshot.revision, snapshot.kvs.len()), (head, 50));
        scenario.watchmark.kill();
        drop(subscriber);
        scenario.watchmark.restart().await;
    }
    let mut subscriber = scenario.subscribe("app", "a/").await;
    let snapshot = subscriber.snapshot().await;
    assert_eq!(subscriber.ack(snapshot.revision).await.unwrap(), head);
    drop(subscriber);
    let last = scenario.writer.put("a/99", "").await;
    let mut subscriber = scenario.open(resume("app")).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, head);
    assert_eq!(subscriber.next_events().await.0, last);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_acks_move_the_checkpoint_without_a_call() {
    let scenario = Scenario::start(&[]).await;
    let auto = SubscribeRequest {
        ack_mode: AckMode::Auto.into(),
        ..latest("app", "a/")
    };
    let mut subscriber = scenario.open(auto).await.unwrap();
    let last = scenario.writer.put_many("a/", 30).await;
    assert_eq!(subscriber.events_until(last).await.len(), 30);
    // The answer is the durable checkpoint; the ack of 1 changes nothing.
    crate::support::wait::until("the checkpoint to follow", async || {
        let checkpoint = subscriber.ack(1).await.ok()?;
        (checkpoint == last).then_some(())
    })
    .await;
    drop(subscriber);
    let again = scenario.open(resume("app")).await.unwrap();
    assert_eq!(again.opened().checkpoint, last);
    drop(again);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_may_bring_its_own_position_also_backwards() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app", "a/")).await.unwrap();
    let middle = scenario.writer.put_many("a/", 10).await;
    let last = scenario.writer.put_many("a/", 10).await;
    subscriber.events_until(last).await;
    assert_eq!(subscriber.ack(last).await.unwrap(), last);
    drop(subscriber);
    let back = SubscribeRequest {
        resume_after: middle,
        ..request("app", "a/")
    };
    let mut subscriber = scenario.open(back).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, middle);
    assert_eq!(subscriber.events_until(last).await.len(), 10);
    drop(subscriber);
    // It is the checkpoint now.
    let again = scenario.open(resume("app")).await.unwrap();
    assert_eq!(again.opened().checkpoint, middle);
    drop(again);
    scenario.finish().await;
}
