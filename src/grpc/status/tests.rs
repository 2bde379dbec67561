//! Every row of the table.

use tonic::Code;

use super::{
    table::{LATER, NEVER, SOON},
    *,
};
use crate::{
    resume::{Refusal, RefusalKind, StoreFailed},
    session::{OperationError, SubscribeError},
};

/// Asserts one row; `metadata` besides client_id.
#[track_caller]
fn check(
    cause: Cause,
    code: Code,
    reason: &str,
    retry: Option<Duration>,
    metadata: &[(&str, &str)],
) -> String {
    let status = status("orders", cause);
    assert_eq!(status.code(), code);
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((&*info.reason, &*info.domain), (reason, "watchmark"));
    let mut expected: HashMap<String, String> = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    expected.insert("client_id".to_owned(), "orders".to_owned());
    assert_eq!(info.metadata, expected);
    assert_eq!(
        details.retry_info().and_then(|info| info.retry_delay),
        retry
    );
    status.message().to_owned()
}

fn ended(reason: EndReason) -> Cause {
    Cause::StreamEnded(reason)
}

fn refused(refusal: AckRefusal) -> Cause {
    Cause::AckRefused {
        revision: Revision::new(9).unwrap(),
        refusal,
    }
}

fn refusal(kind: RefusalKind) -> Cause {
    let message = "etcd's words".to_owned();
    ended(EndReason::Refused(Refusal { kind, message }))
}

#[test]
fn invalid_argument() {
    let cause = Cause::InvalidArgument {
        field: "start",
        problem: "9 is unknown".to_owned(),
    };
    let details = status("orders", cause.clone()).get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "start");
    let metadata = [("field", "start")];
    let message = check(
        cause,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
        NEVER,
        &metadata,
    );
    assert_eq!(message, "start: 9 is unknown");
}

#[test]
fn no_range() {
    let metadata = [("field", "prefix")];
    let code = Code::InvalidArgument;
    let message = check(Cause::NoRange, code, "RANGE_REQUIRED", NEVER, &metadata);
    assert!(message.contains("--default-prefix"));
}

#[test]
fn range_not_allowed() {
    for is_open_ended in [true, false] {
        let cause = Cause::RangeNotAllowed { is_open_ended };
        let metadata = [("flag", "--allow-prefix")];
        check(
            cause,
            Code::PermissionDenied,
            "RANGE_NOT_ALLOWED",
            NEVER,
            &metadata,
        );
    }
}

#[test]
fn too_many_subscriptions() {
    let cause = Cause::TooManySubscriptions { max: 3 };
    let metadata = [("flag", "--max-subscriptions"), ("max_subscriptions", "3")];
    let code = Code::ResourceExhausted;
    check(cause, code, "TOO_MANY_SUBSCRIPTIONS", NEVER, &metadata);
}

