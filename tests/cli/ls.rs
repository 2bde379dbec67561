//! `ls` and `show`: exactly what is printed.

use serde_json::{Value, json};
use watchmark::proto::watchmark::v1::{
    AckMode, Advance, CompactionPolicy, Etcd, EtcdEndpoint, GetStatusResponse, Problem, Proof,
    Session, SnapshotReason, Subscription, SubscriptionState,
};

use super::{
    fake::{Said, Served, ago, live, refusal, subscription},
    run::watchmark,
};

fn listed(subscriptions: Vec<Subscription>) -> Said {
    Said {
        subscriptions,
        ..Said::default()
    }
}

fn advanced(proof: Proof) -> Option<Advance> {
    Some(Advance {
        proof: proof.into(),
        time: ago(5),
    })
}

fn several() -> Vec<Subscription> {
    vec![
        Subscription {
            state: SubscriptionState::Blocked.into(),
            checkpoint: 998_877,
            unacked_events: 123_456,
            lag_revisions: 1_234_567,
            lag_seconds: 4000.0,
            last_event_time: ago(30 * 60 * 60),
            last_advance: advanced(Proof::Progress),
            ..subscription("billing")
        },
        subscription("fresh"),
        live("orders"),
        Subscription {
            state: SubscriptionState::UpstreamLost.into(),
            checkpoint: 7,
            last_advance: advanced(Proof::Progress),
            ..subscription("routes/eu-west-1")
        },
        Subscription {
            state: SubscriptionState::CatchingUp.into(),
            ..subscription("zebra")
        },
    ]
}

#[tokio::test]
async fn ls_is_a_table_of_all_pages() {
    let served = Served::start(listed(several())).await;
    let table = watchmark(&served.address, &["ls"]).await.quietly();
    assert_eq!(
        table,
        "\
CLIENT_ID         STATE          CHECKPOINT           LAG  UNACKED  LAST EVENT  PROOF
billing           blocked            998877  1234567 / 1h   123456          1d  progress
fresh             disconnected            -        0 / 0s        0           -  -
orders            live                 1042     12 / 3.4s        8          3m  acked
routes/eu-west-1  upstream lost           7        0 / 0s        0           -  progress
zebra             catching up             -        0 / 0s        0           -  -
"
    );
}

#[tokio::test]
async fn ls_fits_100_columns_whatever_is_listed() {
    let nasty = |client_id: &str| Subscription {
        checkpoint: i64::MAX,
        unacked_events: u64::MAX,
        lag_revisions: i64::MAX,
        lag_seconds: f64::MAX,
        last_event_time: Some(prost_types::Timestamp {
            seconds: i64::MIN,
            nanos: -1,
        }),
        last_advance: advanced(Proof::Progress),
        state: SubscriptionState::UpstreamLost.into(),
        ..subscription(client_id)
    };
    let long = format!("begin-{}-end", "x".repeat(118));
    let subscriptions = vec![
        nasty(&long),
        nasty("\u{1b}[2J\u{1b}[H\r\nforged  live"),
        Subscription {
            lag_revisions: i64::MIN,
            lag_seconds: f64::NAN,
            state: 77,
            ..nasty("")
        },
        live(&"y".repeat(128)),
    ];
    let served = Served::start(listed(subscriptions)).await;
    let table = watchmark(&served.address, &["ls"]).await.quietly();
    assert_eq!(table.lines().count(), 5, "{table}");
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(table.contains("begin-xxx…xxxx-end"), "{table}");
    assert!(
        table.contains(&i64::MAX.to_string()),
        "never rounded: {table}"
    );
}

#[tokio::test]
async fn ls_says_that_there_is_nothing() {
    let served = Served::start(Said::default()).await;
    let ran = watchmark(&served.address, &["ls"]).await;
    assert_eq!((ran.code, &*ran.stdout), (Some(0), ""));
    assert_eq!(
        ran.stderr,
        "no subscriptions: a client_id has one from its first Subscribe on\n"
    );
    let json = watchmark(&served.address, &["ls", "--output=json"]).await;
    assert_eq!(json.quietly(), "");
}

#[tokio::test]
async fn ls_names_what_is_wrong_with_the_sidecar() {
    let problem = |reason: &str, message: &str, since| Problem {
        reason: reason.to_owned(),
        message: message.to_owned(),
        since,
    };
    let endpoint = |url: &str, error: &str| EtcdEndpoint {
        url: url.to_owned(),
        error: error.to_owned(),
        error_time: ago(200),
        ..EtcdEndpoint::default()
    };
    let refused = "http://127.0.0.1:1: connection refused";
    let status = GetStatusResponse {
        problems: vec![
            problem("ETCD_UNREACHABLE", refused, ago(200)),
            problem(
                "STORE_UNAVAILABLE",
                "no space left\n\u{1b}[31mon device",
                None,
            ),
        ],
        etcd: Some(Etcd {
            endpoints: vec![
                endpoint("http://127.0.0.1:1", "named above"),
                endpoint("http://127.0.0.1:2", "no leader"),
                endpoint("http://127.0.0.1:3", ""),
            ],
            ..Etcd::default()
        }),
        ..GetStatusResponse::default()
    };
    let served = Served::start(Said {
        status,
        ..listed(vec![live("orders")])
    })
    .await;
    for output in ["text", "json"] {
        let ran = watchmark(&served.address, &["ls", "--output", output]).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("orders"));
        assert_eq!(
            ran.stderr,
            "problem: ETCD_UNREACHABLE for 3m: http://127.0.0.1:1: connection refused\n\
             problem: STORE_UNAVAILABLE: no space left \\u{1b}[31mon device\n\
             problem: etcd http://127.0.0.1:2 for 3m: no leader\n"
        );
    }
}

