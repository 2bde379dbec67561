//! Every documented metric exists, is parsed by Prometheus' own parser, and
//! moves when what it is about happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;
use tonic::Code;
use watchmark::{
    metrics::{CATALOG, Definition, Kind},
    proto::watchmark::v1::{
        DeleteSubscriptionRequest, StreamState, admin_service_client::AdminServiceClient,
    },
};

use crate::support::{
    Scenario, Watchmark,
    tls::{Authority, Secret},
    wait,
};

/// By the name of the family, as the parser has it.
pub(crate) type Families = BTreeMap<String, Family>;

#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) kind: String,
    unit: String,
    help: String,
    /// Name with labels, as in a query.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// Prometheus' parser is Python's; Debian has both.
const PYTHON: &str = "/usr/bin/python3";
const PARSER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/operate/parse_metrics.py"
);

fn parse(text: &str) -> Families {
    let mut python = Command::new(PYTHON)
        .arg(PARSER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{PYTHON}: {error} (make deps-test)"));
    let mut stdin = python.stdin.take().unwrap();
    let input = text.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(
        output.status.success(),
        "not OpenMetrics, or no python3-prometheus-client (make deps-test):\n{text}"
    );
    let families: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    families
        .into_iter()
        .map(|(name, family)| (name, Family::from(&family)))
        .collect()
}

impl From<&Value> for Family {
    fn from(family: &Value) -> Self {
        let text = |key: &str| family[key].as_str().unwrap().to_owned();
        let samples = family["samples"].as_array().unwrap().iter();
        let samples = samples.map(|sample| {
            let labels = sample[1].as_object().unwrap().iter();
            let mut labels: Vec<String> = labels
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
                .collect();
            labels.sort();
            let name = sample[0].as_str().unwrap();
            let name = if labels.is_empty() {
                name.to_owned()
            } else {
                format!("{name}{{{}}}", labels.join(","))
            };
            (name, sample[2].as_f64().unwrap())
        });
        Self {
            kind: text("type"),
            unit: text("unit"),
            help: text("help"),
            samples: samples.collect(),
        }
    }
}

pub(crate) async fn scrape(watchmark: &Watchmark) -> Families {
    let answer = watchmark.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains("application/openmetrics-text"));
    parse(&answer.body)
}

/// The family of a metric: its name without what marks its samples.
fn family_of(definition: &Definition) -> String {
    let name = definition.full_name();
    match definition.kind() {
        Kind::Counter => name.trim_end_matches("_total").to_owned(),
        Kind::Info => name.trim_end_matches("_info").to_owned(),
        Kind::Gauge | Kind::Histogram => name,
    }
}

fn value(families: &Families, sample: &str) -> f64 {
    let found = families.values().find_map(|it| it.samples.get(sample));
    *found.unwrap_or_else(|| panic!("no {sample} in {families:#?}"))
}

/// Scrapes, kept to be compared.
struct Watching<'a> {
    scenario: &'a Scenario,
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Watching<'_> {
    async fn look(&mut self) -> Families {
        let families = scrape(&self.scenario.watchmark).await;
        for (name, family) in &families {
            let picture = format!("{:?}", family.samples);
            self.seen.entry(name.clone()).or_default().insert(picture);
        }
        families
    }

    async fn until(&mut self, sample: &str, holds: impl Fn(f64) -> bool) -> Families {
        let what = format!("another value of {sample}");
        let looking = tokio::sync::Mutex::new(self);
        wait::until(&what, async || {
            let families = looking.lock().await.look().await;
            let value = families.values().find_map(|it| it.samples.get(sample));
            value.is_some_and(|value| holds(*value)).then_some(families)
        })
        .await
    }
}

