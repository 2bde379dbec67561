//! The admin port: probes, the log's filter, gRPC, and who may do what.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use watchmark::proto::watchmark::v1::{
    DeleteSubscriptionRequest, ListSubscriptionsRequest, StreamState,
    admin_service_client::AdminServiceClient, watch_service_client::WatchServiceClient,
};

use crate::support::{
    Scenario, Watchmark,
    admin::{ask, send},
    client::request,
    wait,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_is_served_beside_http_but_not_to_subscribers() {
    let scenario = Scenario::start(&[]).await;
    let _app = scenario.subscribe("app", "a/").await;
    let url = format!("http://{}", scenario.watchmark.admin_address());
    let endpoint = Endpoint::from_shared(url.clone()).unwrap();
    let mut health = HealthClient::new(endpoint.connect_lazy());
    for service in ["", "watchmark.v1.WatchService"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let mut admin = AdminServiceClient::connect(url.clone()).await.unwrap();
    let list = admin.list_subscriptions(ListSubscriptionsRequest::default());
    assert_eq!(list.await.unwrap().into_inner().subscriptions.len(), 1);
    let mut watch = WatchServiceClient::connect(url).await.unwrap();
    let refused = watch.subscribe(request("app", "a/")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_filter_changes_while_it_runs() {
    let scenario = Scenario::start(&["--log=info"]).await;
    let admin = scenario.watchmark.admin_address();
    let put = async |filter: &str| send(&admin, "PUT", "/log", &[], filter).await;
    let line = "opening a watch";
    let mut quiet = scenario.subscribe("quiet", "a/").await;
    quiet.until_state(StreamState::Live).await;
    assert!(!scenario.watchmark.log().contains(line));

    let changed = put("watchmark=debug\n").await;
    assert_eq!(
        (changed.status, changed.body.as_str()),
        (200, "watchmark=debug\n")
    );
    assert_eq!(
        scenario.watchmark.get("/log").await.body,
        "watchmark=debug\n"
    );
    let mut loud = scenario.subscribe("loud", "a/").await;
    loud.until_state(StreamState::Live).await;
    wait::until("a line of the new level", async || {
        scenario.watchmark.log().contains(line).then_some(())
    })
    .await;

    for bad in [
        "",
        "loud",
        "watchmark=loud",
        "watchmark=",
        "=debug",
        "info,,",
        "\u{fffd}",
    ] {
        let refused = put(bad).await;
        assert_eq!(refused.status, 400, "{bad:?}: {}", refused.body);
        assert!(!refused.body.is_empty());
    }
    let long = format!("info,{}", "a=info,".repeat(1000));
    assert_eq!(put(&long).await.status, 413);
    assert_eq!(
        scenario.watchmark.get("/log").await.body,
        "watchmark=debug\n"
    );
    assert_eq!(send(&admin, "POST", "/log", &[], "info").await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_changes_and_reads_nothing() {
    let scenario = Scenario::start(&["--log=info"]).await;
    let admin = scenario.watchmark.admin_address();
    for headers in [
        &["Host: evil.example:7380"][..],
        &["Origin: http://evil.example"],
        &["Origin: null"],
        &["Sec-Fetch-Site: cross-site"],
    ] {
        let refused = send(&admin, "PUT", "/log", headers, "trace").await;
        assert_eq!(refused.status, 403, "{headers:?}");
    }
    for path in ["/", "/status.json", "/metrics"] {
        let rebound = ask(&admin, "GET", path, &["Host: evil.example:7380"]).await;
        assert_eq!(rebound.status, 403, "{path}, on loopback, by a name");
    }
    assert_eq!(scenario.watchmark.get("/log").await.body, "info\n");
    let page = scenario.watchmark.get("/").await;
    assert!(
        page.headers
            .contains("content-security-policy: default-src 'none'")
    );
    assert!(!page.headers.contains("access-control-allow"));
}

/// An address of this host that is not loopback, if there is one.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().unwrap().ip();
    (!ip.is_loopback()).then(|| ip.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_look_and_change_nothing() {
    let Some(ip) = own_address() else {
        println!("skipped: this host has no other address than loopback");
        return;
    };
    let scenario = Scenario::start(&["--admin-listen=0.0.0.0:0"]).await;
    let _app = scenario.subscribe("app", "a/").await;
    let port = wait::until("the admin port", async || {
        let log = scenario.watchmark.log();
        let (_, rest) = log.split_once("serving operators address=0.0.0.0:")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(port)
    })
    .await;
    let from_afar = format!("{ip}:{port}");
    for path in ["/", "/status.json", "/metrics", "/livez", "/readyz", "/log"] {
        let answer = ask(&from_afar, "GET", path, &["Host: watchmark.example"]).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let refused = send(&from_afar, "PUT", "/log", &[], "trace").await;
    assert_eq!(refused.status, 403);
    let mut admin = AdminServiceClient::connect(format!("http://{from_afar}"))
        .await
        .unwrap();
    let list = admin.list_subscriptions(ListSubscriptionsRequest::default());
    assert_eq!(list.await.unwrap().into_inner().subscriptions.len(), 1);
    let client_id = "app".to_owned();
    let delete = DeleteSubscriptionRequest { client_id };
    let refused = admin.delete_subscription(delete.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // The same port, from this host.
    let here = format!("http://127.0.0.1:{port}");
    let mut admin = AdminServiceClient::connect(here).await.unwrap();
    admin.delete_subscription(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_connects_and_dawdles_keeps_nobody_out() {
    /// Above the limit of connections.
    const DAWDLERS: usize = 300;
    let nobody = ["http://127.0.0.1:1".to_owned()];
    let watchmark = Watchmark::start_on(&nobody, &[]).await;
    let admin = watchmark.admin_address();
    let mut dawdlers = Vec::new();
    for _ in 0..DAWDLERS {
        let mut stream = TcpStream::connect(&admin).await.unwrap();
        // Half a request; and what is asked for is never read.
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .unwrap();
        dawdlers.push(stream);
    }
    assert_eq!(watchmark.get("/livez").await.status, 200);
    // The oldest had to go.
    let mut byte = [0];
    let first = timeout(Duration::from_secs(20), dawdlers[0].read(&mut byte)).await;
    assert!(matches!(first, Ok(Ok(0) | Err(_))), "{first:?}");
    // And the last one does not stay for ever.
    let last = timeout(
        Duration::from_secs(60),
        dawdlers[DAWDLERS - 1].read(&mut byte),
    )
    .await;
    assert!(last.is_ok(), "half a request is waited for without end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_ends_with_the_drain_and_not_with_etcd() {
    let mut scenario = Scenario::start(&["--drain-timeout=20s"]).await;
    let mut app = scenario.subscribe("app", "a/").await;
    app.until_state(StreamState::Live).await;
    let revision = scenario.writer.put("a/1", "").await;
    app.events_until(revision).await;
    let readyz = async |watchmark: &Watchmark| watchmark.get("/readyz").await;
    assert_eq!(readyz(&scenario.watchmark).await.status, 200);
    scenario.etcd.kill(0);
    app.until_state(StreamState::UpstreamLost).await;
    assert_eq!(readyz(&scenario.watchmark).await.status, 200);
    // An unacknowledged event keeps the drain going.
    scenario.watchmark.terminate();
    wait::until("readiness to end", async || {
        let answer = readyz(&scenario.watchmark).await;
        (answer.status == 503 && answer.body.contains("[-] serving: stopping")).then_some(())
    })
    .await;
    assert_eq!(scenario.watchmark.get("/livez").await.status, 200);
    app.end().await;
    app.ack(revision).await.unwrap();
    drop(app);
    assert_eq!(scenario.watchmark.exit_code(wait::DEADLINE).await, Some(0));
}