#[tokio::test]
async fn ls_gives_programs_one_object_a_line() {
    let served = Served::start(listed(several())).await;
    let lines = watchmark(&served.address, &["ls", "-o", "json"])
        .await
        .quietly();
    let objects: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&Value> = objects.iter().map(|object| &object["client_id"]).collect();
    assert_eq!(
        names,
        ["billing", "fresh", "orders", "routes/eu-west-1", "zebra"]
    );
    let orders = &objects[2];
    assert_eq!(orders["state"], "LIVE");
    assert_eq!(orders["checkpoint"], 1042);
    assert_eq!(orders["lag_seconds"], 3.42);
    assert_eq!(orders["key"], "/config/");
    assert_eq!(orders["ack_mode"], "MANUAL");
    assert_eq!(orders["session"]["session_id"], 1_795_339_954_341_279_u64);
    assert_eq!(orders["last_advance"]["proof"], "ACKED");
    assert_eq!(orders["resumable"], true);
    assert_eq!(objects[1]["resumable"], Value::Null);
    assert_eq!(objects[1]["session"], Value::Null);
}

#[tokio::test]
async fn show_tells_all_of_one() {
    let orders = Subscription {
        on_compaction: CompactionPolicy::Fail.into(),
        ack_mode: AckMode::Manual.into(),
        max_unacked_events: 100,
        keys_only: true,
        no_delete: true,
        assumed: 2000,
        resyncs: 2,
        pending_snapshot: SnapshotReason::Compacted.into(),
        resumable: Some(false),
        ..live("orders")
    };
    let served = Served::start(listed(vec![orders])).await;
    let text = watchmark(&served.address, &["show", "orders"])
        .await
        .quietly();
    // The times are as old as the test: the rest is exact.
    let times = without_times(&text);
    assert_eq!(
        times,
        "\
client_id       orders
state           live
range           prefix \"/config/\"
filters         no_delete
session         1795339954341279 from 127.0.0.1:51234, since TIME (2h ago)
options         acks manual, fails on compaction, max_unacked_events 100, keys_only
checkpoint      1042
delivered       1050
unacked_events  8, the oldest from TIME (1m ago)
lag_revisions   12
lag_seconds     3.4s
last_event      TIME (3m ago)
last_advance    acked, TIME (1m ago)
assumed         2000
resyncs         2
resumable       no: etcd does not have what came after the checkpoint any more
next stream     begins with a snapshot: etcd has compacted what came after the checkpoint
"
    );
    let json = watchmark(&served.address, &["show", "orders", "-ojson"]).await;
    let object: Value = serde_json::from_str(&json.quietly()).unwrap();
    assert_eq!(object["pending_snapshot"], "COMPACTED");
    assert_eq!(object["on_compaction"], "FAIL");
}

/// Every RFC 3339 time becomes TIME.
fn without_times(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let bytes = word.as_bytes();
        let is_time =
            bytes.len() > 19 && bytes[4] == b'-' && bytes[10] == b'T' && word.ends_with('Z');
        if is_time { "TIME" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn show_tells_what_is_not_known() {
    let bytes = Subscription {
        key: b"a\xff".as_slice().into(),
        range_end: b"b\0".as_slice().into(),
        session: Some(Session {
            peer: "unix\u{1b}]0;title\u{7}".to_owned(),
            ..Session::default()
        }),
        ..subscription("bytes")
    };
    let served = Served::start(listed(vec![subscription("fresh"), bytes])).await;
    let fresh = watchmark(&served.address, &["show", "fresh"])
        .await
        .quietly();
    for line in [
        "checkpoint      -",
        "resumable       no: there is no checkpoint",
        "session         -",
        "next stream     begins with a snapshot, or from now on, as it asks",
    ] {
        assert!(fresh.lines().any(|it| it == line), "{line}: {fresh}");
    }
    let bytes = watchmark(&served.address, &["show", "bytes"])
        .await
        .quietly();
    assert!(
        bytes.contains("range           keys from \"a\\xff\" to below \"b\\0\"\n"),
        "{bytes}"
    );
    assert!(
        bytes.contains("from unix\\u{1b}]0;title\\u{7}, since -"),
        "{bytes}"
    );
    let json = watchmark(&served.address, &["show", "bytes", "--output=json"]).await;
    let object: Value = serde_json::from_str(&json.quietly()).unwrap();
    assert_eq!(
        (&object["key"], &object["key_encoding"]),
        (&json!("Yf8="), &json!("base64"))
    );
    assert_eq!(object["range_end"], "b\0");
}

#[tokio::test]
async fn an_unknown_client_id_has_an_exit_code_of_its_own() {
    let served = Served::start(Said::default()).await;
    for args in [
        &["show", "nobody"][..],
        &["seek", "nobody", "5"],
        &["rm", "nobody"],
    ] {
        let told = watchmark(&served.address, args).await.failed(4);
        assert_eq!(
            told,
            "error: there is no subscription of client_id \"nobody\" (NOT_FOUND, \
             SUBSCRIPTION_NOT_FOUND)\n"
        );
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_told_in_its_words() {
    let served = Served::start(Said {
        refusal: Some(refusal(
            tonic::Code::PermissionDenied,
            "NOT_LOCAL",
            "only from the same host\n\u{9b}31m",
        )),
        ..Said::default()
    })
    .await;
    let told = watchmark(&served.address, &["ls"]).await.failed(1);
    assert_eq!(
        told,
        "error: only from the same host \\u{9b}31m (PERMISSION_DENIED, NOT_LOCAL)\n"
    );
}
