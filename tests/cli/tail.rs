//! `tail`: what it prints, what it asks for, and whom it leaves alone.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Stdio},
};

use serde_json::{Value, json};
use tonic::{Code, Status};
use watchmark::proto::watchmark::v1::{
    self as pb, AckRequest, Event, Events, KeyValue, Opened, Progress, Proof, SnapshotBegin,
    SnapshotChunk, SnapshotEnd, SnapshotReason, Start, State, StreamState, SubscribeRequest,
    Subscription, event::EventType, subscribe_response::Message,
};

use super::{
    fake::{Said, Served, live, passing, refusal, subscription},
    run::{Ran, command, watchmark},
};
use crate::support::wait;

fn kv(key: &[u8], mod_revision: i64) -> KeyValue {
    KeyValue {
        key: key.to_vec().into(),
        value: b"v\x1b\xff".as_slice().into(),
        mod_revision,
        create_revision: 2,
        version: 3,
        lease: 0x1f,
    }
}

fn put(key: &[u8], revision: i64) -> Event {
    Event {
        r#type: EventType::Put.into(),
        kv: Some(kv(key, revision)),
        prev_kv: None,
    }
}

fn delete(key: &[u8], revision: i64) -> Event {
    Event {
        r#type: EventType::Delete.into(),
        ..put(key, revision)
    }
}

fn events(revision: i64, events: Vec<Event>) -> Message {
    Message::Events(Events {
        revision,
        events,
        partial: false,
    })
}

fn opened(session_id: u64, checkpoint: i64) -> Message {
    Message::Opened(Opened {
        session_id,
        checkpoint,
        resumed: checkpoint > 0,
        proof: if checkpoint > 0 {
            Proof::Acked
        } else {
            Proof::Unspecified
        }
        .into(),
        cluster_id: u64::MAX,
    })
}

fn state(state: StreamState, revision: i64) -> Message {
    Message::State(State {
        state: state.into(),
        revision,
    })
}

/// Ends a stream for good.
fn superseded() -> Status {
    refusal(
        Code::Aborted,
        "SESSION_SUPERSEDED",
        "a newer Subscribe took over",
    )
}

const SUPERSEDED: &str = "error: a newer Subscribe took over (ABORTED, SESSION_SUPERSEDED)\n";

fn said(subscriptions: Vec<Subscription>, streams: Vec<Vec<Message>>) -> Said {
    let mut streams: VecDeque<Vec<Result<Message, Status>>> = streams
        .into_iter()
        .map(|messages| messages.into_iter().map(Ok).collect())
        .collect();
    if let Some(last) = streams.back_mut() {
        last.push(Err(superseded()));
    }
    Said {
        subscriptions,
        streams,
        ..Said::default()
    }
}

/// One of everything.
fn everything() -> Vec<Message> {
    vec![
        opened(1_795_339_954_341_279, 0),
        state(StreamState::CatchingUp, 0),
        Message::SnapshotBegin(SnapshotBegin {
            revision: 5,
            reason: SnapshotReason::Compacted.into(),
            compact_revision: 4,
        }),
        Message::SnapshotChunk(SnapshotChunk {
            kvs: vec![kv(b"app/color", 3), kv("app/größe".as_bytes(), 5)],
        }),
        Message::SnapshotEnd(SnapshotEnd {
            revision: 5,
            count: 2,
        }),
        state(StreamState::Live, 5),
        events(
            7,
            vec![
                put("app/a\u{9b} b".as_bytes(), 6),
                delete(b"app/\xff\x1b[2J\n\xc2\x9b", 7),
            ],
        ),
        Message::Progress(Progress { revision: 9 }),
        state(StreamState::UpstreamLost, 9),
    ]
}

