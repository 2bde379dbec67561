//! Every edge of what a request may say: the documented error or a stream, and
//! a subscriber beside it that notices nothing.

use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use watchmark::proto::watchmark::v1::{CompactionPolicy, SnapshotReason, SubscribeRequest};

use crate::{
    hostile::Bystander,
    support::{
        Scenario,
        client::{Acker, request},
    },
};

const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_ARGUMENT");
const OPEN_ENDED: (Code, &str) = (Code::PermissionDenied, "RANGE_NOT_ALLOWED");

fn with(change: impl FnOnce(&mut SubscribeRequest)) -> SubscribeRequest {
    let mut request = request("edge", "e/");
    change(&mut request);
    request
}

fn range(key: &'static [u8], range_end: &'static [u8]) -> SubscribeRequest {
    with(|r| {
        r.prefix = "".into();
        r.key = key.into();
        r.range_end = range_end.into();
    })
}

fn named(client_id: impl Into<String>) -> SubscribeRequest {
    with(|r| r.client_id = client_id.into())
}

/// What is refused, with which field at fault.
fn refused() -> Vec<(SubscribeRequest, (Code, &'static str), &'static str)> {
    vec![
        (named(""), INVALID, "client_id"),
        (named("a b"), INVALID, "client_id"),
        (named("a\0"), INVALID, "client_id"),
        (named("é"), INVALID, "client_id"),
        (named("x".repeat(129)), INVALID, "client_id"),
        (named("x".repeat(50_000)), INVALID, "client_id"),
        (range(b"b", b"a"), INVALID, "range_end"),
        (range(b"b", b"b"), INVALID, "range_end"),
        (range(b"\xff\xff", b"\xff"), INVALID, "range_end"),
        (range(b"\0\0", b"\0\0"), INVALID, "range_end"),
        (range(b"", b"a"), INVALID, "range_end"),
        (range(b"", b"\0"), INVALID, "range_end"),
        (with(|r| r.key = "k".into()), INVALID, "prefix"),
        (with(|r| r.range_end = "k".into()), INVALID, "prefix"),
        (with(|r| r.range_end = b"\0"[..].into()), INVALID, "prefix"),
        (
            range(b"", b""),
            (Code::InvalidArgument, "RANGE_REQUIRED"),
            "prefix",
        ),
        (range(b"\0", b"\0"), OPEN_ENDED, ""),
        (range(b"a", b"\0"), OPEN_ENDED, ""),
        (with(|r| r.prefix = b"\xff"[..].into()), OPEN_ENDED, ""),
        (with(|r| r.prefix = b"\xff\xff"[..].into()), OPEN_ENDED, ""),
        (with(|r| r.resume_after = -1), INVALID, "resume_after"),
        (with(|r| r.resume_after = i64::MIN), INVALID, "resume_after"),
        (with(|r| r.start = 3), INVALID, "start"),
        (with(|r| r.start = i32::MIN), INVALID, "start"),
        (with(|r| r.on_compaction = -1), INVALID, "on_compaction"),
        (with(|r| r.ack_mode = i32::MAX), INVALID, "ack_mode"),
    ]
}

/// What is odd and yet allowed.
fn allowed() -> Vec<SubscribeRequest> {
    vec![
        named("x".repeat(128)),
        named("-"),
        named("aZ09._:/-"),
        range(b"\0", b""),
        range(b"\0", b"\0\0"),
        range(b"a", b"a\0"),
        range(b"\xff\xfe\x80", b"\xff\xff"),
        range(b"\xc3\x28", b""),
        with(|r| r.prefix = b"\xf0\x28\x8c\x28"[..].into()),
        with(|r| r.prefix = vec![b'k'; 10_000].into()),
        with(|r| r.max_unacked_events = u32::MAX),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_edge_of_a_subscribe_is_a_typed_error_or_a_stream() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    for (request, cause, field) in refused() {
        let shown = format!("{request:?}");
        let ended = scenario.open(request).await.err().unwrap();
        assert_eq!(ended.cause(), cause, "{shown}");
        assert!(ended.message.len() < 500, "{}", ended.message);
        if !field.is_empty() {
            assert_eq!(ended.metadata["field"], field, "{shown}");
        }
    }
    for (number, mut request) in allowed().into_iter().enumerate() {
        if request.client_id == "edge" {
            request.client_id = format!("edge-{number}");
        }
        let mut subscriber = scenario.open(request).await.unwrap();
        assert!(!subscriber.opened().resumed);
        subscriber.snapshot().await;
    }
    bystander.finish(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_above_all_revisions_is_a_replaced_history() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let position = |policy: CompactionPolicy| {
        with(|r| {
            r.resume_after = i64::MAX;
            r.on_compaction = policy.into();
        })
    };
    let mut fails = scenario
        .open(SubscribeRequest {
            client_id: "fails".to_owned(),
            ..position(CompactionPolicy::Fail)
        })
        .await
        .map_err(|ended| ended.cause().0);
    if let Ok(subscriber) = &mut fails {
        let ended = subscriber.end().await;
        assert_eq!(ended.cause(), (Code::Aborted, "HISTORY_REPLACED"));
    } else {
        assert_eq!(fails.err(), Some(Code::Aborted));
    }
    let mut subscriber = scenario
        .open(position(CompactionPolicy::Resync))
        .await
        .unwrap();
    let snapshot = subscriber.snapshot().await;
    assert_eq!(snapshot.reason, SnapshotReason::HistoryReplaced);
    assert_eq!(
        subscriber.ack(snapshot.revision).await.unwrap(),
        snapshot.revision
    );
    drop(subscriber);
    bystander.finish(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_edge_of_an_ack_is_a_typed_error() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let subscriber = scenario.subscribe("edge", "e/").await;
    let session = subscriber.opened().session_id;
    let api = scenario.watchmark.client().await;
    let beyond = (Code::OutOfRange, "ACK_BEYOND_DELIVERED");
    let unknown = (Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    let superseded = (Code::Aborted, "SESSION_SUPERSEDED");
    let long = "x".repeat(50_000);
    for (client_id, session_id, revision, cause) in [
        ("", 0, 1, INVALID),
        ("a b", 0, 1, INVALID),
        (&long, 0, 1, INVALID),
        ("edge", session, 0, INVALID),
        ("edge", session, -1, INVALID),
        ("edge", u64::MAX, i64::MIN, INVALID),
        ("edge", session, i64::MAX, beyond),
        ("edge", 0, i64::MAX - 1, beyond),
        ("edge", u64::MAX, 1, superseded),
        ("nobody", 0, 1, unknown),
        ("nobody", u64::MAX, i64::MAX, unknown),
    ] {
        let acker = Acker {
            client_id: client_id.to_owned(),
            session_id,
            api: api.clone(),
            recorder: scenario.recorder.clone(),
        };
        let ended = acker.ack(revision).await.unwrap_err();
        let shown = &client_id[..client_id.len().min(20)];
        assert_eq!(ended.cause(), cause, "{shown} {session_id} {revision}");
    }
    drop(subscriber);
    bystander.finish(scenario).await;
}

/// Sends bytes as they are, and takes none.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

/// What is no protobuf never gets as far as our own errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request_are_an_error_and_nothing_else() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let channel = scenario.watchmark.endpoint().connect().await.unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut cases = vec![
        // client_id of three bytes that are no UTF-8; of 2^63 bytes; a group.
        vec![10, 3, 0xff, 0xfe, b'x'],
        vec![10, 255, 255, 255, 255, 255, 255, 255, 255, 127],
        vec![11, 11, 11, 11],
        // revision as text, client_id as a number.
        vec![18, 1, b'x'],
        vec![8, 1],
    ];
    cases.extend((0..100).map(|_| {
        let length = rng.usize(1..2000);
        std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
    }));
    for bytes in cases {
        for method in ["Ack", "Subscribe"] {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let path = format!("/watchmark.v1.WatchService/{method}");
            let path = PathAndQuery::try_from(path).unwrap();
            let refused = grpc.unary(Request::new(bytes.clone()), path, Raw).await;
            let code = refused.err().map(|status| status.code());
            let expected = [Code::Internal, Code::InvalidArgument].map(Some);
            assert!(expected.contains(&code), "{method} {bytes:?}: {code:?}");
        }
    }
    bystander.finish(scenario).await;
}
