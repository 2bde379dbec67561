//! The API as a client meets it: a real server on loopback, and every typed
//! error with its code, reason and domain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::sync::Arc;

use fake::{Fixture, header, selection, soon, until};
use tokio::sync::oneshot;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use watchmark::{
    app::Connections,
    config::{ConnectionLimits, Listen},
    grpc::{Api, EdgeRules, Health, Operators},
    proto::watchmark::v1::{
        AckMode, AckRequest, CompactionPolicy, Opened, SnapshotReason, SubscribeRequest,
        SubscribeResponse, subscribe_response::Message, watch_service_client::WatchServiceClient,
    },
    resume::{GuardReading, KeyRange, Record, WatchOpened, input::Upstream as Said},
};

const LIMITS: ConnectionLimits = ConnectionLimits {
    total: 10,
    per_peer: 10,
};

/// A server, and a client of it.
struct Served {
    fixture: Fixture,
    client: WatchServiceClient<Channel>,
    channel: Channel,
    health: Health,
    stop: Option<oneshot::Sender<()>>,
}

impl Served {
    async fn with(rules: EdgeRules) -> Self {
        let fixture = Fixture::new(2);
        let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let connections = Connections::bind(&[loopback], LIMITS, None).await.unwrap();
        let address = connections.addresses().remove(0);
        let (api, health) = Api::new(Arc::clone(&fixture.registry), rules, Operators::default())
            .await
            .unwrap();
        health.set_serving(true).await;
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(api.serve(connections, async {
            let _ = stopped.await;
        }));
        let endpoint = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self {
            fixture,
            client: WatchServiceClient::new(channel.clone()),
            channel,
            health,
            stop: Some(stop),
        }
    }

    async fn new() -> Self {
        Self::with(EdgeRules::default()).await
    }

    async fn subscribe(&mut self, request: SubscribeRequest) -> Streaming<SubscribeResponse> {
        let call = self.client.subscribe(request);
        soon("the stream", call).await.unwrap().into_inner()
    }

    /// The error that a Subscribe ends with, at once or as its stream's end.
    async fn refused(&mut self, request: SubscribeRequest) -> Status {
        match soon("an answer", self.client.subscribe(request)).await {
            Err(status) => status,
            Ok(stream) => ended(&mut stream.into_inner()).await,
        }
    }

    async fn refused_ack(&mut self, client_id: &str, revision: i64, session_id: u64) -> Status {
        let request = AckRequest {
            client_id: client_id.to_owned(),
            revision,
            session_id,
        };
        let call = self.client.ack(request);
        soon("an answer", call).await.unwrap_err()
    }

