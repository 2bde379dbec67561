//! The commands against the real watchmark, on a real etcd.

use std::{fs::File, time::Duration};

use serde_json::Value;
use watchmark::proto::watchmark::v1::StreamState;

use super::run::watchmark;
use crate::support::{
    Etcd, Subscriber, Watchmark, client::request, history::Recorder, process::Process, wait,
};

/// What a busy machine may take.
const PATIENT: &str = "--timeout=60s";

async fn put(etcd: &Etcd, key: &str) -> i64 {
    let answer = etcd.client().await.put(key, "secret", None).await.unwrap();
    answer.header().unwrap().revision()
}

/// Opens a stream, and acknowledges its snapshot.
async fn subscribed(watchmark: &Watchmark, client_id: &str) -> Subscriber {
    let recorder = Recorder::default();
    let request = request(client_id, "app/");
    let mut stream = Subscriber::open(watchmark.client().await, &recorder, request)
        .await
        .unwrap();
    if !stream.opened().resumed {
        let snapshot = stream.snapshot().await;
        stream.ack(snapshot.revision).await.unwrap();
    }
    stream
}

/// A tail that prints to a file.
struct Tail {
    process: Process,
    dir: tempfile::TempDir,
}

impl Tail {
    fn start(watchmark: &Watchmark, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        File::create(&out).unwrap();
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_watchmark"));
        let mut all = vec![
            "tail".to_owned(),
            format!("--address={}", watchmark.address()),
        ];
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        let process = Process::start("tail", program, &all, &out);
        Self { process, dir }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    async fn prints(&self, what: &str) {
        wait::until(what, async || self.printed().contains(what).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_prints_what_happens_through_a_restart_and_leaves_the_checkpoint() {
    let etcd = Etcd::single(&[]).await;
    put(&etcd, "app/a").await;
    let mut sidecar = Watchmark::start(&etcd, &[]).await;
    let stream = subscribed(&sidecar, "orders").await;
    let checkpoint = stream.ack(1).await.unwrap();
    drop(stream);

    let tail = Tail::start(&sidecar, &["orders", "--take-over", PATIENT]);
    tail.prints("resumed after it").await;
    let first = put(&etcd, "app/b").await;
    tail.prints(&format!("put      {first:>10}  app/b\n")).await;
    sidecar.kill();
    sidecar.restart().await;
    let second = put(&etcd, "app/c").await;
    tail.prints(&format!("put      {second:>10}  app/c\n"))
        .await;
    let printed = tail.printed();
    assert_eq!(printed.matches("app/b").count(), 1, "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
    tail.process.kill();

    let mut stream = subscribed(&sidecar, "orders").await;
    assert_eq!(
        stream.opened().checkpoint,
        checkpoint,
        "nothing was acknowledged"
    );
    assert_eq!(stream.events_until(second).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_acknowledges_moves_the_checkpoint_and_ends_when_it_is_taken_over() {
    let etcd = Etcd::single(&[]).await;
    put(&etcd, "app/a").await;
    let sidecar = Watchmark::start(&etcd, &[]).await;
    let args = [
        "jane",
        "--prefix=app/",
        "--start=snapshot",
        "--ack",
        "--values",
        "--take-over",
    ];
    let mut tail = Tail::start(&sidecar, &[&args[..], &["--output=json", PATIENT]].concat());
    tail.prints("snapshot_end").await;
    assert!(tail.printed().contains("\"value\":\"secret\""));
    let revision = put(&etcd, "app/b").await;
    tail.prints(&format!("\"revision\":{revision},\"key\":\"app/b\""))
        .await;

    let moved = format!("jane: checkpoint {revision}\n");
    wait::until("the ack", async || {
        let told = watchmark(&sidecar.address(), &["ack", "jane", "1", PATIENT]).await;
        (told.quietly() == moved).then_some(())
    })
    .await;
    let stream = subscribed(&sidecar, "jane").await;
    assert_eq!(stream.opened().checkpoint, revision);
    let status = tail.process.ended(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        tail.printed().contains("SESSION_SUPERSEDED"),
        "{}",
        tail.printed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_and_health_by_hand() {
    let etcd = Etcd::single(&[]).await;
    put(&etcd, "app/a").await;
    let mut sidecar = Watchmark::start(&etcd, &[]).await;
    let ask = async |args: &[&str]| {
        let address = sidecar.address();
        watchmark(&address, &[args, &[PATIENT]].concat()).await
    };
    for service in ["", "watchmark.v1.WatchService"] {
        let asked = ["health", "--service", service];
        wait::until("serving", async || {
            let told = ask(&asked).await;
            (told.code == Some(0)).then_some(())
        })
        .await;
    }
    let mut stream = subscribed(&sidecar, "orders").await;
    let revision = put(&etcd, "app/b").await;
    stream.events_until(revision).await;
    let by_hand = revision.to_string();
    let told = ask(&["ack", "orders", &by_hand]).await;
    assert_eq!(told.quietly(), format!("orders: checkpoint {revision}\n"));
    let beyond = (revision + 1).to_string();
    let told = ask(&["ack", "orders", &beyond]).await.failed(1);
    assert!(
        told.contains("(OUT_OF_RANGE, ACK_BEYOND_DELIVERED)"),
        "{told}"
    );
    let told = ask(&["ack", "nobody", "5"]).await.failed(4);
    assert!(
        told.contains("(NOT_FOUND, SUBSCRIPTION_NOT_FOUND)"),
        "{told}"
    );
    drop(stream);

    sidecar.kill();
    let told = watchmark(&sidecar.address(), &["health", PATIENT])
        .await
        .failed(1);
    assert!(told.contains("nobody listens"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_looks_and_harms_no_live_stream() {
    let etcd = Etcd::single(&[]).await;
    let first = put(&etcd, "app/a").await;
    let sidecar = Watchmark::start(&etcd, &[]).await;
    let address = sidecar.address();
    let ask = async |args: &[&str]| watchmark(&address, &[args, &[PATIENT]].concat()).await;
    let told = ask(&["ls"]).await;
    assert!(told.stderr.contains("no subscriptions"), "{told:?}");
    let mut stream = subscribed(&sidecar, "orders").await;
    stream.until_state(StreamState::Live).await;

    let table = ask(&["ls"]).await.quietly();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["orders", "live", &first.to_string()], "{table}");
    assert_eq!(row.last(), Some(&"acked"), "{table}");
    let shown = ask(&["show", "orders"]).await.quietly();
    for line in ["range           prefix \"app/\"", "resumable       yes"] {
        assert!(shown.lines().any(|it| it == line), "{line}: {shown}");
    }
    let object: Value =
        serde_json::from_str(&ask(&["show", "orders", "-ojson"]).await.quietly()).unwrap();
    assert_eq!(object["session"]["session_id"], stream.opened().session_id);
    assert_eq!(object["checkpoint"], first);

    for refused in [&["tail", "orders"][..], &["rm", "orders"]] {
        let told = ask(refused).await.failed(1);
        assert!(
            told.contains("orders has a live stream, from 127."),
            "{told}"
        );
    }
    let second = put(&etcd, "app/b").await;
    assert_eq!(stream.events_until(second).await.len(), 1, "it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_moves_and_forgets() {
    let etcd = Etcd::single(&[]).await;
    let first = put(&etcd, "app/a").await;
    let sidecar = Watchmark::start(&etcd, &[]).await;
    let address = sidecar.address();
    let ask = async |args: &[&str]| watchmark(&address, &[args, &[PATIENT]].concat()).await;
    let mut stream = subscribed(&sidecar, "orders").await;
    let second = put(&etcd, "app/b").await;
    stream.events_until(second).await;
    stream.ack(second).await.unwrap();

    let back = first.to_string();
    let told = ask(&["seek", "orders", &back, "--dry-run"]).await.quietly();
    assert_eq!(
        told,
        format!("orders: checkpoint would move {second} -> {first}, resumable\n")
    );
    let told = ask(&["seek", "orders", &back]).await.quietly();
    assert_eq!(
        told,
        format!("orders: checkpoint {second} -> {first}, resumable\n")
    );
    assert_eq!(stream.end().await.reason, "SUBSCRIPTION_SOUGHT");
    let mut stream = subscribed(&sidecar, "orders").await;
    assert_eq!(stream.opened().checkpoint, first);
    assert_eq!(stream.events_until(second).await.len(), 1);
    drop(stream);

    put(&etcd, "app/c").await;
    etcd.compact(put(&etcd, "app/d").await).await;
    let told = ask(&["seek", "orders", &back, "--dry-run"]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.stderr.contains("etcd has compacted its history"),
        "{told:?}"
    );
    let told = ask(&["seek", "orders", &back]).await.failed(1);
    assert!(told.contains("(OUT_OF_RANGE, COMPACTED)"), "{told}");
    let told = ask(&["seek", "orders", "--snapshot"]).await.quietly();
    let end = "-> -, the next stream begins with a snapshot\n";
    assert!(told.ends_with(end), "{told}");

    let args = ["orders", PATIENT];
    let tail = wait::until("the stream to be free", async || {
        let mut tail = Tail::start(&sidecar, &args);
        wait::until("a line", async || {
            (!tail.printed().is_empty()).then_some(())
        })
        .await;
        (tail.process.is_running() && !tail.printed().contains("error:")).then_some(tail)
    })
    .await;
    tail.prints("begins: an operator asked for it").await;
    tail.prints("ends: 4 pairs").await;
    tail.process.kill();

    let told = wait::until("the stream to be free", async || {
        let told = ask(&["rm", "orders"]).await;
        (told.code == Some(0)).then_some(told)
    });
    assert_eq!(
        told.await.quietly(),
        "forgot orders: prefix \"app/\", checkpoint -\n"
    );
    ask(&["show", "orders"]).await.failed(4);
}
