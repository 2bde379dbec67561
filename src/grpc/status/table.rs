//! THE table: one row for each thing that goes wrong. `RetryInfo` is there
//! exactly when the same call may succeed later.

use std::time::Duration;

use tonic::Code;

use super::{Cause, causes::not_allowed};
use crate::resume::{AckRefusal, EndReason, RefusalKind, Revision};

pub(super) const SOON: Option<Duration> = Some(Duration::from_millis(200));
pub(super) const LATER: Option<Duration> = Some(Duration::from_secs(1));
pub(super) const NEVER: Option<Duration> = None;

/// One row of the table.
pub(super) struct Row {
    pub(super) code: Code,
    pub(super) reason: &'static str,
    pub(super) retry_after: Option<Duration>,
    pub(super) message: String,
    pub(super) metadata: Vec<(&'static str, String)>,
}

/// What is said of `cause` to the caller who named `client_id`.
#[expect(
    clippy::too_many_lines,
    reason = "one table is easier to check than several"
)]
pub(super) fn row(client_id: &str, cause: Cause) -> Row {
    let of =
        |code, reason, retry_after, message: String, metadata: &[(&'static str, String)]| Row {
            code,
            reason,
            retry_after,
            message,
            metadata: metadata.to_vec(),
        };
    match cause {
        Cause::InvalidArgument { field, problem } => of(
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            NEVER,
            format!("{field}: {problem}"),
            &[("field", field.to_owned())],
        ),
        Cause::NoRange => of(
            Code::InvalidArgument,
            "RANGE_REQUIRED",
            NEVER,
            format!(
                "nothing is stored of client_id {client_id:?}, so its first Subscribe must say \
                 what to watch: give prefix or key, or start watchmark with --default-prefix"
            ),
            &[("field", "prefix".to_owned())],
        ),
        Cause::RangeNotAllowed {
            is_open_ended: true,
        } => of(
            Code::PermissionDenied,
            "RANGE_NOT_ALLOWED",
            NEVER,
            "the range has no upper end, which etcd does not check against its permissions on \
             many versions: give a range_end, or start watchmark with --allow-prefix ''"
                .to_owned(),
            &[("flag", "--allow-prefix".to_owned())],
        ),
        Cause::RangeNotAllowed {
            is_open_ended: false,
        } => of(
            Code::PermissionDenied,
            "RANGE_NOT_ALLOWED",
            NEVER,
            format!(
                "the range of client_id {client_id:?} is in no --allow-prefix of this watchmark: \
                 watch a range inside one, or start watchmark with another --allow-prefix"
            ),
            &[("flag", "--allow-prefix".to_owned())],
        ),
        Cause::TooManySubscriptions { max } => of(
            Code::ResourceExhausted,
            "TOO_MANY_SUBSCRIPTIONS",
            NEVER,
            format!(
                "client_id {client_id:?} is new, and there are {max} subscriptions already: \
                 use one of them, or raise --max-subscriptions"
            ),
            &[
                ("flag", "--max-subscriptions".to_owned()),
                ("max_subscriptions", max.to_string()),
            ],
        ),
        Cause::ClientIdNotAllowed { names } => of(
            Code::PermissionDenied,
            "CLIENT_ID_NOT_ALLOWED",
            NEVER,
            not_allowed(client_id, &names),
            &[("flag", "--client-id-from-cert".to_owned())],
        ),
        Cause::TooManyConnections(limit) => of(
            Code::ResourceExhausted,
            "TOO_MANY_CONNECTIONS",
            LATER,
            format!(
                "there are {} connections already: use one connection for all calls, or raise {}",
                limit.max(),
                limit.flag()
            ),
            &[
                ("flag", limit.flag().to_owned()),
                ("max_connections", limit.max().to_string()),
            ],
        ),
        Cause::RequestTooLarge { limit, max_bytes } => of(
            Code::ResourceExhausted,
            "REQUEST_TOO_LARGE",
            NEVER,
            format!("the request is above the limit {limit}: {max_bytes}"),
            &[
                ("limit", limit.to_owned()),
                ("max_bytes", max_bytes.to_string()),
            ],
        ),
        Cause::TimedOut { waited } => of(
            Code::DeadlineExceeded,
            "TIMED_OUT",
            LATER,
            format!(
                "no answer for client_id {client_id:?} within {} s: the disk of --data-dir does \
                 not answer, or too many calls wait for it. What was asked for may still happen, \
                 and an Ack become durable; repeating it is harmless",
                waited.as_secs()
            ),
            &[("flag", "--data-dir".to_owned())],
        ),
        Cause::RequestIncomplete { waited } => of(
            Code::DeadlineExceeded,
            "TIMED_OUT",
            LATER,
            format!(
                "no answer could begin within {} s: the request did not arrive, or what it asks \
                 for takes too long; repeat it",
                waited.as_secs()
            ),
            &[],
        ),
        Cause::StoreUnavailable(problem) => store_unavailable(client_id, &problem),
        Cause::DriverStopped => of(
            Code::Unavailable,
            "SUBSCRIPTION_RESTARTED",
            LATER,
            format!(
                "watchmark had an internal error with client_id {client_id:?} and restarts it from \
                 its checkpoint: subscribe again, and please report the panic in watchmark's log"
            ),
            &[],
        ),
        Cause::SubscriptionNotFound
        | Cause::AckRefused {
            refusal: AckRefusal::NotFound,
            ..
        } => of(
            Code::NotFound,
            "SUBSCRIPTION_NOT_FOUND",
            NEVER,
            format!("there is no subscription of client_id {client_id:?}: Subscribe first"),
            &[],
        ),
        Cause::StreamEnded(EndReason::Superseded)
        | Cause::AckRefused {
            refusal: AckRefusal::Superseded,
            ..
        } => of(
            Code::Aborted,
            "SESSION_SUPERSEDED",
            NEVER,
            format!(
                "a newer Subscribe of client_id {client_id:?} took over: if that was not you, two \
                 applications use the same client_id; give each its own"
            ),
            &[],
        ),
        Cause::StreamEnded(EndReason::RangeMismatch) => of(
            Code::FailedPrecondition,
            "RANGE_MISMATCH",
            NEVER,
            format!(
                "client_id {client_id:?} is stored with another range or other filters, of which \
                 its checkpoint speaks: ask for the same, leave the range out, or use \
                 another client_id"
            ),
            &[],
        ),
        Cause::StreamEnded(EndReason::Compacted {
            checkpoint,
            compact_revision,
        }) => of(
            Code::OutOfRange,
            "COMPACTED",
            NEVER,
            format!(
                "etcd has compacted the history after the checkpoint of client_id {client_id:?}: \
                 read the state yourself and Subscribe with its revision as resume_after, or \
                 Subscribe with COMPACTION_POLICY_RESYNC"
            ),
            &numbers(&[
                ("checkpoint", checkpoint),
                ("compact_revision", compact_revision),
            ]),
        ),
        Cause::StreamEnded(EndReason::HistoryReplaced) => of(
            Code::Aborted,
            "HISTORY_REPLACED",
            SOON,
            format!(
                "etcd was restored or replaced, so the checkpoint of client_id {client_id:?} is \
                 from another history: Subscribe again, with COMPACTION_POLICY_RESYNC to receive a \
                 snapshot"
            ),
            &[],
        ),
        Cause::AckRefused {
            refusal: AckRefusal::HistoryReplaced,
            revision,
        } => of(
            Code::Aborted,
            "HISTORY_REPLACED",
            NEVER,
            format!(
                "etcd was restored or replaced: revision {revision} is from a history that is \
                 gone. Nothing is changed; Subscribe again"
            ),
            &numbers(&[("revision", Some(revision))]),
        ),
        Cause::StreamEnded(EndReason::UpstreamUnavailable) => of(
            Code::Unavailable,
            "UPSTREAM_UNAVAILABLE",
            LATER,
            format!(
                "etcd cannot be reached, and without it client_id {client_id:?} has no position \
                 to begin at: check etcd and --etcd-endpoints"
            ),
            &[("flag", "--etcd-endpoints".to_owned())],
        ),
        Cause::StreamEnded(EndReason::Refused(refusal)) => {
            let (code, reason) = match refusal.kind {
                RefusalKind::PermissionDenied => (Code::PermissionDenied, "ETCD_PERMISSION_DENIED"),
                // UNAUTHENTICATED would blame the caller's credentials.
                RefusalKind::Unauthenticated => (Code::FailedPrecondition, "ETCD_UNAUTHENTICATED"),
                RefusalKind::InvalidArgument => (Code::InvalidArgument, "ETCD_INVALID_ARGUMENT"),
            };
            let message = format!("etcd refuses client_id {client_id:?}: {}", refusal.message);
            of(code, reason, NEVER, message, &[])
        }
        Cause::StreamEnded(EndReason::StoreFailed(failed))
        | Cause::AckRefused {
            refusal: AckRefusal::StoreFailed(failed),
            ..
        } => store_unavailable(client_id, &failed.0),
        Cause::StreamEnded(EndReason::Draining) => of(
            Code::Unavailable,
            "DRAINING",
            LATER,
            "watchmark is stopping: acknowledge what you have processed, then Subscribe again; \
             nothing is lost"
                .to_owned(),
            &[],
        ),
        Cause::StreamEnded(EndReason::Sought) => of(
            Code::Aborted,
            "SUBSCRIPTION_SOUGHT",
            SOON,
            format!(
                "an operator moved client_id {client_id:?}: Subscribe again, and the stream begins \
                 where it was moved to"
            ),
            &[],
        ),
        Cause::AckRefused {
            refusal: AckRefusal::Sought,
            revision,
        } => of(
            Code::Aborted,
            "SUBSCRIPTION_SOUGHT",
            NEVER,
            format!(
                "an operator moved client_id {client_id:?}, so revision {revision}, which it was \
                 sent before, can't be acknowledged: Subscribe again; what is not acknowledged \
                 comes again"
            ),
            &numbers(&[("revision", Some(revision))]),
        ),
        Cause::StreamEnded(EndReason::Deleted) => of(
            Code::Aborted,
            "SUBSCRIPTION_DELETED",
            NEVER,
            format!(
                "an operator deleted client_id {client_id:?}: a new Subscribe that says what to \
                 watch begins anew"
            ),
            &[],
        ),
        Cause::AckRefused {
            refusal: AckRefusal::BeyondDelivered { delivered },
            revision,
        } => of(
            Code::OutOfRange,
            "ACK_BEYOND_DELIVERED",
            NEVER,
            format!(
                "revision {revision} was not delivered in full to client_id {client_id:?}; {}. \
                 Nothing is changed; acknowledge the revision of an Events (not partial) or \
                 SnapshotEnd that you received",
                delivered.map_or_else(
                    || "nothing was".to_owned(),
                    |delivered| format!("everything up to {delivered} was")
                )
            ),
            &numbers(&[("revision", Some(revision)), ("delivered", delivered)]),
        ),
        Cause::AckRefused {
            refusal: AckRefusal::NoSession,
            revision,
        } => of(
            Code::FailedPrecondition,
            "NO_SESSION",
            NEVER,
            format!(
                "nothing was delivered to client_id {client_id:?} since watchmark started, so \
                 revision {revision} cannot be checked: Subscribe; what is not acknowledged comes \
                 again"
            ),
            &numbers(&[("revision", Some(revision))]),
        ),
        Cause::LocalOnly => of(
            Code::PermissionDenied,
            "LOCAL_ONLY",
            NEVER,
            "this call is taken from watchmark's own host only: repeat it there, by a loopback \
             address or a unix:// socket of --listen (in Kubernetes: kubectl exec)"
                .to_owned(),
            &[],
        ),
        Cause::SeekCompacted { compact_revision } => of(
            Code::OutOfRange,
            "COMPACTED",
            NEVER,
            format!(
                "etcd has compacted history after that revision, so client_id {client_id:?} cannot \
                 go on from it. Nothing is changed; seek to compact_revision or later, or to a \
                 snapshot"
            ),
            &numbers(&[("compact_revision", compact_revision)]),
        ),
        Cause::SeekFuture { head } => of(
            Code::OutOfRange,
            "REVISION_IN_FUTURE",
            NEVER,
            format!(
                "etcd has not reached that revision, and client_id {client_id:?} would miss what \
                 comes before it. Nothing is changed; seek to head or before"
            ),
            &numbers(&[("head", head)]),
        ),
        Cause::SeekReplaced => of(
            Code::Aborted,
            "HISTORY_REPLACED",
            NEVER,
            format!(
                "the checkpoint of client_id {client_id:?} is not in etcd's history, which was \
                 restored or replaced, and no stream was told. Nothing is changed; seek to a \
                 snapshot"
            ),
            &[],
        ),
        Cause::SeekUnavailable(problem) => of(
            Code::Unavailable,
            "UPSTREAM_UNAVAILABLE",
            LATER,
            format!(
                "etcd cannot be asked whether client_id {client_id:?} can go on from that revision: \
                 {problem}. Nothing is changed; check etcd and --etcd-endpoints, or seek to a \
                 snapshot, which needs no answer"
            ),
            &[("flag", "--etcd-endpoints".to_owned())],
        ),
    }
}

fn store_unavailable(client_id: &str, problem: &str) -> Row {
    Row {
        code: Code::Unavailable,
        reason: "STORE_UNAVAILABLE",
        retry_after: LATER,
        message: format!(
            "the position of client_id {client_id:?} cannot be kept: {problem}. Check the disk of \
             --data-dir, then repeat the call"
        ),
        metadata: vec![("flag", "--data-dir".to_owned())],
    }
}

/// Those of `numbers` that are known.
fn numbers(numbers: &[(&'static str, Option<Revision>)]) -> Vec<(&'static str, String)> {
    numbers
        .iter()
        .filter_map(|&(name, revision)| Some((name, revision?.to_string())))
        .collect()
}
