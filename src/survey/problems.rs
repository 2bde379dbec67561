//! What a person should look at: the one place that says what counts as a
//! problem, and what to do then. docs/operate.md has a table of the reasons.

use std::time::{Duration, SystemTime};

use super::Survey;
use crate::{
    resume::Activity,
    session::Overview,
    store::StoreError,
    upstream::{EndpointFailure, FailureKind},
};

/// A subscriber that takes or acknowledges nothing for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(600);
/// A certificate is renewed long before, where anything renews it.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many names a message has; more are counted.
const NAMES_MAX: usize = 3;

/// Something that a person should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Which.
    pub reason: Reason,
    /// What happened, and what to do.
    pub message: String,
    /// When it began; `None`: not known.
    pub since: Option<SystemTime>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a person should look.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is, worst first.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As programs see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// Positions can't be made durable.
    StoreUnavailable = "STORE_UNAVAILABLE",
    /// No endpoint answers.
    EtcdUnreachable = "ETCD_UNREACHABLE",
    /// Certificates do not fit: etcd's or ours.
    EtcdTls = "ETCD_TLS",
    /// etcd does not accept our user.
    EtcdUnauthenticated = "ETCD_UNAUTHENTICATED",
    /// etcd does not let our user read what somebody wants.
    EtcdPermissionDenied = "ETCD_PERMISSION_DENIED",
    /// A member is alone.
    EtcdNoLeader = "ETCD_NO_LEADER",
    /// etcd answers otherwise than it should.
    EtcdFailing = "ETCD_FAILING",
    /// Some endpoints do not answer, others do.
    EtcdEndpointUnreachable = "ETCD_ENDPOINT_UNREACHABLE",
    /// A certificate of ours is over.
    CertificateExpired = "CERTIFICATE_EXPIRED",
    /// A certificate of ours was replaced by what can't be used.
    CertificateUnusable = "CERTIFICATE_UNUSABLE",
    /// A certificate of ours is about to be.
    CertificateExpiresSoon = "CERTIFICATE_EXPIRES_SOON",
    /// A subscriber takes, or acknowledges, nothing more.
    SubscriptionBlocked = "SUBSCRIPTION_BLOCKED",
    /// There is no room for another subscription.
    TooManySubscriptions = "TOO_MANY_SUBSCRIPTIONS",
    /// The subscriptions' tasks do not answer.
    SubscriptionsUnknown = "SUBSCRIPTIONS_UNKNOWN",
    /// A corrupt store was moved aside when the process began.
    StoreQuarantined = "STORE_QUARANTINED",
}

/// Everything there is, worst first.
pub(super) fn problems(
    survey: &Survey,
    store: Option<(StoreError, SystemTime)>,
    quarantined: Option<&str>,
) -> Vec<Problem> {
    let mut found = etcd(survey);
    // A disk that hangs is no news to who waits for it, so it is still ready.
    if !survey.readiness.is_store_ready || store.is_some() {
        let (message, since) = match store {
            Some((error, since)) => (error.to_string(), Some(since)),
            None => ("the checkpoint store takes no writes".to_owned(), None),
        };
        found.push(Problem {
            reason: Reason::StoreUnavailable,
            message,
            since,
        });
    }
    certificates(survey, &mut found);
    subscriptions(survey, &mut found);
    if let Some(path) = quarantined {
        found.push(Problem {
            reason: Reason::StoreQuarantined,
            message: format!(
                "the checkpoint store was corrupt and was moved to {path}: subscribers begin \
                 again with a snapshot; look at the disk, and remove that copy"
            ),
            since: Some(survey.started_at),
        });
    }
    let rank = |problem: &Problem| Reason::ALL.iter().position(|it| *it == problem.reason);
    found.sort_by_key(rank);
    found
}

