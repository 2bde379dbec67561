//! From etcd's words to the state machine's. Owns the checks of what a peer
//! sent; refuses what breaks etcd's own contract. Invariant: what leaves here
//! has a key and a revision above zero.

use bytes::Bytes;

use crate::{
    proto::{
        PairOptions,
        etcdserverpb::{ResponseHeader, WatchCreateRequest, watch_create_request::FilterType},
        watchmark::v1::{Event, KeyValue},
    },
    resume::{Header, Revision},
};

use super::WatchSpec;

/// What a peer sent breaks etcd's contract; in the words of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("an answer has no header or no revision")]
    Header,
    #[error("an event has no key-value pair")]
    NoPair,
    #[error("a pair has no key")]
    NoKey,
    #[error("a pair has no mod_revision")]
    NoModRevision,
    #[error("a page is not in key order, or is empty though more follows")]
    Page,
    #[error("the first message of a watch is not its creation")]
    NotCreated,
}

/// The header of a linearizable answer.
pub(super) fn header(header: Option<&ResponseHeader>) -> Result<Header, Malformed> {
    let header = header.ok_or(Malformed::Header)?;
    Ok(Header {
        cluster_id: header.cluster_id,
        raft_term: header.raft_term,
        revision: Revision::new(header.revision).ok_or(Malformed::Header)?,
    })
}

/// Checks events, and leaves in them what is wanted.
pub(super) fn events(
    mut events: Vec<Event>,
    pair_options: PairOptions,
) -> Result<Vec<Event>, Malformed> {
    for event in &mut events {
        check(event.kv.as_ref().ok_or(Malformed::NoPair)?)?;
        for pair in [&mut event.kv, &mut event.prev_kv].into_iter().flatten() {
            pair_options.apply(pair);
        }
    }
    Ok(events)
}

/// Checks one pair.
pub(super) fn check(pair: &KeyValue) -> Result<(), Malformed> {
    if pair.key.is_empty() {
        return Err(Malformed::NoKey);
    }
    if pair.mod_revision <= 0 {
        return Err(Malformed::NoModRevision);
    }
    Ok(())
}

/// Checks the pairs of a page of a snapshot that was asked for from `first`
/// on. Where the next page begins; `None`: nowhere else, the page is empty.
pub(super) fn key_after_page(
    first: &Bytes,
    pairs: &[KeyValue],
) -> Result<Option<Bytes>, Malformed> {
    let Some((lowest, highest)) = pairs.first().zip(pairs.last()) else {
        return Ok(None);
    };
    let ascends = pairs.is_sorted_by(|pair, next| pair.key < next.key);
    if lowest.key < *first || !ascends {
        return Err(Malformed::Page);
    }
    pairs.iter().try_for_each(check)?;
    // The first key after it.
    Ok(Some([&highest.key[..], b"\0"].concat().into()))
}

/// The request that creates a watch of `spec` that starts right after `after`.
pub(super) fn create_request(
    spec: &WatchSpec,
    after: Revision,
    fragment: bool,
) -> WatchCreateRequest {
    let filters = [
        (spec.selection.no_put, FilterType::Noput),
        (spec.selection.no_delete, FilterType::Nodelete),
    ];
    WatchCreateRequest {
        key: spec.selection.range.key().clone(),
        range_end: spec.selection.range.range_end().clone(),
        start_revision: after.successor().get(),
        progress_notify: true,
        filters: filters
            .into_iter()
            .filter_map(|(wanted, filter)| wanted.then_some(filter.into()))
            .collect(),
        prev_kv: spec.pair_options.prev_kv,
        watch_id: 0,
        fragment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::{Guard, KeyRange, Selection};

    fn keys_only() -> PairOptions {
        PairOptions {
            keys_only: true,
            ..PairOptions::default()
        }
    }

    fn pair(key: &'static str, mod_revision: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            mod_revision,
            value: "value".into(),
            ..KeyValue::default()
        }
    }

    fn event(kv: Option<KeyValue>) -> Event {
        Event {
            prev_kv: kv.clone(),
            kv,
            ..Event::default()
        }
    }

    #[test]
    fn events_without_pair_key_or_revision_are_refused() {
        for (kv, malformed) in [
            (None, Malformed::NoPair),
            (Some(pair("", 1)), Malformed::NoKey),
            (Some(pair("k", 0)), Malformed::NoModRevision),
            (Some(pair("k", -1)), Malformed::NoModRevision),
        ] {
            assert_eq!(
                events(vec![event(kv)], PairOptions::default()),
                Err(malformed)
            );
        }
    }

    #[test]
    fn a_watch_starts_right_after_its_position() {
        let after = Revision::new(7).unwrap();
        let range = KeyRange::new("k".into(), "l".into()).unwrap();
        let spec = WatchSpec {
            selection: Selection {
                range,
                no_put: false,
                no_delete: false,
            },
            guard: Guard {
                revision: Revision::new(5).unwrap(),
                key: "k".into(),
            },
            pair_options: PairOptions::default(),
            avoid_member: None,
        };
        assert_eq!(create_request(&spec, after, false).start_revision, 8);
    }

    #[test]
    fn keys_only_drops_both_values() {
        let events = events(vec![event(Some(pair("k", 1)))], keys_only()).unwrap();
        let values = [&events[0].kv, &events[0].prev_kv].map(|kv| kv.as_ref().unwrap().value.len());
        assert_eq!(values, [0, 0]);
    }

    #[test]
    fn keys_only_keeps_no_message_in_memory() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let pair = KeyValue {
            key: message.slice(..3),
            mod_revision: 1,
            value: message.slice(3..),
            ..KeyValue::default()
        };
        let events = events(vec![event(Some(pair))], keys_only()).unwrap();
        assert_eq!(events[0].kv.as_ref().unwrap().key, [7; 3][..]);
        assert!(message.is_unique());
    }
}
