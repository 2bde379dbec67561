//! What etcd's refusals mean. Owns the reading of gRPC statuses and of the
//! cancel reasons of watches; refuses to guess: whatever it does not know is
//! retryable. Invariant: nothing here depends on the order or number of calls.
//!
//! etcd's texts: `api/v3rpc/rpctypes/error.go` of its repository.

use tonic::{Code, Status};
use tracing::warn;

use super::{UpstreamItem, convert::Malformed, status::FailureKind};
use crate::resume::{Refusal, RefusalKind};

/// What one answer of etcd means for the call that it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The revision asked for is compacted.
    Compacted,
    /// etcd has not reached the revision asked for.
    FutureRevision,
    /// The token is expired or unknown: a new one may help.
    TokenRejected,
    /// Users or roles changed since the token was made, or during the call.
    TokenOutdated,
    /// The call carried no token, and etcd wants one.
    TokenMissing,
    /// The identity may not do this. To a watch a bad token looks the same
    /// before 3.5.6.
    Denied,
    /// User or password is wrong.
    WrongCredentials,
    /// etcd runs without authentication.
    AuthenticationOff,
    /// The server does not know the call.
    Unimplemented,
    /// The answer is larger than one of the two sides takes.
    TooLarge,
    /// etcd does not accept the request, and never will.
    Invalid,
    /// Anything that may pass.
    Retryable,
}

/// Texts that say more than the code. On some versions a watch's cancel
/// reason is the whole `rpc error: code = … desc = …`, so they are searched for.
const TEXTS: [(&str, Meaning); 11] = [
    ("required revision has been compacted", Meaning::Compacted),
    (
        "required revision is a future revision",
        Meaning::FutureRevision,
    ),
    ("invalid auth token", Meaning::TokenRejected),
    ("revision of auth store is old", Meaning::TokenOutdated),
    // 3.5.1 to a transaction.
    ("revision in header is old", Meaning::TokenOutdated),
    ("user name is empty", Meaning::TokenMissing),
    ("authentication failed", Meaning::WrongCredentials),
    ("authentication is not enabled", Meaning::AuthenticationOff),
    ("permission denied", Meaning::Denied),
    ("decoded message length too large", Meaning::TooLarge),
    // gRPC's own limit: 2 GiB.
    ("trying to send message larger than max", Meaning::TooLarge),
];

impl Meaning {
    /// Of the answer to a call.
    pub(super) fn of_status(status: &Status) -> Self {
        if let Some(meaning) = Self::of_text(status.message()) {
            return meaning;
        }
        match status.code() {
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::TokenRejected,
            Code::Unimplemented => Self::Unimplemented,
            Code::InvalidArgument => Self::Invalid,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Retryable,
        }
    }

    /// Of what etcd-client makes of an answer.
    pub(super) fn of_client(error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(status),
            _ => Self::Retryable,
        }
    }

    /// Of the `cancel_reason` of a watch.
    pub(super) fn of_cancel_reason(reason: &str) -> Self {
        Self::of_text(reason).unwrap_or(Self::Retryable)
    }

    fn of_text(text: &str) -> Option<Self> {
        TEXTS
            .iter()
            .find(|(known, _)| text.contains(known))
            .map(|&(_, meaning)| meaning)
    }

    /// Whether a new token may turn this into success.
    pub(super) const fn may_be_the_token(self) -> bool {
        matches!(
            self,
            Self::TokenRejected | Self::TokenOutdated | Self::TokenMissing | Self::Denied
        )
    }
}

/// What etcd-client says of an answer, without its metadata.
pub(super) fn client_text(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => status_text(status),
        other => other.to_string(),
    }
}

/// What a status says, with its causes where it was made on this side.
pub(super) fn status_text(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

/// Texts that tell what kind of failure it is that may pass: of TLS, of etcd.
const KINDS: [(&str, FailureKind); 9] = [
    ("certificate", FailureKind::Tls),
    ("Certificate", FailureKind::Tls),
    ("received corrupt message", FailureKind::Tls),
    ("fatal alert", FailureKind::Tls),
    ("tls handshake", FailureKind::Tls),
    ("TLS", FailureKind::Tls),
    ("no leader", FailureKind::NoLeader),
    // Of tonic, hyper and the operating system.
    ("transport error", FailureKind::Unreachable),
    ("connect", FailureKind::Unreachable),
];

fn kind_of(text: &str) -> FailureKind {
    let known = KINDS.iter().find(|(known, _)| text.contains(known));
    known.map_or(FailureKind::Other, |&(_, kind)| kind)
}

/// Why a call did not do what it should. `Refused`: give up, a person must
/// act. `Lost`: try again later. Everything else the caller asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The revision asked for is compacted.
    #[error("the revision is compacted")]
    Compacted,
    /// etcd has not reached the revision asked for.
    #[error("the revision is in the future")]
    FutureRevision,
    /// The server does not know the call.
    #[error("the server does not know this call")]
    Unimplemented,
    /// The answer is larger than one of the two sides takes.
    #[error("the answer is larger than asked for")]
    TooLarge,
    /// Repeating cannot help.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It may work later, or elsewhere.
    #[error("{why}")]
    Lost {
        /// For operators.
        kind: FailureKind,
        /// For the log.
        why: String,
    },
}

impl Failure {
    /// Nobody answers; may work later, or elsewhere.
    pub(super) fn lost(why: impl Into<String>) -> Self {
        Self::lost_as(FailureKind::Unreachable, why)
    }

    /// May work later, or elsewhere.
    pub(super) fn lost_as(kind: FailureKind, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Lost { kind, why }
    }