fn etcd(survey: &Survey) -> Vec<Problem> {
    let endpoints = &survey.etcd.endpoints;
    let mut by_reason: Vec<(Reason, Vec<(&str, &EndpointFailure)>)> = Vec::new();
    for endpoint in endpoints {
        let Some(failure) = &endpoint.failure else {
            continue;
        };
        let reason = match failure.kind {
            FailureKind::Unreachable => Reason::EtcdUnreachable,
            FailureKind::Tls => Reason::EtcdTls,
            FailureKind::Unauthenticated => Reason::EtcdUnauthenticated,
            FailureKind::PermissionDenied => Reason::EtcdPermissionDenied,
            FailureKind::NoLeader => Reason::EtcdNoLeader,
            FailureKind::Other => Reason::EtcdFailing,
        };
        let failure = (endpoint.url.as_str(), failure);
        match by_reason.iter_mut().find(|(it, _)| *it == reason) {
            Some((_, failures)) => failures.push(failure),
            None => by_reason.push((reason, vec![failure])),
        }
    }
    let does_one_serve = endpoints.iter().any(|it| it.failure.is_none());
    let problem = |(reason, failures): (Reason, Vec<(&str, &EndpointFailure)>)| {
        let urls = names(failures.iter().map(|(url, _)| *url));
        let message = failures.first().map_or("", |(_, failure)| &failure.message);
        let reason = match reason {
            Reason::EtcdUnreachable if does_one_serve => Reason::EtcdEndpointUnreachable,
            reason => reason,
        };
        Problem {
            reason,
            message: format!("{urls}: {message}"),
            since: failures.iter().map(|(_, failure)| failure.since).min(),
        }
    };
    by_reason.into_iter().map(problem).collect()
}

fn certificates(survey: &Survey, found: &mut Vec<Problem>) {
    for certificate in &survey.certificates {
        let flag = certificate.flag;
        if let Some(problem) = &certificate.problem {
            found.push(Problem {
                reason: Reason::CertificateUnusable,
                message: format!("what was in use before still is: {problem}"),
                since: None,
            });
        }
        let Some(not_after) = certificate.not_after else {
            continue;
        };
        let left = not_after.duration_since(survey.at);
        let (reason, message) = match left {
            Err(_) => (
                Reason::CertificateExpired,
                format!("the certificate of {flag} has expired: replace the file"),
            ),
            Ok(left) if left < EXPIRES_SOON => (
                Reason::CertificateExpiresSoon,
                format!(
                    "the certificate of {flag} expires in {}: replace the file, it is read again",
                    humantime::format_duration(Duration::from_secs(left.as_secs()))
                ),
            ),
            Ok(_) => continue,
        };
        found.push(Problem {
            reason,
            message,
            since: left.is_err().then_some(not_after),
        });
    }
}

fn subscriptions(survey: &Survey, found: &mut Vec<Problem>) {
    let Some(subscriptions) = &survey.subscriptions else {
        return found.push(Problem {
            reason: Reason::SubscriptionsUnknown,
            message: "the subscriptions do not answer; restart watchmark if this stays".to_owned(),
            since: None,
        });
    };
    let stuck = |it: &&Overview| stuck_since(it).is_some_and(|since| is_long(survey.at, since));
    let stuck: Vec<&Overview> = subscriptions.iter().filter(stuck).collect();
    if !stuck.is_empty() {
        let who = names(stuck.iter().map(|it| it.client_id.as_str()));
        found.push(Problem {
            reason: Reason::SubscriptionBlocked,
            message: format!(
                "{who}: events wait for the subscriber to read, or to acknowledge; its history \
                 is lost to it once etcd compacts it: look at the application"
            ),
            since: stuck.iter().filter_map(|it| stuck_since(it)).min(),
        });
    }
    if subscriptions.len() >= survey.subscriptions_max {
        found.push(Problem {
            reason: Reason::TooManySubscriptions,
            message: format!(
                "there are {} subscriptions: a new client_id is refused; raise \
                 --max-subscriptions, or delete what is no longer used",
                subscriptions.len()
            ),
            since: None,
        });
    }
}

