//! As the person on call would break it: each is named on the page, by `ls`,
//! in a metric and in the log, with what to do.

use std::{fs, path::Path, process::Command};

use etcd_client::PermissionType;
use tempfile::TempDir;
use watchmark::proto::watchmark::v1::StreamState;

use super::metrics::scrape;
use crate::support::{
    Etcd, Scenario, Watchmark,
    client::{Subscriber, request},
    history::Recorder,
    host::Host,
    process::Process,
    tls::Authority,
    wait,
};

/// Waits until `reason` is on the page, then finds it everywhere else.
/// Returns what is told of it.
async fn named_everywhere(watchmark: &Watchmark, reason: &str, in_log: &str) -> String {
    let what = format!("{reason} on the status page");
    let message = wait::until(&what, async || {
        let problems = watchmark.problems().await.into_iter();
        let mut message = problems.filter(|(it, _)| it == reason).map(|(_, it)| it);
        message.next()
    })
    .await;
    let metric = format!("watchmark_problem{{reason={reason}}}");
    wait::until("the metric", async || {
        let families = scrape(watchmark).await;
        (families["watchmark_problem"].samples.get(&metric) == Some(&1.0)).then_some(())
    })
    .await;
    let ls = ls(watchmark);
    assert!(ls.contains(reason), "{reason} is not told by ls: {ls}");
    let what = format!("{in_log:?} in the log");
    wait::until(&what, async || {
        watchmark.log().contains(in_log).then_some(())
    })
    .await;
    message
}

fn ls(watchmark: &Watchmark) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_watchmark"))
        .args(["ls", "--address", &watchmark.admin_address()])
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert!(output.status.success(), "{err}");
    out + &err
}

