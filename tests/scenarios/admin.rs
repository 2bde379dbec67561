//! What an operator sees, moves and deletes, on a real etcd.

use std::time::{Duration, Instant, SystemTime};

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    AckMode, CompactionPolicy, Proof, SnapshotReason, Start, StreamState, SubscribeRequest,
    Subscription, SubscriptionState as State, seek_subscription_request::Target,
};

use crate::support::{Scenario, Subscriber, client::request, wait};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

/// Has received everything up to `delivered`, and acknowledged up to `acked`.
struct Fed {
    subscriber: Subscriber,
    began: i64,
    acked: i64,
    delivered: i64,
}

/// 10 events, of which 5 are acknowledged.
async fn fed(scenario: &Scenario, client_id: &str) -> Fed {
    let mut subscriber = scenario.open(latest(client_id)).await.unwrap();
    let began = subscriber.opened().checkpoint;
    let acked = scenario.writer.put_many("a/", 5).await;
    let delivered = scenario.writer.put_many("a/", 5).await;
    subscriber.events_until(delivered).await;
    assert_eq!(subscriber.ack(acked).await.unwrap(), acked);
    Fed {
        subscriber,
        began,
        acked,
        delivered,
    }
}

async fn get(scenario: &Scenario, client_id: &str) -> Subscription {
    scenario.operator().await.get(client_id).await.unwrap()
}

/// Waits until the operator sees it in `state`.
async fn until_seen(scenario: &Scenario, client_id: &str, state: State) -> Subscription {
    let mut operator = scenario.operator().await;
    wait::until(&format!("{client_id} is seen as {state:?}"), async || {
        let seen = operator.get(client_id).await.unwrap();
        (seen.state() == state).then_some(seen)
    })
    .await
}

/// kill -9, and again.
async fn restart(scenario: &mut Scenario) {
    scenario.watchmark.kill();
    scenario.watchmark.restart().await;
}