#[tokio::test]
async fn text_is_a_line_for_each_thing() {
    let served = Served::start(said(vec![subscription("jane")], vec![everything()])).await;
    let ran = watchmark(&served.address, &["tail", "jane"]).await;
    assert_eq!((ran.code, &*ran.stderr), (Some(1), SUPERSEDED));
    assert_eq!(
        ran.stdout,
        "\
opened            -  fresh; session 1795339954341279
state             -  catching up
snapshot          5  begins: etcd has compacted what came after the checkpoint
pair              3  app/color
pair              5  app/größe
snapshot          5  ends: 2 pairs
state             5  live
put               6  app/a\\u{9b} b
delete            7  app/\\xff\\u{1b}[2J\\n\\u{9b}
state             9  upstream lost: etcd is away, watchmark keeps trying
"
    );
}

#[tokio::test]
async fn values_and_progress_are_printed_only_when_asked_for() {
    for (flags, keys_only) in [(&[][..], true), (&["--values", "-v"], false)] {
        let served = Served::start(said(vec![subscription("jane")], vec![everything()])).await;
        let args = [&["tail", "jane"], flags].concat();
        let ran = watchmark(&served.address, &args).await;
        let has = |line: &str| ran.stdout.lines().any(|it| it == line);
        assert_eq!(
            has("put               6  app/a\\u{9b} b  \"v\\u{1b}\\xff\""),
            !keys_only
        );
        assert_eq!(has("progress          9"), !keys_only);
        assert!(
            !ran.stdout.contains("2J\\n\\u{9b}  "),
            "a deletion has no value"
        );
        assert_eq!(
            served.said().subscribes[0].keys_only,
            keys_only,
            "they do not even travel"
        );
    }
}

#[tokio::test]
async fn json_is_an_object_for_each_thing() {
    let served = Served::start(said(vec![subscription("jane")], vec![everything()])).await;
    let args = ["tail", "jane", "--output=json", "--values", "--verbose"];
    let ran = watchmark(&served.address, &args).await;
    assert!(
        ran.stdout
            .lines()
            .all(|line| !line.contains(char::is_control))
    );
    let objects: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        Value::Array(objects),
        json!([
            { "type": "opened", "revision": 0, "checkpoint": 0,
              "session_id": 1_795_339_954_341_279_u64, "resumed": false, "proof": null,
              "cluster_id": "18446744073709551615" },
            { "type": "state", "revision": 0, "state": "CATCHING_UP" },
            { "type": "snapshot_begin", "revision": 5, "reason": "COMPACTED",
              "compact_revision": 4 },
            { "type": "pair", "revision": 3, "key": "app/color", "value": "dhv/",
              "value_encoding": "base64", "create_revision": 2, "version": 3, "lease": "1f" },
            { "type": "pair", "revision": 5, "key": "app/größe", "value": "dhv/",
              "value_encoding": "base64", "create_revision": 2, "version": 3, "lease": "1f" },
            { "type": "snapshot_end", "revision": 5, "count": 2 },
            { "type": "state", "revision": 5, "state": "LIVE" },
            { "type": "put", "revision": 6, "key": "app/a\u{9b} b", "value": "dhv/",
              "value_encoding": "base64", "create_revision": 2, "version": 3, "lease": "1f" },
            { "type": "delete", "revision": 7, "key": "YXBwL/8bWzJKCsKb",
              "key_encoding": "base64" },
            { "type": "progress", "revision": 9 },
            { "type": "state", "revision": 9, "state": "UPSTREAM_LOST" },
        ])
    );
}

#[tokio::test]
async fn a_live_stream_is_left_alone_unless_it_is_taken_over_by_name() {
    let stream = || vec![vec![opened(9, 1042)]];
    let served = Served::start(said(vec![live("orders")], stream())).await;
    let told = watchmark(&served.address, &["tail", "orders"])
        .await
        .failed(1);
    assert_eq!(
        told,
        "error: orders has a live stream, from 127.0.0.1:51234 for 2h, which this would end: \
         look at the same keys under a client_id of your own (watchmark tail NAME --prefix \
         /config/), or give --take-over\n"
    );
    assert_eq!(served.said().subscribes.len(), 0);

    let ran = watchmark(&served.address, &["tail", "orders", "--take-over"]).await;
    assert_eq!(
        ran.stderr,
        format!(
            "taking over the live stream of orders from 127.0.0.1:51234: that one ends with \
             SESSION_SUPERSEDED, and its subscriber has to subscribe again after this\n{SUPERSEDED}"
        )
    );
    assert_eq!(
        ran.stdout,
        "opened         1042  resumed after it, acked; session 9\n"
    );
    assert_eq!(served.said().subscribes.len(), 1);
}

#[tokio::test]
async fn who_cannot_be_asked_for_live_streams_takes_none() {
    let mut unknown = said(Vec::new(), vec![vec![opened(9, 7)]]);
    unknown.refusal = Some(refusal(
        Code::PermissionDenied,
        "NOT_LOCAL",
        "not from here",
    ));
    let served = Served::start(unknown).await;
    let told = watchmark(&served.address, &["tail", "orders"])
        .await
        .failed(1);
    assert!(
        told.contains("NOT_LOCAL") && told.contains("--take-over"),
        "{told}"
    );
    assert_eq!(served.said().subscribes.len(), 0);
    let ran = watchmark(&served.address, &["tail", "orders", "--take-over"]).await;
    assert!(
        ran.stderr.starts_with("taking over orders: "),
        "{}",
        ran.stderr
    );
    assert_eq!(served.said().subscribes[0].start(), Start::Snapshot);
}

