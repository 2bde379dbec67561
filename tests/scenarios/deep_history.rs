//! A subscriber that was away for long: what it missed is read by several
//! watches at once, or is large.

use fastrand::Rng;
use futures_util::{StreamExt, stream};
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest, subscribe_response::Message};

use crate::support::{Scenario, client::request, seed::seed};

/// Of the bar; a megabyte-large value is held a few times over.
const RESIDENT_BYTES_MAX: u64 = 64 << 20;

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

fn resume(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        client_id: client_id.to_owned(),
        ..SubscribeRequest::default()
    }
}

/// `count` puts, many at a time; the newest revision.
async fn puts(scenario: &Scenario, prefix: &str, count: usize) -> i64 {
    let writes = (0..count).map(|n| {
        let writer = scenario.writer.clone();
        let key = format!("{prefix}{:03}", n % 500);
        async move { writer.put(&key, "value").await }
    });
    let revisions = stream::iter(writes).buffer_unordered(128);
    let all: Vec<_> = revisions.collect().await;
    all.into_iter().max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_missed_revisions_with_everything_killed_on_the_way() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mut scenario = Scenario::start(&["--log=watchmark=debug"]).await;
    drop(scenario.open(latest("app")).await.unwrap());
    puts(&scenario, "a/", 10_000).await;
    for n in 0..100 {
        let keys: Vec<_> = (0..128).map(|k| format!("a/{n:03}/{k}")).collect();
        scenario.writer.put_all(&keys).await;
    }
    puts(&scenario, "b/", 3_000).await;
    let last = puts(&scenario, "a/", 10_000).await;

    let mut lives = 0;
    loop {
        let mut subscriber = scenario.open(resume("app")).await.unwrap();
        assert!(subscriber.opened().resumed);
        if subscriber.opened().checkpoint == last {
            break;
        }
        lives += 1;
        let mut read = rng.usize(500..10_000);
        while read > 0 {
            let Message::Events(batch) = subscriber.next().await.unwrap() else {
                continue;
            };
            read = read.saturating_sub(batch.events.len());
            if !batch.partial && (rng.usize(..3) == 0 || batch.revision == last) {
                subscriber.ack(batch.revision).await.unwrap();
            }
            if batch.revision == last {
                break;
            }
        }
        drop(subscriber);
        match rng.usize(..4) {
            0 => {
                scenario.watchmark.kill();
                scenario.watchmark.restart().await;
            }
            1 => {
                scenario.etcd.kill(0);
                scenario.etcd.restart(0).await;
            }
            _ => {}
        }
    }
    assert!(lives > 2, "{lives} lives only");
    let log = scenario.watchmark.log();
    assert!(log.contains("reading ahead"), "only by plain watches");
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_in_one_response_take_little_memory() {
    let scenario = Scenario::start(&[]).await;
    drop(scenario.open(latest("app")).await.unwrap());
    let mut last = 0;
    for n in 0..100_u8 {
        last = scenario
            .writer
            .put(&format!("a/{}", n % 3), vec![n; 1 << 20])
            .await;
    }
    let mut subscriber = scenario.open(resume("app")).await.unwrap();
    assert_eq!(subscriber.events_until(last).await.len(), 100);
    subscriber.ack(last).await.unwrap();
    let peak = scenario.watchmark.process().peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes");
    scenario.finish().await;
}
