//! The script: everything that breaks in practice, for all five at once.

use std::{fs, sync::Arc};

use etcd_client::TxnOp;
use tempfile::TempDir;
use tonic::Code;
use watchmark::proto::watchmark::v1::{SnapshotReason, subscribe_response::Message};

use crate::{
    built,
    consumer::{Consumer, LANGUAGES, PREFIX, State},
    root,
    support::{
        Etcd, Watchmark, Writer,
        history::{End, Record, Stream, Tick, Truth, tick, validate_all},
        wait,
        writer::{Running, TXN_OPS_MAX, Traffic},
    },
    tap::Tap,
};

/// A transaction that no message of gRPC's default size can hold.
const HUGE_TXN_OPS: usize = 3000;
const HUGE_VALUE_BYTES: usize = 2000;

/// What a consumer exits with when another instance took over.
const SUPERSEDED: Option<i32> = Some(3);

/// A consumer has fewer lines of code.
const LINES_MAX: usize = 120;

struct Play {
    consumers: Vec<Consumer>,
    tap: Tap,
    watchmark: Watchmark,
    writer: Writer,
    truth: Arc<Truth>,
    etcd: Etcd,
    restarts: Vec<Tick>,
    socket: String,
    // Last: the processes go before their files.
    dir: TempDir,
}

impl Play {
    async fn begin() -> Self {
        assert!(
            built().join("rust/target/debug/consumer").exists(),
            "the consumers are not built: make test-clients"
        );
        let dir = TempDir::new().unwrap();
        // Progress soon, so that quiet ranges are acknowledged too.
        let notify = Etcd::progress_notify_flag("1s").expect("a flag for progress");
        let limits = ["--max-txn-ops=4096", "--max-request-bytes=33554432"];
        let etcd = Etcd::single(&[limits[0], limits[1], &notify]).await;
        let truth = Arc::new(Truth::watch(etcd.client().await));
        let socket = format!("unix://{}", dir.path().join("watchmark.sock").display());
        let flags = [
            format!("--listen={socket}"),
            "--progress-interval=1s".to_owned(),
        ];
        let watchmark = Watchmark::start(&etcd, &flags.each_ref().map(String::as_str)).await;
        let mut tap = Tap::new(watchmark.endpoint(), Arc::clone(&truth));
        tap.open().await;
        let mut consumers = Vec::new();
        for language in LANGUAGES {
            let consumer = Consumer::new(language, dir.path(), language);
            tap.expect(language, &consumer.state_file);
            consumers.push(consumer);
        }
        Self {
            consumers,
            tap,
            watchmark,
            writer: Writer::new(etcd.client().await, Arc::clone(&truth)),
            truth,
            etcd,
            restarts: Vec::new(),
            socket,
            dir,
        }
    }

    fn start_all(&mut self, address: &str) {
        for consumer in &mut self.consumers {
            consumer.start(address);
        }
    }

    /// Puts, transactions and deletions, in the range and beside it.
    fn traffic(&self, seed: u64) -> Running {
        self.writer.run(Traffic {
            prefixes: vec![PREFIX.to_owned(), "other/".to_owned()],
            keys: 200,
            txn_keys: 1..=20,
            value_bytes: 0..=40,
            delete_every: 20,
            seed,
        })
    }

    /// Waits until etcd has gone on by so many revisions.
    async fn go_on(&self, revisions: i64) {
        self.truth.until(self.truth.whole() + revisions).await;
    }

    /// Waits until every copy is what is in etcd.
    async fn catch_up(&mut self, what: &str) {
        // The last event in range, so that nobody waits for progress.
        let last = self.writer.put("app/last", what).await;
        let history = self.truth.until(last).await;
        for consumer in &mut self.consumers {
            consumer.caught_up(&history, last).await;
        }
        self.tap_is_content(what);
        println!(
            "{what}: {} consumers are right as of {last}",
            self.consumers.len()
        );
    }

    fn tap_is_content(&self, what: &str) {
        let wrong = self.tap.wrong();
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
    }

    /// What was recorded of each consumer, in their order.
    fn records(&self) -> Vec<Record> {
        let mut records = self.tap.recorder().records();
        for record in &mut records {
            record.restarts.clone_from(&self.restarts);
        }
        let of = |client_id| {
            let record = records.iter().find(|record| record.client_id == client_id);
            record
                .unwrap_or_else(|| panic!("{client_id} never subscribed"))
                .clone()
        };
        LANGUAGES.map(of).to_vec()
    }
}

#[test]
#[ignore = "make test-clients"]
fn a_consumer_is_short() {
    let sources = [
        ("python/consumer.py", "#"),
        ("go/consumer.go", "//"),
        ("java/src/main/java/Consumer.java", "//"),
        ("typescript/src/consumer.ts", "//"),
        ("rust/src/main.rs", "//"),
    ];
    for (source, comment) in sources {
        let text = fs::read_to_string(root().join("examples").join(source)).unwrap();
        let lines = lines_of_code(&text, comment);
        println!("{source}: {lines} lines");
        assert!(lines < LINES_MAX, "{source}: {lines} lines");
    }
}

