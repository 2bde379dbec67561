//! How each endpoint is doing, for operators: what failed last and is not
//! known to be over, and who answers. Owns the log lines of losing an endpoint
//! and of getting it back; refuses to influence any choice. Invariant: an
//! endpoint that is away for long costs one line a minute.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    error::Failure,
    live::{RangeId, id},
    maintenance::Member,
    status::{EndpointFailure, FailureKind},
};
use crate::resume::{KeyRange, Refusal, RefusalKind, Revision};

/// How often the log is reminded of what has not changed.
pub(super) const REMIND_AFTER: Duration = Duration::from_secs(60);
/// How soon it is told that the failure is of another kind now.
const TELL_CHANGE_AFTER: Duration = Duration::from_secs(10);

/// A failure that a mere greeting does not disprove is forgotten when it was
/// not met again for so long.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// Ranges that may not be read and are remembered. More are only logged.
const DENIALS_MAX: usize = 100;
/// A denial that nobody met again for so long, is.
const DENIAL_AGE_MAX: Duration = Duration::from_secs(900);

/// Of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Condition {
    member: Option<Member>,
    /// etcd's revision as this endpoint told it last, and when.
    revision: Option<(Revision, SystemTime)>,
    failure: Option<Noted>,
    /// What was in the log last, and when.
    warned: Option<(FailureKind, Instant)>,
    is_loss_logged: bool,
}

#[derive(Debug)]
struct Noted {
    failure: EndpointFailure,
    began_at: Instant,
    met_at: Instant,
}

impl Condition {
    /// It did what it was asked, which was more than a greeting.
    pub(super) fn works(&mut self, endpoint: &str) {
        if let Some(noted) = self.failure.take()
            && std::mem::take(&mut self.is_loss_logged)
        {
            let away = noted.began_at.elapsed();
            info!(
                endpoint,
                away_ms = away.as_millis(),
                "etcd endpoint is back"
            );
        }
    }

    /// It answered a greeting.
    pub(super) fn greeted(&mut self, endpoint: &str, member: Member, revision: Option<Revision>) {
        self.member = Some(member);
        self.revision = revision
            .map(|revision| (revision, SystemTime::now()))
            .or(self.revision);
        let is_over = self.failure.as_ref().is_some_and(|noted| {
            matches!(
                noted.failure.kind,
                FailureKind::Unreachable | FailureKind::Tls | FailureKind::NoLeader
            ) || noted.met_at.elapsed() >= FORGET_AFTER
        });
        if is_over {
            self.works(endpoint);
        }
    }

    /// It did not do what it was asked.
    pub(super) fn fails(&mut self, endpoint: &str, kind: FailureKind, message: &str) {
        let now = Instant::now();
        let is_same = |noted: &&mut Noted| noted.failure.kind == kind;
        if let Some(noted) = self.failure.as_mut().filter(is_same) {
            noted.met_at = now;
            message.clone_into(&mut noted.failure.message);
        } else {
            let began_at = self.failure.as_ref().map_or(now, |noted| noted.began_at);
            self.failure = Some(Noted {
                failure: EndpointFailure {
                    kind,
                    message: message.to_owned(),
                    since: SystemTime::now(),
                },
                began_at,
                met_at: now,
            });
        }
        let is_due = |(warned, at): (FailureKind, Instant)| {
            let is_change = warned != kind && at.elapsed() >= TELL_CHANGE_AFTER;
            is_change || at.elapsed() >= REMIND_AFTER
        };
        if self.warned.is_none_or(is_due) {
            self.warned = Some((kind, now));
            self.is_loss_logged = true;
            warn!(
                endpoint,
                ?kind,
                reason = message,
                "etcd endpoint does not serve us"
            );
        }
    }

    pub(super) const fn member(&self) -> Option<Member> {
        self.member
    }

    pub(super) const fn revision(&self) -> Option<(Revision, SystemTime)> {
        self.revision
    }

    pub(super) fn failure(&self) -> Option<&EndpointFailure> {
        self.failure.as_ref().map(|noted| &noted.failure)
    }
}

