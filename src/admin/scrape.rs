//! A survey as metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    metrics::{CertificateSample, EndpointSample, ProblemSample, Scrape, SubscriptionSample},
    resume::{Activity, Proof, Revision},
    session::Overview,
    survey::{Reason, Survey},
};

pub(super) fn scrape(survey: &Survey) -> Scrape {
    let etcd_revision = survey.etcd_revision();
    let subscription = |it: &Overview| subscription(it, etcd_revision, survey.at);
    let has_problem = |reason| survey.problems.iter().any(|it| it.reason == reason);
    Scrape {
        is_ready: survey.readiness.is_ready(),
        is_store_ready: survey.readiness.is_store_ready,
        etcd_revision,
        subscriptions_max: survey.subscriptions_max,
        subscriptions: survey
            .subscriptions
            .as_ref()
            .map(|all| all.iter().map(subscription).collect()),
        endpoints: survey
            .etcd
            .endpoints
            .iter()
            .map(|endpoint| EndpointSample {
                url: endpoint.url.clone(),
                is_up: endpoint.failure.is_none() && endpoint.version.is_some(),
                version: endpoint.version.clone().unwrap_or_default(),
                member_id: member_id(endpoint.member_id),
                idle_proof: idle_proof(endpoint.version.is_some(), endpoint.can_ask_progress),
            })
            .collect(),
        problems: Reason::ALL
            .iter()
            .map(|&reason| ProblemSample {
                reason: reason.as_str(),
                is_present: has_problem(reason),
            })
            .collect(),
        certificates: survey
            .certificates
            .iter()
            .filter_map(|certificate| {
                let not_after = unix_seconds(certificate.not_after?);
                Some(CertificateSample {
                    name: certificate.flag.to_owned(),
                    not_after,
                })
            })
            .collect(),
    }
}

fn subscription(overview: &Overview, etcd_revision: i64, now: SystemTime) -> SubscriptionSample {
    let checkpoint = checkpoint(overview);
    SubscriptionSample {
        client_id: overview.client_id.as_str().to_owned(),
        state: state(overview.activity),
        checkpoint,
        delivered: Revision::to_wire(overview.delivered),
        lag_revisions: (etcd_revision - checkpoint).max(0),
        lag_seconds: age(now, overview.behind_since),
        unacked_events: i64::try_from(overview.unacked_events).unwrap_or(i64::MAX),
        oldest_unacked_seconds: age(now, overview.oldest_unacked_at),
    }
}

/// 0: none yet.
pub(super) fn checkpoint(overview: &Overview) -> i64 {
    let record = overview.record.as_ref();
    Revision::to_wire(record.and_then(|record| record.checkpoint))
}

/// As metrics and the page call it.
pub(super) const fn state(activity: Activity) -> &'static str {
    match activity {
        Activity::Disconnected => "disconnected",
        Activity::Opening => "opening",
        Activity::CatchingUp => "catching_up",
        Activity::Live => "live",
        Activity::Blocked => "blocked",
        Activity::UpstreamLost => "upstream_lost",
    }
}

/// As etcd writes it.
pub(super) fn member_id(member_id: u64) -> String {
    if member_id == 0 {
        String::new()
    } else {
        format!("{member_id:x}")
    }
}

/// Which evidence moves positions on that endpoint; empty: not known.
pub(super) const fn idle_proof(is_known: bool, can_ask_progress: bool) -> &'static str {
    match (is_known, can_ask_progress) {
        (false, _) => "",
        (true, true) => Proof::Progress.name(),
        (true, false) => Proof::Delay.name(),
    }
}

/// In seconds; 0 for `None`, and for a clock that was set back.
pub(super) fn age(now: SystemTime, since: Option<SystemTime>) -> f64 {
    since
        .and_then(|since| now.duration_since(since).ok())
        .map_or(0.0, |age| age.as_secs_f64())
}

pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
