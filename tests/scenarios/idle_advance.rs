//! A quiet prefix beside a busy one: its position moves, so that compaction
//! does not cost it a snapshot, but never past what is not acknowledged.

use std::time::Duration;

use watchmark::proto::watchmark::v1::{
    CompactionPolicy, Proof, SnapshotReason, Start, SubscribeRequest,
};

use crate::support::{Etcd, Scenario, Subscriber, client::request, wait};

/// x, y and the rest, in seconds rather than minutes.
const TIMES: [&str; 4] = [
    "--idle-after=2s",
    "--idle-lag=1s",
    "--probe-interval=250ms",
    "--progress-interval=500ms",
];
/// x and y have long passed by then, on a busy machine too.
const LONG_IDLE: Duration = Duration::from_secs(8);

fn quiet(policy: CompactionPolicy) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        on_compaction: policy.into(),
        ..request("app", "quiet/")
    }
}

/// Whether a progress request is sound on the tested server.
fn can_ask_progress() -> bool {
    match Etcd::version() {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version >= (3, 6, 0),
    }
}

async fn scenario(etcd_flags: &[String], flags: &[&str]) -> Scenario {
    let etcd_flags: Vec<_> = etcd_flags.iter().map(String::as_str).collect();
    let etcd = Etcd::single(&etcd_flags).await;
    let name = |flag: &&str| flag.split('=').next().unwrap().to_owned();
    let names: Vec<_> = flags.iter().map(name).collect();
    // A flag is given once.
    let times = TIMES
        .into_iter()
        .filter(|flag| !names.contains(&name(flag)));
    let flags: Vec<_> = times.chain(flags.iter().copied()).collect();
    Scenario::start_with(etcd, &flags).await
}

/// One event on the quiet prefix, received but not acknowledged.
async fn one_event(scenario: &Scenario) -> (Subscriber, i64) {
    let policy = CompactionPolicy::Resync;
    let mut subscriber = scenario.open(quiet(policy)).await.unwrap();
    let last = scenario.writer.put("quiet/1", "").await;
    subscriber.events_until(last).await;
    (subscriber, last)
}

/// Waits until the durable checkpoint is at `revision`.
async fn checkpoint_reaches(subscriber: &Subscriber, revision: i64) {
    wait::until("the checkpoint to move", async || {
        // The ack of 1 changes nothing; its answer is the checkpoint.
        let checkpoint = subscriber.ack(1).await.unwrap();
        (checkpoint >= revision).then_some(())
    })
    .await;
}

/// Reads, writing to the neighbour, for so long that everything idle must have
/// moved.
async fn stay_idle(scenario: &Scenario, subscriber: &mut Subscriber) {
    let idle = async {
        loop {
            scenario.writer.put_many("busy/", 20).await;
            let pause =
                tokio::time::timeout(Duration::from_millis(200), subscriber.next_unbounded());
            if let Ok(Err(ended)) = pause.await {
                panic!("the stream ended: {ended:?}");
            }
        }
    };
    // The rule's own time, not a wait for a condition.
    let _: Result<(), _> = tokio::time::timeout(LONG_IDLE, idle).await;
}

/// Compacts everything away, restarts watchmark, and resumes: no snapshot.
async fn resumes_without_a_snapshot(mut scenario: Scenario, proof: Proof, compact: i64) {
    scenario.truth.until(compact).await;
    scenario.etcd.compact(compact).await;
    scenario.watchmark.kill();
    scenario.watchmark.restart().await;
    let policy = CompactionPolicy::Fail;
    let mut subscriber = scenario.open(quiet(policy)).await.unwrap();
    assert!(subscriber.opened().resumed);
    assert_eq!(subscriber.opened().proof(), proof);
    assert!(subscriber.opened().checkpoint >= compact);
    let next = scenario.writer.put("quiet/2", "").await;
    let (revision, events) = subscriber.next_events().await;
    assert_eq!((revision, events.len()), (next, 1));
    drop(subscriber);
    scenario.finish().await;
}

