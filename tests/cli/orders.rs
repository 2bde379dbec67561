//! `ack`, `seek`, `rm` and `health`: what is asked, what is told.

use serde_json::{Value, json};
use tonic::{Code, transport::Server};
use watchmark::proto::watchmark::v1::{
    AckRequest, SeekSubscriptionRequest, SeekSubscriptionResponse,
    seek_subscription_request::Target,
};

use super::{
    fake::{Said, Served, live, refusal, subscription},
    run::watchmark,
};

fn known() -> Said {
    Said {
        subscriptions: vec![live("orders"), subscription("idle")],
        ..Said::default()
    }
}

#[tokio::test]
async fn ack_tells_the_checkpoint() {
    let served = Served::start(known()).await;
    let told = watchmark(&served.address, &["ack", "orders", "1050"]).await;
    assert_eq!(told.quietly(), "orders: checkpoint 1050\n");
    let told = watchmark(&served.address, &["ack", "orders", "1051", "-ojson"]).await;
    assert_eq!(
        told.quietly(),
        "{\"client_id\":\"orders\",\"checkpoint\":1051}\n"
    );
    let asked = |revision| AckRequest {
        client_id: "orders".to_owned(),
        revision,
        session_id: 0,
    };
    assert_eq!(served.said().acks, [asked(1050), asked(1051)]);

    served.said().ack = Some(refusal(
        Code::OutOfRange,
        "ACK_BEYOND_DELIVERED",
        "revision 9 was not delivered",
    ));
    let told = watchmark(&served.address, &["ack", "orders", "9"]).await;
    assert_eq!(
        told.failed(1),
        "error: revision 9 was not delivered (OUT_OF_RANGE, ACK_BEYOND_DELIVERED)\n"
    );
}

#[tokio::test]
async fn seek_tells_from_where_to_where() {
    let served = Served::start(known()).await;
    let answer = |checkpoint, resumable, compact_revision| SeekSubscriptionResponse {
        previous_checkpoint: 1042,
        checkpoint,
        resumable,
        compact_revision,
    };
    served.said().seek = answer(900, true, 0);
    let told = watchmark(&served.address, &["seek", "orders", "900"]).await;
    assert_eq!(
        told.quietly(),
        "orders: checkpoint 1042 -> 900, resumable\n"
    );
    let told = watchmark(&served.address, &["seek", "orders", "900", "--dry-run"]).await;
    assert_eq!(
        told.quietly(),
        "orders: checkpoint would move 1042 -> 900, resumable\n"
    );

    served.said().seek = answer(0, false, 0);
    let told = watchmark(&served.address, &["seek", "orders", "--snapshot"]).await;
    assert_eq!(
        told.quietly(),
        "orders: checkpoint 1042 -> -, the next stream begins with a snapshot\n"
    );

    served.said().seek = answer(5, false, 950);
    let told = watchmark(&served.address, &["seek", "--dry-run", "orders", "5"]).await;
    assert_eq!(told.code, Some(1), "a script can ask");
    assert_eq!(
        told.stdout,
        "orders: checkpoint would move 1042 -> 5, not resumable\n"
    );
    assert_eq!(
        told.stderr,
        "error: orders could not resume after 5: etcd has compacted its history up to 950\n"
    );
    let told = watchmark(
        &served.address,
        &["seek", "--dry-run", "orders", "5", "-ojson"],
    )
    .await;
    assert_eq!(
        serde_json::from_str::<Value>(&told.stdout).unwrap(),
        json!({
            "client_id": "orders", "previous_checkpoint": 1042, "checkpoint": 5,
            "resumable": false, "compact_revision": 950, "dry_run": true,
        })
    );

    let asked = |target, dry_run| SeekSubscriptionRequest {
        client_id: "orders".to_owned(),
        dry_run,
        target: Some(target),
    };
    assert_eq!(
        served.said().seeks,
        [
            asked(Target::Revision(900), false),
            asked(Target::Revision(900), true),
            asked(Target::Snapshot(true), false),
            asked(Target::Revision(5), true),
            asked(Target::Revision(5), true),
        ]
    );
}

#[tokio::test]
async fn rm_spares_a_live_stream_unless_forced() {
    let served = Served::start(known()).await;
    let told = watchmark(&served.address, &["rm", "idle"]).await;
    assert_eq!(
        told.quietly(),
        "forgot idle: prefix \"/config/\", checkpoint -\n"
    );
    let told = watchmark(&served.address, &["rm", "orders"]).await;
    assert_eq!(
        told.failed(1),
        "error: orders has a live stream, from 127.0.0.1:51234: stop that subscriber first, or \
         give --force\n"
    );
    assert_eq!(served.said().deletes, ["idle"]);
    let told = watchmark(&served.address, &["rm", "orders", "--force", "-ojson"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&told.quietly()).unwrap(),
        json!({
            "client_id": "orders", "key": "/config/", "range_end": "/config0", "checkpoint": 1042,
        })
    );
    assert_eq!(served.said().deletes, ["idle", "orders"]);
}

#[tokio::test]
async fn health_is_an_exit_code() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let set = async |service: &str, status| reporter.set_service_status(service, status).await;
    let also = |router: tonic::transport::server::Router| router.add_service(health);
    let served = Served::over(Said::default(), Server::builder(), also).await;
    let ask = async |args: &[&str]| watchmark(&served.address, &[&["health"], args].concat()).await;
    use tonic_health::ServingStatus::{NotServing, Serving};

    set("", Serving).await;
    set("watchmark.v1.WatchService", NotServing).await;
    // The second: as good as none.
    for timeout in ["--timeout=20s", "--timeout=18446744073709551615s"] {
        assert_eq!(ask(&[timeout]).await.quietly(), "serving\n");
    }
    let service = ["--timeout=20s", "--service=watchmark.v1.WatchService"];
    let told = ask(&service).await.failed(1);
    assert!(told.contains("is not serving"), "{told}");
    set("watchmark.v1.WatchService", Serving).await;
    assert_eq!(ask(&service).await.quietly(), "serving\n");
    set("", NotServing).await;
    assert!(
        ask(&["--timeout=20s"])
            .await
            .failed(1)
            .contains("is not serving")
    );
    let told = ask(&["--timeout=20s", "--service=frob"]).await.failed(1);
    assert!(told.contains("has no service \"frob\""), "{told}");
}
