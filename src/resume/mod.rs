//! The heart: what a subscription remembers and what it does next. Pure: no
//! I/O, no async, no clock. Time comes in as a parameter.

mod backoff;
mod batch;
mod client_id;
mod command;
mod delay_rule;
mod history;
pub mod input;
mod key_range;
mod ledger;
mod record;
mod revision;
mod segments;
mod settings;
mod subscription;
#[cfg(test)]
mod test_event;

pub use self::{
    backoff::Backoff,
    client_id::{ClientId, InvalidClientId},
    command::{
        AckRefusal, Activity, Command, EndReason, Guard, Message, OperationRefusal, StreamState,
    },
    input::{
        AckId, Attempt, GuardReading, Header, Input, Item, OnCompaction, OperationId, OutboxRoom,
        ProbeSample, Refusal, RefusalKind, SeekTo, SessionId, SessionRequest, Start, StoreFailed,
        Time, WatchOpened,
    },
    key_range::{InvalidKeyRange, KeyRange},
    record::{
        Assumed, Fingerprint, History, Proof, RECORD_VERSION, Record, Selection, SnapshotReason,
    },
    revision::Revision,
    segments::{Contradiction, Piece, Segments},
    settings::{IdleProof, Settings},
    subscription::Subscription,
};
