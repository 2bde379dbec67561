//! Whether the promises held over one history of etcd, and what was told at
//! the seam between two.

use std::collections::BTreeMap;

use watchmark::proto::watchmark::v1::{
    SnapshotBegin, SnapshotReason, StreamState, subscribe_response::Message,
};

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
        let mut messages = stream.received.iter();
        messages.any(|(_, message)| beginning(message).is_some())
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
    for stream in &record.streams {
        if let Some((_, End::Status(_, reason))) = &stream.end
            && reason == "HISTORY_REPLACED"
        {
            return Ok(true);
        }
        let Some((_, opened)) = stream.opened() else {
            continue;
        };
        match stream.received.iter().find_map(|(_, m)| beginning(m)) {
            None => {}
            Some(Beginning::GoesOn) if opened.checkpoint > common => {
                return Err(format!(
                    "a stream went on after {} (resumed: {}), {before} was the checkpoint, and \
                     the history was replaced after {common}",
                    opened.checkpoint, opened.resumed
                ));
            }
            // Nothing of what it has seen was lost.
            Some(Beginning::GoesOn) => return Ok(false),
            Some(Beginning::Snapshot(begin)) => return tells(begin, before, common),
        }
    }
    Ok(false)
}

/// The first thing that a stream says of etcd.
enum Beginning<'a> {
    Snapshot(&'a SnapshotBegin),
    GoesOn,
}

fn beginning(message: &Message) -> Option<Beginning<'_>> {
    match message {
        Message::SnapshotBegin(begin) => Some(Beginning::Snapshot(begin)),
        Message::Events(_) => Some(Beginning::GoesOn),
        // It looked at etcd, and found nothing wrong.
        Message::State(state) if state.state() == StreamState::Live => Some(Beginning::GoesOn),
        _ => None,
    }
}

fn tells(begin: &SnapshotBegin, before: i64, common: i64) -> Result<bool, String> {
    match begin.reason() {
        SnapshotReason::HistoryReplaced => Ok(true),
        // No guard can be read any more where the new history was compacted
        // past the checkpoint: the loss shows all the same.
        SnapshotReason::Compacted if compacted_past(begin, before) => Ok(true),
        reason => Err(format!(
            "a snapshot came with {reason:?}, {before} was the checkpoint, and the history was \
             replaced after {common}"
        )),
    }
}

/// etcd does not always say what its compact_revision is.
fn compacted_past(begin: &SnapshotBegin, revision: i64) -> bool {
    let compacted = begin.compact_revision;
    compacted > revision || compacted == 0 && begin.revision > revision
}
