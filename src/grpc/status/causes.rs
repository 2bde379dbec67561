//! From the errors of `session` to the causes of the table, and what takes
//! more than a row to say.

use super::Cause;
use crate::{
    resume::{EndReason, Revision},
    session::{AckError, Ended, OperationError, SubscribeError},
};

impl From<SubscribeError> for Cause {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Draining => Self::StreamEnded(EndReason::Draining),
            SubscribeError::TooManySubscriptions { max } => Self::TooManySubscriptions { max },
            SubscribeError::LoadRecord(error) => Self::StoreUnavailable(error.to_string()),
            SubscribeError::DriverStopped => Self::DriverStopped,
        }
    }
}

impl From<OperationError> for Cause {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::NotFound => Self::SubscriptionNotFound,
            OperationError::Draining => Self::StreamEnded(EndReason::Draining),
            OperationError::StoreFailed(problem) => Self::StoreUnavailable(problem),
            OperationError::UpstreamUnavailable(problem) => Self::SeekUnavailable(problem),
            OperationError::Compacted { compact_revision } => {
                Self::SeekCompacted { compact_revision }
            }
            OperationError::Future { head } => Self::SeekFuture { head },
            OperationError::Replaced => Self::SeekReplaced,
            OperationError::DriverStopped => Self::DriverStopped,
        }
    }
}

impl From<Ended> for Cause {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::By(reason) => Self::StreamEnded(reason),
            Ended::Abandoned => Self::DriverStopped,
        }
    }
}

impl Cause {
    /// Of an ack of `revision`.
    pub(in crate::grpc) fn ack(revision: Revision, error: AckError) -> Self {
        match error {
            AckError::Refused(refusal) => Self::AckRefused { revision, refusal },
            AckError::SubscriptionNotFound => Self::SubscriptionNotFound,
            AckError::LoadRecord(error) => Self::StoreUnavailable(error.to_string()),
            AckError::DriverStopped => Self::DriverStopped,
        }
    }
}

/// What who may not use `client_id` is told, whose certificate says `names`.
pub(super) fn not_allowed(client_id: &str, names: &[String]) -> String {
    match names {
        [] => format!(
            "client_id {client_id:?} belongs to nobody who connects without a certificate that \
             names it: use one whose subject alternative names hold a DNS name or a URI like \
             spiffe://domain/path, of at most 128 characters of [A-Za-z0-9._:/-], without a colon \
             but in ://"
        ),
        names => format!(
            "client_id {client_id:?} is not yours: your certificate says {}. Use that, or that \
             and a colon and a suffix",
            names.join(" and ")
        ),
    }
}