/// What kind of failure an operator sees, and how it is told; `None`: what the
/// caller asked about, and no failure of etcd's.
pub(super) fn of(failure: &Failure) -> Option<(FailureKind, &str)> {
    match failure {
        Failure::Lost { kind, why } => Some((*kind, why)),
        Failure::Refused(refusal) => match refusal.kind {
            RefusalKind::Unauthenticated => Some((FailureKind::Unauthenticated, &refusal.message)),
            // Of a range, and of a request.
            RefusalKind::PermissionDenied | RefusalKind::InvalidArgument => None,
        },
        Failure::Compacted
        | Failure::FutureRevision
        | Failure::Unimplemented
        | Failure::TooLarge => None,
    }
}

/// The ranges that our identity may not read, though somebody wants to.
#[derive(Debug, Default)]
pub(super) struct Denials {
    by_range: Mutex<BTreeMap<RangeId, Denial>>,
}

#[derive(Debug)]
struct Denial {
    message: String,
    since: SystemTime,
    met_at: Instant,
}

impl Denials {
    fn denied(&self, range: RangeId, refusal: &Refusal) {
        let mut denials = self.by_range.lock().unwrap_or_else(PoisonError::into_inner);
        denials.retain(|_, denial| denial.met_at.elapsed() < DENIAL_AGE_MAX);
        let now = Instant::now();
        if let Some(denial) = denials.get_mut(&range) {
            denial.met_at = now;
        } else if denials.len() < DENIALS_MAX {
            let denial = Denial {
                message: refusal.message.clone(),
                since: SystemTime::now(),
                met_at: now,
            };
            denials.insert(range, denial);
        }
    }

    /// Takes in why `range` could not be used, if that is why.
    pub(super) fn note(&self, range: &KeyRange, failure: &Failure) {
        if let Failure::Refused(refusal) = failure
            && refusal.kind == RefusalKind::PermissionDenied
        {
            self.denied(id(range), refusal);
        }
    }

    pub(super) fn allowed(&self, range: &RangeId) {
        let mut denials = self.by_range.lock().unwrap_or_else(PoisonError::into_inner);
        denials.remove(range);
    }

    /// The oldest one.
    pub(super) fn failure(&self) -> Option<EndpointFailure> {
        let denials = self.by_range.lock().unwrap_or_else(PoisonError::into_inner);
        let current = denials
            .values()
            .filter(|denial| denial.met_at.elapsed() < DENIAL_AGE_MAX);
        let oldest = current.min_by_key(|denial| denial.since)?;
        Some(EndpointFailure {
            kind: FailureKind::PermissionDenied,
            message: oldest.message.clone(),
            since: oldest.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_lasts_until_it_is_disproved() {
        let mut condition = Condition::default();
        let member = Member::default();
        condition.fails("e", FailureKind::Unreachable, "refused");
        assert_eq!(condition.failure().unwrap().kind, FailureKind::Unreachable);
        condition.greeted("e", member, None);
        assert!(condition.failure().is_none());

        condition.fails("e", FailureKind::Unauthenticated, "who?");
        condition.greeted("e", member, None);
        assert!(condition.failure().is_some(), "a greeting needs no user");
        condition.works("e");
        assert!(condition.failure().is_none());

        condition.fails("e", FailureKind::Other, "strange");
        tokio::time::advance(FORGET_AFTER).await;
        condition.greeted("e", member, None);
        assert!(condition.failure().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_loss_is_in_the_log_once_a_minute() {
        let mut condition = Condition::default();
        let mut lines = 0;
        for _ in 0..3600 {
            let warned = condition.warned;
            condition.fails("e", FailureKind::Unreachable, "refused");
            lines += u32::from(condition.warned != warned);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_of_its_range_and_passes() {
        let denials = Denials::default();
        let range = |key: &'static str| (key.into(), bytes::Bytes::new());
        let refusal = Refusal {
            kind: RefusalKind::PermissionDenied,
            message: "no".to_owned(),
        };
        denials.denied(range("a"), &refusal);
        denials.allowed(&range("b"));
        assert_eq!(denials.failure().unwrap().message, "no");
        denials.allowed(&range("a"));
        assert!(denials.failure().is_none());
        denials.denied(range("a"), &refusal);
        tokio::time::advance(DENIAL_AGE_MAX).await;
        assert!(denials.failure().is_none());
    }
}
