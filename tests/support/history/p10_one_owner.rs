//! P10 One owner: at most one live stream per client_id; a newer one takes
//! over, and the older one's late acks are refused. So are those of what was
//! delivered before an operator moved the subscription.

use tonic::Code;
use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::name,
    record::{Ack, End, Operated, Record, Stream, Tick},
    truth::{History, mod_revision},
};

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    let mut opened: Vec<(Tick, u64, &Stream)> = record
        .streams
        .iter()
        .filter_map(|stream| {
            let (at, opened) = stream.opened()?;
            Some((at, opened.session_id, stream))
        })
        .collect();
    opened.sort_by_key(|(_, session_id, _)| *session_id);
    for pair in opened.windows(2) {
        let [(_, old_session, old), (new_at, new_session, new)] = pair else {
            unreachable!("windows of two");
        };
        if old_session == new_session {
            return Err(format!("session {new_session} was given twice"));
        }
        // Two requests that overlapped may have arrived in either order.
        let overlapped = |old: &Stream| old.opened().is_some_and(|(at, _)| at > new.requested_at);
        if old.requested_at > new.requested_at && !overlapped(old) {
            return Err(format!("session {new_session} is older than {old_session}"));
        }
        check_old(history, record, old, *new_at)?;
        for ack in record.acks.iter().filter(|a| a.session_id == *old_session) {
            let Some((answered_at, Ok(checkpoint))) = ack.answer else {
                continue;
            };
            let is_late = ack.sent_at > *new_at;
            if is_late && !is_repeat(record, ack, [*new_at, answered_at], checkpoint) {
                return Err(format!(
                    "the late ack of {} on session {old_session} was taken",
                    ack.revision
                ));
            }
        }
    }
    check_acks_after_a_move(record)
}

/// From an operator's answer to the next stream, nothing beyond the new
/// position can be acknowledged.
fn check_acks_after_a_move(record: &Record) -> Result<(), String> {
    for operation in &record.operations {
        let Some((moved_at, Ok(()))) = operation.answer else {
            continue;
        };
        let position = match operation.what {
            Operated::Moved(revision) => revision,
            Operated::MovedToSnapshot | Operated::Deleted => 0,
        };
        let after = |at: Tick| at > moved_at;
        let mut streams = record.streams.iter().map(|stream| stream.requested_at);
        let next_stream = streams.find(|&at| after(at)).unwrap_or(Tick::MAX);
        let mut operations = record.operations.iter().map(|it| it.sent_at);
        let next_move = operations.find(|&at| at > operation.sent_at);
        let until = next_stream.min(next_move.unwrap_or(Tick::MAX));
        for (ack, answered_at, _) in record.durable_acks() {
            if after(ack.sent_at) && answered_at < until && ack.revision > position {
                return Err(format!(
                    "the ack of {} was taken after {:?}",
                    ack.revision, operation.what
                ));
            }
        }
    }
    Ok(())
}

/// A server that drained, or was started again, knows no session of before, and
/// answers what it has stored to an ack that this covers already.
fn is_repeat(record: &Record, ack: &Ack, [new_at, at]: [Tick; 2], checkpoint: i64) -> bool {
    let restarted = record.restarts.iter().any(|r| new_at < *r && *r < at);
    let covers = |other: &Ack| {
        let refused = matches!(&other.answer, Some((_, Err(end))) if end.is_refusal());
        other.sent_at < ack.sent_at && !refused && other.revision >= ack.revision
    };
    restarted && (checkpoint > ack.revision || record.acks.iter().any(covers))
}

/// What became of a stream once its successor had opened.
fn check_old(history: &History, record: &Record, old: &Stream, new_at: Tick) -> Result<(), String> {
    let late = old.received.iter().filter(|(at, _)| *at > new_at);
    for (_, message) in late {
        let Message::Events(batch) = message else {
            continue;
        };
        for event in &batch.events {
            // What was on its way may still arrive, but not what came later.
            let sent_at = history.sent_at_by_revision.get(&mod_revision(event));
            if sent_at.is_some_and(|sent_at| *sent_at > new_at) {
                return Err(format!("{} came on a superseded stream", name(event)));
            }
        }
    }
    match &old.end {
        Some((at, End::Status(code, reason))) if *at > new_at => {
            let superseded = *code == Code::Aborted && reason == "SESSION_SUPERSEDED";
            let by_operator = *code == Code::Aborted
                && ["SUBSCRIPTION_SOUGHT", "SUBSCRIPTION_DELETED"].contains(&reason.as_str())
                && record.may_be_moved(old.requested_at, new_at);
            // Its connection may have broken first.
            if superseded
                || by_operator
                || matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled)
            {
                return Ok(());
            }
            Err(format!("a superseded stream ended with {code:?} {reason}"))
        }
        None => Err("a superseded stream never ended".to_owned()),
        _ => Ok(()),
    }
}
