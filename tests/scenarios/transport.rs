//! TLS on our own port: who gets in, as whom, and what a renewed certificate
//! changes.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, transport::ClientTlsConfig};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use watchmark::proto::watchmark::v1::{
    AckRequest, Start, SubscribeRequest, watch_service_client::WatchServiceClient,
};

use crate::support::{
    Ended, Etcd, Scenario, Subscriber,
    client::{Acker, in_time, request},
    tls::{Authority, Pair, Secret},
    wait,
};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

async fn start(flags: &[String], tls: ClientTlsConfig) -> Scenario {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Scenario::start_tls(Etcd::single(&[]).await, &flags, Some(tls)).await
}

/// Subscribes as the one whom `tls` shows.
async fn open_as(
    scenario: &Scenario,
    tls: &ClientTlsConfig,
    request: SubscribeRequest,
) -> Result<Subscriber, Ended> {
    let channel = scenario.watchmark.tls_endpoint(tls).connect().await;
    let client = WatchServiceClient::new(channel.unwrap());
    Subscriber::open(client, &scenario.recorder, request).await
}

/// One call on a new connection.
async fn is_let_in(scenario: &Scenario, tls: &ClientTlsConfig) -> bool {
    let call = async {
        let channel = scenario.watchmark.tls_endpoint(tls).connect().await.ok()?;
        let service = String::new();
        let mut health = HealthClient::new(channel);
        health.check(HealthCheckRequest { service }).await.ok()
    };
    in_time("an answer or none", call).await.is_some()
}

async fn until_logged(scenario: &Scenario, what: &str) {
    wait::until(what, async || {
        scenario.watchmark.log().contains(what).then_some(())
    })
    .await;
}

