//! What resuming needs to know of an event and a pair.

use bytes::Bytes;
use prost::Message;

use super::watchmark::v1::{Event, KeyValue, event::EventType};
use crate::resume::{Item, Revision};

/// etcd sends no event and no pair without a key and a mod_revision; what
/// checks its answers refuses any that lacks them. Here they only need a value.
static NO_KEY: Bytes = Bytes::new();
const NO_REVISION: Revision = match Revision::new(1) {
    Some(revision) => revision,
    None => unreachable!(),
};

impl Item for Event {
    fn key(&self) -> &Bytes {
        self.kv.as_ref().map_or(&NO_KEY, |kv| &kv.key)
    }

    fn mod_revision(&self) -> Revision {
        self.kv.as_ref().map_or(NO_REVISION, Item::mod_revision)
    }

    fn size_bytes(&self) -> usize {
        share_bytes(self)
    }

    fn is_delete(&self) -> bool {
        self.r#type() == EventType::Delete
    }
}

impl Item for KeyValue {
    fn key(&self) -> &Bytes {
        &self.key
    }

    fn mod_revision(&self) -> Revision {
        Revision::new(self.mod_revision).unwrap_or(NO_REVISION)
    }

    fn size_bytes(&self) -> usize {
        share_bytes(self)
    }

    fn is_delete(&self) -> bool {
        false
    }
}

/// As an element of a repeated field whose number is below 16: tag, length, body.
fn share_bytes(message: &impl Message) -> usize {
    let body = message.encoded_len();
    1 + prost::length_delimiter_len(body) + body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::watchmark::v1::{
        Events, SnapshotChunk, SubscribeResponse, subscribe_response,
    };

    fn pair(value_bytes: usize) -> KeyValue {
        KeyValue {
            key: "routes/eu".into(),
            create_revision: i64::MAX,
            mod_revision: i64::MAX,
            version: 1,
            value: vec![7; value_bytes].into(),
            lease: -1,
        }
    }

    /// What a message takes besides its items: see `grpc` for its limit.
    #[test]
    fn the_sizes_of_the_items_add_up_to_the_message_but_for_a_small_frame() {
        for value_bytes in [0, 1, 127, 128, 16_384, 3_000_000] {
            let event = Event {
                r#type: EventType::Put.into(),
                kv: Some(pair(value_bytes)),
                prev_kv: Some(pair(value_bytes)),
            };
            let items = event.size_bytes() * 2;
            let message = SubscribeResponse {
                message: Some(subscribe_response::Message::Events(Events {
                    revision: i64::MAX,
                    events: vec![event.clone(), event],
                    partial: true,
                })),
            };
            assert!((items..=items + 32).contains(&message.encoded_len()));

            let items = pair(value_bytes).size_bytes();
            let message = SubscribeResponse {
                message: Some(subscribe_response::Message::SnapshotChunk(SnapshotChunk {
                    kvs: vec![pair(value_bytes)],
                })),
            };
            assert!((items..=items + 32).contains(&message.encoded_len()));
        }
    }

    #[test]
    fn an_event_without_a_pair_does_not_panic() {
        let event = Event::default();
        assert!(event.key().is_empty());
        assert_eq!(event.mod_revision().get(), 1);
        assert!(!event.is_delete());
    }
}
