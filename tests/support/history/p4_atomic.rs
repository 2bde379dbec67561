//! P4 Atomic: all events of one revision arrive in one acknowledgeable unit.

use std::collections::BTreeMap;

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::View,
    record::Record,
    truth::{History, mod_revision},
};

/// A message may be this large; only a single event may make it larger.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    for stream in record.streams.iter().filter(|s| s.opened().is_some()) {
        let view = View::of(record, stream)?;
        // How many events of each revision arrived in this unit.
        let mut counts_by_revision = BTreeMap::new();
        let mut parts = 0;
        for (_, message) in &stream.received {
            if prost::Message::encoded_len(&wrap(message)) > MESSAGE_BYTES_MAX && items(message) > 1
            {
                return Err("a message is larger than clients accept".to_owned());
            }
            let Message::Events(batch) = message else {
                if !matches!(message, Message::State(_)) {
                    // A snapshot voids what was half sent.
                    counts_by_revision.clear();
                    parts = 0;
                }
                continue;
            };
            for event in &batch.events {
                *counts_by_revision.entry(mod_revision(event)).or_insert(0) += 1;
            }
            if (batch.partial || parts > 0) && counts_by_revision.len() > 1 {
                return Err(format!(
                    "parts of {} came with other revisions",
                    batch.revision
                ));
            }
            parts += 1;
            if batch.partial {
                continue;
            }
            for (revision, count) in std::mem::take(&mut counts_by_revision) {
                let whole = view.events(history, revision - 1, revision).len();
                if count != whole {
                    return Err(format!(
                        "{count} of {whole} events of revision {revision} came as one unit"
                    ));
                }
            }
            parts = 0;
        }
    }
    Ok(())
}

fn items(message: &Message) -> usize {
    match message {
        Message::Events(batch) => batch.events.len(),
        Message::SnapshotChunk(chunk) => chunk.kvs.len(),
        _ => 0,
    }
}

fn wrap(message: &Message) -> watchmark::proto::watchmark::v1::SubscribeResponse {
    watchmark::proto::watchmark::v1::SubscribeResponse {
        message: Some(message.clone()),
    }
}
