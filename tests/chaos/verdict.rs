//! Whether the promises held over one history of etcd, and what was told at
//! the seam between two.

use std::collections::BTreeMap;

use watchmark::proto::watchmark::v1::{SnapshotReason, StreamState, subscribe_response::Message};

use crate::support::history::{End, History, Record, Stream, Tick, broken_promises};

/// What a history leaves behind: the highest checkpoint that each client_id
/// was certain of.
pub(crate) type Checkpoints = BTreeMap<String, i64>;

/// What to judge.
pub(crate) struct Case {
    pub(crate) number: usize,
    pub(crate) history: History,
    pub(crate) records: Vec<Record>,
    /// When watchmark forgot its sessions.
    pub(crate) restarts: Vec<Tick>,
    /// Up to this revision it is also the history of the epoch before.
    pub(crate) common: i64,
    /// Of the epoch before.
    pub(crate) before: Checkpoints,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) broken: Vec<String>,
    /// How many subscriptions were checked.
    pub(crate) subscriptions: usize,
    /// How many were told that the history was replaced, and had to be.
    pub(crate) told: usize,
    pub(crate) checkpoints: Checkpoints,
}

impl Case {
    pub(crate) fn judge(&self) -> Verdict {
        let mut verdict = Verdict {
            subscriptions: self.records.len(),
            ..Verdict::default()
        };
        let mut records = Vec::new();
        for record in &self.records {
            let mut record = without_promises_of_old(record, self.common, self.number);
            record.restarts.clone_from(&self.restarts);
            let before = self.before.get(&record.client_id).copied();
            if let Some(before) = before.filter(|before| *before > self.common) {
                match told(&record, before, self.common) {
                    Ok(told) => verdict.told += usize::from(told),
                    Err(why) => verdict
                        .broken
                        .push(format!("P9 never silent: {}: {why}", record.client_id)),
                }
            }
            verdict
                .checkpoints
                .insert(record.client_id.clone(), checkpoint(&record));
            records.push(record);
        }
        verdict.broken.extend(
            broken_promises(&self.history, &records)
                .into_iter()
                .map(|broken| format!("{broken} (history {})", self.number)),
        );
        verdict
    }
}

/// The highest checkpoint that was seen durable.
fn checkpoint(record: &Record) -> i64 {
    let acked = record.durable_acks().map(|(_, _, checkpoint)| checkpoint);
    let opened = record.streams.iter().filter_map(Stream::opened);
    acked
        .chain(opened.map(|(_, opened)| opened.checkpoint))
        .max()
        .unwrap_or(0)
}

/// etcd may be away when a stream opens at its old checkpoint; it then ends,
/// or is superseded, without an event as soon as etcd shows another history.
/// Such a stream says nothing about the new one.
fn without_promises_of_old(record: &Record, common: i64, number: usize) -> Record {
    let mut record = record.clone();
    let says_something = |stream: &Stream| {
        stream.received.iter().any(|(_, message)| match message {
            Message::Events(_) | Message::SnapshotEnd(_) => true,
            // It looked at etcd, and found nothing wrong.
            Message::State(state) => state.state() == StreamState::Live,
            _ => false,
        })
    };
    let is_of_old = |stream: &Stream| {
        let opened = stream.opened();
        number > 0 && opened.is_some_and(|(_, opened)| opened.checkpoint > common)
    };
    let mut nothing_said = true;
    record.streams.retain(|stream| {
        nothing_said &= !says_something(stream);
        !(nothing_said && is_of_old(stream))
    });
    record
}

/// Who had a checkpoint that the new history does not have must be told so
/// before anything else. `false`: there was no stream that could.
fn told(record: &Record, before: i64, common: i64) -> Result<bool, String> {
    let own_position = |stream: &Stream| stream.request.resume_after > 0;
    for stream in &record.streams {
        if let Some((_, End::Status(_, reason))) = &stream.end
            && reason == "HISTORY_REPLACED"
        {
            return Ok(true);
        }
        let Some((_, opened)) = stream.opened() else {
            continue;
        };
        if opened.checkpoint > common || (opened.checkpoint > 0 && own_position(stream)) {
            return Err(format!(
                "a stream went on after {} (resumed: {}), {before} was the checkpoint, and \
                 the history was replaced after {common}",
                opened.checkpoint, opened.resumed
            ));
        }
        if opened.checkpoint > 0 {
            // Nothing of what it has seen was lost.
            return Ok(false);
        }
        let begin = stream.received.iter().find_map(|(_, m)| match m {
            Message::SnapshotBegin(begin) => Some(begin),
            _ => None,
        });
        let Some(begin) = begin else { continue };
        return match begin.reason() {
            SnapshotReason::HistoryReplaced => Ok(true),
            // No guard can be read any more where the new history was compacted
            // past the checkpoint: the loss shows all the same.
            SnapshotReason::Compacted if begin.compact_revision > before => Ok(true),
            reason => Err(format!(
                "a snapshot came with {reason:?}, {before} was the checkpoint, and the history \
                 was replaced after {common}"
            )),
        };
    }
    Ok(false)
}
