//! What goes wrong, and what the caller is told: `table` is THE table, and here
//! its rows become statuses. Every `Status` of ours is made here.
//!
//! A message says what happened, to which
//! client_id, and what to do. `ErrorInfo` carries a reason that programs can
//! match on and the numbers that matter; `RetryInfo` is there exactly when the
//! same call may succeed later.

mod causes;
mod table;

use std::{collections::HashMap, time::Duration};

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use self::table::row;
use super::peer::ConnectionLimit;
use crate::resume::{AckRefusal, EndReason, Revision};

/// `ErrorInfo.domain` of everything that is ours.
const DOMAIN: &str = "watchmark";

/// A status travels in one header block, of which clients take 8 KiB. It
/// carries the message twice, once percent-encoded and once in base64.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What went wrong with one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    InvalidArgument {
        field: &'static str,
        problem: String,
    },
    NoRange,
    RangeNotAllowed {
        is_open_ended: bool,
    },
    TooManySubscriptions {
        max: usize,
    },
    ClientIdNotAllowed {
        /// What the caller's certificate calls it, as far as that can own a client_id.
        names: Vec<String>,
    },
    TooManyConnections(ConnectionLimit),
    RequestTooLarge {
        limit: &'static str,
        max_bytes: usize,
    },
    TimedOut {
        waited: Duration,
    },
    RequestIncomplete {
        waited: Duration,
    },
    StoreUnavailable(String),
    DriverStopped,
    SubscriptionNotFound,
    StreamEnded(EndReason),
    AckRefused {
        revision: Revision,
        refusal: AckRefusal,
    },
    LocalOnly,
    SeekCompacted {
        compact_revision: Option<Revision>,
    },
    SeekFuture {
        head: Option<Revision>,
    },
    SeekReplaced,
    SeekUnavailable(String),
}

/// What the caller who named `client_id` is told of `cause`.
pub(super) fn status(client_id: &str, cause: Cause) -> Status {
    let bad_field = match &cause {
        Cause::InvalidArgument { field, problem } => Some((*field, problem.clone())),
        _ => None,
    };
    let row = row(client_id, cause);
    let mut metadata: HashMap<String, String> = row
        .metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if !client_id.is_empty() {
        metadata.insert("client_id".to_owned(), client_id.to_owned());
    }
    let mut details = ErrorDetails::with_error_info(row.reason, DOMAIN, metadata);
    if row.retry_after.is_some() {
        details.set_retry_info(row.retry_after);
    }
    if let Some((field, problem)) = bad_field {
        details.add_bad_request_violation(field, problem);
    }
    let mut message = row.message;
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    Status::with_error_details(row.code, message, details)
}

#[cfg(test)]
mod tests;
