//! One subscriber that does not read delays nobody, costs little, and loses
//! nothing.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest, subscribe_response::Message};

use crate::support::{Scenario, Subscriber, client::request};

/// What an event may take to all others, on two busy cores; a delayed one
/// would take until the stopped subscriber reads again.
const LATENCY_MAX: Duration = Duration::from_secs(5);
/// Far less than what the stopped subscriber leaves unread.
const RESIDENT_BYTES_MAX: u64 = 128 << 20;

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_fifty_stops_reading_and_the_others_are_not_delayed() {
    const ROUNDS: usize = 40;
    // In the stopped one's range: 100 values of 20 kB each round, 80 MB in all.
    const VALUES: usize = 100;
    let scenario = Scenario::start(&[]).await;
    // All on one connection: they share its windows.
    let connection = scenario.watchmark.client().await;
    let open = async |id: &str, prefix: &str| {
        let request = SubscribeRequest {
            start: Start::Latest.into(),
            ..request(id, prefix)
        };
        Subscriber::open(connection.clone(), &scenario.recorder, request)
            .await
            .unwrap()
    };
    let mut stopped = open("stopped", "a/").await;
    let mut others = Vec::new();
    for n in 0..4 {
        others.push(open(&format!("beside-{n}"), "a/").await);
    }
    for n in 0..45 {
        others.push(open(&format!("other-{n}"), "b/").await);
    }
    let keys = ["a/last".to_owned(), "b/last".to_owned()];
    let mut last = 0;
    for round in 0..ROUNDS {
        let ops = (0..VALUES)
            .map(|n| etcd_client::TxnOp::put(format!("a/{n:03}"), vec![round as u8; 20_000], None));
        let ops: Vec<_> = ops.collect();
        // etcd takes 1.5 MiB at a time.
        for half in ops.chunks(VALUES / 2) {
            scenario.writer.txn(half.to_vec()).await.unwrap();
        }
        last = scenario.writer.put_all(&keys).await;
        let started = Instant::now();
        let mut reading = JoinSet::new();
        for mut other in others.drain(..) {
            reading.spawn(async move {
                other.events_until(last).await;
                other
            });
        }
        others.extend(reading.join_all().await);
        let took = started.elapsed();
        assert!(took < LATENCY_MAX, "round {round} took {took:?}");
    }
    let acks = others.iter().map(|other| other.ack(last));
    for ack in futures_util::future::join_all(acks).await {
        assert_eq!(ack.unwrap(), last);
    }
    let peak = scenario.watchmark.process().peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes");
    // It reads again, and gets everything.
    let events = stopped.events_until(last).await;
    assert_eq!(events.len(), ROUNDS * (VALUES + 1));
    // Its watch was not left unread: it was closed, and another one opened.
    let log = scenario.watchmark.log();
    let opened = log
        .lines()
        .filter(|line| line.contains("client_id=stopped}") && line.contains("opening a watch"));
    assert!(opened.count() > 1, "no watch was closed");
    assert_eq!(stopped.ack(last).await.unwrap(), last);
    drop((stopped, others));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_unacked_events_holds_and_opens() {
    const WINDOW: u32 = 10;
    let scenario = Scenario::start(&["--progress-interval=500ms"]).await;
    let windowed = SubscribeRequest {
        max_unacked_events: WINDOW,
        ..latest("app")
    };
    let mut subscriber = scenario.open(windowed).await.unwrap();
    let first = scenario.writer.put("a/1", "").await;
    let last = scenario.writer.put_many("a/", 49).await;
    let mut received = 0;
    let mut acked = first - 1;
    while acked < last {
        let full = acked + i64::from(WINDOW);
        let reached = full.min(last);
        received += subscriber.events_until(reached).await.len();
        assert_eq!(received as i64, reached - first + 1);
        if reached < last {
            // It is held: only heartbeats come.
            for _ in 0..2 {
                let message = subscriber
                    .next_of("a heartbeat", |message| match message {
                        Message::Events(_) | Message::Progress(_) => Some(message),
                        _ => None,
                    })
                    .await;
                assert!(matches!(message, Message::Progress(p) if p.revision == reached));
            }
        }
        acked = subscriber.ack(reached).await.unwrap();
        assert_eq!(acked, reached);
    }
    // A revision larger than the window is still sent, alone.
    let keys: Vec<_> = (0..30).map(|n| format!("a/{n}")).collect();
    let wide = scenario.writer.put_all(&keys).await;
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (wide, 30));
    drop(subscriber);
    scenario.finish().await;
}
