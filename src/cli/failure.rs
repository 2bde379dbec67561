//! Why a command failed, what is told of it, and the exit code.

use std::{error::Error, io, process::ExitCode, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{note::note, unreachable, words::one_line};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Who read the answer has seen enough.
    #[error("nobody reads the output")]
    OutputClosed,
    /// Flags that go together in no way.
    #[error("{0}")]
    Usage(String),
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
    /// It cannot be reached, does not answer, or answers nonsense.
    #[error("{0}")]
    Failed(String),
}

/// The server's own words.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({}{})", code_name(*.code), reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default())]
pub(super) struct Refusal {
    pub(super) code: Code,
    /// `ErrorInfo.reason`.
    pub(super) reason: Option<String>,
    /// Whether the same call may succeed later.
    pub(super) is_passing: bool,
    /// `RetryInfo`.
    pub(super) retry_after: Duration,
    message: String,
}

impl Failure {
    /// What the status of a call at `address` means.
    pub(super) fn of_call(address: &str, status: &Status) -> Self {
        match status.source() {
            Some(cause) => Self::Failed(unreachable::broken(address, cause)),
            None => Self::of_answer(address, status),
        }
    }

    /// What the status means that ends a stream from `address`.
    pub(super) fn of_stream(address: &str, status: &Status) -> Self {
        match status.source() {
            Some(cause) => Self::Failed(unreachable::lost(address, cause)),
            None => Self::of_answer(address, status),
        }
    }

    fn of_answer(address: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| one_line(&info.reason));
        let mut message = one_line(status.message());
        // A server of ours always gives a reason; this is what has no such service.
        if status.code() == Code::Unimplemented && reason.is_none() {
            message = format!(
                "{address} does not have this service: try watchmark's admin port, --address \
                 127.0.0.1:7380 by default"
            );
        }
        let breaks = [Code::Unavailable, Code::Unknown, Code::Cancelled];
        Self::Refused(Refusal {
            code: status.code(),
            is_passing: if reason.is_some() {
                details.retry_info().is_some()
            } else {
                breaks.contains(&status.code())
            },
            retry_after: details
                .retry_info()
                .and_then(|retry| retry.retry_delay)
                .unwrap_or_default(),
            reason,
            message,
        })
    }

    /// Whether there is no such client_id.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == Code::NotFound)
    }

    /// Tells it, and says what to exit with.
    pub(super) fn tell(&self) -> ExitCode {
        let code = match self {
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::Usage(_) => 2,
            Self::Refused(_) if self.is_not_found() => 4,
            Self::Refused(_) | Self::Failed(_) => 1,
        };
        note(&format!("error: {self}"));
        ExitCode::from(code)
    }
}

impl From<io::Error> for Failure {
    /// Of writing to stdout.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// As in gRPC's documentation: `NOT_FOUND`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_everywhere_else() {
        assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
        assert_eq!(code_name(Code::Ok), "OK");
    }
}
