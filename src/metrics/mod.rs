//! What is counted, and how it is shown to Prometheus.
//!
//! - `catalog`: every metric, with name, unit, labels and help
//! - here: what is counted where it happens, each part by its own module
//! - `scrape`: what is asked for at each scrape, and the whole text
//!
//! Counting is an atomic addition (a histogram's, a short lock), per batch and
//! not per event; a label is looked up only for what is rare. Knows nothing of
//! ours but how proofs are called: whoever counts passes numbers and one of the
//! label's values.
//!
//! Invariant: every name is in the catalog, and the catalog in every scrape.

mod catalog;
mod process;
mod scrape;

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry, Unit},
};

pub use self::{
    catalog::{CATALOG, Definition, Kind},
    scrape::{
        CertificateSample, EndpointSample, MEDIA_TYPE, ProblemSample, Scrape, SubscriptionSample,
    },
};

type Pair = (&'static str, &'static str);

/// Everything that is counted. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// By the tasks of subscriptions.
    pub sessions: Sessions,
    /// By what speaks to etcd.
    pub etcd: Etcd,
    /// By what writes checkpoints.
    pub store: Store,
    /// By the gRPC ports.
    pub calls: Calls,
}

/// What happens to streams.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Streams that began.
    pub begun: Counter,
    /// Streams that ended, by reason.
    pub ended: ByValue,
    /// Of these, by a newer stream.
    pub takeovers: Counter,
    /// Events handed to streams.
    pub events: Counter,
    /// Bytes of events and pairs handed to streams.
    pub bytes: Counter,
    /// From etcd's answer to the transport.
    pub delivery: Seconds,
    /// Answers to acks, by result.
    pub acks: ByValue,
    /// Snapshots that no one wished for, by reason.
    pub resyncs: ByValue,
    /// Positions that moved without events, by proof.
    pub idle_advances: ByValue,
    /// Watches opened again, by what ended the one before.
    pub reopens: ByValue,
    /// Watches that were silent and left a question unanswered.
    pub stalls: Counter,
}

/// What etcd is asked.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// How long a probe takes.
    pub probe: Seconds,
}

/// What is written.
#[derive(Clone, Debug)]
pub struct Store {
    /// How long one group takes.
    pub flush: Seconds,
}

/// What is called.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    ended: Family<[Pair; 2], Counter>,
}

/// One counter for each value of one label.
#[derive(Clone, Debug)]
pub struct ByValue {
    label: &'static str,
    family: Family<[Pair; 1], Counter>,
}

/// Durations.
#[derive(Clone, Debug)]
pub struct Seconds(Histogram);

impl Default for Sessions {
    fn default() -> Self {
        Self {
            begun: Counter::default(),
            ended: ByValue::new(&catalog::SESSIONS_ENDED),
            takeovers: Counter::default(),
            events: Counter::default(),
            bytes: Counter::default(),
            // 50 us to 74 s: a fast loopback, and a subscriber that acknowledges late.
            delivery: Seconds::new(0.000_05, 16),
            acks: ByValue::new(&catalog::ACKS),
            resyncs: ByValue::new(&catalog::RESYNCS),
            idle_advances: ByValue::new(&catalog::IDLE_ADVANCES),
            reopens: ByValue::new(&catalog::REOPENS),
            stalls: Counter::default(),
        }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            // 0.2 ms to 4.8 s, just below the probe's timeout.
            probe: Seconds::new(0.000_2, 12),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            // 50 us to 12 s: a good disk, and one that is about to fail.
            flush: Seconds::new(0.000_05, 14),
        }
    }
}

impl ByValue {
    fn new(definition: &Definition) -> Self {
        let label = definition.labels.first().copied().unwrap_or_default();
        let family = Family::default();
        for value in definition.values {
            drop(family.get_or_create(&[(label, *value)]));
        }
        Self { label, family }
    }

    /// How many of `value` there were.
    pub fn count(&self, value: &'static str) -> u64 {
        let counter = self.family.get(&[(self.label, value)]);
        counter.map_or(0, |counter| counter.get())
    }

    /// Counts one of `value`, which is one of the catalog's.
    pub fn inc(&self, value: &'static str) {
        let counter = self.family.get(&[(self.label, value)]);
        debug_assert!(counter.is_some(), "{value} is not in the catalog");
        if let Some(counter) = counter {
            counter.inc();
        }
    }
}

impl Seconds {
    /// Buckets whose bounds grow by 2.5.
    fn new(smallest: f64, buckets: u16) -> Self {
        Self(Histogram::new(exponential_buckets(smallest, 2.5, buckets)))
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

impl Calls {
    /// Counts a call that ended.
    pub fn ended(&self, method: &'static str, code: &'static str) {
        let labels = [("method", method), ("code", code)];
        self.ended.get_or_create(&labels).inc();
    }
}

impl Metrics {
    /// What is counted, for a scrape.
    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let Self {
            sessions,
            etcd,
            store,
            calls,
        } = self.clone();
        let all = &mut registry;
        register(all, &catalog::SESSIONS, sessions.begun);
        register(all, &catalog::SESSIONS_ENDED, sessions.ended.family);
        register(all, &catalog::TAKEOVERS, sessions.takeovers);
        register(all, &catalog::EVENTS, sessions.events);
        register(all, &catalog::BYTES, sessions.bytes);
        register(all, &catalog::DELIVERY, sessions.delivery.0);
        register(all, &catalog::ACKS, sessions.acks.family);
        register(all, &catalog::RESYNCS, sessions.resyncs.family);
        register(all, &catalog::IDLE_ADVANCES, sessions.idle_advances.family);
        register(all, &catalog::REOPENS, sessions.reopens.family);
        register(all, &catalog::STALLS, sessions.stalls);
        register(all, &catalog::ETCD_PROBE, etcd.probe.0);
        register(all, &catalog::STORE_FLUSH, store.flush.0);
        register(all, &catalog::GRPC_CALLS, calls.ended);
        registry
    }
}

fn register(registry: &mut Registry, definition: &Definition, metric: impl Metric) {
    let (name, help) = (definition.registered_name(), definition.help);
    match definition.unit {
        "" => registry.register(name, help, metric),
        "seconds" => registry.register_with_unit(name, help, Unit::Seconds, metric),
        "bytes" => registry.register_with_unit(name, help, Unit::Bytes, metric),
        other => registry.register_with_unit(name, help, Unit::Other(other.to_owned()), metric),
    }
}
