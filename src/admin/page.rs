//! A survey as the status page shows it, and what it showed lately.
//!
//! The JSON is the page's own: it changes with the page, in any version.
//!
//! The history is fed by whoever looks, a scrape by Prometheus as well as the
//! page: it costs nothing otherwise, and a page opened during an incident has
//! something to show. Invariant: it is bounded by the number of subscriptions.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::scrape::{age, checkpoint, idle_proof, member_id, state, unix_seconds};
use crate::{resume::Revision, session::Overview, survey::Survey};

const HTML: &str = include_str!("page.html");

/// What the page shows of the past: 15 minutes.
const HISTORY_AGE_MAX: Duration = Duration::from_secs(900);
/// Nobody sees more on a line of that length.
const POINTS_EVERY: Duration = Duration::from_secs(5);
const POINTS_MAX: usize = 180;
/// Bytes of a range that are shown; the rest is counted.
const RANGE_BYTES_MAX: usize = 120;

/// The page, and the policy that lets its own script and style run and nothing
/// else.
pub(super) fn html() -> (String, String) {
    let random = || RandomState::new().hash_one(0);
    let nonce = format!("{:016x}{:016x}", random(), random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    (HTML.replace("{nonce}", &nonce), policy)
}

/// What every subscription was like lately.
#[derive(Debug, Default)]
pub(super) struct History {
    by_client_id: Mutex<BTreeMap<String, VecDeque<Point>>>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Instant,
    lag_revisions: i64,
    unacked_events: u64,
    state: &'static str,
}

impl History {
    /// Takes in a survey, unless the last one was just now.
    pub(super) fn add(&self, survey: &Survey) {
        let Some(subscriptions) = &survey.subscriptions else {
            return;
        };
        let now = Instant::now();
        let etcd_revision = survey.etcd_revision();
        let mut kept = self
            .by_client_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *kept);
        for overview in subscriptions {
            let client_id = overview.client_id.as_str();
            let mut points = before.remove(client_id).unwrap_or_default();
            let is_due = |last: &Point| now.duration_since(last.at) >= POINTS_EVERY;
            if points.back().is_none_or(is_due) {
                points.push_back(Point {
                    at: now,
                    lag_revisions: (etcd_revision - checkpoint(overview)).max(0),
                    unacked_events: overview.unacked_events,
                    state: state(overview.activity),
                });
            }
            let is_old = |point: &Point| now.duration_since(point.at) > HISTORY_AGE_MAX;
            while points.len() > POINTS_MAX || points.front().is_some_and(is_old) {
                points.pop_front();
            }
            kept.insert(client_id.to_owned(), points);
        }
    }

    /// [seconds ago, lag in revisions, unacked events, state], oldest first.
    fn of(&self, client_id: &str) -> Vec<(u64, i64, u64, &'static str)> {
        let kept = self
            .by_client_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let points = kept.get(client_id).into_iter().flatten();
        points
            .map(|it| {
                let ago = it.at.elapsed().as_secs();
                (ago, it.lag_revisions, it.unacked_events, it.state)
            })
            .collect()
    }
}

#[derive(Serialize)]
struct Page<'a> {
    version: &'static str,
    now: f64,
    started: f64,
    is_ready: bool,
    is_store_ready: bool,
    is_etcd_reached: bool,
    is_draining: bool,
    problems: Vec<PageProblem<'a>>,
    etcd: PageEtcd<'a>,
    /// `None`: they could not be asked.
    subscriptions: Option<Vec<PageSubscription<'a>>>,
    subscriptions_max: usize,
    history_seconds: u64,
}

#[derive(Serialize)]
struct PageProblem<'a> {
    reason: &'static str,
    message: &'a str,
    since: Option<f64>,
}

#[derive(Serialize)]
struct PageEtcd<'a> {
    cluster_id: String,
    revision: i64,
    revision_age_seconds: f64,
    endpoints: Vec<PageEndpoint<'a>>,
}

#[derive(Serialize)]
struct PageEndpoint<'a> {
    url: &'a str,
    version: &'a str,
    member_id: String,
    idle_proof: &'static str,
    error: Option<&'a str>,
    error_since: Option<f64>,
}

#[derive(Serialize)]
struct PageSubscription<'a> {
    client_id: &'a str,
    range: String,
    filters: Vec<&'static str>,
    state: &'static str,
    checkpoint: i64,
    delivered: i64,
    lag_revisions: i64,
    lag_seconds: f64,
    unacked_events: u64,
    oldest_unacked_seconds: f64,
    last_event: Option<f64>,
    resyncs: u64,
    proof: &'static str,
    peer: Option<&'a str>,
    session_since: Option<f64>,
    history: Vec<(u64, i64, u64, &'static str)>,
}