/// These do not move here: constants, and what another test moves.
const STILL: &[(&str, &str)] = &[
    (
        "watchmark_ready",
        "a_full_disk_refuses_acks_goes_on_delivering_and_heals",
    ),
    (
        "watchmark_store_ready",
        "a_full_disk_refuses_acks_goes_on_delivering_and_heals",
    ),
    (
        "watchmark_certificate_expiry_timestamp_seconds",
        "the_certificate_in_use_tells_when_it_expires",
    ),
    (
        "watchmark_upstream_stalls",
        "a_stalled_watch_is_counted (tests/counted.rs)",
    ),
    ("watchmark_subscriptions_max", "a constant"),
    ("watchmark_etcd_endpoint", "a constant"),
    ("watchmark_build", "a constant"),
    ("process_max_fds", "a constant"),
    ("process_start_time_seconds", "a constant"),
    ("process_threads", "may stay the same"),
    ("process_virtual_memory_bytes", "may stay the same"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_metric_exists_and_moves() {
    let mut scenario = Scenario::start(&[
        "--probe-interval=200ms",
        "--progress-interval=300ms",
        "--idle-after=1s",
        "--idle-lag=500ms",
    ])
    .await;
    let mut watching = Watching {
        scenario: &scenario,
        seen: BTreeMap::new(),
    };
    watching.look().await;

    // A stream, an event, acks of every kind.
    let mut app = scenario.subscribe("app", "a/").await;
    app.until_state(StreamState::Live).await;
    watching.look().await;
    let first = scenario.writer.put("a/1", "first").await;
    let second = scenario.writer.put("a/2", "second").await;
    app.events_until(second).await;
    assert_eq!(app.ack(first).await.unwrap(), first);
    let beyond = app.ack(second + 1000).await.unwrap_err();
    assert_eq!(beyond.cause().0, Code::OutOfRange);
    let unacked = "watchmark_subscription_unacked_events{client_id=app}";
    let families = watching.until(unacked, |unacked| unacked == 1.0).await;
    let app_is = |name: &str| value(&families, &format!("{name}{{client_id=app}}"));
    assert_eq!(
        app_is("watchmark_subscription_checkpoint_revision"),
        first as f64
    );
    assert_eq!(
        app_is("watchmark_subscription_delivered_revision"),
        second as f64
    );
    assert!(app_is("watchmark_subscription_lag_revisions") >= 1.0);
    assert!(app_is("watchmark_subscription_lag_seconds") > 0.0);
    assert!(app_is("watchmark_subscription_oldest_unacked_seconds") > 0.0);
    assert_eq!(value(&families, "watchmark_acks_total{result=ok}"), 1.0);
    assert_eq!(
        value(&families, "watchmark_acks_total{result=beyond_delivered}"),
        1.0
    );
    assert_eq!(value(&families, "watchmark_delivered_events_total"), 2.0);
    assert_eq!(value(&families, "watchmark_subscriptions{state=live}"), 1.0);
    assert_eq!(
        value(
            &families,
            "watchmark_grpc_calls_total{code=OUT_OF_RANGE,method=watchmark.v1.WatchService/Ack}"
        ),
        1.0
    );

    // Taken over.
    let mut newer = scenario.subscribe("app", "a/").await;
    assert_eq!(app.end().await.cause().1, "SESSION_SUPERSEDED");
    newer.events_until(second).await;
    newer.ack(second).await.unwrap();
    let families = watching
        .until("watchmark_takeovers_total", |it| it == 1.0)
        .await;
    assert_eq!(
        value(
            &families,
            "watchmark_sessions_ended_total{reason=superseded}"
        ),
        1.0
    );

    // Idle: the position moves without events.
    scenario.writer.put("elsewhere/1", "").await;
    let proof = if value_is_progress(&families) {
        "progress"
    } else {
        "delay"
    };
    let advances = format!("watchmark_idle_advances_total{{proof={proof}}}");
    watching.until(&advances, |it| it >= 1.0).await;

    // Overtaken by a compaction.
    drop(newer);
    watching
        .until("watchmark_subscriptions{state=disconnected}", |it| {
            it == 1.0
        })
        .await;
    scenario.writer.put_many("a/", 20).await;
    scenario.compact_to_head().await;
    let mut app = scenario.subscribe("app", "a/").await;
    app.snapshot().await;
    let resyncs = "watchmark_resyncs_total{reason=compacted}";
    watching.until(resyncs, |it| it == 1.0).await;

    // etcd goes away and comes back.
    let up = format!(
        "watchmark_etcd_endpoint_up{{endpoint={}}}",
        scenario.etcd.endpoint(0)
    );
    let watching = watching.seen;
    scenario.etcd.kill(0);
    let mut watching = Watching {
        scenario: &scenario,
        seen: watching,
    };
    let families = watching.until(&up, |it| it == 0.0).await;
    assert_eq!(
        value(&families, "watchmark_problem{reason=ETCD_UNREACHABLE}"),
        1.0
    );
    assert_eq!(
        value(&families, "watchmark_ready"),
        1.0,
        "a later loss changes nothing"
    );
    let watching = watching.seen;
    scenario.etcd.restart(0).await;
    let mut watching = Watching {
        scenario: &scenario,
        seen: watching,
    };
    watching.until(&up, |it| it == 1.0).await;
    app.until_state(StreamState::Live).await;
    watching
        .until("watchmark_upstream_reopens_total{reason=lost}", |it| {
            it >= 1.0
        })
        .await;
    watching
        .until("watchmark_problem{reason=ETCD_UNREACHABLE}", |it| it == 0.0)
        .await;

    // Forgotten: nothing of it is left.
    let admin =
        AdminServiceClient::connect(format!("http://{}", scenario.watchmark.admin_address()));
    let client_id = "app".to_owned();
    let request = DeleteSubscriptionRequest { client_id };
    admin
        .await
        .unwrap()
        .delete_subscription(request)
        .await
        .unwrap();
    drop(app);
    wait::until("the series to vanish", async || {
        let families = scrape(&scenario.watchmark).await;
        let mut samples = families.values().flat_map(|it| it.samples.keys());
        samples
            .all(|sample| !sample.contains("client_id=app"))
            .then_some(())
    })
    .await;

    let families = watching.look().await;
    let mut still = Vec::new();
    for definition in CATALOG {
        let name = family_of(definition);
        let family = families
            .get(&name)
            .unwrap_or_else(|| panic!("{name} is not scraped"));
        assert_eq!(family.help, format!("{}.", definition.help), "{name}");
        assert!(name.ends_with(&family.unit), "{name}: {}", family.unit);
        let is_excused = STILL.iter().any(|(excused, _)| *excused == name);
        if watching.seen[&name].len() == 1 && !is_excused {
            still.push((name, &family.samples));
        }
    }
    assert!(still.is_empty(), "these do not move: {still:#?}");
    let known: BTreeSet<String> = CATALOG.iter().map(family_of).collect();
    let scraped: BTreeSet<String> = families.keys().cloned().collect();
    assert_eq!(scraped, known, "nothing that is not in the catalog");
    scenario.finish().await;
}

fn value_is_progress(families: &Families) -> bool {
    let endpoints = families["watchmark_etcd_endpoint"].samples.keys();
    endpoints
        .into_iter()
        .any(|it| it.contains("idle_proof=progress"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_in_use_tells_when_it_expires() {
    let authority = Authority::new();
    let pair = authority.server();
    let secret = Secret::new(&pair, &authority.pem());
    let flags = secret.tls_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let nobody = ["http://127.0.0.1:1".to_owned()];
    let client = authority.client(None);
    let watchmark = Watchmark::start_tls(&nobody, &flags, Some(client)).await;
    let families = scrape(&watchmark).await;
    let expiry = "watchmark_certificate_expiry_timestamp_seconds{certificate=--tls-cert-file}";
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(value(&families, expiry) > now);
    assert_eq!(
        value(&families, "watchmark_ready"),
        0.0,
        "etcd was never reached"
    );
    assert!(families.values().all(|family| !family.kind.is_empty()));
}

/// The table in docs/operate.md, as it has to be.
fn table() -> String {
    let mut table = "| metric | labels | |\n|---|---|---|\n".to_owned();
    for definition in CATALOG {
        let labels = match (definition.labels, definition.values) {
            ([], _) => String::new(),
            ([label], values) if !values.is_empty() => {
                format!("`{label}`: {}", values.join(", "))
            }
            (labels, _) => labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let name = definition.full_name();
        table += &format!("| `{name}` | {labels} | {} |\n", definition.help);
    }
    table
}

#[test]
fn the_metrics_are_documented_as_they_are() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate.md"));
    assert!(
        page.unwrap().contains(&table()),
        "the table of metrics in docs/operate.md has to be:\n\n{}",
        table()
    );
}
