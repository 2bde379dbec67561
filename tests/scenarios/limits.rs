//! Past a limit: an error with the limit's name, and nobody else notices.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use tonic::{Code, Request, Status, transport::Channel};
use watchmark::proto::watchmark::v1::{
    AckRequest, Start, SubscribeRequest, watch_service_client::WatchServiceClient,
};

use crate::support::{
    Ended, Etcd, Scenario, Subscriber,
    client::{in_time, request},
    tls::{Authority, Secret},
    wait::{self, DEADLINE},
};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

/// It still receives and acknowledges.
async fn is_unharmed(scenario: &Scenario, subscriber: &mut Subscriber) {
    let revision = scenario.writer.put("a/1", "").await;
    assert!(!subscriber.events_until(revision).await.is_empty());
    assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
}

/// A connection from another loopback address.
async fn client_from(scenario: &Scenario, address: [u8; 4]) -> WatchServiceClient<Channel> {
    let endpoint = scenario.watchmark.endpoint();
    let endpoint = endpoint.local_address(Some(address.into()));
    WatchServiceClient::new(endpoint.connect().await.unwrap())
}

/// Waits until the other side closes it.
fn until_closed(stream: &mut TcpStream) -> Duration {
    let since = Instant::now();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut rest = [0; 1024];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return since.elapsed(),
            // What HTTP/2 says of itself.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return since.elapsed(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_told_so_and_takes_nobodys_place() {
    let flags = ["--max-connections=4", "--max-connections-per-peer=2"];
    let scenario = Scenario::start(&flags).await;
    let mut first = scenario.open(latest("first")).await.unwrap();
    let mut second = scenario.open(latest("second")).await.unwrap();

    let refused = (Code::ResourceExhausted, "TOO_MANY_CONNECTIONS");
    let told = |ended: &Ended, flag: &str, max: &str| {
        assert_eq!(ended.cause(), refused);
        assert_eq!(ended.metadata["flag"], flag);
        assert_eq!(ended.metadata["max_connections"], max);
        assert!(ended.retry_delay.is_some());
    };
    let third = scenario.open(latest("third")).await.err().unwrap();
    told(&third, "--max-connections-per-peer", "2");
    // From elsewhere there is room, until there is none at all.
    let mut others = Vec::new();
    for (client_id, from) in [("third", [127, 0, 0, 2]), ("fourth", [127, 0, 0, 3])] {
        let client = client_from(&scenario, from).await;
        let opened = Subscriber::open(client, &scenario.recorder, latest(client_id));
        others.push(opened.await.unwrap());
    }
    let client = client_from(&scenario, [127, 0, 0, 4]).await;
    let ended = Subscriber::open(client, &scenario.recorder, latest("fifth")).await;
    told(&ended.err().unwrap(), "--max-connections", "4");

    // A crowd: those that are too many even to be told are closed at once.
    let address = scenario.watchmark.address();
    let mut crowd: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    is_unharmed(&scenario, &mut first).await;
    let (crowd, waited) = tokio::task::spawn_blocking(move || {
        let waited: Vec<_> = crowd.iter_mut().map(until_closed).collect();
        (crowd, waited)
    })
    .await
    .unwrap();
    assert!(waited.iter().sum::<Duration>() < Duration::from_secs(30));
    drop(crowd);
    let log = scenario.watchmark.log();
    assert!(log.contains("too many connections"), "{log}");
    let lines = log.matches("too many connections").count();
    assert!(lines < 10, "{lines} lines for 100 connections");

    is_unharmed(&scenario, &mut second).await;
    drop(first);
    let again = wait::until("room again", async || {
        scenario.open(latest("first")).await.ok()
    })
    .await;
    drop((again, second, others));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_does_not_stay() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let address = scenario.watchmark.address();
    let silent = TcpStream::connect(&address).unwrap();
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let closed = [silent, slow].map(|mut stream| {
        tokio::task::spawn_blocking(move || {
            until_closed(&mut stream);
        })
    });
    for closed in closed {
        closed.await.unwrap();
    }
    // It has been here, and silent, for longer.
    is_unharmed(&scenario, &mut subscriber).await;
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_keep_nobody_out_and_are_given_up() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.server(), &authority.pem());
    let flags = secret.tls_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let tls = authority.client(None);
    let scenario = Scenario::start_tls(Etcd::single(&[]).await, &flags, Some(tls)).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let address = scenario.watchmark.address();
    let crowd: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    is_unharmed(&scenario, &mut subscriber).await;
    let mut late = scenario.open(latest("late")).await.unwrap();
    is_unharmed(&scenario, &mut late).await;
    wait::until("the handshakes to be given up", async || {
        let log = scenario.watchmark.log();
        log.contains("it took too long").then_some(())
    })
    .await;
    drop((subscriber, late, crowd));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_is_told_which_limit_and_harms_no_other() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    // On the very connection of the stream.
    let mut api = subscriber.acker().api;
    let refused = |status: Status, limit: &str, max: &str| {
        let ended = Ended::from(status);
        let cause = (Code::ResourceExhausted, "REQUEST_TOO_LARGE");
        assert_eq!(ended.cause(), cause, "{ended:?}");
        assert_eq!(ended.metadata["limit"], limit);
        assert_eq!(ended.metadata["max_bytes"], max);
    };
    let huge = AckRequest {
        client_id: "x".repeat(65 << 10),
        ..AckRequest::default()
    };
    let status = api.ack(huge).await.unwrap_err();
    refused(status, "message_bytes", "65536");
    let huge = request("app", &"x".repeat(1 << 20));
    let status = api.subscribe(huge).await.unwrap_err();
    refused(status, "message_bytes", "65536");

    let with_header = |bytes: usize| {
        let mut request = Request::new(AckRequest {
            client_id: "app".to_owned(),
            revision: 1,
            session_id: 0,
        });
        let value = "x".repeat(bytes).parse().unwrap();
        request.metadata_mut().insert("x-large", value);
        request
    };
    assert!(api.ack(with_header(8 << 10)).await.is_ok());
    let status = api.ack(with_header(20 << 10)).await.unwrap_err();
    refused(status, "header_bytes", "16384");
    // So large that it is not even read: that costs the connection.
    let mut other = scenario.watchmark.client().await;
    let answer = in_time("an error", other.ack(with_header(200 << 10)));
    assert!(answer.await.is_err());
    is_unharmed(&scenario, &mut subscriber).await;
    drop(subscriber);
    scenario.finish().await;
}
