//! What holds of any bytes that arrive as a request: they are refused, with a
//! status, or they ask for something that may be asked for. Here are the
//! properties; random bytes come from the tests below and from the fuzz targets.

use prost::Message;

use super::{
    edge::{Asked, AskedAck, EdgeRules},
    status::{Cause, status},
};
use crate::{
    proto::watchmark::v1::{AckRequest, SubscribeRequest},
    resume::{KeyRange, Selection},
};

/// Of a `SubscribeRequest`.
///
/// # Panics
/// If the property does not hold.
pub fn subscribe_request(bytes: &[u8]) {
    let Ok(request) = SubscribeRequest::decode(bytes) else {
        return;
    };
    let prefix = |prefix: &'static str| KeyRange::prefix(prefix.into());
    let stored = Selection {
        range: prefix("a/"),
        no_put: false,
        no_delete: true,
    };
    for allowed_ranges in [vec![], vec![prefix("a")], vec![prefix("")]] {
        for stored in [None, Some(stored.clone())] {
            let rules = EdgeRules {
                default_range: Some(prefix("a/b")),
                allowed_ranges: allowed_ranges.clone(),
                client_id_from_cert: false,
            };
            let asked = match Asked::parse(request.clone()) {
                Ok(asked) => asked,
                Err(cause) => return assert_told("", cause),
            };
            match asked.resolve(stored, &rules) {
                Ok(resolved) => {
                    assert!(rules.allows(&resolved.selection.range));
                    assert!(!resolved.selection.range.key().is_empty());
                    assert_eq!(resolved.resume_after.is_some(), request.resume_after > 0);
                }
                Err(cause) => assert_told(&request.client_id, cause),
            }
        }
    }
}

/// Of an `AckRequest`.
///
/// # Panics
/// If the property does not hold.
pub fn ack_request(bytes: &[u8]) {
    let Ok(request) = AckRequest::decode(bytes) else {
        return;
    };
    match AskedAck::parse(&request) {
        Ok(asked) => {
            assert_eq!(asked.revision.get(), request.revision);
            assert_eq!(asked.client_id.as_str(), request.client_id);
        }
        Err(cause) => assert_told("", cause),
    }
}

/// In a few words, whatever was sent.
fn assert_told(client_id: &str, cause: Cause) {
    let status = status(client_id, cause);
    assert!(!status.message().is_empty() && status.message().len() < 500);
    assert!(!status.details().is_empty());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        let some = vec(any::<u8>(), 0..6).prop_map(Bytes::from);
        let edges = prop::sample::select(vec!["", "", "\0", "a", "a/", "a/b", "b"]);
        let huge = Just(Bytes::from(vec![b'k'; 100_000]));
        prop_oneof![10 => some, 20 => edges.prop_map(Bytes::from), 1 => huge]
    }

    fn number() -> impl Strategy<Value = i64> {
        let few = prop::sample::select(vec![i64::MIN, -1, 0, 0, 1, i64::MAX]);
        prop_oneof![few, any::<i64>()]
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![4 => "[a-z:]{1,5}", 1 => ".{0,5}", 1 => "a{127,130}"]
    }

    fn choice() -> impl Strategy<Value = i32> {
        let few = prop::sample::select(vec![i32::MIN, -1, 3, i32::MAX]);
        prop_oneof![9 => 0..3, 1 => few]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: ProptestConfig::default().cases.max(1000),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_refused_or_ask_for_what_is_allowed(bytes in vec(any::<u8>(), 0..200)) {
            subscribe_request(&bytes);
            ack_request(&bytes);
        }

        #[test]
        fn any_values_are_refused_or_ask_for_what_is_allowed(
            client_id in name(),
            keys in (bytes(), bytes(), bytes()),
            resume_after in number(),
            choices in (choice(), choice(), choice()),
            no_put in any::<bool>(),
            max_unacked_events in any::<u32>(),
        ) {
            let request = SubscribeRequest {
                client_id,
                prefix: keys.0,
                key: keys.1,
                range_end: keys.2,
                resume_after,
                start: choices.0,
                on_compaction: choices.1,
                ack_mode: choices.2,
                no_put,
                max_unacked_events,
                ..SubscribeRequest::default()
            };
            subscribe_request(&request.encode_to_vec());
        }

        #[test]
        fn any_ack_is_refused_or_says_what_was_sent(
            client_id in name(), revision in number(), session_id in any::<u64>(),
        ) {
            let request = AckRequest { client_id, revision, session_id };
            ack_request(&request.encode_to_vec());
        }
    }
}
