//! P5 Resumable: a new stream starts right after the checkpoint; nothing after
//! it is lost, however the last stream ended.
//!
//! Over all streams of a client_id every event in range was received, or a
//! whole snapshot stands for it, or an operator's word. What an operator moved
//! back comes again.

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::{View, name},
    record::{Operated, Record},
    truth::History,
};

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    // Everything in range at or below it was received on some stream.
    let mut covered: Option<i64> = None;
    // AUTO may lose what was on its way.
    let mut after_auto = false;
    // Requests that overlap may arrive in either order.
    let opened = record.streams.iter().filter_map(|stream| {
        let (at, opened) = stream.opened()?;
        Some((at, opened, stream))
    });
    let mut opened: Vec<_> = opened.collect();
    opened.sort_by_key(|(at, ..)| *at);
    let mut asked_at = 0;
    for (opened_at, opened, stream) in opened {
        let since = asked_at;
        asked_at = asked_at.max(stream.requested_at);
        for operation in record.operations.iter().filter(|it| it.sent_at > since) {
            if operation.is_done_by(stream.requested_at) {
                covered = match operation.what {
                    Operated::Moved(revision) => Some(revision),
                    Operated::MovedToSnapshot | Operated::Deleted => None,
                };
            }
        }
        // Asked for at about the same time: it may have been the first or not.
        let may_be_moved = record
            .operations
            .iter()
            .any(|it| !it.is_done_by(stream.requested_at) && it.may_lie_between(since, opened_at));
        if may_be_moved {
            covered = None;
        }
        let view = View::of(record, stream)?;
        let own_position = stream.request.resume_after > 0;
        if opened.checkpoint > 0 {
            if let Some(covered) = covered
                && !own_position
                && !after_auto
                && let Some(lost) = view.events(history, covered, opened.checkpoint).first()
            {
                return Err(format!(
                    "{} was never received, and a stream opened after {}",
                    name(lost),
                    opened.checkpoint
                ));
            }
            covered = Some(match covered {
                Some(covered) if !own_position => covered.max(opened.checkpoint),
                _ => opened.checkpoint,
            });
        }
        for (_, message) in &stream.received {
            let reached = match message {
                Message::Events(batch) if !batch.partial => batch.revision,
                Message::SnapshotEnd(end) => end.revision,
                Message::Progress(progress) => progress.revision,
                _ => continue,
            };
            covered = covered.max(Some(reached));
        }
        after_auto = stream.is_auto();
    }
    Ok(())
}
