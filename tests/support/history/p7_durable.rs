//! P7 Durable ack: when `Ack` returns OK the checkpoint is on disk; no crash
//! takes it back. Nor what an operator was answered.

use watchmark::proto::watchmark::v1::{SnapshotReason, subscribe_response::Message};

use super::{
    record::{Operated, Operation, Record, Stream, Tick},
    truth::History,
};

pub(super) fn check(_: &History, record: &Record) -> Result<(), String> {
    // What was acknowledged before a position was put elsewhere says nothing after.
    let moved = |from: Tick, to: Tick| record.may_be_moved(from, to);
    for (ack, answered_at, durable) in record.durable_acks() {
        if durable < ack.revision {
            return Err(format!(
                "the ack of {} was answered with {durable}",
                ack.revision
            ));
        }
        for stream in &record.streams {
            let after = stream.requested_at > answered_at;
            if after && !moved(ack.sent_at, opened_or_asked_at(stream)) {
                check_stream(stream, durable)?;
            }
        }
        for (later, later_at, checkpoint) in record.durable_acks() {
            let fell = later.sent_at > answered_at && checkpoint < durable;
            if fell && !moved(ack.sent_at, later_at) {
                return Err(format!(
                    "an ack was answered with {durable}, and a later one with {checkpoint}"
                ));
            }
        }
    }
    for operation in &record.operations {
        let Some((answered_at, Ok(()))) = operation.answer else {
            continue;
        };
        let after = |s: &&Stream| s.requested_at > answered_at;
        let streams = record.streams.iter().filter(after);
        // Of a snapshot or a deletion, later ones say nothing: the first may
        // have been acknowledged.
        let count = match operation.what {
            Operated::Moved(_) => usize::MAX,
            Operated::MovedToSnapshot | Operated::Deleted => 1,
        };
        let mut streams = streams.take(count);
        streams.try_for_each(|stream| {
            if moved(answered_at, opened_or_asked_at(stream)) {
                return Ok(());
            }
            check_operated(operation, stream)
        })?;
    }
    Ok(())
}

fn opened_or_asked_at(stream: &Stream) -> Tick {
    stream.opened().map_or(stream.requested_at, |(at, _)| at)
}

/// A stream that was asked for when an operator had been answered.
fn check_operated(operation: &Operation, stream: &Stream) -> Result<(), String> {
    if let Operated::Moved(revision) = operation.what {
        return check_stream(stream, revision);
    }
    let Some((_, opened)) = stream.opened() else {
        return Ok(());
    };
    if opened.checkpoint > 0 && opened.resumed {
        return Err(format!(
            "{:?} was answered, and a stream opened after {}",
            operation.what, opened.checkpoint
        ));
    }
    Ok(())
}

/// A stream that began when `durable` was answered already.
fn check_stream(stream: &Stream, durable: i64) -> Result<(), String> {
    let Some((_, opened)) = stream.opened() else {
        return Ok(());
    };
    if opened.checkpoint > 0 {
        if opened.checkpoint < durable || !opened.resumed {
            return Err(format!(
                "{durable} was answered, and a stream opened after {} (resumed: {})",
                opened.checkpoint, opened.resumed
            ));
        }
        return Ok(());
    }
    for (_, message) in &stream.received {
        let Message::SnapshotBegin(begin) = message else {
            continue;
        };
        return match begin.reason() {
            SnapshotReason::Unspecified | SnapshotReason::First => Err(format!(
                "{durable} was answered, and a stream began as if it were the first"
            )),
            SnapshotReason::Compacted if begin.revision < durable => Err(format!(
                "{durable} was answered, and a snapshot of {} followed",
                begin.revision
            )),
            _ => Ok(()),
        };
    }
    Ok(())
}
