//! What a subscription counts: each reason for a watch to be opened again by
//! what really ended the one before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::time::Duration;

use fake::{Fixture, next_events, request, rev, until};
use futures_util::StreamExt;
use watchmark::resume::input::Upstream as Said;

const REASONS: [&str; 5] = ["lost", "compacted", "stalled", "parked", "behind"];

/// Lets that time pass for everybody, at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Exactly one watch was opened again, for `reason`.
#[track_caller]
fn reopened(fixture: &Fixture, reason: &str) {
    for other in REASONS {
        let expected = u64::from(other == reason);
        assert_eq!(fixture.metrics.reopens.count(other), expected, "{other}");
    }
    let stalls = u64::from(reason == "stalled");
    assert_eq!(fixture.metrics.stalls.get(), stalls);
}

#[tokio::test]
async fn a_lost_watch_is_counted() {
    let mut fixture = Fixture::new(10);
    let (_stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say(Said::Lost).await;
    let _watch = fixture.asked_watch().await;
    reopened(&fixture, "lost");
}

#[tokio::test]
async fn a_watch_cancelled_by_a_compaction_is_counted() {
    let mut fixture = Fixture::new(10);
    let (_stream, watch) = fixture.subscribe_at_10("orders").await;
    let compact_revision = rev(5);
    watch.say(Said::Compacted { compact_revision }).await;
    let _watch = fixture.asked_watch().await;
    reopened(&fixture, "compacted");
}

#[tokio::test]
async fn a_stalled_watch_is_counted() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
    // Asked after --progress-interval, and not answered for --stall-timeout.
    pass(Duration::from_secs(11)).await;
    until("a question", || watch.is_asked()).await;
    pass(Duration::from_secs(31)).await;
    let _watch = fixture.asked_watch().await;
    reopened(&fixture, "stalled");
}

#[tokio::test]
async fn a_parked_watch_is_counted() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    // More than an outbox takes, and nobody reads.
    for revision in [11, 12, 13] {
        watch.say_put(revision, 300 * 1024).await;
    }
    until("a full outbox", || fixture.metrics.events.get() >= 1).await;
    pass(Duration::from_millis(50)).await;
    pass(Duration::from_secs(2)).await;
    until("the watch is closed", || watch.is_closed()).await;
    // Opened again when all of it was read.
    let reading = async { while stream.next().await.is_some() {} };
    tokio::select! {
        _ = fixture.asked_watch() => {}
        () = reading => panic!("the stream ended"),
    }
    reopened(&fixture, "parked");
}

#[tokio::test]
async fn a_subscriber_that_comes_again_is_no_reopened_watch() {
    let mut fixture = Fixture::new(10);
    let (stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    drop(stream);
    until("the end", || fixture.metrics.ended.count("closed") == 1).await;
    let _stream = fixture.subscribe("orders", request()).await;
    let _watch = fixture.asked_watch().await;
    let _newer = fixture.subscribe("orders", request()).await;
    let _watch = fixture.asked_watch().await;
    reopened(&fixture, "nothing");
    assert_eq!(fixture.metrics.takeovers.get(), 1);
    assert_eq!(fixture.metrics.begun.get(), 3);
}

#[tokio::test]
async fn events_and_their_bytes_are_counted_once() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 1000).await;
    assert_eq!(next_events(&mut stream).await, 11);
    assert_eq!(fixture.metrics.events.get(), 1);
    let bytes = fixture.metrics.bytes.get();
    assert!((1000..1200).contains(&bytes), "{bytes}");
}