#[tokio::test]
async fn what_is_asked_for_moves_nothing() {
    let asked = async |subscriptions: Vec<Subscription>, flags: &[&str]| {
        let served = Served::start(said(subscriptions, vec![vec![opened(9, 0)]])).await;
        let ran = watchmark(&served.address, &[&["tail", "jane"], flags].concat()).await;
        let request = served.said().subscribes.pop();
        (request, ran)
    };
    let request = SubscribeRequest {
        client_id: "jane".to_owned(),
        keys_only: true,
        ack_mode: pb::AckMode::Manual.into(),
        ..SubscribeRequest::default()
    };
    // A client_id of one's own begins with what comes.
    let (new, ran) = asked(Vec::new(), &["--prefix=/config/"]).await;
    let latest = SubscribeRequest {
        start: Start::Latest.into(),
        ..request.clone()
    };
    let of_prefix = SubscribeRequest {
        prefix: "/config/".into(),
        ..latest.clone()
    };
    assert_eq!(new, Some(of_prefix));
    let told = "jane is new, and stays stored: watchmark rm jane forgets it\n";
    assert_eq!(ran.stderr, format!("{told}{SUPERSEDED}"));
    let (new, _) = asked(Vec::new(), &["--key=a", "--range-end=b"]).await;
    let of_range = SubscribeRequest {
        key: "a".into(),
        range_end: "b".into(),
        ..latest
    };
    assert_eq!(new, Some(of_range));

    // From now on would be the checkpoint of one that waits for its first snapshot.
    let known = || vec![subscription("jane")];
    let snapshot = SubscribeRequest {
        start: Start::Snapshot.into(),
        ..request
    };
    assert_eq!(asked(known(), &[]).await.0, Some(snapshot));
    let (nothing, ran) = asked(known(), &["--start=latest"]).await;
    assert_eq!(nothing, None);
    assert!(
        ran.failed(1)
            .contains("has no checkpoint yet: --start latest")
    );
    let (meant, _) = asked(known(), &["--start=latest", "--ack"]).await;
    assert_eq!(meant.map(|it| it.start()), Some(Start::Latest));
}

#[tokio::test]
async fn only_whole_revisions_that_were_printed_are_acknowledged_and_only_when_asked() {
    let stream = || {
        let mut messages = everything();
        messages.push(Message::Events(Events {
            revision: 12,
            events: vec![put(b"first half", 12)],
            partial: true,
        }));
        vec![messages]
    };
    let served = Served::start(said(vec![subscription("jane")], stream())).await;
    watchmark(&served.address, &["tail", "jane"]).await;
    assert_eq!(served.said().acks, []);

    served.said().streams = said(Vec::new(), stream()).streams;
    let ran = watchmark(&served.address, &["tail", "jane", "--ack"]).await;
    assert!(ran.stdout.contains("first half"));
    let ack = |revision| AckRequest {
        client_id: "jane".to_owned(),
        revision,
        session_id: 1_795_339_954_341_279,
    };
    assert_eq!(served.said().acks, [ack(5), ack(7)]);
}

#[tokio::test]
async fn a_refused_ack_ends_it_and_a_passing_one_does_not() {
    let stream = || vec![vec![opened(9, 5), events(6, vec![put(b"a", 6)])]];
    let served = Served::start(said(vec![subscription("jane")], stream())).await;
    served.said().ack = Some(passing("STORE_UNAVAILABLE", "the disk is full"));
    let ran = watchmark(&served.address, &["tail", "jane", "--ack"]).await;
    assert_eq!(
        ran.stderr,
        format!(
            "6 is not acknowledged: the disk is full (UNAVAILABLE, STORE_UNAVAILABLE)\n{SUPERSEDED}"
        )
    );
    served.said().streams = said(Vec::new(), stream()).streams;
    served.said().ack = Some(refusal(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", "gone"));
    let ran = watchmark(&served.address, &["tail", "jane", "--ack"]).await;
    assert_eq!(ran.code, Some(4));
    assert_eq!(
        ran.stderr,
        "error: gone (NOT_FOUND, SUBSCRIPTION_NOT_FOUND)\n"
    );
}

#[tokio::test]
async fn a_broken_stream_is_asked_for_again_and_repeats_nothing() {
    let mut said = said(
        vec![subscription("jane")],
        vec![
            vec![opened(9, 5), events(6, vec![put(b"a", 6)])],
            vec![opened(10, 5), events(7, vec![put(b"a", 6), put(b"b", 7)])],
            vec![opened(11, 5), events(7, vec![put(b"a", 6), put(b"b", 7)])],
            vec![
                opened(12, 0),
                Message::SnapshotBegin(SnapshotBegin {
                    revision: 3,
                    reason: SnapshotReason::HistoryReplaced.into(),
                    compact_revision: 0,
                }),
                Message::SnapshotEnd(SnapshotEnd {
                    revision: 3,
                    count: 0,
                }),
                events(4, vec![put(b"c", 4)]),
            ],
        ],
    );
    said.streams[0].push(Err(passing("DRAINING", "watchmark is stopping")));
    // As a proxy, or a connection that is lost, would say it.
    said.streams[1].push(Err(Status::unavailable("upstream connect error")));
    let served = Served::start(said).await;
    let ran = watchmark(&served.address, &["tail", "jane"]).await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "opened            5  resumed after it, acked; session 9",
            "put               6  a",
            "opened            5  resumed after it, acked; session 10",
            "put               7  b",
            "opened            5  resumed after it, acked; session 11",
            "opened            -  fresh; session 12",
            "snapshot          3  begins: etcd was restored or replaced",
            "snapshot          3  ends: 0 pairs",
            "put               4  c",
        ]
    );
    let address = &served.address;
    assert_eq!(
        ran.stderr,
        format!(
            "watchmark is stopping (UNAVAILABLE, DRAINING); trying again\n\
             upstream connect error (UNAVAILABLE); trying again\n\
             {address} ended the stream without a reason; trying again\n{SUPERSEDED}"
        )
    );
}

