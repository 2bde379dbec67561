//! etcd is restored from an older backup, or replaced by an empty one: the
//! checkpoint is from another history, and the subscriber is told.

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    CompactionPolicy, SnapshotReason, Start, StreamState, SubscribeRequest,
    seek_subscription_request::Target,
};

use crate::support::{Etcd, Scenario, Subscriber, client::request};

fn latest() -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request("app", "a/")
    }
}

/// Everything is received and acknowledged; a backup is older by 30 events.
async fn acknowledged(scenario: &Scenario) -> (Subscriber, i64, crate::support::etcd::Backup) {
    let mut subscriber = scenario.open(latest()).await.unwrap();
    scenario.writer.put_many("a/", 20).await;
    let backup = scenario.etcd.backup(0).await;
    let last = scenario.writer.put_many("a/", 30).await;
    subscriber.events_until(last).await;
    assert_eq!(subscriber.ack(last).await.unwrap(), last);
    (subscriber, last, backup)
}

/// The first stream on the new history: a snapshot that says why, then events.
async fn begins_anew(scenario: Scenario) {
    let mut subscriber = scenario.open(latest()).await.unwrap();
    assert_eq!(subscriber.opened().checkpoint, 0);
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::HistoryReplaced);
    assert_eq!(
        subscriber.ack(snapshot.revision).await.unwrap(),
        snapshot.revision
    );
    let next = scenario.writer.put("a/new", "").await;
    assert_eq!(subscriber.next_events().await.0, next);
    assert_eq!(subscriber.ack(next).await.unwrap(), next);
    drop(subscriber);
    let again = scenario.open(latest()).await.unwrap();
    assert_eq!(again.opened().checkpoint, next);
    drop(again);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_under_a_live_stream_it_ends_and_the_next_begins_anew() {
    let mut scenario = Scenario::start(&[]).await;
    let (mut subscriber, last, backup) = acknowledged(&scenario).await;
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.restore(&backup);
    subscriber.until_state(StreamState::UpstreamLost).await;
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;

    let ended = subscriber.end().await;
    assert_eq!(ended.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    let late = subscriber.ack(last).await.unwrap_err();
    assert_eq!(late.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    drop(subscriber);
    scenario.recorder.take();
    begins_anew(scenario).await;
}

/// No stream has noticed when an operator moves the subscription.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_within_a_history_that_nobody_was_told_of_is_refused() {
    let mut scenario = Scenario::start(&[]).await;
    let (subscriber, last, backup) = acknowledged(&scenario).await;
    drop(subscriber);
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.restore(&backup);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;
    // It overtakes the checkpoint: only the last event's key tells.
    assert!(scenario.writer.put_many("b/", 60).await > last);

    let mut operator = scenario.operator().await;
    let to = Target::Revision(last - 40);
    let dry = operator.dry_run("app", to).await.unwrap();
    assert!(!dry.resumable, "{dry:?}");
    let refused = operator.seek("app", to).await.unwrap_err();
    assert_eq!(refused.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    scenario.recorder.take();
    begins_anew(scenario).await;
}

/// A simple token names the log entry that issued it, and etcd leaves a call
/// that carries it unanswered until its log is as long: a restored log is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_with_users_the_old_token_hides_nothing() {
    let password = "not-in-any-log";
    let mut etcd = Etcd::single(&["--bcrypt-cost=4"]).await;
    etcd.enable_auth(password).await;
    let mut client = etcd.client().await;
    for n in 0..300 {
        client.put(format!("b/{}", n % 10), "", None).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, password).unwrap();
    let password_file = format!("--etcd-password-file={}", file.display());
    let flags = ["--etcd-user=root", &password_file];
    let mut scenario = Scenario::start_with(etcd, &flags).await;
    let (mut subscriber, _, backup) = acknowledged(&scenario).await;
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.restore(&backup);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;

    let ended = subscriber.end().await;
    assert_eq!(ended.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    drop(subscriber);
    scenario.recorder.take();
    begins_anew(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_while_everybody_is_away() {
    let mut scenario = Scenario::start(&[]).await;
    let (subscriber, _, backup) = acknowledged(&scenario).await;
    drop(subscriber);
    scenario.watchmark.kill();
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.restore(&backup);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;
    scenario.watchmark.restart().await;
    begins_anew(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_and_already_past_the_checkpoint() {
    let mut scenario = Scenario::start(&[]).await;
    let (subscriber, last, backup) = acknowledged(&scenario).await;
    drop(subscriber);
    scenario.watchmark.kill();
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.restore(&backup);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;
    // Another history, with revisions beyond the checkpoint: only what the
    // checkpoint's own event looked like tells them apart.
    let head = scenario.writer.put_many("a/other", 60).await;
    assert!(head > last);
    scenario.watchmark.restart().await;
    begins_anew(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_by_an_empty_cluster() {
    let mut scenario = Scenario::start(&[]).await;
    let (mut subscriber, _, _) = acknowledged(&scenario).await;
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.wipe(0);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;
    let ended = subscriber.end().await;
    assert_eq!(ended.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    drop(subscriber);
    scenario.recorder.take();
    begins_anew(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_wants_no_snapshot_gets_an_error() {
    let mut scenario = Scenario::start(&[]).await;
    let (subscriber, _, _) = acknowledged(&scenario).await;
    drop(subscriber);
    scenario.validate_epoch().await;
    scenario.etcd.stop(0).await;
    scenario.etcd.wipe(0);
    scenario.etcd.restart(0).await;
    scenario.begin_epoch().await;
    let fail = SubscribeRequest {
        on_compaction: CompactionPolicy::Fail.into(),
        ..latest()
    };
    let ended = match scenario.open(fail).await {
        Ok(mut subscriber) => subscriber.end().await,
        Err(ended) => ended,
    };
    assert_eq!(ended.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    begins_anew(scenario).await;
}
