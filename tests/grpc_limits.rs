//! Limits of the port that a real etcd and a real disk cannot be brought to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fake::{Fixture, next_events, soon, until};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tonic::{
    Code, Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;
use watchmark::{
    app::Connections,
    config::{ConnectionLimits, Listen},
    grpc::{Api, EdgeRules, Operators},
    proto::watchmark::v1::{AckRequest, AckResponse, watch_service_client::WatchServiceClient},
};

const LIMITS: ConnectionLimits = ConnectionLimits {
    total: 10,
    per_peer: 10,
};

/// Lets that time pass for everybody, at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Where it is served, and how many connections there are.
async fn serve(fixture: &Fixture) -> (SocketAddr, watch::Receiver<usize>) {
    let (address, open, _) = serve_until(fixture, std::future::pending()).await;
    (address, open)
}

/// As [`serve`], until `shutdown`; and the end of it.
async fn serve_until(
    fixture: &Fixture,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (SocketAddr, watch::Receiver<usize>, JoinHandle<()>) {
    let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let connections = Connections::bind(&[loopback], LIMITS, None).await.unwrap();
    let Listen::Tcp(address) = connections.addresses().remove(0) else {
        panic!("no port");
    };
    let open = connections.open();
    let registry = Arc::clone(&fixture.registry);
    let (api, _) = Api::new(registry, EdgeRules::default(), Operators::default())
        .await
        .unwrap();
    let serving = tokio::spawn(api.serve(connections, shutdown));
    (address, open, serving)
}

async fn connected(address: SocketAddr) -> WatchServiceClient<Channel> {
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    WatchServiceClient::new(endpoint.connect().await.unwrap())
}

fn ack_of_11() -> AckRequest {
    AckRequest {
        client_id: "orders".to_owned(),
        revision: 11,
        session_id: 0,
    }
}

#[tokio::test]
async fn an_ack_that_the_disk_never_answers_is_told_so_and_may_still_be_durable() {
    let mut fixture = Fixture::new(2);
    let (address, _) = serve(&fixture).await;
    let mut client = connected(address).await;
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);

    fixture.store.memory.hold();
    let asking = tokio::spawn({
        let mut client = client.clone();
        async move { client.ack(ack_of_11()).await }
    });
    until("the disk is asked", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    assert!(!asking.is_finished());
    pass(Duration::from_secs(20)).await;
    let status = soon("an answer", asking).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TIMED_OUT");
    assert!(details.retry_info().is_some());

    // Others, and this one's stream, go on; and so does the write.
    watch.say_put(12, 10).await;
    assert_eq!(next_events(&mut stream).await, 12);
    assert_eq!(fixture.store.checkpoint("orders"), Some(10));
    fixture.store.memory.release();
    let again = soon("an answer", client.ack(ack_of_11())).await.unwrap();
    assert_eq!(again.into_inner().checkpoint, 11);
    assert_eq!(fixture.store.checkpoint("orders"), Some(11));
}

#[tokio::test]
async fn a_port_that_closes_takes_nobody_in_and_lets_the_calls_under_way_finish() {
    let mut fixture = Fixture::new(2);
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, _, serving) = serve_until(&fixture, async {
        let _ = stopped.await;
    })
    .await;
    let mut client = connected(address).await;
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
    fixture.store.memory.hold();
    let asking = tokio::spawn(async move { client.ack(ack_of_11()).await });
    let memory = &fixture.store.memory;
    until("the disk is asked", || memory.held_count() == 1).await;

    drop(stop);
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    soon("a refusal", refused).await;
    assert!(!serving.is_finished() && !asking.is_finished());
    fixture.store.memory.release();
    let answer = soon("an answer", asking).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().checkpoint, 11);
    soon("the end", serving).await.unwrap();
}

/// A connection whose client asks for ever more answers and reads none, until
/// there is no room for another.
async fn deaf(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let ping = b"\0\0\x08\x06\0\0\0\0\0watching";
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    client.write_all(settings).await.unwrap();
    let pings = ping.repeat(1024);
    let has_room = Duration::from_secs(3);
    while let Ok(written) = tokio::time::timeout(has_room, client.write_all(&pings)).await {
        written.unwrap();
    }
    client
}

#[tokio::test]
async fn a_client_that_takes_nothing_any_more_is_hung_up_on() {
    let fixture = Fixture::new(2);
    let (address, open) = serve(&fixture).await;
    let _client = deaf(address).await;
    assert_eq!(*open.borrow(), 1);
    for _ in 0..40 {
        if *open.borrow() == 0 {
            return;
        }
        pass(Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it still has its place after more than three minutes");
}

#[tokio::test]
async fn a_request_that_never_arrives_is_given_up() {
    let fixture = Fixture::new(2);
    let (address, _) = serve(&fixture).await;
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    let asking = tokio::spawn(async move {
        let nothing = Request::new(futures_util::stream::pending::<AckRequest>());
        let path = "/watchmark.v1.WatchService/Ack".parse().unwrap();
        let codec = ProstCodec::<AckRequest, AckResponse>::default();
        client.client_streaming(nothing, path, codec).await
    });
    // It is on its way when another call of a later connection was answered.
    let mut other = WatchServiceClient::new(endpoint.connect().await.unwrap());
    let refused = soon("an answer", other.ack(AckRequest::default())).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let giving_up = async {
        while !asking.is_finished() {
            pass(Duration::from_secs(5)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for_real("an answer", giving_up).await;
    let status = asking.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TIMED_OUT");
}

/// Waits by the clock on the wall, whatever the test does to time.
async fn for_real(what: &str, future: impl Future<Output = ()>) {
    let began = std::time::Instant::now();
    let late = async {
        while began.elapsed() < fake::DEADLINE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = future => {}
        () = late => panic!("{what}: nothing within {:?}", fake::DEADLINE),
    }
}
