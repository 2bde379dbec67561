//! What happened in a test, and whether the promises held.
//!
//! A [`Recorder`] keeps what every subscriber asked for, received and
//! acknowledged. [`Truth`] is what etcd says happened, from a watch of its own.
//! The validators, one for each promise, compare the two.

mod broken;
mod expect;
mod p10_one_owner;
mod p1_ordered;
mod p2_unique;
mod p3_reliable;
mod p4_atomic;
mod p5_resumable;
mod p6_bookmarkable;
mod p7_durable;
mod p8_never_skip;
mod p9_never_silent;
mod record;
mod truth;

pub(crate) use self::{
    record::{Ack, End, Operated, Operation, Record, Recorder, Stream, StreamId, Tick, tick},
    truth::{History, Truth, mod_revision},
};

/// A check of one promise.
type Validator = fn(&History, &Record) -> Result<(), String>;

/// P11 (bounded) and P12 (honest) are not in a history: tests of their own
/// measure memory and look at the states.
const VALIDATORS: [(&str, Validator); 10] = [
    ("P1 ordered", p1_ordered::check),
    ("P2 unique", p2_unique::check),
    ("P3 reliable", p3_reliable::check),
    ("P4 atomic", p4_atomic::check),
    ("P5 resumable", p5_resumable::check),
    ("P6 bookmarkable", p6_bookmarkable::check),
    ("P7 durable ack", p7_durable::check),
    ("P8 never skip", p8_never_skip::check),
    ("P9 never silent", p9_never_silent::check),
    ("P10 one owner", p10_one_owner::check),
];

/// The promises that are checked, as [`broken_promises`] names them.
pub(crate) fn promises() -> impl Iterator<Item = &'static str> {
    VALIDATORS.iter().map(|(promise, _)| *promise)
}

/// Every broken promise of every subscriber.
pub(crate) fn broken_promises(history: &History, records: &[Record]) -> Vec<String> {
    let mut broken = Vec::new();
    for record in records {
        for (promise, check) in VALIDATORS {
            if let Err(why) = check(history, record) {
                broken.push(format!("{promise}: {}: {why}", record.client_id));
            }
        }
    }
    broken
}

/// Panics when a promise was broken to any subscriber, or when there was none.
#[track_caller]
pub(crate) fn validate_all(history: &History, records: &[Record]) {
    assert!(!records.is_empty(), "nothing was recorded");
    let broken = broken_promises(history, records);
    assert!(broken.is_empty(), "broken:\n{}", broken.join("\n"));
}