#[test]
fn client_id_not_allowed() {
    for (names, told) in [
        (&["shop", "spiffe://a/b"][..], "says shop and spiffe://a/b"),
        (&[], "alternative names"),
    ] {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let message = check(
            Cause::ClientIdNotAllowed { names },
            Code::PermissionDenied,
            "CLIENT_ID_NOT_ALLOWED",
            NEVER,
            &[("flag", "--client-id-from-cert")],
        );
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn too_many_connections() {
    for (limit, flag) in [
        (ConnectionLimit::Total(7), "--max-connections"),
        (ConnectionLimit::PerPeer(7), "--max-connections-per-peer"),
    ] {
        let message = check(
            Cause::TooManyConnections(limit),
            Code::ResourceExhausted,
            "TOO_MANY_CONNECTIONS",
            LATER,
            &[("flag", flag), ("max_connections", "7")],
        );
        assert!(message.contains(flag), "{message}");
    }
}

#[test]
fn request_too_large() {
    let cause = Cause::RequestTooLarge {
        limit: "header_bytes",
        max_bytes: 9,
    };
    let metadata = [("limit", "header_bytes"), ("max_bytes", "9")];
    let code = Code::ResourceExhausted;
    let message = check(cause, code, "REQUEST_TOO_LARGE", NEVER, &metadata);
    assert!(message.contains("header_bytes: 9"), "{message}");
}

#[test]
fn timed_out() {
    let waited = Duration::from_secs(20);
    let metadata = [("flag", "--data-dir")];
    let code = Code::DeadlineExceeded;
    let cause = Cause::TimedOut { waited };
    let message = check(cause, code, "TIMED_OUT", LATER, &metadata);
    assert!(message.contains("20 s"), "{message}");
    assert!(message.contains("may still"), "{message}");
}

#[test]
fn request_incomplete() {
    let waited = Duration::from_secs(30);
    let cause = Cause::RequestIncomplete { waited };
    let message = check(cause, Code::DeadlineExceeded, "TIMED_OUT", LATER, &[]);
    assert!(message.contains("30 s"), "{message}");
}

#[test]
fn store_unavailable() {
    let failed = StoreFailed("disk full".to_owned());
    for cause in [
        Cause::from(OperationError::StoreFailed("disk full".to_owned())),
        Cause::StoreUnavailable("disk full".to_owned()),
        ended(EndReason::StoreFailed(failed.clone())),
        refused(AckRefusal::StoreFailed(failed)),
    ] {
        let metadata = [("flag", "--data-dir")];
        let message = check(
            cause,
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            LATER,
            &metadata,
        );
        assert!(message.contains("disk full"));
    }
}

#[test]
fn driver_stopped() {
    let reason = "SUBSCRIPTION_RESTARTED";
    for cause in [
        Cause::DriverStopped,
        Cause::from(OperationError::DriverStopped),
    ] {
        check(cause, Code::Unavailable, reason, LATER, &[]);
    }
}

#[test]
fn subscription_not_found() {
    for cause in [
        Cause::SubscriptionNotFound,
        refused(AckRefusal::NotFound),
        Cause::from(OperationError::NotFound),
    ] {
        check(cause, Code::NotFound, "SUBSCRIPTION_NOT_FOUND", NEVER, &[]);
    }
}

#[test]
fn superseded() {
    for cause in [
        ended(EndReason::Superseded),
        refused(AckRefusal::Superseded),
    ] {
        check(cause, Code::Aborted, "SESSION_SUPERSEDED", NEVER, &[]);
    }
}

#[test]
fn sought() {
    let cause = ended(EndReason::Sought);
    check(cause, Code::Aborted, "SUBSCRIPTION_SOUGHT", SOON, &[]);
    let cause = refused(AckRefusal::Sought);
    let metadata = [("revision", "9")];
    let code = Code::Aborted;
    check(cause, code, "SUBSCRIPTION_SOUGHT", NEVER, &metadata);
}

#[test]
fn deleted() {
    // Nobody should come again by itself to what an operator wanted gone.
    let cause = ended(EndReason::Deleted);
    check(cause, Code::Aborted, "SUBSCRIPTION_DELETED", NEVER, &[]);
}

#[test]
fn local_only() {
    let message = check(
        Cause::LocalOnly,
        Code::PermissionDenied,
        "LOCAL_ONLY",
        NEVER,
        &[],
    );
    assert!(message.contains("loopback"));
}

#[test]
fn a_seek_to_what_etcd_does_not_have() {
    let compact_revision = Revision::new(8);
    let cause = Cause::from(OperationError::Compacted { compact_revision });
    let metadata = [("compact_revision", "8")];
    check(cause, Code::OutOfRange, "COMPACTED", NEVER, &metadata);
    let head = Revision::new(8);
    let cause = Cause::from(OperationError::Future { head });
    let metadata = [("head", "8")];
    let code = Code::OutOfRange;
    check(cause, code, "REVISION_IN_FUTURE", NEVER, &metadata);
    let cause = Cause::from(OperationError::Replaced);
    check(cause, Code::Aborted, "HISTORY_REPLACED", NEVER, &[]);
}

#[test]
fn a_seek_that_etcd_does_not_answer() {
    let cause = Cause::from(OperationError::UpstreamUnavailable("refused".to_owned()));
    let metadata = [("flag", "--etcd-endpoints")];
    let code = Code::Unavailable;
    let message = check(cause, code, "UPSTREAM_UNAVAILABLE", LATER, &metadata);
    assert!(message.contains("refused"));
}

#[test]
fn range_mismatch() {
    let cause = ended(EndReason::RangeMismatch);
    check(
        cause,
        Code::FailedPrecondition,
        "RANGE_MISMATCH",
        NEVER,
        &[],
    );
}

#[test]
fn compacted() {
    let cause = ended(EndReason::Compacted {
        checkpoint: Revision::new(5),
        compact_revision: Revision::new(8),
    });
    let metadata = [("checkpoint", "5"), ("compact_revision", "8")];
    check(cause, Code::OutOfRange, "COMPACTED", NEVER, &metadata);
    let cause = ended(EndReason::Compacted {
        checkpoint: None,
        compact_revision: None,
    });
    check(cause, Code::OutOfRange, "COMPACTED", NEVER, &[]);
}

#[test]
fn history_replaced() {
    let cause = ended(EndReason::HistoryReplaced);
    check(cause, Code::Aborted, "HISTORY_REPLACED", SOON, &[]);
    let cause = refused(AckRefusal::HistoryReplaced);
    check(
        cause,
        Code::Aborted,
        "HISTORY_REPLACED",
        NEVER,
        &[("revision", "9")],
    );
}

#[test]
fn upstream_unavailable() {
    let cause = ended(EndReason::UpstreamUnavailable);
    let metadata = [("flag", "--etcd-endpoints")];
    check(
        cause,
        Code::Unavailable,
        "UPSTREAM_UNAVAILABLE",
        LATER,
        &metadata,
    );
}

#[test]
fn etcd_refuses() {
    for (kind, code, reason) in [
        (
            RefusalKind::PermissionDenied,
            Code::PermissionDenied,
            "ETCD_PERMISSION_DENIED",
        ),
        (
            RefusalKind::Unauthenticated,
            Code::FailedPrecondition,
            "ETCD_UNAUTHENTICATED",
        ),
        (
            RefusalKind::InvalidArgument,
            Code::InvalidArgument,
            "ETCD_INVALID_ARGUMENT",
        ),
    ] {
        let message = check(refusal(kind), code, reason, NEVER, &[]);
        assert!(message.contains("etcd's words"));
    }
}

#[test]
fn draining() {
    let cause = ended(EndReason::Draining);
    check(cause, Code::Unavailable, "DRAINING", LATER, &[]);
    let cause = Cause::from(SubscribeError::Draining);
    check(cause, Code::Unavailable, "DRAINING", LATER, &[]);
    let cause = Cause::from(OperationError::Draining);
    check(cause, Code::Unavailable, "DRAINING", LATER, &[]);
}

#[test]
fn ack_beyond_delivered() {
    let delivered = Revision::new(4);
    let cause = refused(AckRefusal::BeyondDelivered { delivered });
    let metadata = [("revision", "9"), ("delivered", "4")];
    check(
        cause,
        Code::OutOfRange,
        "ACK_BEYOND_DELIVERED",
        NEVER,
        &metadata,
    );
    let cause = refused(AckRefusal::BeyondDelivered { delivered: None });
    let metadata = [("revision", "9")];
    check(
        cause,
        Code::OutOfRange,
        "ACK_BEYOND_DELIVERED",
        NEVER,
        &metadata,
    );
}

#[test]
fn no_session() {
    let cause = refused(AckRefusal::NoSession);
    let metadata = [("revision", "9")];
    check(
        cause,
        Code::FailedPrecondition,
        "NO_SESSION",
        NEVER,
        &metadata,
    );
}

#[test]
fn a_long_message_still_fits_into_one_header_block() {
    let problem = "ä".repeat(10_000);
    let status = status("", Cause::StoreUnavailable(problem));
    assert!(status.message().len() <= MESSAGE_BYTES_MAX);
}