/// What the page asks for.
///
/// # Errors
/// None that these types could cause.
pub(super) fn json(survey: &Survey, history: &History) -> Result<String, serde_json::Error> {
    let etcd_revision = survey.etcd_revision();
    let revision_at = survey.etcd.revision.map(|(_, at)| at);
    let subscription = |it| subscription(it, etcd_revision, survey.at, history);
    serde_json::to_string(&Page {
        version: env!("CARGO_PKG_VERSION"),
        now: unix_seconds(survey.at),
        started: unix_seconds(survey.started_at),
        is_ready: survey.readiness.is_ready(),
        is_store_ready: survey.readiness.is_store_ready,
        is_etcd_reached: survey.readiness.is_etcd_reached,
        is_draining: survey.readiness.is_draining,
        problems: survey
            .problems
            .iter()
            .map(|problem| PageProblem {
                reason: problem.reason.as_str(),
                message: &problem.message,
                since: problem.since.map(unix_seconds),
            })
            .collect(),
        etcd: PageEtcd {
            cluster_id: member_id(survey.etcd.cluster_id),
            revision: etcd_revision,
            revision_age_seconds: age(survey.at, revision_at),
            endpoints: survey
                .etcd
                .endpoints
                .iter()
                .map(|endpoint| PageEndpoint {
                    url: &endpoint.url,
                    version: endpoint.version.as_deref().unwrap_or_default(),
                    member_id: member_id(endpoint.member_id),
                    idle_proof: idle_proof(endpoint.version.is_some(), endpoint.can_ask_progress),
                    error: endpoint.failure.as_ref().map(|it| it.message.as_str()),
                    error_since: endpoint.failure.as_ref().map(|it| unix_seconds(it.since)),
                })
                .collect(),
        },
        subscriptions: survey
            .subscriptions
            .as_ref()
            .map(|all| all.iter().map(subscription).collect()),
        subscriptions_max: survey.subscriptions_max,
        history_seconds: HISTORY_AGE_MAX.as_secs(),
    })
}

fn subscription<'a>(
    overview: &'a Overview,
    etcd_revision: i64,
    now: SystemTime,
    history: &History,
) -> PageSubscription<'a> {
    let client_id = overview.client_id.as_str();
    let selection = &overview.selection;
    let session = overview.session.as_ref();
    let lacks = session.map(|it| it.pair_options.lacks());
    let options = [
        (selection.no_put, "no puts"),
        (selection.no_delete, "no deletes"),
    ];
    let acks = [(session.is_some_and(|it| it.auto_ack), "acks by itself")];
    PageSubscription {
        client_id,
        range: range(selection.range.key(), selection.range.range_end()),
        filters: options
            .into_iter()
            .chain(lacks.into_iter().flatten())
            .chain(acks)
            .filter_map(|(is_set, name)| is_set.then_some(name))
            .collect(),
        state: state(overview.activity),
        checkpoint: checkpoint(overview),
        delivered: Revision::to_wire(overview.delivered),
        lag_revisions: (etcd_revision - checkpoint(overview)).max(0),
        lag_seconds: age(now, overview.behind_since),
        unacked_events: overview.unacked_events,
        oldest_unacked_seconds: age(now, overview.oldest_unacked_at),
        last_event: overview.last_event_at.map(unix_seconds),
        resyncs: overview.resyncs,
        proof: overview.last_advance.map_or("", |(proof, _)| proof.name()),
        peer: session.map(|session| session.peer.as_str()),
        session_since: session.map(|session| unix_seconds(session.since)),
        history: history.of(client_id),
    }
}

/// A prefix as `app/*`, a key as it is, any other range with both its ends.
fn range(key: &[u8], range_end: &[u8]) -> String {
    if range_end.is_empty() {
        return shown(key);
    }
    if range_end == b"\0" {
        return format!("{} and all after it", shown(key));
    }
    let mut next = key.to_vec();
    while next.last() == Some(&0xff) {
        next.pop();
    }
    if let Some(last) = next.last_mut() {
        *last += 1;
    }
    if next == range_end {
        format!("{}*", shown(key))
    } else {
        format!("{} to {}", shown(key), shown(range_end))
    }
}

/// Readable where it is text; never more than a line.
fn shown(key: &[u8]) -> String {
    let begin = &key[..key.len().min(RANGE_BYTES_MAX)];
    let text = match std::str::from_utf8(begin) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => begin.escape_ascii().to_string(),
    };
    match key.len() - begin.len() {
        0 => text,
        more => format!("{text}… ({more} more bytes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_shown_as_people_write_them() {
        assert_eq!(range(b"app/", b"app0"), "app/*");
        assert_eq!(range(b"app/", b""), "app/");
        assert_eq!(range(b"a\xff", b"b"), "a\\xff*");
        assert_eq!(range(b"a", b"c"), "a to c");
        assert_eq!(range(b"\0", b"\0"), "\\x00 and all after it");
        assert_eq!(range("ü/".as_bytes(), "ü0".as_bytes()), "ü/*");
        assert_eq!(range(b"<script>", b""), "<script>", "the page escapes it");
        assert_eq!(
            range(&[b'k'; 125], b""),
            format!("{}… (5 more bytes)", "k".repeat(120))
        );
    }
}