/// Since when a subscriber with a live stream has not moved.
fn stuck_since(overview: &Overview) -> Option<SystemTime> {
    overview.session.as_ref()?;
    let blocked = overview
        .behind_since
        .filter(|_| overview.activity == Activity::Blocked);
    [overview.oldest_unacked_at, blocked]
        .into_iter()
        .flatten()
        .min()
}

fn is_long(now: SystemTime, since: SystemTime) -> bool {
    now.duration_since(since)
        .is_ok_and(|age| age >= STUCK_AFTER)
}

/// Some names, and how many more there are.
fn names<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = all.len().saturating_sub(NAMES_MAX);
    let mut text = all.take(NAMES_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::PairOptions,
        resume::{ClientId, KeyRange, OnCompaction, Selection, SessionId},
        session::SessionOverview,
        survey::{Certificate, Readiness},
        upstream::{EndpointStatus, EtcdStatus},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn healthy() -> Survey {
        Survey {
            at: now(),
            started_at: now(),
            readiness: Readiness {
                is_store_ready: true,
                is_etcd_reached: true,
                is_draining: false,
            },
            etcd: EtcdStatus::default(),
            subscriptions: Some(Vec::new()),
            subscriptions_max: 1000,
            certificates: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn subscription(client_id: &str) -> Overview {
        Overview {
            client_id: ClientId::parse(client_id).unwrap(),
            selection: Selection {
                range: KeyRange::prefix("a/".into()),
                no_put: false,
                no_delete: false,
            },
            record: None,
            activity: Activity::Live,
            session: Some(SessionOverview {
                id: SessionId(1),
                peer: "unix".to_owned(),
                since: now() - 2 * HOUR,
                pair_options: PairOptions::default(),
                on_compaction: OnCompaction::Resync,
                auto_ack: false,
                max_unacked_events: None,
            }),
            delivered: None,
            unacked_events: 0,
            oldest_unacked_at: None,
            behind_since: None,
            last_event_at: None,
            last_advance: None,
            resyncs: 0,
        }
    }

    fn endpoint(url: &str, kind: Option<FailureKind>) -> EndpointStatus {
        EndpointStatus {
            url: url.to_owned(),
            version: Some("3.6.0".to_owned()),
            member_id: 1,
            can_ask_progress: true,
            failure: kind.map(|kind| EndpointFailure {
                kind,
                message: "no".to_owned(),
                since: now() - HOUR,
            }),
        }
    }

    fn found(survey: &Survey) -> Vec<(Reason, Option<SystemTime>)> {
        let problems = problems(survey, None, None);
        problems
            .into_iter()
            .map(|it| (it.reason, it.since))
            .collect()
    }

    #[test]
    fn nothing_is_wrong_with_what_is_well() {
        let mut survey = healthy();
        survey.etcd.endpoints = vec![endpoint("http://a", None)];
        survey.subscriptions = Some(vec![subscription("app")]);
        assert_eq!(problems(&survey, None, None), []);
    }

    #[test]
    fn a_subscriber_stuck_for_an_hour_is_named_and_one_that_is_away_is_not() {
        let mut acks_nothing = subscription("acks-nothing");
        acks_nothing.oldest_unacked_at = Some(now() - HOUR);
        let mut reads_nothing = subscription("reads-nothing");
        reads_nothing.activity = Activity::Blocked;
        reads_nothing.behind_since = Some(now() - HOUR / 2);
        let mut slow = subscription("slow");
        slow.oldest_unacked_at = Some(now() - STUCK_AFTER / 2);
        let mut catching_up = subscription("catching-up");
        catching_up.activity = Activity::CatchingUp;
        catching_up.behind_since = Some(now() - HOUR);
        let mut away = subscription("away");
        away.session = None;
        away.oldest_unacked_at = Some(now() - HOUR);
        let mut survey = healthy();
        let all = vec![acks_nothing, reads_nothing, slow, catching_up, away];
        survey.subscriptions = Some(all);
        let found = problems(&survey, None, None);
        let [problem] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(problem.reason, Reason::SubscriptionBlocked);
        assert_eq!(problem.since, Some(now() - HOUR));
        let message = &problem.message;
        assert!(
            message.starts_with("acks-nothing, reads-nothing: "),
            "{message}"
        );
    }

    #[test]
    fn one_dead_endpoint_of_two_is_less_than_all() {
        let mut survey = healthy();
        let lost = Some(FailureKind::Unreachable);
        survey.etcd.endpoints = vec![endpoint("http://a", lost), endpoint("http://b", None)];
        let since = Some(now() - HOUR);
        assert_eq!(found(&survey), [(Reason::EtcdEndpointUnreachable, since)]);
        survey.etcd.endpoints[1] = endpoint("http://b", lost);
        assert_eq!(found(&survey), [(Reason::EtcdUnreachable, since)]);
        let told = &problems(&survey, None, None)[0].message;
        assert_eq!(told, "http://a, http://b: no");
    }

    #[test]
    fn each_kind_of_failure_has_its_reason_and_the_worst_comes_first() {
        let mut survey = healthy();
        let kinds = [
            (FailureKind::Other, Reason::EtcdFailing),
            (FailureKind::NoLeader, Reason::EtcdNoLeader),
            (FailureKind::PermissionDenied, Reason::EtcdPermissionDenied),
            (FailureKind::Unauthenticated, Reason::EtcdUnauthenticated),
            (FailureKind::Tls, Reason::EtcdTls),
        ];
        survey.etcd.endpoints = kinds
            .map(|(kind, _)| endpoint("http://a", Some(kind)))
            .to_vec();
        survey.readiness.is_store_ready = false;
        let mut expected = vec![Reason::StoreUnavailable];
        expected.extend(kinds.iter().rev().map(|&(_, reason)| reason));
        let reasons: Vec<Reason> = found(&survey)
            .into_iter()
            .map(|(reason, _)| reason)
            .collect();
        assert_eq!(reasons, expected);
    }

    #[test]
    fn a_certificate_is_a_problem_a_week_before_its_end() {
        let mut survey = healthy();
        let mut certificate = Certificate {
            flag: "--tls-cert-file",
            not_after: Some(now() + 2 * EXPIRES_SOON),
            problem: None,
        };
        let mut told = |certificate: &Certificate| {
            survey.certificates = vec![certificate.clone()];
            found(&survey)
        };
        assert_eq!(told(&certificate), []);
        certificate.not_after = Some(now() + EXPIRES_SOON / 2);
        assert_eq!(told(&certificate), [(Reason::CertificateExpiresSoon, None)]);
        let ended = Some(now() - HOUR);
        certificate.not_after = ended;
        certificate.problem = Some("garbage".to_owned());
        assert_eq!(
            told(&certificate),
            [
                (Reason::CertificateExpired, ended),
                (Reason::CertificateUnusable, None)
            ]
        );
    }

    #[test]
    fn the_rest_is_told_too() {
        let mut survey = healthy();
        survey.subscriptions_max = 1;
        survey.subscriptions = Some(vec![subscription("app")]);
        assert_eq!(found(&survey), [(Reason::TooManySubscriptions, None)]);
        survey.subscriptions = None;
        assert_eq!(found(&survey), [(Reason::SubscriptionsUnknown, None)]);
        survey.subscriptions = Some(Vec::new());
        let quarantined = problems(&survey, None, Some("/data/corrupt-1"));
        assert_eq!(quarantined[0].reason, Reason::StoreQuarantined);
        assert!(quarantined[0].message.contains("/data/corrupt-1"));
    }

    #[test]
    fn the_page_has_every_reason() {
        let page = include_str!("../../docs/operate.md");
        for reason in Reason::ALL {
            let reason = format!("`{}`", reason.as_str());
            assert!(page.contains(&reason), "{reason} is not in docs/operate.md");
        }
    }
}