/// A stream that breaks, and another.
fn said_twice() -> Said {
    let streams = vec![vec![opened(9, 5)], vec![opened(10, 5)]];
    let mut said = said(vec![subscription("orders")], streams);
    said.streams[0].push(Err(passing("DRAINING", "watchmark is stopping")));
    said
}

#[tokio::test]
async fn a_subscriber_that_came_meanwhile_keeps_its_stream() {
    let mut said = said_twice();
    said.after_subscribe = Some(vec![live("orders")]);
    let served = Served::start(said).await;
    let ran = watchmark(&served.address, &["tail", "orders"]).await;
    assert_eq!(
        (ran.code, &*ran.stderr),
        (
            Some(1),
            "watchmark is stopping (UNAVAILABLE, DRAINING); trying again\n\
             error: orders has another subscriber by now, 127.0.0.1:51234\n"
        )
    );
    assert_eq!(served.said().subscribes.len(), 1);

    // What the server has not noticed yet is the own stream, and no other.
    let mut said = said_twice();
    let mut own = live("orders");
    own.session.as_mut().unwrap().session_id = 9;
    said.after_subscribe = Some(vec![own]);
    let served = Served::start(said).await;
    let ran = watchmark(&served.address, &["tail", "orders"]).await;
    assert!(ran.stderr.ends_with(SUPERSEDED), "{}", ran.stderr);
    assert_eq!(served.said().subscribes.len(), 2);
}

#[tokio::test]
async fn what_never_began_is_not_tried_again() {
    let mut refused = said(vec![subscription("jane")], vec![Vec::new(), Vec::new()]);
    refused.streams[0].push(Err(passing("DRAINING", "watchmark is stopping")));
    let served = Served::start(refused).await;
    let ran = watchmark(&served.address, &["tail", "jane"]).await;
    assert_eq!(
        ran.failed(1),
        "error: watchmark is stopping (UNAVAILABLE, DRAINING)\n"
    );
    assert_eq!(served.said().subscribes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_there_at_once_and_head_ends_it_quietly() {
    let mut endless = said(vec![subscription("jane")], Vec::new());
    let many = (6..4000).map(|revision| Ok(events(revision, vec![put(b"a", revision)])));
    endless.streams = VecDeque::from([std::iter::once(Ok(opened(9, 5))).chain(many).collect()]);
    let served = Served::start(endless).await;
    let mut tail = Tailing::start(&served.address, &["tail", "jane"]);
    assert_eq!(
        tail.next_line(),
        "opened            5  resumed after it, acked; session 9"
    );
    assert_eq!(tail.next_line(), "put               6  a");
    tail.stdout = None;
    let ran = tail.ended().await;
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
}

/// A tail whose lines are read as they come.
struct Tailing {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Tailing {
    fn start(address: &str, args: &[&str]) -> Self {
        let mut command = command(args);
        command
            .arg(format!("--address={address}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        tokio::task::block_in_place(|| self.stdout.as_mut().unwrap().read_line(&mut line)).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    async fn ended(mut self) -> Ran {
        let code = wait::until("tail to end", async || self.child.try_wait().unwrap());
        let code = code.await.code();
        let mut told = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut told).unwrap();
        Ran {
            code,
            stdout: String::new(),
            stderr: told,
        }
    }
}

impl Drop for Tailing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
