//! Users, tokens and permissions.

use std::{fs, process::Command, time::Duration};

use etcd_client::{Client, Permission, PermissionType, RoleRevokePermissionOptions};
use futures_util::{FutureExt, StreamExt, future::join_all};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use watchmark::{
    proto::PairOptions,
    resume::{GuardReading, RefusalKind},
    upstream::{Etcd, EtcdConfig, FailureKind, Upstream},
};

use super::{
    harness::{Item, ended, events, next, open, opened, prefix, refused, spec},
    server::Server,
};

const PASSWORD: &str = "not-in-any-log";

/// With a user `app` that may read `a/` and a user `root`.
async fn start(extra: &[&str]) -> (Server, EtcdConfig) {
    let server = Server::start(&[&["--bcrypt-cost=4"], extra].concat()).await;
    let mut client = server.client().await;
    client.role_add("app").await.unwrap();
    grant(&mut client).await;
    for (user, role, password) in [("root", "root", "root"), ("app", "app", PASSWORD)] {
        if user == "root" {
            client.role_add("root").await.unwrap();
        }
        client.user_add(user, password, None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    client.put("a/1", "1", None).await.unwrap();
    client.put("a/2", "2", None).await.unwrap();
    client.auth_enable().await.unwrap();
    let password_file = server.file("password");
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let config = EtcdConfig {
        user: Some("app".to_owned()),
        password_file: Some(password_file),
        ..server.config()
    };
    (server, config)
}

async fn root(server: &Server) -> Client {
    server.client_as("root", "root").await
}

async fn grant(client: &mut Client) {
    let permission = Permission::read("a/").with_prefix();
    client
        .role_grant_permission("app", permission)
        .await
        .unwrap();
}

async fn revoke(client: &mut Client) {
    let options = RoleRevokePermissionOptions::new().with_prefix();
    let revoked = client.role_revoke_permission("app", "a/", Some(options));
    revoked.await.unwrap();
}

/// How often etcd was asked to authenticate, by its own count.
async fn authentications(server: &Server) -> u64 {
    let address = server.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find(|line| {
        line.starts_with("grpc_server_started_total{") && line.contains("\"Authenticate\"")
    });
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.unwrap().parse::<f64>().unwrap() as u64
}

#[tokio::test]
async fn an_expired_token_is_renewed_without_losing_the_open_watch() {
    let ttl = Duration::from_secs(3);
    let (server, config) = start(&["--auth-token-ttl=3"]).await;
    let etcd = Etcd::connect(config).unwrap();
    let (mut old, _) = open(&etcd, spec("a/", 1)).await;
    // The token must expire, which etcd tells nobody.
    sleep(ttl * 3).await;
    let (mut new, opened) = open(&etcd, spec("a/", 3)).await;
    assert!(matches!(opened.guard, GuardReading::Present { .. }));
    let mut client = root(&server).await;
    let answer = client.put("a/3", "3", None).await.unwrap();
    let last = answer.header().unwrap().revision();
    assert_eq!(events(&mut new, 1).await.0, [(last, "a/3".into())]);
    assert_eq!(events(&mut old, 3).await.0[2], (last, "a/3".into()));
    sleep(ttl * 3).await;
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Head(_)
    ));
    sleep(ttl * 3).await;
    let mut snapshot = etcd.snapshot(prefix("a/"), PairOptions::default());
    assert!(matches!(next(&mut snapshot).await, Item::SnapshotBegun(_)));
}

#[tokio::test]
async fn many_watches_that_meet_an_expired_token_authenticate_once() {
    let (server, config) = start(&["--auth-token-ttl=3"]).await;
    let etcd = Etcd::connect(config).unwrap();
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Head(_)
    ));
    sleep(Duration::from_secs(9)).await;
    let before = authentications(&server).await;
    let watches: Vec<_> = (0..100).map(|_| etcd.watch(spec("a/", 1))).collect();
    join_all(watches.into_iter().map(async |mut watch| {
        opened(&mut watch).await;
    }))
    .await;
    assert_eq!(authentications(&server).await - before, 1);
}

