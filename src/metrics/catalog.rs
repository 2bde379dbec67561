//! Every metric there is: name, unit, labels and help. What is not here can't
//! be registered, and docs/operate.md is compared with it.
//!
//! Names follow Prometheus: base units, `_total`, `_seconds`, `_info`.

use crate::resume::Proof;

/// What all names begin with, but for the process's own.
const PREFIX: &str = "watchmark";
/// What every exporter calls the metrics of its process.
const PROCESS_PREFIX: &str = "process";

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows; `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
    /// Always 1; its labels are what it says. `_info`.
    Info,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    kind: Kind,
    prefix: &'static str,
    /// Without prefix, unit and the ending of its kind.
    name: &'static str,
    pub(super) unit: &'static str,
    /// The labels' names.
    pub labels: &'static [&'static str],
    /// Every value of the one label, where they are few: present from the
    /// start, so that an alert sees the first increase.
    pub values: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

impl Definition {
    const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self {
            kind,
            prefix: PREFIX,
            name,
            unit: "",
            labels: &[],
            values: &[],
            help,
        }
    }

    const fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn by(mut self, labels: &'static [&'static str]) -> Self {
        self.labels = labels;
        self
    }

    const fn of(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    const fn of_process(mut self) -> Self {
        self.prefix = PROCESS_PREFIX;
        self
    }

    /// As it is queried.
    pub fn full_name(&self) -> String {
        let ending = match self.kind {
            Kind::Counter => "total",
            Kind::Info => "info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let parts = [self.prefix, self.name, self.unit, ending];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("_")
    }

    /// Without what its kind and its unit append.
    pub(super) fn registered_name(&self) -> String {
        format!("{}_{}", self.prefix, self.name)
    }

    /// How it behaves.
    pub const fn kind(&self) -> Kind {
        self.kind
    }
}

const fn counter(name: &'static str, help: &'static str) -> Definition {
    Definition::new(Kind::Counter, name, help)
}

const fn gauge(name: &'static str, help: &'static str) -> Definition {
    Definition::new(Kind::Gauge, name, help)
}

/// A histogram of durations.
const fn seconds(name: &'static str, help: &'static str) -> Definition {
    Definition::new(Kind::Histogram, name, help).in_unit("seconds")
}

const fn info(name: &'static str, help: &'static str) -> Definition {
    Definition::new(Kind::Info, name, help)
}

/// Defines each metric, and lists all of them.
macro_rules! catalog {
    ($($name:ident = $definition:expr;)*) => {
        $(pub(super) const $name: Definition = $definition;)*

        /// Every metric, in the order of docs/operate.md.
        pub const CATALOG: &[Definition] = &[$($name),*];
    };
}

const CLIENT_ID: &[&str] = &["client_id"];

catalog! {
    READY = gauge("ready", "1 while /readyz says so");
    PROBLEM = gauge("problem", "1 while something needs a person, by reason")
        .by(&["reason"]);

    SUBSCRIPTIONS = gauge("subscriptions", "Subscriptions, stored or live, by what they are doing")
        .by(&["state"])
        .of(&["disconnected", "opening", "catching_up", "live", "blocked", "upstream_lost"]);
    SUBSCRIPTIONS_MAX = gauge("subscriptions_max", "How many there may be (--max-subscriptions)");
    CHECKPOINT = gauge("subscription_checkpoint_revision", "Everything up to it is acknowledged, durably")
        .by(CLIENT_ID);
    DELIVERED = gauge("subscription_delivered_revision", "Everything up to it was delivered by the last stream")
        .by(CLIENT_ID);
    LAG_REVISIONS = gauge("subscription_lag_revisions", "The newest known revision of etcd minus the checkpoint; grows with every change anywhere in etcd until an event or an idle advance moves the checkpoint")
        .by(CLIENT_ID);
    LAG = gauge("subscription_lag", "For how long it has not been up to date: 0 while a live stream has delivered everything and all of it is acknowledged")
        .in_unit("seconds").by(CLIENT_ID);
    UNACKED = gauge("subscription_unacked_events", "Events that are delivered and not acknowledged")
        .by(CLIENT_ID);
    OLDEST_UNACKED = gauge("subscription_oldest_unacked", "The age of the oldest of these; 0: there is none")
        .in_unit("seconds").by(CLIENT_ID);

    SESSIONS = counter("sessions", "Streams that began");
    SESSIONS_ENDED = counter("sessions_ended", "Streams that ended, by reason; closed: by the subscriber")
        .by(&["reason"])
        .of(&["closed", "superseded", "range_mismatch", "compacted", "history_replaced",
              "upstream_unavailable", "refused", "store_failed", "draining", "sought", "deleted"]);
    TAKEOVERS = counter("takeovers", "Streams that ended because a newer one of the same client_id began");
    EVENTS = counter("delivered_events", "Events handed to streams");
    BYTES = counter("delivered", "Bytes of events and snapshots handed to streams")
        .in_unit("bytes");
    DELIVERY = seconds("delivery", "From an answer of etcd being decoded to a message with its events being taken by the transport");
    ACKS = counter("acks", "Answered acks, by result")
        .by(&["result"])
        .of(&["ok", "beyond_delivered", "superseded", "no_session", "history_replaced",
              "store_failed", "not_found", "sought", "unavailable"]);
    RESYNCS = counter("resyncs", "Snapshots that were forced by lost history, or asked for, by reason")
        .by(&["reason"])
        .of(&["compacted", "history_replaced", "requested"]);
    IDLE_ADVANCES = counter("idle_advances", "Positions moved forward although no event came, by proof")
        .by(&["proof"])
        .of(Proof::IDLE);

    ETCD_ENDPOINT_UP = gauge("etcd_endpoint_up", "1 while the endpoint serves us")
        .by(&["endpoint"]);
    ETCD_ENDPOINT = info("etcd_endpoint", "Who answers there")
        .by(&["endpoint", "version", "member_id", "idle_proof"]);
    ETCD_REVISION = gauge("etcd_revision", "The newest known revision of etcd; 0: never reached");
    ETCD_PROBE = seconds("etcd_probe", "How long the probe waits for etcd's revision");
    REOPENS = counter("upstream_reopens", "Watches opened again for a live stream, by what ended the one before")
        .by(&["reason"])
        .of(&["lost", "compacted", "stalled", "parked", "behind"]);
    STALLS = counter("upstream_stalls", "Watches closed because they were silent and left a progress request unanswered");

    STORE_READY = gauge("store_ready", "1 while positions can be made durable");
    STORE_FLUSH = seconds("store_flush", "How long it takes to make a group of positions durable");
    CERTIFICATE_EXPIRY = gauge("certificate_expiry_timestamp", "When a certificate that is in use expires, since 1970")
        .in_unit("seconds").by(&["certificate"]);

    GRPC_CALLS = counter("grpc_calls", "gRPC calls that ended, by method and status code")
        .by(&["method", "code"]);

    BUILD = info("build", "What is running").by(&["version"]);
    PROCESS_CPU = counter("cpu", "Processor time used").in_unit("seconds").of_process();
    PROCESS_RESIDENT = gauge("resident_memory", "Memory that is resident").in_unit("bytes").of_process();
    PROCESS_VIRTUAL = gauge("virtual_memory", "Memory that is mapped").in_unit("bytes").of_process();
    PROCESS_OPEN_FDS = gauge("open_fds", "Open file descriptors").of_process();
    PROCESS_MAX_FDS = gauge("max_fds", "How many of these there may be").of_process();
    PROCESS_THREADS = gauge("threads", "Threads").of_process();
    PROCESS_START = gauge("start_time", "When the process began, since 1970")
        .in_unit("seconds").of_process();
}
