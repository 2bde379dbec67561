//! What of the admin service is for whom: by where a caller comes from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fake::{Fixture, PEER, client_id, request, soon};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, server::Connected},
};
use tonic_types::StatusExt;
use watchmark::{
    grpc::{Api, EdgeRules, Operators, Peer},
    proto::watchmark::v1::{
        DeleteSubscriptionRequest, GetStatusRequest, GetSubscriptionRequest,
        ListSubscriptionsRequest, SeekSubscriptionRequest,
        admin_service_client::AdminServiceClient, seek_subscription_request::Target,
    },
};

/// A connection that says it comes from there.
struct From(TcpStream, Peer);

impl Connected for From {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.1.clone()
    }
}

impl AsyncRead for From {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for From {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn api(fixture: &Fixture, operators: Operators) -> Api {
    let registry = Arc::clone(&fixture.registry);
    let api = Api::new(registry, EdgeRules::default(), operators);
    api.await.unwrap().0
}

/// A client of the port for applications, as `caller`.
async fn served_to(fixture: &Fixture, caller: Peer, operators: Operators) -> Channel {
    let api = api(fixture, operators).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let connections = async_stream::stream! {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            yield From(connection, caller.clone());
        }
    };
    tokio::spawn(api.serve(connections, std::future::pending()));
    soon("a connection", endpoint.connect()).await.unwrap()
}

/// What each call answers: reading (list, get, status, dry run), then changing.
macro_rules! answers {
    ($client:expr) => {{
        let mut client = $client;
        let seek = |dry_run| SeekSubscriptionRequest {
            client_id: "orders".to_owned(),
            target: Some(Target::Revision(5)),
            dry_run,
        };
        let get = GetSubscriptionRequest {
            client_id: "orders".to_owned(),
        };
        let delete = DeleteSubscriptionRequest {
            client_id: "orders".to_owned(),
        };
        let list = ListSubscriptionsRequest::default();
        let reading = [
            client.list_subscriptions(list).await.map(drop),
            client.get_subscription(get).await.map(drop),
            client.get_status(GetStatusRequest {}).await.map(drop),
            client.seek_subscription(seek(true)).await.map(drop),
        ];
        let changing = [
            client.seek_subscription(seek(false)).await.map(drop),
            client.delete_subscription(delete).await.map(drop),
        ];
        (reading, changing)
    }};
}

#[track_caller]
fn assert_local_only(answers: &[Result<(), Status>]) {
    for answer in answers {
        let status = answer.as_ref().unwrap_err();
        let reason = status
            .get_error_details()
            .error_info()
            .unwrap()
            .reason
            .clone();
        assert_eq!(
            (status.code(), &*reason),
            (Code::PermissionDenied, "LOCAL_ONLY")
        );
    }
}

fn far() -> Peer {
    Peer {
        address: Some("10.1.2.3:5555".parse().unwrap()),
        ..Peer::default()
    }
}

#[tokio::test]
async fn on_the_port_of_applications_only_local_callers_are_served() {
    let mut fixture = Fixture::new(10);
    let (_stream, _watch) = fixture.subscribe_at_10("orders").await;
    let channel = served_to(&fixture, far(), Operators::default()).await;
    let (reading, changing) = answers!(AdminServiceClient::new(channel));
    assert_local_only(&reading);
    assert_local_only(&changing);
    assert_eq!(fixture.store.checkpoint("orders"), Some(10));

    let channel = served_to(&fixture, Peer::default(), Operators::default()).await;
    let (reading, changing) = answers!(AdminServiceClient::new(channel));
    assert!(reading.iter().chain(&changing).all(Result::is_ok));
    assert_eq!(fixture.store.checkpoint("orders"), None);
}

#[tokio::test]
async fn on_the_port_of_operators_anyone_may_look_and_only_local_callers_may_change() {
    let mut fixture = Fixture::new(10);
    let (_stream, _watch) = fixture.subscribe_at_10("orders").await;
    // A port that does not say who calls.
    let router = api(&fixture, Operators::default()).await.admin_router();
    let (reading, changing) = answers!(AdminServiceClient::new(router));
    assert!(reading.iter().all(Result::is_ok), "{reading:?}");
    assert_local_only(&changing);
    assert_eq!(fixture.store.checkpoint("orders"), Some(10));
}

#[tokio::test]
async fn where_certificates_name_applications_their_port_has_no_admin_service() {
    let fixture = Fixture::new(10);
    let operators = Operators {
        on_every_port: false,
        ..Operators::default()
    };
    let channel = served_to(&fixture, Peer::default(), operators).await;
    let (reading, changing) = answers!(AdminServiceClient::new(channel));
    for answer in reading.iter().chain(&changing) {
        assert_eq!(answer.as_ref().unwrap_err().code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn an_operator_sees_where_a_subscriber_comes_from() {
    let fixture = Fixture::new(10);
    let _stream = fixture.subscribe("orders", request()).await;
    let client = client_id("orders");
    let overview = fixture.registry.overview(&client).await.unwrap().unwrap();
    assert_eq!(overview.session.unwrap().peer, PEER);
}
