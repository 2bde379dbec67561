//! etcd dies, hangs, comes back, or was never there.

use std::time::Duration;

use tokio::{net::TcpListener, time::Instant};
use watchmark::{
    proto::PairOptions,
    resume::GuardReading,
    upstream::{Etcd, EtcdConfig, Upstream},
};

use super::{
    harness::{Item, ended, events, next, open, prefix, revision, spec},
    server::{Server, free_ports, until},
};

#[tokio::test]
async fn a_restart_of_etcd_loses_the_watch_and_the_next_goes_on() {
    let mut server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last)).await;
    let mut head = etcd.head(prefix("a/"));
    assert!(matches!(next(&mut head).await, Item::Head(_)));
    server.kill();
    assert!(matches!(next(&mut watch.events).await, Item::Lost));
    ended(&mut watch.events).await;
    // While etcd is away every attempt ends, and soon.
    let mut away = etcd.watch(spec("a/", last));
    assert!(matches!(next(&mut away.events).await, Item::Lost));
    let mut away = etcd.snapshot(prefix("a/"), PairOptions::default());
    assert!(matches!(next(&mut away).await, Item::Lost));
    server.restart();
    let mut watch = until("etcd to be back", async || {
        let mut watch = etcd.watch(spec("a/", last));
        let opened = matches!(next(&mut watch.events).await, Item::WatchOpened(_));
        opened.then_some(watch)
    })
    .await;
    let last = server.put(&[("a/2", "2")]).await;
    assert_eq!(events(&mut watch, 1).await.0, [(last, "a/2".into())]);
}

#[tokio::test]
async fn reads_survive_a_restart_that_nobody_saw() {
    let mut server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Head(_)
    ));
    server.restart();
    server.client_ready().await;
    // The connection is broken, which only its next use shows.
    match next(&mut etcd.head(prefix("a/"))).await {
        Item::Head(header) => assert_eq!(header.revision, revision(last)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keep_alive_notices_a_hung_etcd() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last)).await;
    server.pause();
    let paused = Instant::now();
    assert!(matches!(next(&mut watch.events).await, Item::Lost));
    let noticed = paused.elapsed();
    assert!(noticed < Duration::from_secs(20), "{noticed:?}");
    server.resume();
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_passed_over() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let dead = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
    let config = EtcdConfig {
        endpoints: [&dead[..], &[server.endpoint()]].concat(),
        ..server.config()
    };
    for _ in 0..4 {
        // Each begins with another endpoint.
        let etcd = Etcd::connect(config.clone()).unwrap();
        let (mut watch, opened) = open(&etcd, spec("a/", last - 1)).await;
        assert!(matches!(opened.guard, GuardReading::Present { .. }) || last == 2);
        assert_eq!(events(&mut watch, 1).await.0, [(last, "a/1".into())]);
        assert!(matches!(
            next(&mut etcd.head(prefix("a/"))).await,
            Item::Head(_)
        ));
        let mut snapshot = etcd.snapshot(prefix("a/"), PairOptions::default());
        assert!(matches!(next(&mut snapshot).await, Item::SnapshotBegun(_)));
    }
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_says_nothing_is_given_up_in_time() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = format!("http://{}", mute.local_addr().unwrap());
    let config = EtcdConfig {
        endpoints: vec![mute, server.endpoint()],
        ..server.config()
    };
    for _ in 0..2 {
        let etcd = Etcd::connect(config.clone()).unwrap();
        let started = Instant::now();
        let (_watch, _) = open(&etcd, spec("a/", last)).await;
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test]
async fn etcd_may_come_after_the_sidecar() {
    let [port, _] = free_ports();
    let config = EtcdConfig {
        endpoints: vec![format!("127.0.0.1:{port}")],
        ..EtcdConfig::default()
    };
    let etcd = Etcd::connect(config).unwrap();
    let mut head = etcd.head(prefix("a/"));
    assert!(matches!(next(&mut head).await, Item::Lost));
    ended(&mut head).await;
}

#[tokio::test]
async fn watches_that_nobody_reads_stop_no_other() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(open(&etcd, spec("a/", last)).await);
    }
    let (mut read, _) = open(&etcd, spec("a/", last)).await;
    let value = "v".repeat(100 << 10);
    for _ in 0..60 {
        server.put(&[("a/1", &value)]).await;
        assert_eq!(events(&mut read, 1).await.0.len(), 1);
    }
    drop(unread);
}

#[tokio::test]
async fn more_than_a_hundred_watches_use_another_connection() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut watches = Vec::new();
    for _ in 0..230 {
        watches.push(open(&etcd, spec("a/", last)).await.0);
    }
    server.put(&[("a/2", "2")]).await;
    for watch in &mut watches {
        assert_eq!(events(watch, 1).await.0.len(), 1);
    }
}
