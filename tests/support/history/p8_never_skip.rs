//! P8 Never skip: the checkpoint never passes an event in range that was
//! delivered but not acknowledged, or not yet delivered.

use watchmark::proto::watchmark::v1::SubscribeRequest;

use super::{
    expect::{View, name},
    record::{Operated, Record, Stream, Tick},
    truth::History,
};

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    for stream in &record.streams {
        if let Some((at, opened)) = stream.opened()
            && opened.checkpoint > 0
            && opened.resumed
            && stream.request.resume_after == 0
        {
            check_checkpoint(history, record, stream, at, opened.checkpoint)?;
        }
    }
    for (ack, at, checkpoint) in record.durable_acks() {
        let opened = |s: &&Stream| {
            s.opened()
                .is_some_and(|(opened_at, _)| opened_at < ack.sent_at)
        };
        if let Some(stream) = record.streams.iter().rfind(opened) {
            check_checkpoint(history, record, stream, at, checkpoint)?;
        }
    }
    Ok(())
}

/// `checkpoint` was seen at `at`: everything in range up to it must have been
/// acknowledged, or come before the subscription began.
fn check_checkpoint(
    history: &History,
    record: &Record,
    stream: &Stream,
    at: Tick,
    checkpoint: i64,
) -> Result<(), String> {
    // Nothing from before an operator's move counts after it, but its word.
    let operation = record.operation_before(stream.requested_at);
    let since = operation.map_or(0, |operation| operation.sent_at);
    let before = |s: &&Stream| s.requested_at < at && s.requested_at >= since;
    if record.streams.iter().filter(before).any(Stream::is_auto) {
        // What the transport took, nobody here knows.
        return Ok(());
    }
    // Where the subscription began, or was put by its own request.
    let starts = record.streams.iter().filter(before).filter_map(|stream| {
        let SubscribeRequest { resume_after, .. } = stream.request;
        let (_, opened) = stream.opened()?;
        let fresh = resume_after > 0 || (!opened.resumed && opened.checkpoint > 0);
        fresh.then_some(opened.checkpoint)
    });
    // The answer may be lost, so sending it is enough, unless it was refused.
    let acked = record
        .acks
        .iter()
        .filter(|ack| {
            let in_time = ack.sent_at < at && ack.sent_at >= since;
            in_time && !matches!(ack.answer, Some((_, Err(ref end))) if end.is_refusal())
        })
        .map(|ack| ack.revision);
    let moved = record.operations.iter().filter_map(|it| match it.what {
        Operated::Moved(revision) if it.sent_at >= since => {
            it.may_lie_between(since, at).then_some(revision)
        }
        _ => None,
    });
    let Some(known) = starts.chain(acked).chain(moved).max() else {
        // Its start was not seen: the stream that made it broke before `opened`.
        return Ok(());
    };
    let view = View::of(record, stream)?;
    match view.events(history, known, checkpoint).first() {
        Some(skipped) => Err(format!(
            "the checkpoint is {checkpoint}, and {} was not acknowledged",
            name(skipped)
        )),
        None => Ok(()),
    }
}
