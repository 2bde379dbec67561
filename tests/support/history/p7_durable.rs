//! P7 Durable ack: when `Ack` returns OK the checkpoint is on disk; no crash
//! takes it back.

use watchmark::proto::watchmark::v1::{SnapshotReason, subscribe_response::Message};

use super::{
    record::{Record, Stream, Tick},
    truth::History,
};

pub(super) fn check(_: &History, record: &Record) -> Result<(), String> {
    // A subscriber that brings its own position moves the checkpoint, backwards
    // too: what was acknowledged before says nothing after.
    let moved = |from: Tick, to: Tick| {
        record
            .streams
            .iter()
            .any(|s| s.request.resume_after > 0 && from < s.requested_at && s.requested_at <= to)
    };
    for (ack, answered_at, durable) in record.durable_acks() {
        if durable < ack.revision {
            return Err(format!(
                "the ack of {} was answered with {durable}",
                ack.revision
            ));
        }
        for stream in &record.streams {
            let after = stream.requested_at > answered_at;
            if after && !moved(ack.sent_at, stream.requested_at) {
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