async fn certified(etcd_flags: &[String], flags: &[&str]) {
    let scenario = scenario(etcd_flags, flags).await;
    let (mut subscriber, event) = one_event(&scenario).await;
    subscriber.ack(event).await.unwrap();
    let busy = scenario.writer.put_many("busy/", 500).await;
    // Progress is sent on, too.
    assert!(subscriber.events_until(busy).await.is_empty());
    checkpoint_reaches(&subscriber, busy).await;
    drop(subscriber);
    resumes_without_a_snapshot(scenario, Proof::Progress, busy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_requests_move_the_checkpoint_where_they_are_sound() {
    if can_ask_progress() {
        certified(&[], &[]).await;
    } else {
        // They must not be used here: only the delay rule is left.
        let scenario = scenario(&[], &["--idle-proof=progress"]).await;
        let (mut subscriber, event) = one_event(&scenario).await;
        subscriber.ack(event).await.unwrap();
        stay_idle(&scenario, &mut subscriber).await;
        assert_eq!(subscriber.ack(1).await.unwrap(), event);
        drop(subscriber);
        scenario.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_notifications_move_the_checkpoint_on_every_version() {
    let flag = Etcd::progress_notify_flag("500ms").unwrap();
    certified(&[flag], &["--idle-proof=delay"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delay_rule_replaces_a_snapshot() {
    let scenario = scenario(&[], &["--idle-proof=delay"]).await;
    let (mut subscriber, event) = one_event(&scenario).await;
    subscriber.ack(event).await.unwrap();
    let busy = scenario.writer.put_many("busy/", 500).await;
    stay_idle(&scenario, &mut subscriber).await;
    // It moves no checkpoint: what it believes is kept beside it.
    assert_eq!(subscriber.ack(1).await.unwrap(), event);
    drop(subscriber);
    resumes_without_a_snapshot(scenario, Proof::Delay, busy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delay_rule_is_not_used_while_the_checkpoint_is_still_there() {
    let mut scenario = scenario(&[], &["--idle-proof=delay"]).await;
    let (mut subscriber, event) = one_event(&scenario).await;
    subscriber.ack(event).await.unwrap();
    stay_idle(&scenario, &mut subscriber).await;
    scenario.watchmark.kill();
    drop(subscriber);
    scenario.watchmark.restart().await;
    let policy = CompactionPolicy::Fail;
    let subscriber = scenario.open(quiet(policy)).await.unwrap();
    let opened = subscriber.opened();
    assert_eq!((opened.checkpoint, opened.proof()), (event, Proof::Acked));
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_proof_progress_forbids_the_delay_rule() {
    let scenario = scenario(&[], &["--idle-proof=progress", "--progress-interval=1h"]).await;
    let (mut subscriber, event) = one_event(&scenario).await;
    subscriber.ack(event).await.unwrap();
    stay_idle(&scenario, &mut subscriber).await;
    drop(subscriber);
    scenario.compact_to_head().await;
    let policy = CompactionPolicy::Resync;
    let mut subscriber = scenario.open(quiet(policy)).await.unwrap();
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
    drop(subscriber);
    scenario.finish().await;
}

/// With something unacknowledged nothing may move, whatever the evidence.
async fn does_not_advance(etcd_flags: &[String], flags: &[&str]) {
    let scenario = scenario(etcd_flags, flags).await;
    let (mut subscriber, unacked) = one_event(&scenario).await;
    let start = subscriber.opened().checkpoint;
    stay_idle(&scenario, &mut subscriber).await;
    assert_eq!(subscriber.ack(start).await.unwrap(), start);
    drop(subscriber);
    // History is still there: the event comes again.
    let policy = CompactionPolicy::Resync;
    let mut subscriber = scenario.open(quiet(policy)).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, start);
    assert_eq!(subscriber.next_events().await.0, unacked);
    drop(subscriber);
    // It is not: a snapshot, never a silent step past it.
    scenario.compact_to_head().await;
    let mut subscriber = scenario.open(quiet(policy)).await.unwrap();
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
    assert_eq!(snapshot.kvs.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_does_not_pass_an_unacked_event() {
    let flag = Etcd::progress_notify_flag("500ms").unwrap();
    does_not_advance(&[flag], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delay_rule_does_not_pass_an_unacked_event() {
    does_not_advance(&[], &["--idle-proof=delay"]).await;
}
