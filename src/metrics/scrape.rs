//! One scrape: what is asked for only then, beside what was counted. Built
//! anew each time, so that what is gone leaves nothing behind.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

use super::{Definition, Metrics, catalog, process::ProcessSample, register};

/// OpenMetrics, as text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is the case at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// `/readyz` says so.
    pub is_ready: bool,
    /// Positions can be made durable.
    pub is_store_ready: bool,
    /// etcd's newest known revision; 0: never reached.
    pub etcd_revision: i64,
    /// `--max-subscriptions`.
    pub subscriptions_max: usize,
    /// Every subscription; `None`: they could not be asked.
    pub subscriptions: Option<Vec<SubscriptionSample>>,
    /// Every endpoint.
    pub endpoints: Vec<EndpointSample>,
    /// Every reason there can be.
    pub problems: Vec<ProblemSample>,
    /// Every certificate in use.
    pub certificates: Vec<CertificateSample>,
}

/// One subscription. Revisions: 0 is none yet.
#[derive(Clone, Debug)]
pub struct SubscriptionSample {
    /// Whose.
    pub client_id: String,
    /// One of the catalog's.
    pub state: &'static str,
    /// Acknowledged up to here.
    pub checkpoint: i64,
    /// Delivered up to here.
    pub delivered: i64,
    /// Behind etcd by this many revisions.
    pub lag_revisions: i64,
    /// Behind for so long.
    pub lag_seconds: f64,
    /// Delivered, not acknowledged.
    pub unacked_events: i64,
    /// The age of the oldest of these.
    pub oldest_unacked_seconds: f64,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSample {
    /// Its URL.
    pub url: String,
    /// It serves us.
    pub is_up: bool,
    /// Empty: not known.
    pub version: String,
    /// As etcd writes it; empty: not known.
    pub member_id: String,
    /// `progress` or `delay`; empty: not known.
    pub idle_proof: &'static str,
}

/// A reason for a person to look, and whether there is one.
#[derive(Clone, Debug)]
pub struct ProblemSample {
    /// Which.
    pub reason: &'static str,
    /// Whether it is the case.
    pub is_present: bool,
}

/// A certificate in use.
#[derive(Clone, Debug)]
pub struct CertificateSample {
    /// The flag that names it.
    pub name: String,
    /// Seconds since 1970.
    pub not_after: f64,
}

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    /// Everything, as OpenMetrics.
    ///
    /// # Errors
    /// None that a `String` could cause.
    pub fn text(&self, scrape: &Scrape) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &now(scrape))?;
        text::encode_registry(&mut text, &self.registry())?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

fn now(scrape: &Scrape) -> Registry {
    let mut registry = Registry::default();
    let all = &mut registry;
    integers(all, &catalog::READY, [(vec![], scrape.is_ready.into())]);
    let problems = scrape.problems.iter();
    integers(
        all,
        &catalog::PROBLEM,
        problems.map(|problem| {
            (
                vec![problem.reason.to_owned()],
                i64::from(problem.is_present),
            )
        }),
    );
    let max = i64::try_from(scrape.subscriptions_max).unwrap_or(i64::MAX);
    integers(all, &catalog::SUBSCRIPTIONS_MAX, [(vec![], max)]);
    if let Some(subscriptions) = &scrape.subscriptions {
        add_subscriptions(all, subscriptions);
    }
    add_etcd(all, scrape);
    let is_store_ready = i64::from(scrape.is_store_ready);
    integers(all, &catalog::STORE_READY, [(vec![], is_store_ready)]);
    let certificates = scrape.certificates.iter();
    fractions(
        all,
        &catalog::CERTIFICATE_EXPIRY,
        certificates.map(|it| (vec![it.name.clone()], it.not_after)),
    );
    let version = env!("CARGO_PKG_VERSION").to_owned();
    infos(all, &catalog::BUILD, [vec![version]]);
    if let Some(process) = ProcessSample::take() {
        add_process(all, process);
    }
    registry
}

