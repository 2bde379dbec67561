//! The commands against the real watchmark, on a real etcd.

use std::{fs::File, time::Duration};

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