    /// A live stream of `orders` that has received revision 11.
    async fn live(&mut self) -> (Streaming<SubscribeResponse>, Opened, fake::Attempt) {
        let mut stream = self.subscribe(of("orders")).await;
        let snapshot = self.fixture.asked_snapshot().await;
        snapshot.say(Said::SnapshotBegun(header(10))).await;
        snapshot.say(Said::SnapshotEnded).await;
        let opened = match message(&mut stream).await {
            Message::Opened(opened) => opened,
            other => panic!("{other:?}"),
        };
        let begin = loop {
            match message(&mut stream).await {
                Message::SnapshotBegin(begin) => break begin,
                Message::State(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(begin.reason(), SnapshotReason::First);
        let (_, watch) = self.fixture.asked_watch().await;
        watch.say_opened(10).await;
        watch.say_put(11, 10).await;
        loop {
            match message(&mut stream).await {
                Message::Events(events) if events.revision == 11 => break,
                Message::SnapshotEnd(_) | Message::State(_) => {}
                other => panic!("{other:?}"),
            }
        }
        (stream, opened, watch)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.take();
    }
}

/// A request that names a range.
fn of(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        client_id: client_id.to_owned(),
        prefix: "a/".into(),
        ..SubscribeRequest::default()
    }
}

async fn message(stream: &mut Streaming<SubscribeResponse>) -> Message {
    let response = soon("a message", stream.message()).await.unwrap().unwrap();
    response.message.unwrap()
}

async fn ended(stream: &mut Streaming<SubscribeResponse>) -> Status {
    loop {
        match soon("the end", stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream never ends without a reason"),
            Err(status) => return status,
        }
    }
}

#[track_caller]
fn check(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((&*info.reason, &*info.domain), (reason, "watchmark"));
}

fn metadata(status: &Status, name: &str) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap().metadata[name].clone()
}

#[tokio::test]
async fn a_stream_opens_delivers_and_is_acknowledged() {
    let mut served = Served::new().await;
    let (_stream, opened, _watch) = served.live().await;
    assert!(
        opened.session_id > 0 && opened.session_id < 1 << 53,
        "fits a double"
    );
    assert!(!opened.resumed);
    for session_id in [0, opened.session_id] {
        let request = AckRequest {
            client_id: "orders".to_owned(),
            revision: 11,
            session_id,
        };
        let answer = served.client.ack(request).await.unwrap().into_inner();
        assert_eq!(answer.checkpoint, 11);
    }
    assert_eq!(served.fixture.store.checkpoint("orders"), Some(11));
}

#[tokio::test]
async fn invalid_requests_name_the_field() {
    let mut served = Served::new().await;
    for (field, request) in [
        ("client_id", of("")),
        ("client_id", of("white space")),
        ("client_id", of(&"x".repeat(129))),
        (
            "prefix",
            SubscribeRequest {
                key: "b".into(),
                ..of("orders")
            },
        ),
        (
            "range_end",
            SubscribeRequest {
                prefix: "".into(),
                range_end: "b".into(),
                ..of("orders")
            },
        ),
        (
            "resume_after",
            SubscribeRequest {
                resume_after: -1,
                ..of("orders")
            },
        ),
        (
            "start",
            SubscribeRequest {
                start: 77,
                ..of("orders")
            },
        ),
        (
            "on_compaction",
            SubscribeRequest {
                on_compaction: 77,
                ..of("orders")
            },
        ),
        (
            "ack_mode",
            SubscribeRequest {
                ack_mode: -77,
                ..of("orders")
            },
        ),
    ] {
        let status = served.refused(request).await;
        check(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(metadata(&status, "field"), field);
    }
    for revision in [0, -5] {
        let status = served.refused_ack("orders", revision, 0).await;
        check(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(metadata(&status, "field"), "revision");
    }
    let status = served.refused_ack("", 5, 0).await;
    check(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(served.fixture.registry.running(), 0, "nothing was started");
}

#[tokio::test]
async fn a_range_is_required_allowed_and_the_stored_one() {
    let nameless = SubscribeRequest {
        client_id: "orders".to_owned(),
        ..SubscribeRequest::default()
    };
    let mut served = Served::new().await;
    let status = served.refused(nameless.clone()).await;
    check(&status, Code::InvalidArgument, "RANGE_REQUIRED");

    let everything = SubscribeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        ..nameless.clone()
    };
    let status = served.refused(everything).await;
    check(&status, Code::PermissionDenied, "RANGE_NOT_ALLOWED");

    let mut bounded = Served::with(EdgeRules {
        allowed_ranges: vec![KeyRange::prefix("b/".into())],
        ..EdgeRules::default()
    })
    .await;
    let status = bounded.refused(of("orders")).await;
    check(&status, Code::PermissionDenied, "RANGE_NOT_ALLOWED");

    served
        .fixture
        .store
        .insert("orders", Record::new(selection()))
        .await;
    let _stream = served.subscribe(nameless).await;
    served.fixture.asked_snapshot().await;
    let other = SubscribeRequest {
        prefix: "b/".into(),
        ..of("orders")
    };
    let status = served.refused(other).await;
    check(&status, Code::FailedPrecondition, "RANGE_MISMATCH");
    let filtered = SubscribeRequest {
        no_delete: true,
        ..of("orders")
    };
    let status = served.refused(filtered).await;
    check(&status, Code::FailedPrecondition, "RANGE_MISMATCH");
}

#[tokio::test]
async fn acks_that_cannot_be_are_refused() {
    let mut served = Served::new().await;
    let status = served.refused_ack("orders", 5, 0).await;
    check(&status, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");

    served
        .fixture
        .store
        .insert("known", Record::new(selection()))
        .await;
    let status = served.refused_ack("known", 5, 0).await;
    check(&status, Code::FailedPrecondition, "NO_SESSION");

    let (_stream, opened, _watch) = served.live().await;
    let status = served.refused_ack("orders", 12, 0).await;
    check(&status, Code::OutOfRange, "ACK_BEYOND_DELIVERED");
    assert_eq!(metadata(&status, "delivered"), "11");
    let status = served
        .refused_ack("orders", 11, opened.session_id - 1)
        .await;
    check(&status, Code::Aborted, "SESSION_SUPERSEDED");
}

#[tokio::test]
async fn a_takeover_tells_the_older_stream() {
    let mut served = Served::new().await;
    let (mut first, opened, _watch) = served.live().await;
    let _second = served.subscribe(of("orders")).await;
    check(
        &ended(&mut first).await,
        Code::Aborted,
        "SESSION_SUPERSEDED",
    );
    let status = served.refused_ack("orders", 11, opened.session_id).await;
    check(&status, Code::Aborted, "SESSION_SUPERSEDED");
}

#[tokio::test]
async fn a_lost_history_is_an_error_where_the_subscriber_chose_it() {
    let mut served = Served::new().await;
    let record = Record {
        checkpoint: Some(fake::rev(5)),
        ..Record::new(selection())
    };
    served.fixture.store.insert("orders", record).await;
    let failing = SubscribeRequest {
        on_compaction: CompactionPolicy::Fail.into(),
        ack_mode: AckMode::Auto.into(),
        ..of("orders")
    };
    let mut stream = served.subscribe(failing).await;
    let (_, watch) = served.fixture.asked_watch().await;
    watch
        .say(Said::WatchOpened(WatchOpened {
            member_id: 1,
            can_ask_progress: true,
            guard: GuardReading::Compacted {
                compact_revision: Some(fake::rev(9)),
            },
        }))
        .await;
    let status = ended(&mut stream).await;
    check(&status, Code::OutOfRange, "COMPACTED");
    assert_eq!(metadata(&status, "checkpoint"), "5");
    assert_eq!(metadata(&status, "compact_revision"), "9");
}

#[tokio::test]
async fn etcd_away_and_store_away_are_unavailable_with_a_retry() {
    let mut served = Served::new().await;
    let latest = SubscribeRequest {
        start: 2,
        ..of("orders")
    };
    let mut stream = served.subscribe(latest).await;
    served.fixture.asked_head().await.say(Said::Lost).await;
    let status = ended(&mut stream).await;
    check(&status, Code::Unavailable, "UPSTREAM_UNAVAILABLE");
    assert!(status.get_error_details().retry_info().is_some());

    let (_stream, ..) = served.live().await;
    served.fixture.store.memory.fail("no space left on device");
    let status = served.refused_ack("orders", 11, 0).await;
    check(&status, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test]
async fn too_many_subscriptions_are_refused() {
    let mut served = Served::new().await;
    let _first = served.subscribe(of("first")).await;
    let _second = served.subscribe(of("second")).await;
    let status = served.refused(of("third")).await;
    check(&status, Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS");
    assert_eq!(metadata(&status, "flag"), "--max-subscriptions");
}

#[tokio::test]
async fn a_drain_ends_streams_takes_acks_and_turns_the_health() {
    let mut served = Served::new().await;
    let mut health = HealthClient::new(served.channel.clone());
    let mut is_serving = async |service: &str| {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await;
        answer
            .unwrap()
            .into_inner()
            .status()
            .as_str_name()
            .to_owned()
    };
    for service in ["", "watchmark.v1.WatchService"] {
        assert_eq!(is_serving(service).await, "SERVING");
    }
    let (mut stream, ..) = served.live().await;
    let drain = tokio::spawn({
        let registry = Arc::clone(&served.fixture.registry);
        async move { registry.drain().await }
    });
    served.health.set_serving(false).await;
    for service in ["", "watchmark.v1.WatchService"] {
        assert_eq!(is_serving(service).await, "NOT_SERVING");
    }
    check(&ended(&mut stream).await, Code::Unavailable, "DRAINING");
    let status = served.refused(of("new")).await;
    check(&status, Code::Unavailable, "DRAINING");
    assert!(status.get_error_details().retry_info().is_some());
    let ack = AckRequest {
        client_id: "orders".to_owned(),
        revision: 11,
        session_id: 0,
    };
    assert_eq!(
        served
            .client
            .ack(ack)
            .await
            .unwrap()
            .into_inner()
            .checkpoint,
        11
    );
    soon("drained", drain).await.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_session() {
    let mut served = Served::new().await;
    let (stream, _, watch) = served.live().await;
    drop(stream);
    watch.ended().await;
}

#[tokio::test]
async fn garbage_and_too_large_requests_are_refused_and_harm_nobody() {
    use tokio::io::AsyncWriteExt;

    let mut served = Served::new().await;
    let huge = SubscribeRequest {
        prefix: vec![b'a'; 100 * 1024].into(),
        ..of("orders")
    };
    let status = served.refused(huge).await;
    check(&status, Code::ResourceExhausted, "REQUEST_TOO_LARGE");

    let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let connections = Connections::bind(&[loopback], LIMITS, None).await.unwrap();
    let Listen::Tcp(address) = connections.addresses().remove(0) else {
        panic!("not a TCP address");
    };
    let open = connections.open();
    let registry = Arc::clone(&served.fixture.registry);
    let (api, _) = Api::new(registry, EdgeRules::default(), Operators::default())
        .await
        .unwrap();
    tokio::spawn(api.serve(connections, std::future::pending()));
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    until("it is open", || *open.borrow() == 1).await;
    let _ = raw.write_all(&[0x5a; 4096]).await;
    until("it is closed", || *open.borrow() == 0).await;

    let (_stream, opened, _) = served.live().await;
    assert!(opened.session_id > 0);
}

#[tokio::test]
async fn both_reflection_services_know_the_api() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    use tonic_reflection::pb::v1alpha;

    let served = Served::new().await;
    let expected = [
        "grpc.health.v1.Health",
        "watchmark.v1.WatchService",
        "watchmark.v1.AdminService",
    ];

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(served.channel.clone());
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
    for name in expected {
        assert!(names.iter().any(|it| it == name), "{names:?}");
    }

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "watchmark.v1.WatchService".to_owned(),
            ),
        ),
    };
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(served.channel.clone());
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));
}
