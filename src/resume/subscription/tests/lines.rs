//! Commands as short lines.

use super::harness::Entry;
use crate::resume::{AckRefusal, Message, OperationRefusal, Proof, Record, Revision};

pub(super) fn say(message: &Message<Entry, Entry>) -> String {
    match message {
        Message::Opened {
            checkpoint,
            resumed,
            proof,
            cluster_id,
        } => {
            let resumed = if *resumed { " resumed" } else { "" };
            let at = Revision::to_wire(*checkpoint);
            format!("opened {at}{resumed} {} c{cluster_id}", say_proof(*proof))
        }
        Message::Events {
            revision,
            events,
            partial,
        } => {
            let partial = if *partial { " partial" } else { "" };
            format!("events {revision} {}{partial}", say_entries(events))
        }
        Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        } => {
            let compacted = Revision::to_wire(*compact_revision);
            format!("begin {revision} {reason:?} {compacted}")
        }
        Message::SnapshotChunk(kvs) => format!("chunk {}", say_entries(kvs)),
        Message::SnapshotEnd { revision, count } => format!("end {revision} of {count}"),
        Message::Progress(revision) => format!("progress {revision}"),
        Message::State(state, at) => format!("state {state:?} {}", Revision::to_wire(*at)),
    }
}

/// Long lists are cut in the middle.
fn say_entries(entries: &[Entry]) -> String {
    let one = |entry: &Entry| {
        let sign = if entry.deleted { "-" } else { "" };
        let key = String::from_utf8_lossy(&entry.key);
        format!("{sign}{key}@{}", entry.revision)
    };
    match entries {
        [first, .., last] if entries.len() > 9 => {
            format!("[{} ..{}.. {}]", one(first), entries.len(), one(last))
        }
        _ => format!(
            "[{}]",
            entries.iter().map(one).collect::<Vec<_>>().join(" ")
        ),
    }
}

pub(super) fn say_record(record: &Record) -> String {
    let mut line = format!(
        "persist {} {}",
        Revision::to_wire(record.checkpoint),
        say_proof(record.proof)
    );
    if let Some(assumed) = record.assumed {
        line += &format!(" assumed {}", assumed.revision);
        if assumed.proof != Proof::Delay {
            line += &format!(" by {}", say_proof(assumed.proof));
        }
    }
    if let Some(reason) = record.pending_snapshot {
        line += &format!(" pending {reason:?}");
    }
    let history = &record.history;
    line += &format!(" c{} t{}", history.cluster_id, history.raft_term);
    if let Some(known) = &history.fingerprint {
        let sign = if known.deleted { "-" } else { "" };
        let key = String::from_utf8_lossy(&known.key);
        line += &format!(" {sign}{key}@{}", known.mod_revision);
    }
    line
}

fn say_proof(proof: Proof) -> String {
    format!("{proof:?}").to_lowercase()
}

pub(super) fn say_refusal(refusal: &AckRefusal) -> String {
    match refusal {
        AckRefusal::BeyondDelivered { delivered } => {
            format!("beyond {}", Revision::to_wire(*delivered))
        }
        AckRefusal::Superseded => "superseded".into(),
        AckRefusal::NoSession => "no session".into(),
        AckRefusal::HistoryReplaced => "history replaced".into(),
        AckRefusal::Sought => "sought".into(),
        AckRefusal::NotFound => "not found".into(),
        AckRefusal::StoreFailed(failed) => format!("store failed: {failed}"),
    }
}

pub(super) fn say_outcome(outcome: &Result<Option<Revision>, OperationRefusal>) -> String {
    match outcome {
        Ok(before) => format!("ok, was {}", Revision::to_wire(*before)),
        Err(OperationRefusal::NotFound) => "not found".into(),
        Err(OperationRefusal::StoreFailed(failed)) => format!("store failed: {failed}"),
    }
}