#[tokio::test]
async fn a_changed_auth_store_renews_jwt_tokens() {
    let dir = TempDir::new().unwrap();
    let [private, public] = ["key.pem", "pub.pem"].map(|name| dir.path().join(name));
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).output().unwrap();
        assert!(output.status.success());
    };
    let [private, public] = [private.to_str().unwrap(), public.to_str().unwrap()];
    openssl(&["genrsa", "-out", private, "2048"]);
    openssl(&["rsa", "-in", private, "-pubout", "-out", public]);
    let token =
        format!("--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m");
    let (server, config) = start(&[&token]).await;
    let etcd = Etcd::connect(config).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", 3)).await;
    for role in ["other", "another"] {
        root(&server).await.role_add(role).await.unwrap();
        open(&etcd, spec("a/", 3)).await;
        assert!(matches!(
            next(&mut etcd.head(prefix("a/"))).await,
            Item::Head(_)
        ));
    }
    let mut client = root(&server).await;
    client.put("a/3", "3", None).await.unwrap();
    assert_eq!(events(&mut watch, 1).await.0.len(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_tried_in_a_loop() {
    let (server, config) = start(&[]).await;
    fs::write(config.password_file.as_ref().unwrap(), "wrong").unwrap();
    let before = authentications(&server).await;
    let etcd = Etcd::connect(config).unwrap();
    for _ in 0..200 {
        let refusal = refused(&etcd, spec("a/", 1)).await;
        assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
        let message = refusal.message;
        assert!(message.contains("--etcd-user") && message.contains("--etcd-password-file"));
        assert!(!message.contains("wrong"));
    }
    assert!(matches!(
        next(&mut etcd.head(prefix("a/"))).await,
        Item::Refused(_)
    ));
    let asked = authentications(&server).await - before;
    assert!((1..=3).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_wrong_password_stays_known_and_is_not_taken_for_being_served() {
    let (server, config) = start(&[]).await;
    fs::write(config.password_file.as_ref().unwrap(), "wrong").unwrap();
    let etcd = Etcd::connect(config).unwrap();
    let mut since = None;
    for _ in 0..20 {
        let answer = next(&mut etcd.head(prefix("a/"))).await;
        assert!(matches!(answer, Item::Refused(_)));
        assert!(!*etcd.reached().borrow());
        let failure = etcd.status().endpoints[0].failure.clone().unwrap();
        assert_eq!(failure.kind, FailureKind::Unauthenticated);
        assert_eq!(*since.get_or_insert(failure.since), failure.since);
    }
    drop(server);
}

#[tokio::test]
async fn a_changed_password_is_read_again() {
    let (server, config) = start(&[]).await;
    let etcd = Etcd::connect(config.clone()).unwrap();
    open(&etcd, spec("a/", 1)).await;
    // Takes away every token of this user.
    let mut root = root(&server).await;
    root.user_change_password("app", "changed").await.unwrap();
    fs::write(config.password_file.unwrap(), "changed").unwrap();
    open(&etcd, spec("a/", 1)).await;
}

#[tokio::test]
async fn a_range_that_may_not_be_read_is_refused() {
    let (server, config) = start(&[]).await;
    let etcd = Etcd::connect(config).unwrap();
    let before = authentications(&server).await;
    for _ in 0..20 {
        let refusal = refused(&etcd, spec("b/", 1)).await;
        assert_eq!(refusal.kind, RefusalKind::PermissionDenied);
        assert!(refusal.message.contains("app"));
    }
    // What may be read is not held up by it.
    open(&etcd, spec("a/", 1)).await;
    let asked = authentications(&server).await - before;
    assert!(asked <= 5, "{asked}");
}

#[tokio::test]
async fn without_a_user_etcd_refuses_and_the_message_says_what_to_set() {
    let (server, _) = start(&[]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let refusal = refused(&etcd, spec("a/", 1)).await;
    assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
    assert!(refusal.message.contains("--etcd-user"));
}

#[tokio::test]
async fn a_user_that_etcd_does_not_want_does_no_harm() {
    let server = Server::start(&[]).await;
    server.put(&[("a/1", "1")]).await;
    let password_file = server.file("password");
    fs::write(&password_file, "x").unwrap();
    let config = EtcdConfig {
        user: Some("app".to_owned()),
        password_file: Some(password_file),
        ..server.config()
    };
    let etcd = Etcd::connect(config).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    assert_eq!(events(&mut watch, 1).await.0.len(), 1);
}

#[tokio::test]
async fn a_revoked_role_ends_the_watch_and_a_grant_brings_it_back() {
    let (server, mut config) = start(&[]).await;
    config.probe_interval = Duration::from_millis(100);
    let etcd = Etcd::connect(config).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", 3)).await;
    let mut root = root(&server).await;
    revoke(&mut root).await;
    match next(&mut watch.events).await {
        Item::Refused(refusal) => assert_eq!(refusal.kind, RefusalKind::PermissionDenied),
        other => panic!("{other:?}"),
    }
    ended(&mut watch.events).await;
    grant(&mut root).await;
    open(&etcd, spec("a/", 3)).await;
}

#[tokio::test]
async fn what_waits_to_be_read_does_not_put_off_a_refusal() {
    let (server, mut config) = start(&[]).await;
    config.probe_interval = Duration::from_millis(100);
    let etcd = Etcd::connect(config).unwrap();
    let (mut unread, _) = open(&etcd, spec("a/", 3)).await;
    let (mut watch, _) = open(&etcd, spec("a/", 3)).await;
    assert!(unread.events.next().now_or_never().is_none());
    let mut root = root(&server).await;
    for _ in 0..10 {
        root.put("a/1", "", None).await.unwrap();
    }
    events(&mut watch, 10).await;
    revoke(&mut root).await;
    let heard = next(&mut watch.events).await;
    assert!(matches!(heard, Item::Refused(_)), "{heard:?}");
    let heard = next(&mut unread.events).await;
    assert!(matches!(heard, Item::Refused(_)), "{heard:?}");
}

#[tokio::test]
async fn a_permission_that_shrank_below_the_range_ends_the_watch() {
    let (server, mut config) = start(&[]).await;
    config.probe_interval = Duration::from_millis(100);
    let etcd = Etcd::connect(config).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", 3)).await;
    let mut root = root(&server).await;
    // The first key of the range may still be read.
    let first_key = Permission::new(PermissionType::Read, "a/");
    root.role_grant_permission("app", first_key).await.unwrap();
    revoke(&mut root).await;
    match next(&mut watch.events).await {
        Item::Refused(refusal) => assert_eq!(refusal.kind, RefusalKind::PermissionDenied),
        other => panic!("{other:?}"),
    }
}