fn add_subscriptions(registry: &mut Registry, subscriptions: &[SubscriptionSample]) {
    let states = catalog::SUBSCRIPTIONS.values.iter().map(|&state| {
        let count = subscriptions.iter().filter(|it| it.state == state).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        (vec![state.to_owned()], count)
    });
    integers(registry, &catalog::SUBSCRIPTIONS, states);
    let mut integer = |definition, value: fn(&SubscriptionSample) -> i64| {
        let rows = subscriptions.iter();
        let rows = rows.map(|it| (vec![it.client_id.clone()], value(it)));
        integers(registry, definition, rows);
    };
    integer(&catalog::CHECKPOINT, |it| it.checkpoint);
    integer(&catalog::DELIVERED, |it| it.delivered);
    integer(&catalog::LAG_REVISIONS, |it| it.lag_revisions);
    integer(&catalog::UNACKED, |it| it.unacked_events);
    let mut fraction = |definition, value: fn(&SubscriptionSample) -> f64| {
        let rows = subscriptions.iter();
        let rows = rows.map(|it| (vec![it.client_id.clone()], value(it)));
        fractions(registry, definition, rows);
    };
    fraction(&catalog::LAG, |it| it.lag_seconds);
    fraction(&catalog::OLDEST_UNACKED, |it| it.oldest_unacked_seconds);
}

fn add_etcd(registry: &mut Registry, scrape: &Scrape) {
    let endpoints = || scrape.endpoints.iter();
    integers(
        registry,
        &catalog::ETCD_ENDPOINT_UP,
        endpoints().map(|it| (vec![it.url.clone()], i64::from(it.is_up))),
    );
    infos(
        registry,
        &catalog::ETCD_ENDPOINT,
        endpoints().map(|it| {
            vec![
                it.url.clone(),
                it.version.clone(),
                it.member_id.clone(),
                it.idle_proof.to_owned(),
            ]
        }),
    );
    integers(
        registry,
        &catalog::ETCD_REVISION,
        [(vec![], scrape.etcd_revision)],
    );
}

fn add_process(registry: &mut Registry, process: ProcessSample) {
    let ProcessSample {
        cpu_seconds,
        resident_bytes,
        virtual_bytes,
        open_fds,
        max_fds,
        threads,
        started_at,
    } = process;
    let cpu = ConstCounter::new(cpu_seconds);
    register(registry, &catalog::PROCESS_CPU, cpu);
    for (definition, value) in [
        (&catalog::PROCESS_RESIDENT, resident_bytes),
        (&catalog::PROCESS_VIRTUAL, virtual_bytes),
        (&catalog::PROCESS_OPEN_FDS, open_fds),
        (&catalog::PROCESS_MAX_FDS, max_fds),
    ] {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        integers(registry, definition, [(vec![], value)]);
    }
    integers(registry, &catalog::PROCESS_THREADS, [(vec![], threads)]);
    fractions(registry, &catalog::PROCESS_START, [(vec![], started_at)]);
}

fn labels(definition: &Definition, values: Vec<String>) -> Labels {
    debug_assert_eq!(definition.labels.len(), values.len());
    definition.labels.iter().copied().zip(values).collect()
}

fn integers(
    registry: &mut Registry,
    definition: &Definition,
    rows: impl IntoIterator<Item = (Vec<String>, i64)>,
) {
    gauges(registry, definition, rows);
}

fn fractions(
    registry: &mut Registry,
    definition: &Definition,
    rows: impl IntoIterator<Item = (Vec<String>, f64)>,
) {
    gauges(registry, definition, rows);
}

fn gauges<V: EncodeGaugeValue + fmt::Debug + Send + Sync + 'static>(
    registry: &mut Registry,
    definition: &Definition,
    rows: impl IntoIterator<Item = (Vec<String>, V)>,
) {
    let rows = rows.into_iter();
    let rows = rows.map(|(values, value)| (labels(definition, values), value));
    register(registry, definition, Gauges(rows.collect()));
}

fn infos(
    registry: &mut Registry,
    definition: &Definition,
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    let rows = rows.into_iter().map(|values| labels(definition, values));
    register(registry, definition, Infos(rows.collect()));
}

/// Rows in their order, each with its labels.
#[derive(Debug)]
struct Gauges<V>(Vec<(Labels, V)>);

impl<V: EncodeGaugeValue> EncodeMetric for Gauges<V> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in &self.0 {
            if labels.is_empty() {
                encoder.encode_gauge(value)?;
            } else {
                encoder.encode_family(labels)?.encode_gauge(value)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// The same, where the labels are all there is.
#[derive(Debug)]
struct Infos(Vec<Labels>);

impl EncodeMetric for Infos {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|labels| encoder.encode_info(labels))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}
