//! What holds of any bytes that arrive in etcd's name: they break its contract
//! and are refused, or what leaves here has keys and revisions above zero. Here
//! are the properties; random bytes come from the tests below and from the
//! fuzz targets.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;

use super::{
    convert,
    pieces::{Cutter, FRAGMENT, PREFIX_BYTES},
    watch::{Parsed, read_response},
};
use crate::{
    proto::{
        PairOptions,
        etcdserverpb::{RangeResponse, WatchResponse},
    },
    resume::Item,
};

/// Of a message of a watch.
///
/// # Panics
/// If the property does not hold.
pub fn watch_response(bytes: &[u8]) {
    let Ok(response) = WatchResponse::decode(bytes) else {
        return;
    };
    for (can_ask_progress, keys_only) in [(false, true), (true, false)] {
        let pair_options = PairOptions {
            keys_only,
            ..PairOptions::default()
        };
        match read_response(response.clone(), can_ask_progress, pair_options) {
            Ok(Parsed::Events { events, .. }) => {
                assert_eq!(events.len(), response.events.len());
                for event in events {
                    let kv = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                    assert!(kv > 0 && event.mod_revision().get() == kv);
                    assert!(!event.key().is_empty());
                    assert!(event.size_bytes() >= event.encoded_len());
                    let values = [&event.kv, &event.prev_kv].into_iter().flatten();
                    let is_bare = values.into_iter().all(|kv| kv.value.is_empty());
                    assert!(is_bare || !keys_only);
                }
            }
            Ok(Parsed::Bookmark(revision)) => {
                let header = response.header.as_ref().map(|it| it.revision);
                assert_eq!(header, Some(revision.get()));
                assert!(response.events.is_empty() && !response.fragment && !response.created);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Of a large message of a watch that is cut while its bytes arrive: it is
/// refused, or the pieces, of which all but the last are marked, are the message.
///
/// # Panics
/// If the property does not hold.
pub fn cut_message(bytes: &[u8]) {
    let Some((&chance, message)) = bytes.split_first() else {
        return;
    };
    let (piece_bytes, at_a_time) = (1 + chance as usize % 16, 1 + chance as usize / 16);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let body = [&[0], &length.to_be_bytes()[..], message].concat();
    let mut cutter = Cutter::new(piece_bytes);
    let mut out = VecDeque::new();
    for part in body.chunks(at_a_time) {
        if cutter.cut(Bytes::copy_from_slice(part), &mut out).is_err() {
            return;
        }
    }
    let out: Vec<u8> = out.into_iter().flatten().collect();
    let (mut rest, mut joined, mut was_marked) = (&out[..], Vec::new(), true);
    while let Some((&[0, a, b, c, d], after)) = rest.split_first_chunk::<PREFIX_BYTES>() {
        assert!(was_marked, "more after the last");
        let (piece, after) = after.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
        was_marked = piece.ends_with(FRAGMENT);
        joined.extend(piece);
        rest = after;
        if !rest.is_empty() {
            joined.truncate(joined.len() - FRAGMENT.len());
        }
    }
    assert!(rest.is_empty());
    // What says itself that it is a fragment may say so once more.
    let again = joined.strip_suffix(FRAGMENT);
    assert!(joined == message || again == Some(message), "not what came");
}

/// Of a page of a snapshot.
///
/// # Panics
/// If the property does not hold.
pub fn range_response(bytes: &[u8]) {
    let Ok(response) = RangeResponse::decode(bytes) else {
        return;
    };
    if let Ok(header) = convert::header(response.header.as_ref()) {
        assert!(header.revision.get() > 0);
    }
    let first = Bytes::from_static(b"a");
    match convert::key_after_page(&first, &response.kvs) {
        Ok(Some(next)) => {
            assert!(
                response
                    .kvs
                    .iter()
                    .all(|kv| kv.key >= first && kv.key < next)
            );
            assert!(response.kvs.iter().all(|kv| kv.mod_revision().get() > 0));
        }
        Ok(None) => assert!(response.kvs.is_empty()),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::proto::{
        etcdserverpb::ResponseHeader,
        watchmark::v1::{Event, KeyValue},
    };

    fn number() -> impl Strategy<Value = i64> {
        let few = prop::sample::select(vec![i64::MIN, -1, 0, 1, 2, i64::MAX]);
        prop_oneof![few, any::<i64>()]
    }

    fn pair() -> impl Strategy<Value = KeyValue> {
        let key = prop_oneof![6 => vec(any::<u8>(), 1..4), 1 => Just(Vec::new())];
        (key, number(), vec(any::<u8>(), 0..4)).prop_map(|(key, mod_revision, value)| KeyValue {
            key: key.into(),
            mod_revision,
            value: value.into(),
            ..KeyValue::default()
        })
    }

    fn event() -> impl Strategy<Value = Event> {
        let kv = prop::option::weighted(0.9, pair());
        (kv, prop::option::of(pair()), any::<i32>()).prop_map(|(kv, prev_kv, kind)| Event {
            r#type: kind,
            kv,
            prev_kv,
        })
    }

    fn header() -> impl Strategy<Value = Option<ResponseHeader>> {
        let header = (any::<u64>(), any::<u64>(), number(), any::<u64>());
        prop::option::weighted(0.9, header).prop_map(|header| {
            let (cluster_id, member_id, revision, raft_term) = header?;
            Some(ResponseHeader {
                cluster_id,
                member_id,
                revision,
                raft_term,
            })
        })
    }

    fn cut(mut bytes: Vec<u8>, at: Option<prop::sample::Index>) -> Vec<u8> {
        if let Some(at) = at.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] ^= 0x55;
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: ProptestConfig::default().cases.max(1000),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_refused_or_have_keys_and_revisions(bytes in vec(any::<u8>(), 0..200)) {
            watch_response(&bytes);
            range_response(&bytes);
            cut_message(&bytes);
        }

        #[test]
        fn any_message_of_a_watch_is_refused_or_has_keys_and_revisions(
            header in header(),
            events in vec(event(), 0..4),
            flags in (any::<bool>(), any::<bool>(), any::<bool>()),
            (numbers, chance) in ((number(), number()), any::<u8>()),
            damage in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let response = WatchResponse {
                header,
                events,
                created: flags.0,
                canceled: flags.1,
                fragment: flags.2,
                watch_id: numbers.0,
                compact_revision: numbers.1,
                ..WatchResponse::default()
            };
            let bytes = cut(response.encode_to_vec(), damage);
            watch_response(&bytes);
            cut_message(&[&[chance], &bytes[..]].concat());
        }

        #[test]
        fn any_page_is_refused_or_ascends(
            header in header(),
            mut kvs in vec(pair(), 0..4),
            is_sorted in any::<bool>(),
            more in any::<bool>(),
            damage in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            if is_sorted {
                kvs.sort_by(|a, b| a.key.cmp(&b.key));
            }
            let response = RangeResponse {
                header,
                kvs,
                more,
                fragment: false,
            };
            range_response(&cut(response.encode_to_vec(), damage));
        }
    }

    #[test]
    fn a_page_goes_on_right_after_its_last_key() {
        let pair = |key: &'static str| KeyValue {
            key: key.into(),
            mod_revision: 1,
            ..KeyValue::default()
        };
        let after = |keys: &[&'static str]| {
            let pairs: Vec<_> = keys.iter().map(|key| pair(key)).collect();
            convert::key_after_page(&Bytes::from("b"), &pairs).ok()
        };
        assert_eq!(after(&["b", "c"]), Some(Some(Bytes::from("c\0"))));
        assert_eq!(after(&[]), Some(None));
        assert_eq!(after(&["a"]), None);
        assert_eq!(after(&["c", "c"]), None);
        assert_eq!(after(&["d", "c"]), None);
    }
}