async fn until_gone(watchmark: &Watchmark, reason: &str) {
    wait::until("the problem to be over", async || {
        let problems = watchmark.problems().await;
        problems.iter().all(|(it, _)| it != reason).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_of_etcd_and_then_the_right_one() {
    let nobody = Host::claim();
    let mut watchmark = Watchmark::start_on(&[nobody.url(2379)], &[]).await;
    let in_log = "etcd endpoint does not serve us";
    let told = named_everywhere(&watchmark, "ETCD_UNREACHABLE", in_log).await;
    assert!(
        told.contains(&nobody.url(2379)) && told.contains("refused"),
        "{told}"
    );
    let readyz = watchmark.get("/readyz").await;
    assert_eq!(readyz.status, 503);
    assert!(
        readyz.body.contains("[-] etcd: not reached"),
        "{}",
        readyz.body
    );
    assert!(readyz.body.contains("[+] store"), "{}", readyz.body);
    assert_eq!(
        watchmark.get("/livez").await.status,
        200,
        "live without etcd"
    );

    let etcd = Etcd::single(&[]).await;
    watchmark.terminate();
    let code = watchmark.exit_code(wait::DEADLINE).await;
    assert_eq!(code, Some(0));
    // One that does not answer is a problem of its own beside one that does.
    watchmark.use_endpoints(&[etcd.endpoint(0), nobody.url(2379)]);
    watchmark.restart().await;
    named_everywhere(&watchmark, "ETCD_ENDPOINT_UNREACHABLE", in_log).await;
    until_gone(&watchmark, "ETCD_UNREACHABLE").await;
    wait::until("ready", async || {
        (watchmark.get("/readyz").await.status == 200).then_some(())
    })
    .await;
}

async fn with_users(etcd: &Etcd) {
    let mut client = etcd.client().await;
    for (user, role) in [("root", "root"), ("app", "app")] {
        client.role_add(role).await.unwrap();
        client.user_add(user, "correct-horse", None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let options = etcd_client::Permission::new(PermissionType::Read, "a/").with_prefix();
    client.role_grant_permission("app", options).await.unwrap();
    client.auth_enable().await.unwrap();
}

fn password_flags(dir: &Path, password: &str) -> [String; 2] {
    let file = dir.join("password");
    fs::write(&file, password).unwrap();
    [
        "--etcd-user=app".to_owned(),
        format!("--etcd-password-file={}", file.display()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_then_the_right_one_and_a_range_it_may_not_read() {
    let etcd = Etcd::single(&[]).await;
    with_users(&etcd).await;
    let dir = TempDir::new().unwrap();
    let flags = password_flags(dir.path(), "battery-staple");
    let flags = [&*flags[0], &*flags[1], "--probe-interval=500ms"];
    let watchmark = Watchmark::start(&etcd, &flags).await;
    let in_log = "cannot authenticate to etcd";
    let told = named_everywhere(&watchmark, "ETCD_UNAUTHENTICATED", in_log).await;
    assert!(told.contains("--etcd-password-file"), "{told}");
    assert_eq!(watchmark.get("/readyz").await.status, 503);

    // Read again at the next attempt.
    password_flags(dir.path(), "correct-horse");
    until_gone(&watchmark, "ETCD_UNAUTHENTICATED").await;

    let recorder = Recorder::default();
    let subscribe = async |prefix: &str| {
        let client = watchmark.client().await;
        Subscriber::open(client, &recorder, request(prefix, prefix)).await
    };
    let mut allowed = subscribe("a/").await.unwrap();
    allowed.until_state(StreamState::Live).await;
    let denied = subscribe("b/").await;
    let cause = match denied {
        Ok(mut denied) => denied.end().await,
        Err(denied) => denied,
    };
    assert_eq!(cause.cause().1, "ETCD_PERMISSION_DENIED");
    let told = named_everywhere(
        &watchmark,
        "ETCD_PERMISSION_DENIED",
        "may not read this range",
    )
    .await;
    assert!(told.contains("grant"), "{told}");
    let log = watchmark.log();
    for secret in ["battery-staple", "correct-horse"] {
        assert!(!log.contains(secret), "a password is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_user_where_etcd_wants_one() {
    let etcd = Etcd::single(&[]).await;
    with_users(&etcd).await;
    let watchmark = Watchmark::start(&etcd, &[]).await;
    let in_log = "etcd endpoint does not serve us";
    let told = named_everywhere(&watchmark, "ETCD_UNAUTHENTICATED", in_log).await;
    assert!(told.contains("--etcd-user"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_whose_certificate_has_expired() {
    let authority = Authority::new();
    let host = Host::claim();
    let ip = host.address(0).replace(":0", "");
    let pair = authority.issue_expired(&format!("IP:{ip}"));
    let dir = TempDir::new().unwrap();
    let path = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let address = host.address(2379);
    let cert = path("cert.pem", &pair.cert);
    let key = path("key.pem", &pair.key);
    let args = [
        "s_server", "-accept", &address, "-cert", &cert, "-key", &key, "-www",
    ];
    let args = args.map(str::to_owned);
    let log = dir.path().join("s_server.log");
    let _server = Process::start("openssl", Path::new("openssl"), &args, &log);
    let ca = format!("--etcd-ca-file={}", path("ca.pem", &authority.pem()));
    let endpoint = format!("https://{address}");
    let watchmark = Watchmark::start_on(&[endpoint], &[&ca]).await;
    let told = named_everywhere(&watchmark, "ETCD_TLS", "xpired").await;
    assert!(told.contains("xpired"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_ours_that_has_expired() {
    let authority = Authority::new();
    let pair = authority.issue_expired("DNS:watchmark.test");
    let secret = crate::support::tls::Secret::new(&pair, &authority.pem());
    let flags = secret.tls_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let etcd = Etcd::single(&[]).await;
    let mut args = Watchmark::unstarted(&etcd.endpoints(), &flags);
    args.launch();
    let told = named_everywhere(&args, "CERTIFICATE_EXPIRED", "--tls-cert-file").await;
    assert!(told.contains("--tls-cert-file"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_in_use() {
    let etcd = Etcd::single(&[]).await;
    let first = Watchmark::start(&etcd, &[]).await;
    let same = format!("--data-dir={}", first.data_dir().display());
    let mut second = Watchmark::unstarted(&etcd.endpoints(), &[&same]);
    second.launch();
    assert_eq!(second.exit_code(wait::DEADLINE).await, Some(3));
    let log = second.log();
    assert!(log.contains("in use by another process"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_is_taken() {
    let scenario = Scenario::start(&["--max-subscriptions=1"]).await;
    let _one = scenario.subscribe("one", "a/").await;
    let told = named_everywhere(&scenario.watchmark, "TOO_MANY_SUBSCRIPTIONS", "subscribed").await;
    assert!(told.contains("--max-subscriptions"), "{told}");
}
