//! P2 Unique: within one stream no event arrives twice.

use std::collections::BTreeSet;

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::name,
    record::Record,
    truth::{History, mod_revision},
};

pub(super) fn check(_: &History, record: &Record) -> Result<(), String> {
    for stream in &record.streams {
        // etcd never has two events of one key in one revision.
        let mut seen = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for (_, message) in &stream.received {
            match message {
                Message::Events(batch) => {
                    for event in &batch.events {
                        let key = event.kv.as_ref().map(|kv| kv.key.clone());
                        if !seen.insert((mod_revision(event), key)) {
                            return Err(format!("{} came twice", name(event)));
                        }
                    }
                }
                Message::SnapshotBegin(_) => keys.clear(),
                Message::SnapshotChunk(chunk) => {
                    for kv in &chunk.kvs {
                        if !keys.insert(kv.key.clone()) {
                            return Err(format!("{:?} came twice in a snapshot", kv.key));
                        }
                    }
                }
                Message::Opened(_)
                | Message::SnapshotEnd(_)
                | Message::Progress(_)
                | Message::State(_) => {}
            }
        }
    }
    Ok(())
}