fn age(time: Option<prost_types::Timestamp>) -> Duration {
    let time = SystemTime::try_from(time.expect("a time")).unwrap();
    time.elapsed().expect("not in the future")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_comes_in_pages_and_in_order_live_or_stored() {
    const COUNT: usize = 25;
    let mut scenario = Scenario::start(&[]).await;
    let client = scenario.watchmark.client().await;
    let names: Vec<String> = (0..COUNT).map(|n| format!("app-{n:02}")).collect();
    let mut live = Vec::new();
    for name in names.iter().rev() {
        let opened = Subscriber::open(client.clone(), &scenario.recorder, latest(name));
        live.push(opened.await.unwrap());
    }
    for is_live in [true, false] {
        let mut operator = scenario.operator().await;
        let (mut seen, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = operator.list(10, &token).await.unwrap();
            sizes.push(page.subscriptions.len());
            seen.extend(page.subscriptions);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(sizes, [10, 10, 5]);
        let seen_names: Vec<&str> = seen.iter().map(|it| it.client_id.as_str()).collect();
        assert_eq!(seen_names, names);
        assert!(seen.iter().all(|it| it.session.is_some() == is_live));
        assert!(seen.iter().all(|it| it.resumable == Some(true)));
        let whole = operator.list(0, "").await.unwrap();
        assert_eq!(whole.subscriptions.len(), COUNT);
        assert_eq!(whole.next_page_token, "");
        // A page ends exactly where the list does.
        let exact = operator.list(25, "").await.unwrap();
        assert_eq!(exact.next_page_token, "");
        let status = operator.status().await;
        assert_eq!((status.subscriptions, status.max_subscriptions), (25, 1000));
        assert!(status.store_ready);
        restart(&mut scenario).await;
    }
    drop(live);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_is_right_live_blocked_gone_and_stored() {
    let mut scenario = Scenario::start(&[]).await;
    let before = Instant::now();
    let Fed {
        mut subscriber,
        acked,
        delivered,
        ..
    } = fed(&scenario, "live").await;
    subscriber.until_state(StreamState::Live).await;
    let seen = until_seen(&scenario, "live", State::Live).await;
    assert_eq!(
        (&seen.key[..], &seen.range_end[..]),
        (&b"a/"[..], &b"a0"[..])
    );
    assert_eq!((seen.checkpoint, seen.delivered), (acked, delivered));
    assert_eq!((seen.unacked_events, seen.lag_revisions), (5, 5));
    assert_eq!(seen.resumable, Some(true));
    assert_eq!(seen.on_compaction(), CompactionPolicy::Resync);
    assert_eq!(seen.ack_mode(), AckMode::Manual);
    assert_eq!((seen.assumed, seen.resyncs), (0, 0));
    assert_eq!(seen.pending_snapshot(), SnapshotReason::Unspecified);
    let session = seen.session.clone().unwrap();
    assert_eq!(session.session_id, subscriber.opened().session_id);
    assert!(session.peer.starts_with("127."), "{}", session.peer);
    let advance = seen.last_advance.unwrap();
    assert_eq!(advance.proof(), Proof::Acked);
    let slack = Duration::from_secs(1);
    for time in [
        session.since,
        seen.oldest_unacked_time,
        seen.last_event_time,
        advance.time,
    ] {
        assert!(age(time) <= before.elapsed() + slack);
    }
    let oldest = age(seen.oldest_unacked_time).as_secs_f64();
    assert!(
        (seen.lag_seconds - oldest).abs() < 5.0,
        "{}",
        seen.lag_seconds
    );

    // Up to date.
    subscriber.ack(delivered).await.unwrap();
    let seen = until_seen(&scenario, "live", State::Live).await;
    assert_eq!((seen.checkpoint, seen.unacked_events), (delivered, 0));
    assert_eq!((seen.lag_revisions, seen.oldest_unacked_time), (0, None));
    assert!(
        seen.lag_seconds.abs() < f64::EPSILON,
        "{}",
        seen.lag_seconds
    );

    // Gone, with one event that it received and did not acknowledge.
    let last = scenario.writer.put("a/last", "").await;
    subscriber.events_until(last).await;
    drop(subscriber);
    let seen = until_seen(&scenario, "live", State::Disconnected).await;
    assert_eq!(seen.session, None);
    assert_eq!((seen.checkpoint, seen.delivered), (delivered, last));
    assert_eq!(
        (seen.unacked_events, seen.ack_mode()),
        (1, AckMode::Unspecified)
    );

    // A window of one.
    let window = SubscribeRequest {
        max_unacked_events: 1,
        keys_only: true,
        prev_kv: true,
        on_compaction: CompactionPolicy::Fail.into(),
        ..latest("blocked")
    };
    let mut blocked = scenario.open(window).await.unwrap();
    scenario.writer.put_many("a/", 2).await;
    blocked.next_events().await;
    let seen = until_seen(&scenario, "blocked", State::Blocked).await;
    assert_eq!((seen.max_unacked_events, seen.unacked_events), (1, 1));
    assert!(seen.keys_only && seen.prev_kv);
    assert_eq!(seen.on_compaction(), CompactionPolicy::Fail);
    drop(blocked);

    // Only stored, and its history is compacted, but for one.
    let current = scenario.open(latest("current")).await.unwrap();
    let compacted = scenario.compact_to_head().await;
    restart(&mut scenario).await;
    drop(current);
    let seen = get(&scenario, "live").await;
    assert_eq!(seen.state(), State::Disconnected);
    assert_eq!((seen.checkpoint, seen.delivered), (delivered, 0));
    assert_eq!(seen.lag_revisions, compacted - delivered);
    assert_eq!((seen.last_advance, seen.last_event_time), (None, None));
    let list = scenario.operator().await.list(0, "").await.unwrap();
    let resumable: Vec<_> = list
        .subscriptions
        .iter()
        .map(|it| (it.client_id.as_str(), it.resumable))
        .collect();
    let expected = [
        ("blocked", Some(false)),
        ("current", Some(true)),
        ("live", Some(false)),
    ];
    assert_eq!(resumable, expected);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_operators_are_served_all_the_same() {
    let mut scenario = Scenario::start(&[]).await;
    let Fed {
        mut subscriber,
        acked,
        ..
    } = fed(&scenario, "app").await;
    let doomed = fed(&scenario, "doomed").await;
    // What the direct watch has not seen is seen once etcd is back.
    scenario.etcd.stop(0).await;
    subscriber.until_state(StreamState::UpstreamLost).await;
    let mut operator = scenario.operator().await;
    let asked_at = Instant::now();
    let list = operator.list(0, "").await.unwrap();
    assert!(asked_at.elapsed() < Duration::from_secs(10));
    let seen = &list.subscriptions[0];
    assert_eq!(seen.state(), State::UpstreamLost);
    assert_eq!((seen.checkpoint, seen.resumable), (acked, None));
    assert!(seen.session.is_some());
    assert_eq!(operator.status().await.subscriptions, 2);

    let unavailable = (Code::Unavailable, "UPSTREAM_UNAVAILABLE");
    let target = Target::Revision(acked);
    let refused = operator.seek("app", target).await.unwrap_err();
    assert_eq!(refused.cause(), unavailable);
    assert!(refused.retry_delay.is_some());
    let refused = operator.dry_run("app", target).await.unwrap_err();
    assert_eq!(refused.cause(), unavailable);
    // What needs no answer of etcd goes on.
    let sought = operator.seek("app", Target::Snapshot(true)).await.unwrap();
    assert_eq!((sought.previous_checkpoint, sought.checkpoint), (acked, 0));
    assert_eq!(
        subscriber.end().await.cause(),
        (Code::Aborted, "SUBSCRIPTION_SOUGHT")
    );
    assert_eq!(operator.delete("doomed").await.unwrap(), doomed.acked);
    let gone = operator.get("doomed").await.unwrap_err();
    assert_eq!(gone.cause(), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"));

    scenario.etcd.restart(0).await;
    let mut subscriber = scenario.subscribe("app", "a/").await;
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::Requested);
    drop((subscriber, doomed));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_back_delivers_again_exactly_what_came_after_also_after_a_kill() {
    for is_killed in [false, true] {
        let mut scenario = Scenario::start(&[]).await;
        let Fed {
            mut subscriber,
            began,
            acked,
            delivered,
        } = fed(&scenario, "app").await;
        let to = began + 2;
        let mut operator = scenario.operator().await;
        let sought = operator.seek("app", Target::Revision(to)).await.unwrap();
        assert_eq!((sought.previous_checkpoint, sought.checkpoint), (acked, to));
        assert!(sought.resumable);
        if is_killed {
            restart(&mut scenario).await;
        } else {
            let ended = subscriber.end().await;
            assert_eq!(ended.cause(), (Code::Aborted, "SUBSCRIPTION_SOUGHT"));
            assert!(ended.retry_delay.is_some());
            let late = subscriber.ack(delivered).await.unwrap_err();
            assert_eq!(late.cause(), (Code::Aborted, "SUBSCRIPTION_SOUGHT"));
            assert_eq!(subscriber.ack(to).await.unwrap(), to);
        }
        let mut again = scenario.subscribe("app", "a/").await;
        assert_eq!(again.opened().checkpoint, to);
        assert!(again.opened().resumed);
        let events = again.events_until(delivered).await;
        assert_eq!(events.len(), 8);
        assert_eq!(again.ack(delivered).await.unwrap(), delivered);
        drop((subscriber, again));
        scenario.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_forward_leaves_out_exactly_what_lies_between_also_after_a_kill() {
    for is_killed in [false, true] {
        let mut scenario = Scenario::start(&[]).await;
        let Fed {
            subscriber,
            acked,
            delivered,
            ..
        } = fed(&scenario, "app").await;
        let last = scenario.writer.put_many("a/", 3).await;
        let mut operator = scenario.operator().await;
        let to = delivered + 1;
        let sought = operator.seek("app", Target::Revision(to)).await.unwrap();
        assert_eq!((sought.previous_checkpoint, sought.checkpoint), (acked, to));
        if is_killed {
            restart(&mut scenario).await;
        }
        let mut again = scenario.subscribe("app", "a/").await;
        assert_eq!(again.opened().checkpoint, to);
        let events = again.events_until(last).await;
        assert_eq!(events.len(), 2);
        drop((subscriber, again));
        scenario.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_to_a_snapshot_brings_one_that_says_so_also_after_a_kill() {
    for is_killed in [false, true] {
        let mut scenario = Scenario::start(&[]).await;
        let Fed {
            subscriber, acked, ..
        } = fed(&scenario, "app").await;
        let mut operator = scenario.operator().await;
        let sought = operator.seek("app", Target::Snapshot(true)).await.unwrap();
        assert_eq!((sought.previous_checkpoint, sought.checkpoint), (acked, 0));
        let seen = operator.get("app").await.unwrap();
        assert_eq!(seen.pending_snapshot(), SnapshotReason::Requested);
        assert_eq!((seen.checkpoint, seen.resumable), (0, None));
        if is_killed {
            restart(&mut scenario).await;
        }
        // It comes until it is acknowledged.
        for round in 0..2 {
            let mut again = scenario.subscribe("app", "a/").await;
            assert_eq!(again.opened().checkpoint, 0);
            let snapshot = again.snapshot().await;
            assert_eq!(snapshot.reason, SnapshotReason::Requested);
            if round == 1 {
                again.ack(snapshot.revision).await.unwrap();
            }
        }
        let again = scenario.subscribe("app", "a/").await;
        assert!(again.opened().checkpoint > 0);
        let seen = get(&scenario, "app").await;
        assert_eq!(
            (seen.resyncs, seen.pending_snapshot()),
            (2, SnapshotReason::Unspecified)
        );
        drop((subscriber, again));
        scenario.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_and_a_seek_refuses_what_can_not() {
    let scenario = Scenario::start(&[]).await;
    let Fed {
        mut subscriber,
        began,
        acked,
        delivered,
    } = fed(&scenario, "app").await;
    let compacted = delivered - 2;
    scenario.truth.until(delivered).await;
    scenario.etcd.compact(compacted).await;
    let mut operator = scenario.operator().await;
    for (to, resumable) in [
        (began, false),
        (compacted - 1, false),
        (compacted, true),
        (delivered, true),
        (delivered + 1, false),
    ] {
        let dry = operator.dry_run("app", Target::Revision(to)).await.unwrap();
        assert_eq!((dry.previous_checkpoint, dry.checkpoint), (acked, to));
        assert_eq!(dry.resumable, resumable, "{to}");
        let known = if to < compacted { compacted } else { 0 };
        assert_eq!(dry.compact_revision, known, "{to}");
    }
    let dry = operator
        .dry_run("app", Target::Snapshot(true))
        .await
        .unwrap();
    assert_eq!((dry.checkpoint, dry.resumable), (0, true));

    let refused = operator.seek("app", Target::Revision(began)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.cause(), (Code::OutOfRange, "COMPACTED"));
    assert_eq!(refused.metadata["compact_revision"], compacted.to_string());
    let refused = operator.seek("app", Target::Revision(delivered + 1)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.cause(), (Code::OutOfRange, "REVISION_IN_FUTURE"));
    assert_eq!(refused.metadata["head"], delivered.to_string());
    let refused = operator.seek("nobody", Target::Revision(1)).await;
    let not_found = (Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    assert_eq!(refused.unwrap_err().cause(), not_found);
    for (target, field) in [
        (None, "revision"),
        (Some(Target::Revision(0)), "revision"),
        (Some(Target::Revision(-1)), "revision"),
        (Some(Target::Snapshot(false)), "snapshot"),
    ] {
        let refused = operator
            .ask_to_seek("app", target, false)
            .await
            .unwrap_err();
        assert_eq!(refused.cause(), (Code::InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], field);
    }
    for (size, token, field) in [(-1, "", "page_size"), (0, "nonsense", "page_token")] {
        let refused = operator.list(size, token).await.unwrap_err();
        assert_eq!(refused.cause(), (Code::InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], field);
    }

    // The stream has not noticed any of it.
    assert_eq!(subscriber.ack(delivered).await.unwrap(), delivered);
    let next = scenario.writer.put("a/next", "").await;
    subscriber.events_until(next).await;
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_while_live_is_gone_and_may_begin_anew_with_another_range() {
    for is_killed in [false, true] {
        let mut scenario = Scenario::start(&[]).await;
        let Fed {
            mut subscriber,
            acked,
            delivered,
            ..
        } = fed(&scenario, "app").await;
        let mut operator = scenario.operator().await;
        assert_eq!(operator.delete("app").await.unwrap(), acked);
        if is_killed {
            restart(&mut scenario).await;
        } else {
            let ended = subscriber.end().await;
            assert_eq!(ended.cause(), (Code::Aborted, "SUBSCRIPTION_DELETED"));
            assert_eq!(ended.retry_delay, None);
            let late = subscriber.ack(delivered).await.unwrap_err();
            assert_eq!(late.cause(), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"));
        }
        let mut operator = scenario.operator().await;
        let list = operator.list(0, "").await.unwrap();
        assert!(list.subscriptions.is_empty());
        let again = operator.delete("app").await.unwrap_err();
        assert_eq!(again.cause(), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"));

        let b = scenario.writer.put("b/1", "").await;
        let mut anew = scenario.subscribe("app", "b/").await;
        let snapshot = anew.snapshot().await;
        assert_eq!(snapshot.reason, SnapshotReason::First);
        assert_eq!((snapshot.revision, snapshot.kvs.len()), (b, 1));
        anew.ack(snapshot.revision).await.unwrap();
        drop((subscriber, anew));
        scenario.finish().await;
    }
}
