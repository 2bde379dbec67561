//! What is refused: the documented error, and nothing changed.

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    Events, Start, SubscribeRequest, subscribe_response::Message,
};

use crate::support::{
    Scenario, Subscriber,
    client::{Acker, request},
};

async fn latest(scenario: &Scenario, client_id: &str) -> Subscriber {
    let request = SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    };
    scenario.open(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_range_or_filter_under_a_known_client_id_is_refused() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = latest(&scenario, "app").await;
    let acked = scenario.writer.put("a/1", "").await;
    subscriber.events_until(acked).await;
    subscriber.ack(acked).await.unwrap();
    drop(subscriber);
    let others = [
        request("app", "b/"),
        request("app", "a/1"),
        SubscribeRequest {
            no_delete: true,
            ..request("app", "a/")
        },
        SubscribeRequest {
            no_put: true,
            ..request("app", "")
        },
        SubscribeRequest {
            key: "a/1".into(),
            ..request("app", "")
        },
    ];
    for other in others {
        let refused = scenario.open(other).await.err().unwrap();
        assert_eq!(
            refused.cause(),
            (Code::FailedPrecondition, "RANGE_MISMATCH")
        );
        assert_eq!(refused.metadata.get("client_id").unwrap(), "app");
    }
    // The same range, said in another way, is the same.
    let same = SubscribeRequest {
        key: "a/".into(),
        range_end: "a0".into(),
        ..request("app", "")
    };
    let same = scenario.open(same).await.unwrap();
    assert_eq!(same.opened().checkpoint, acked);
    drop(same);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_that_cannot_be_taken_are_refused_and_change_nothing() {
    let mut scenario = Scenario::start(&[]).await;
    let mut subscriber = latest(&scenario, "app").await;
    let start = subscriber.opened().checkpoint;
    let first = scenario.writer.put("a/1", "").await;
    subscriber.events_until(first).await;

    for beyond in [first + 1, i64::MAX] {
        let refused = subscriber.ack(beyond).await.unwrap_err();
        assert_eq!(
            refused.cause(),
            (Code::OutOfRange, "ACK_BEYOND_DELIVERED"),
            "{beyond}"
        );
    }
    for nonsense in [0, -1, i64::MIN] {
        let refused = subscriber.ack(nonsense).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "{nonsense}");
    }
    let stranger = Acker {
        client_id: "stranger".to_owned(),
        session_id: 0,
        ..subscriber.acker()
    };
    assert_eq!(
        stranger.ack(1).await.unwrap_err().cause(),
        (Code::NotFound, "SUBSCRIPTION_NOT_FOUND")
    );
    // None of them moved anything, and a repeated ack is harmless.
    assert_eq!(subscriber.ack(start).await.unwrap(), start);
    assert_eq!(subscriber.ack(first).await.unwrap(), first);
    assert_eq!(subscriber.ack(first).await.unwrap(), first);
    assert_eq!(subscriber.ack(start).await.unwrap(), first);

    scenario.watchmark.kill();
    let client = subscriber.acker();
    drop(subscriber);
    scenario.watchmark.restart().await;
    let unheard = Acker {
        session_id: 0,
        api: scenario.watchmark.client().await,
        ..client
    };
    assert_eq!(
        unheard.ack(first + 1).await.unwrap_err().cause(),
        (Code::FailedPrecondition, "NO_SESSION")
    );
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_inside_a_partial_revision_is_refused() {
    let scenario = Scenario::start(&[]).await;
    // Their deletion is one revision of six messages: 600 times 40 kB.
    let value = vec![b'v'; 40_000];
    for block in 0..20 {
        let ops = (0..30).map(|n| {
            let key = format!("a/{block:02}{n:02}");
            etcd_client::TxnOp::put(key, value.clone(), None)
        });
        scenario.writer.txn(ops.collect()).await.unwrap();
    }
    let request = SubscribeRequest {
        start: Start::Latest.into(),
        prev_kv: true,
        ..request("app", "a/")
    };
    let mut subscriber = scenario.open(request).await.unwrap();
    let start = subscriber.opened().checkpoint;
    let deleted = scenario.writer.delete_prefix("a/").await;
    let first = subscriber.next_of("a part", |message| match message {
        Message::Events(batch) => Some(batch),
        _ => None,
    });
    let Events {
        revision,
        partial,
        events,
    } = first.await;
    assert_eq!((revision, partial), (deleted, true));
    // The rest is far more than fits into any buffer on the way.
    let refused = subscriber.ack(deleted).await.unwrap_err();
    assert_eq!(refused.cause(), (Code::OutOfRange, "ACK_BEYOND_DELIVERED"));
    assert_eq!(subscriber.ack(start).await.unwrap(), start);
    let (_, rest) = subscriber.next_events().await;
    assert_eq!(events.len() + rest.len(), 600);
    assert_eq!(subscriber.ack(deleted).await.unwrap(), deleted);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused() {
    let scenario = Scenario::start(&["--allow-prefix=a/"]).await;
    let of = |change: fn(&mut SubscribeRequest)| {
        let mut request = request("app", "a/");
        change(&mut request);
        request
    };
    let refused = [
        (of(|r| r.client_id = String::new()), Code::InvalidArgument),
        (of(|r| r.client_id = "a b".into()), Code::InvalidArgument),
        (of(|r| r.client_id = "x".repeat(129)), Code::InvalidArgument),
        (of(|r| r.key = "a/1".into()), Code::InvalidArgument),
        (of(|r| r.resume_after = -1), Code::InvalidArgument),
        (of(|r| r.start = 99), Code::InvalidArgument),
        (of(|r| r.prefix = "".into()), Code::InvalidArgument),
        (of(|r| r.prefix = "b/".into()), Code::PermissionDenied),
    ];
    for (request, code) in refused {
        let shown = format!("{request:?}");
        let ended = scenario.open(request).await.err().unwrap();
        assert_eq!(ended.code, code, "{shown}");
        assert!(!ended.reason.is_empty(), "{shown}");
        assert!(ended.retry_delay.is_none(), "{shown}");
    }
    // Nothing of that was stored.
    let mut subscriber = scenario.subscribe("app", "a/").await;
    assert!(!subscriber.opened().resumed);
    subscriber.snapshot().await;
    drop(subscriber);
    // What was refused is not recorded as a promise.
    let history = scenario.truth.until(scenario.etcd.head().await).await;
    assert!(history.events.is_empty());
}