async fn until_shown(scenario: &Scenario, authority: &Authority, client: &Pair, expected: &Pair) {
    let address = scenario.watchmark.address();
    wait::until("the new certificate", async || {
        let shown = in_time("a handshake", authority.shown_at(&address, Some(client))).await;
        (shown? == expected.der()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_on_every_tcp_port_and_a_socket_beside_it_stays_as_it_is() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.server(), &authority.pem());
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("watchmark.sock");
    let mut flags = secret.tls_flags();
    flags.push(format!("--listen=unix://{}", socket.display()));
    let scenario = start(&flags, authority.client(None)).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();

    let found = fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let local = tonic::transport::Endpoint::from_shared(format!("unix:{}", socket.display()));
    let local = local.unwrap().connect().await.unwrap();
    let local = WatchServiceClient::new(local);
    let local = Subscriber::open(local, &scenario.recorder, latest("local"));
    let mut local = local.await.unwrap();

    let plaintext = format!("http://{}", scenario.watchmark.address());
    let plaintext = tonic::transport::Endpoint::from_shared(plaintext).unwrap();
    let mut plaintext = HealthClient::new(plaintext.connect_lazy());
    let service = String::new();
    let refused = plaintext.check(HealthCheckRequest { service });
    assert!(in_time("an error", refused).await.is_err());
    until_logged(&scenario, "the client does not speak TLS").await;
    let stranger = Authority::new();
    assert!(!is_let_in(&scenario, &stranger.client(None)).await);
    until_logged(&scenario, "the client does not accept our certificate").await;

    let revision = scenario.writer.put("a/1", "").await;
    for subscriber in [&mut subscriber, &mut local] {
        assert_eq!(subscriber.events_until(revision).await.len(), 1);
        assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    }
    drop((subscriber, local));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_shows_a_valid_certificate_of_the_authority_gets_in() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.server(), &authority.pem());
    let good = authority.client(Some(&authority.issue("DNS:app")));
    let scenario = start(&secret.mtls_flags(), good.clone()).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();

    let stranger = Authority::new();
    for (pair, why) in [
        (None, "the client shows no certificate"),
        (
            Some(stranger.issue("DNS:app")),
            "signed by no authority in --tls-client-ca-file",
        ),
        (
            Some(authority.issue_expired("DNS:app")),
            "the client's certificate has expired",
        ),
    ] {
        let tls = authority.client(pair.as_ref());
        assert!(!is_let_in(&scenario, &tls).await, "{why}");
        until_logged(&scenario, why).await;
    }
    assert!(is_let_in(&scenario, &good).await);
    let revision = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(revision).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_for_new_connections_and_streams_go_on() {
    let authority = Authority::new();
    let [first, second, third] = [0; 3].map(|_| authority.server());
    let secret = Secret::new(&first, &authority.pem());
    let app = authority.issue("DNS:app");
    let scenario = start(&secret.mtls_flags(), authority.client(Some(&app))).await;
    until_shown(&scenario, &authority, &app, &first).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let mut revision = scenario.writer.put("a/1", "").await;
    subscriber.events_until(revision).await;

    secret.swap(&second, &authority.pem());
    until_shown(&scenario, &authority, &app, &second).await;
    assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    revision = scenario.writer.put("a/2", "").await;
    assert_eq!(subscriber.events_until(revision).await.len(), 1);

    // Another way: in place, one file after the other.
    secret.write("tls.crt", &third.cert);
    until_logged(&scenario, "cannot be used").await;
    until_shown(&scenario, &authority, &app, &second).await;
    secret.write("tls.key", &third.key);
    until_shown(&scenario, &authority, &app, &third).await;
    let log = scenario.watchmark.log();
    let problem = "--tls-key-file is not the key of the certificate in --tls-cert-file";
    assert_eq!(log.matches(problem).count(), 1, "{log}");
    assert_eq!(log.matches("TLS certificate replaced").count(), 2, "{log}");
    assert!(!log.contains("PRIVATE KEY"), "{log}");

    assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    revision = scenario.writer.put("a/3", "").await;
    assert_eq!(subscriber.events_until(revision).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_files_leave_the_certificate_in_use_and_are_told_once() {
    let authority = Authority::new();
    let first = authority.server();
    let secret = Secret::new(&first, &authority.pem());
    let app = authority.issue("DNS:app");
    let scenario = start(&secret.mtls_flags(), authority.client(Some(&app))).await;
    let garbage = Pair {
        cert: "no certificate".to_owned(),
        key: first.key.clone(),
    };
    secret.swap(&garbage, &authority.pem());
    until_logged(&scenario, "holds no certificate: there is none in PEM").await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    secret.swap(&first, "no authority");
    until_logged(&scenario, "--tls-client-ca-file").await;
    until_shown(&scenario, &authority, &app, &first).await;
    secret.swap(&first, &authority.pem());
    until_logged(&scenario, "again as they are in use").await;
    let expired = authority.issue_expired("DNS:watchmark.test");
    secret.swap(&expired, &authority.pem());
    until_logged(&scenario, "has expired: clients will refuse it").await;
    let log = scenario.watchmark.log();
    assert!(log.contains("2020-01-02T00:00:00Z"), "{log}");
    assert_eq!(log.matches("cannot be used").count(), 2, "{log}");

    let revision = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(revision).await.len(), 1);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_an_authority_that_is_no_longer_trusted_keeps_its_streams_only() {
    let authority = Authority::new();
    let other = Authority::new();
    let server = authority.server();
    let secret = Secret::new(&server, &authority.pem());
    let old = authority.client(Some(&authority.issue("DNS:old")));
    let new = authority.client(Some(&other.issue("DNS:new")));
    let scenario = start(&secret.mtls_flags(), old.clone()).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    assert!(!is_let_in(&scenario, &new).await);

    secret.swap(&server, &other.pem());
    wait::until("the new authority", async || {
        is_let_in(&scenario, &new).await.then_some(())
    })
    .await;
    assert!(!is_let_in(&scenario, &old).await);
    let revision = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(revision).await.len(), 1);
    assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    drop(subscriber);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_application_cannot_read_acknowledge_or_take_over_anothers() {
    let orders = "spiffe://prod/ns/shop/sa/orders";
    let authority = Authority::new();
    let secret = Secret::new(&authority.server(), &authority.pem());
    let mut flags = secret.mtls_flags();
    flags.push("--client-id-from-cert".to_owned());
    let tls = |names: &str| authority.client(Some(&authority.issue(names)));
    let owner = tls(&format!("URI:{orders}"));
    let scenario = start(&flags, owner.clone()).await;
    let mut subscriber = scenario.open(latest(orders)).await.unwrap();
    let mut second = scenario.open(latest(&format!("{orders}:blue"))).await;
    let second = second.as_mut().unwrap();
    let revision = scenario.writer.put("a/1", "").await;
    subscriber.events_until(revision).await;

    let refused = (Code::PermissionDenied, "CLIENT_ID_NOT_ALLOWED");
    for (names, told) in [
        ("URI:spiffe://prod/ns/shop/sa/billing", "sa/billing"),
        (
            "URI:spiffe://prod/ns/shop,DNS:spiffe",
            "spiffe://prod/ns/shop and spiffe",
        ),
        ("IP:127.0.0.1", "subject alternative names"),
        ("", "subject alternative names"),
    ] {
        let other = tls(names);
        for client_id in [orders.to_owned(), format!("{orders}:blue")] {
            let ended = open_as(&scenario, &other, latest(&client_id)).await;
            let ended = ended.err().unwrap();
            assert_eq!(ended.cause(), refused, "{names}");
            assert!(ended.message.contains(told), "{}", ended.message);
        }
        let channel = scenario.watchmark.tls_endpoint(&other).connect().await;
        let acker = Acker {
            api: WatchServiceClient::new(channel.unwrap()),
            ..subscriber.acker()
        };
        let ended = acker.ack(revision).await.unwrap_err();
        assert_eq!(ended.cause(), refused, "{names}");
        // It does not even hear whether there is such a subscription.
        let mut api = acker.api.clone();
        let unknown = AckRequest {
            client_id: "nobody".to_owned(),
            revision,
            session_id: 0,
        };
        let ended = Ended::from(api.ack(unknown).await.unwrap_err());
        assert_eq!(ended.cause(), refused, "{names}");
    }
    // None of it changed anything, and a name of one's own is free.
    let dns = tls("DNS:billing.shop.svc");
    let mut billing = open_as(&scenario, &dns, latest("billing.shop.svc:eu")).await;
    let billing = billing.as_mut().unwrap();
    assert_eq!(
        subscriber.ack(1).await.unwrap(),
        subscriber.opened().checkpoint
    );
    assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    let revision = scenario.writer.put("a/2", "").await;
    for subscriber in [&mut subscriber, second, billing] {
        subscriber.events_until(revision).await;
        assert_eq!(subscriber.ack(revision).await.unwrap(), revision);
    }
    // The owner itself takes over, from any connection.
    let newer = open_as(&scenario, &owner, latest(orders)).await.unwrap();
    let superseded = (Code::Aborted, "SESSION_SUPERSEDED");
    assert_eq!(subscriber.end().await.cause(), superseded);
    drop((subscriber, newer));
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrower_allow_prefix_bounds_what_is_stored_already() {
    let mut scenario = Scenario::start(&["--default-prefix=a/"]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let revision = scenario.writer.put("a/1", "").await;
    subscriber.events_until(revision).await;
    subscriber.ack(revision).await.unwrap();
    drop(subscriber);

    scenario.watchmark.kill();
    scenario.watchmark.drop_flag("--default-prefix");
    scenario.watchmark.use_flag("--allow-prefix=b/");
    scenario.watchmark.restart().await;
    let bare = SubscribeRequest {
        client_id: "app".to_owned(),
        ..SubscribeRequest::default()
    };
    let filtered = SubscribeRequest {
        no_delete: true,
        ..bare.clone()
    };
    for request in [bare.clone(), filtered, latest("app"), request("new", "a/")] {
        let ended = scenario.open(request).await.err().unwrap();
        let refused = (Code::PermissionDenied, "RANGE_NOT_ALLOWED");
        assert_eq!(ended.cause(), refused);
    }
    // What is stored is untouched by that.
    scenario.watchmark.kill();
    scenario.watchmark.use_flag("--allow-prefix=a/");
    scenario.watchmark.restart().await;
    let again = scenario.open(bare).await.unwrap();
    assert_eq!(again.opened().checkpoint, revision);
    drop(again);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_expired_is_named_with_its_date() {
    let authority = Authority::new();
    let expired = authority.issue_expired("DNS:watchmark.test");
    let secret = Secret::new(&expired, &authority.pem());
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("watchmark.sock");
    let mut scenario = Scenario::start(&[]).await;
    scenario.watchmark.kill();
    for flag in secret.tls_flags() {
        scenario.watchmark.use_flag(&flag);
    }
    let listen = format!("--listen=unix://{}", socket.display());
    scenario.watchmark.use_flag(&listen);
    scenario.watchmark.launch();
    let warning = "the certificate of --tls-cert-file has expired: clients will refuse it";
    until_logged(&scenario, warning).await;
    let log = scenario.watchmark.log();
    assert!(log.contains("not_after=2020-01-02T00:00:00Z"), "{log}");
    assert!(!is_let_in(&scenario, &authority.client(None)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_during_a_handshake_keeps_nobody_else_out() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.server(), &authority.pem());
    let tls = authority.client(None);
    let scenario = start(&secret.tls_flags(), tls.clone()).await;
    let address = scenario.watchmark.address();
    let crowd: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    // Sooner than the first of these is given up.
    let let_in = timeout(Duration::from_secs(6), is_let_in(&scenario, &tls)).await;
    assert_eq!(let_in, Ok(true));
    drop(crowd);
}