/// Neither blank nor only a comment; Javadoc's lines begin with an asterisk.
fn lines_of_code(text: &str, comment: &str) -> usize {
    let quiet =
        |line: &str| line.is_empty() || [comment, "/*", "*"].iter().any(|it| line.starts_with(it));
    text.lines().filter(|line| !quiet(line.trim())).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients"]
async fn five_consumers_keep_their_copies_whatever_breaks() {
    let mut play = Play::begin().await;
    let address = play.tap.address();
    let many: Vec<_> = (0..TXN_OPS_MAX)
        .map(|n| format!("{PREFIX}first/{n:03}"))
        .collect();
    play.writer.put_all(&many).await;
    play.writer.put("other/key", "not theirs").await;
    play.start_all(&address);
    play.catch_up("a first snapshot").await;

    killed_between_processing_and_its_ack(&mut play).await;
    watchmark_dies_and_drains(&mut play).await;
    compacted_away_while_it_is_down(&mut play).await;
    large_transactions(&mut play).await;
    acknowledged_by_progress(&mut play).await;
    a_second_instance_takes_over(&mut play).await;
    stopped_under_traffic(&mut play).await;

    let head = play.etcd.head().await;
    let history = play.truth.until(head).await;
    let records = play.records();
    validate_all(&history, &records);
    for record in &records {
        acks_ascend(record);
    }
    straight_over_a_unix_socket(&mut play).await;
}

async fn killed_between_processing_and_its_ack(play: &mut Play) {
    let traffic = play.traffic(1);
    for at in 0..play.consumers.len() {
        play.tap.hold_next_ack(play.consumers[at].client_id).await;
        play.consumers[at].kill();
    }
    play.go_on(100).await;
    let address = play.tap.address();
    play.start_all(&address);
    play.go_on(100).await;
    // Once more, wherever they are.
    for consumer in &mut play.consumers {
        consumer.kill();
    }
    play.go_on(20).await;
    play.start_all(&address);
    traffic.stop().await;
    play.catch_up("killed, twice").await;
    for record in play.records() {
        let mut streams = record.streams.iter().filter_map(Stream::opened);
        let resumed = streams.any(|(_, opened)| opened.resumed && opened.checkpoint > 0);
        assert!(resumed, "{} never resumed", record.client_id);
    }
}

async fn watchmark_dies_and_drains(play: &mut Play) {
    let traffic = play.traffic(2);
    play.go_on(20).await;
    play.tap.close();
    play.watchmark.kill();
    play.restarts.push(tick());
    play.go_on(20).await;
    play.watchmark.restart().await;
    play.tap.open().await;
    play.go_on(50).await;
    play.watchmark.terminate();
    assert_eq!(play.watchmark.exit_code(wait::DEADLINE).await, Some(0));
    play.restarts.push(tick());
    play.watchmark.restart().await;
    traffic.stop().await;
    play.catch_up("watchmark killed, and drained").await;
}

async fn compacted_away_while_it_is_down(play: &mut Play) {
    for consumer in &mut play.consumers {
        consumer.kill();
    }
    let deleted = play.writer.delete_prefix("app/first/").await;
    play.writer.put("app/first/000", "again").await;
    let head = play.etcd.head().await;
    let history = play.truth.until(head).await;
    let gone = State::of(&history, deleted).pairs;
    for consumer in &play.consumers {
        let kept = consumer.state().unwrap().pairs;
        assert!(
            kept.keys().any(|key| !gone.contains_key(key)),
            "nothing to forget"
        );
    }
    play.etcd.compact(head).await;
    let address = play.tap.address();
    play.start_all(&address);
    play.catch_up("compacted").await;
    for record in play.records() {
        let resynced = received(&record).any(|message| {
            matches!(message, Message::SnapshotBegin(it) if it.reason() == SnapshotReason::Compacted)
        });
        assert!(resynced, "{} got no snapshot", record.client_id);
    }
}

async fn large_transactions(play: &mut Play) {
    let many: Vec<_> = (0..TXN_OPS_MAX)
        .map(|n| format!("app/txn/{n:03}"))
        .collect();
    play.writer.put_all(&many).await;
    play.catch_up("128 keys in one transaction").await;
    let value = "v".repeat(HUGE_VALUE_BYTES);
    let huge =
        (0..HUGE_TXN_OPS).map(|n| TxnOp::put(format!("app/huge/{n:04}"), value.clone(), None));
    play.writer.txn(huge.collect()).await.unwrap();
    play.catch_up("3000 keys in one transaction").await;
    for record in play.records() {
        let partial =
            received(&record).any(|message| matches!(message, Message::Events(it) if it.partial));
        assert!(partial, "{} got no part of a revision", record.client_id);
    }
    play.writer.delete_prefix("app/huge/").await;
    play.catch_up("3000 deletions").await;
}

/// Nothing happens in range, and the checkpoints go on all the same.
async fn acknowledged_by_progress(play: &mut Play) {
    let elsewhere = play.writer.put("other/key", "still not theirs").await;
    let tap = &play.tap;
    for client_id in LANGUAGES {
        wait::until(
            &format!("{client_id} to acknowledge progress"),
            async || {
                let records = tap.recorder().records();
                let record = records
                    .iter()
                    .find(|record| record.client_id == client_id)?;
                record
                    .durable_acks()
                    .find(|(ack, ..)| ack.revision >= elsewhere)
                    .map(drop)
            },
        )
        .await;
    }
    play.tap_is_content("progress");
}

/// The second has no file, though the client_id has a checkpoint.
async fn a_second_instance_takes_over(play: &mut Play) {
    let traffic = play.traffic(3);
    play.go_on(20).await;
    let address = play.tap.address();
    let mut seconds = Vec::new();
    for first in &mut play.consumers {
        let name = format!("{}-second", first.client_id);
        let mut second = Consumer::new(first.client_id, play.dir.path(), &name);
        play.tap.expect(first.client_id, &second.state_file);
        let began = tick();
        second.start(&address);
        assert_eq!(
            first.exit_code().await,
            SUPERSEDED,
            "{}:\n{}",
            first.client_id,
            first.log()
        );
        seconds.push((began, second));
    }
    let began: Vec<_> = seconds.iter().map(|(began, _)| *began).collect();
    play.consumers = seconds.into_iter().map(|(_, second)| second).collect();
    play.go_on(20).await;
    traffic.stop().await;
    play.catch_up("taken over, from nothing").await;
    for (record, began) in play.records().iter().zip(began) {
        let superseded = End::Status(Code::Aborted, "SESSION_SUPERSEDED".to_owned());
        let ends = record
            .streams
            .iter()
            .filter_map(|stream| stream.end.as_ref());
        assert_eq!(
            ends.filter(|(_, end)| *end == superseded).count(),
            1,
            "{}",
            record.client_id
        );
        // One that finds its file lost, and one with the snapshot: nobody fights.
        let streams = record
            .streams
            .iter()
            .filter(|stream| stream.requested_at > began);
        assert_eq!(streams.count(), 2, "{}", record.client_id);
    }
}

/// SIGTERM, which each must follow with exit code 0.
async fn stop_all(play: &mut Play) {
    for consumer in &mut play.consumers {
        consumer.terminate();
        assert_eq!(
            consumer.exit_code().await,
            Some(0),
            "{}:\n{}",
            consumer.client_id,
            consumer.log()
        );
    }
}

async fn stopped_under_traffic(play: &mut Play) {
    let traffic = play.traffic(4);
    play.go_on(50).await;
    stop_all(play).await;
    traffic.stop().await;
    for (consumer, record) in play.consumers.iter().zip(play.records()) {
        let saved = consumer.state().unwrap().revision;
        let acked = record.durable_acks().map(|(ack, ..)| ack.revision).last();
        assert_eq!(
            acked,
            Some(saved),
            "{}: what was saved was not acknowledged",
            consumer.client_id
        );
    }
    play.tap_is_content("stopped");
}

async fn straight_over_a_unix_socket(play: &mut Play) {
    let socket = play.socket.clone();
    play.start_all(&socket);
    play.writer.put_many(PREFIX, 20).await;
    play.catch_up("over a Unix socket").await;
    stop_all(play).await;
    // What watchmark has durable is what they have.
    let mut admin = play.watchmark.admin_client().await;
    for consumer in &play.consumers {
        let client_id = consumer.client_id.to_owned();
        let request = watchmark::proto::watchmark::v1::GetSubscriptionRequest { client_id };
        let answer = admin.get_subscription(request).await.unwrap().into_inner();
        let saved = consumer.state().unwrap().revision;
        assert_eq!(
            answer.subscription.unwrap().checkpoint,
            saved,
            "{}",
            consumer.client_id
        );
    }
}

fn received(record: &Record) -> impl Iterator<Item = &Message> {
    let streams = record.streams.iter();
    streams.flat_map(|stream| stream.received.iter().map(|(_, message)| message))
}

/// Within a session nobody acknowledges less than before.
fn acks_ascend(record: &Record) {
    assert!(
        record.acks.len() > 10,
        "{}: {} acks",
        record.client_id,
        record.acks.len()
    );
    for stream in record.streams.iter().filter_map(Stream::opened) {
        let session_id = stream.1.session_id;
        let acks = record
            .acks
            .iter()
            .filter(|ack| ack.session_id == session_id);
        let revisions: Vec<_> = acks.map(|ack| ack.revision).collect();
        assert!(
            revisions.is_sorted(),
            "{}: acks of {revisions:?}",
            record.client_id
        );
    }
}
