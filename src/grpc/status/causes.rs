//! From the errors of `session` to the causes of the table.

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