    /// The verdict on what etcd-client says, that no newer token will change.
    pub(super) fn of_client(error: &etcd_client::Error, identity: Option<&str>) -> Self {
        Self::of(Meaning::of_client(error), &client_text(error), identity)
    }

    /// The verdict on an answer that no newer token will change.
    ///
    /// `identity`: `--etcd-user`, if given.
    pub(super) fn of(meaning: Meaning, text: &str, identity: Option<&str>) -> Self {
        let refused = |kind, message| Self::Refused(Refusal { kind, message });
        match meaning {
            Meaning::Compacted => Self::Compacted,
            Meaning::FutureRevision => Self::FutureRevision,
            Meaning::Unimplemented => Self::Unimplemented,
            Meaning::TooLarge => Self::TooLarge,
            Meaning::Denied => refused(RefusalKind::PermissionDenied, denied(identity)),
            Meaning::WrongCredentials => {
                refused(RefusalKind::Unauthenticated, wrong_credentials(identity))
            }
            Meaning::TokenMissing | Meaning::TokenRejected if identity.is_none() => refused(
                RefusalKind::Unauthenticated,
                "etcd wants a user: set --etcd-user and --etcd-password-file".to_owned(),
            ),
            Meaning::Invalid => refused(
                RefusalKind::InvalidArgument,
                format!("etcd does not accept the request: {text}"),
            ),
            // A member that lags knows neither the newest token nor the newest
            // users yet; that passes.
            Meaning::TokenMissing | Meaning::TokenRejected | Meaning::TokenOutdated => {
                Self::lost_as(FailureKind::Unauthenticated, text)
            }
            Meaning::AuthenticationOff | Meaning::Retryable => Self::lost_as(kind_of(text), text),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        warn!(%malformed, "etcd broke its protocol");
        Self::lost_as(FailureKind::Other, malformed.to_string())
    }
}

impl From<Failure> for UpstreamItem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Compacted
            | Failure::FutureRevision
            | Failure::Unimplemented
            | Failure::TooLarge
            | Failure::Lost { .. } => Self::Lost,
        }
    }
}

fn denied(identity: Option<&str>) -> String {
    match identity {
        Some(user) => format!(
            "etcd user {user:?} (--etcd-user) may not read this range: grant one of its roles \
             read permission on the whole range"
        ),
        None => "etcd denies reading this range to the sidecar's identity: set --etcd-user, or \
                 grant read permission on the whole range"
            .to_owned(),
    }
}

fn wrong_credentials(identity: Option<&str>) -> String {
    format!(
        "etcd rejects user {:?}: check --etcd-user and the content of --etcd-password-file",
        identity.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_status_has_its_meaning() {
        for (code, text, meaning) in [
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Meaning::Compacted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                Meaning::FutureRevision,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Meaning::TokenRejected,
            ),
            (
                Code::Unknown,
                "etcdserver: invalid auth token",
                Meaning::TokenRejected,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                Meaning::TokenOutdated,
            ),
            (
                Code::Unknown,
                "auth: revision in header is old",
                Meaning::TokenOutdated,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Meaning::TokenMissing,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Meaning::WrongCredentials,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Meaning::AuthenticationOff,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Meaning::Denied,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
                Meaning::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "grpc: trying to send message larger than max (2147483648 vs. 2147483647)",
                Meaning::TooLarge,
            ),
            (
                Code::Unimplemented,
                "unknown method RangeStream for service etcdserverpb.KV",
                Meaning::Unimplemented,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: key is not provided",
                Meaning::Invalid,
            ),
            (
                Code::Unavailable,
                "etcdserver: no leader",
                Meaning::Retryable,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Meaning::Retryable,
            ),
            (
                Code::Unavailable,
                "etcdserver: rpc not supported for learner",
                Meaning::Retryable,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
                Meaning::Retryable,
            ),
            (
                Code::Unknown,
                "context deadline exceeded",
                Meaning::Retryable,
            ),
            (
                Code::Unknown,
                "h2 protocol error: error reading a body from connection",
                Meaning::Retryable,
            ),
            (
                Code::Cancelled,
                "etcdserver: watch canceled",
                Meaning::Retryable,
            ),
        ] {
            let status = Status::new(code, text);
            assert_eq!(Meaning::of_status(&status), meaning, "{code:?} {text}");
        }
    }

    #[test]
    fn every_known_cancel_reason_has_its_meaning() {
        for (reason, meaning) in [
            ("", Meaning::Retryable),
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                Meaning::Denied,
            ),
            (
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                Meaning::TokenRejected,
            ),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
                Meaning::TokenMissing,
            ),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
                Meaning::TokenOutdated,
            ),
            ("mvcc: watcher range is empty", Meaning::Retryable),
            (
                "mvcc: required revision has been compacted",
                Meaning::Compacted,
            ),
        ] {
            assert_eq!(Meaning::of_cancel_reason(reason), meaning, "{reason}");
        }
    }

    #[test]
    fn a_refusal_says_which_flag_to_look_at() {
        let message = |meaning, identity| match Failure::of(meaning, "", identity) {
            Failure::Refused(refusal) => refusal.message,
            other => panic!("{other:?}"),
        };
        let wrong = message(Meaning::WrongCredentials, Some("app"));
        assert!(wrong.contains("--etcd-user") && wrong.contains("--etcd-password-file"));
        assert!(message(Meaning::TokenMissing, None).contains("--etcd-user"));
        assert!(message(Meaning::Denied, Some("app")).contains("\"app\""));
    }

    #[test]
    fn a_token_that_stays_invalid_is_retried() {
        let failure = Failure::of(Meaning::TokenRejected, "etcdserver: x", Some("app"));
        let kind = FailureKind::Unauthenticated;
        assert_eq!(failure, Failure::lost_as(kind, "etcdserver: x"));
    }
}
