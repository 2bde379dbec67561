//! What is in the log, and what never is.

use watchmark::proto::watchmark::v1::StreamState;

use crate::support::{Etcd, Scenario, Watchmark, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_and_no_value_at_debug_level_whatever_happens() {
    const SECRETS: [&str; 2] = ["zebra-key", "hyena-value"];
    let mut scenario = Scenario::start(&["--log=debug", "--log-format=json"]).await;
    // The range is what the operator gave; keys in it are not.
    let mut app = scenario.subscribe("app", "a/").await;
    app.until_state(StreamState::Live).await;
    for round in 0..3 {
        let revision = scenario.writer.put("a/zebra-key", "hyena-value").await;
        app.events_until(revision).await;
        app.ack(revision).await.unwrap();
        match round {
            0 => {
                scenario.etcd.kill(0);
                app.until_state(StreamState::UpstreamLost).await;
                scenario.etcd.restart(0).await;
            }
            1 => {
                scenario.watchmark.kill();
                app.end().await;
                scenario.watchmark.restart().await;
                app = scenario.subscribe("app", "a/").await;
            }
            _ => {
                drop(app);
                scenario.writer.put("a/zebra-key", "hyena-value").await;
                scenario.compact_to_head().await;
                app = scenario.subscribe("app", "a/").await;
                app.snapshot().await;
            }
        }
        app.until_state(StreamState::Live).await;
    }
    let log = scenario.watchmark.log();
    assert!(log.contains("opening a watch"), "at debug level");
    for secret in SECRETS {
        let escaped: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        for form in [secret.to_owned(), escaped.join(", ")] {
            let line = log.lines().find(|line| line.contains(&form));
            assert_eq!(line, None, "{form} is in the log");
        }
    }
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{error}: a line that is no JSON: {line}"));
        assert!(
            object["timestamp"].is_string() && object["level"].is_string(),
            "{line}"
        );
    }
    let of_app = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        object["span"]["client_id"] == "app" && object["span"]["name"] == "subscription"
    };
    assert!(log.lines().any(of_app), "the span says whose line it is");
    drop(app);
    scenario.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_away_costs_a_line_a_minute() {
    let mut etcd = Etcd::single(&[]).await;
    let watchmark = Watchmark::start(&etcd, &["--log=info", "--probe-interval=100ms"]).await;
    let lines = |of: &str| watchmark.log().lines().filter(|it| it.contains(of)).count();
    wait::until("ready", async || {
        (watchmark.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let before = watchmark.log().lines().count();
    etcd.kill(0);
    wait::until("the loss in the log", async || {
        (lines("etcd endpoint does not serve us") > 0).then_some(())
    })
    .await;
    // It is asked ten times a second from here on, and refuses.
    let probes = std::time::Instant::now();
    wait::until("some seconds without etcd", async || {
        (probes.elapsed().as_secs() >= 5).then_some(())
    })
    .await;
    assert_eq!(
        lines("etcd endpoint does not serve us"),
        1,
        "{}",
        watchmark.log()
    );
    etcd.restart(0).await;
    wait::until("its return in the log", async || {
        (lines("etcd endpoint is back") == 1).then_some(())
    })
    .await;
    let log = watchmark.log();
    let since: Vec<&str> = log.lines().skip(before).collect();
    assert!(since.len() <= 4, "{since:#?}");
}
