//! What holds of any bytes where the store expects its own: they are refused,
//! or they are a record that could have been stored. Here are the properties;
//! random bytes come from the tests below and from the fuzz targets.

use std::time::SystemTime;

use super::{
    record,
    rows::{Commit, Contents, Instance, Row},
};

/// Of the bytes of one record.
///
/// # Panics
/// If the property does not hold.
pub fn record(bytes: &[u8]) {
    let Ok((client_id, decoded)) = record::decode(bytes) else {
        return;
    };
    assert_eq!(record::check(&decoded), Ok(()));
    // Larger than what is ever stored, it can't be stored again either.
    if let Ok(encoded) = record::encode(&client_id, &decoded, SystemTime::now()) {
        assert_eq!(record::decode(&encoded), Ok((client_id, decoded)));
    }
}

/// Of the rows of a tree, cut out of `bytes`.
///
/// # Panics
/// If the property does not hold.
pub fn rows(bytes: &[u8]) {
    for sequence in [0, 3] {
        let answered = Commit {
            sequence,
            ..Commit::default()
        };
        if let Ok(contents) = Contents::verify(Instance(7), answered, &cut(bytes)) {
            assert!(contents.commit().sequence >= answered.sequence);
            let records = u64::try_from(contents.client_ids().len());
            assert_eq!(Ok(contents.commit().records), records);
        }
    }
}

/// Each row: the length of its key, the length of its value, both.
fn cut(mut bytes: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    while let [key, value, rest @ ..] = bytes {
        let (key, rest) = rest.split_at(usize::from(*key).min(rest.len()));
        let (value, rest) = rest.split_at(usize::from(*value).min(rest.len()));
        rows.push((key.to_vec(), value.to_vec()));
        bytes = rest;
    }
    rows.sort();
    rows
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*, strategy::ValueTree};
    use prost::Message;

    use crate::{
        proto::watchmark::v1::{StoredCommit, StoredFingerprint, StoredSubscription},
        resume::Proof,
    };

    fn bytes() -> impl Strategy<Value = Bytes> {
        let some = vec(any::<u8>(), 0..6).prop_map(Bytes::from);
        let plain = prop::sample::select(vec!["", "a", "b", "\0"]).prop_map(Bytes::from);
        prop_oneof![some, plain]
    }

    fn number() -> impl Strategy<Value = i64> {
        let few = prop::sample::select(vec![i64::MIN, -1, 0, 1, 2, 3, i64::MAX]);
        prop_oneof![4 => few, 1 => any::<i64>()]
    }

    /// Fields of every kind of value; about one in twenty makes a record.
    fn stored() -> impl Strategy<Value = StoredSubscription> {
        let name = prop_oneof![6 => "[a-z:]{1,5}", 1 => ".{0,5}", 1 => "a{127,130}"];
        let version = prop_oneof![8 => Just(1), 1 => any::<u32>()];
        let fingerprint = prop::option::of((bytes(), number(), any::<bool>()));
        let enums = (
            prop_oneof![8 => 0..=i32::try_from(Proof::IDLE.len()).unwrap() + 1, 1 => any::<i32>()],
            prop_oneof![8 => 0..=i32::try_from(Proof::IDLE.len()).unwrap() + 1, 1 => any::<i32>()],
            prop_oneof![8 => 0..5, 1 => any::<i32>()],
        );
        let head = (version, name, bytes(), bytes(), enums);
        let numbers = (number(), number(), any::<u64>(), 0..i64::MAX);
        (head, numbers, fingerprint).prop_map(|(head, numbers, fingerprint)| {
            let (version, client_id, key, range_end, (proof, assumed_proof, pending_snapshot)) =
                head;
            let (checkpoint, assumed, raft_term, written_at_ms) = numbers;
            StoredSubscription {
                version,
                client_id,
                key,
                range_end,
                checkpoint,
                proof,
                assumed,
                assumed_proof,
                raft_term,
                written_at_ms,
                pending_snapshot,
                fingerprint: fingerprint.map(|(key, mod_revision, deleted)| StoredFingerprint {
                    key,
                    mod_revision,
                    deleted,
                }),
                ..StoredSubscription::default()
            }
        })
    }

    /// Bytes changed, left out and put in.
    fn mutated(mut bytes: Vec<u8>, changes: Vec<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
        for (at, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at),
                _ => bytes[at] = byte,
            }
        }
        bytes
    }

    fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
        vec((any::<prop::sample::Index>(), 0..8_u8, any::<u8>()), 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: ProptestConfig::default().cases.max(1000),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_no_record_or_a_possible_one(bytes in vec(any::<u8>(), 0..300)) {
            super::record(&bytes);
        }

        #[test]
        fn any_values_are_no_record_or_a_possible_one(
            stored in stored(), changes in changes()
        ) {
            super::record(&mutated(stored.encode_to_vec(), changes));
        }

        #[test]
        fn any_rows_are_unsound_or_have_what_they_say(
            sequence in 0..5_u64,
            records in 0..3_u64,
            version in prop_oneof![8 => Just(1), 1 => any::<u32>()],
            stored in vec(stored(), 0..3),
            bytes in vec(any::<u8>(), 0..60),
            changes in changes(),
        ) {
            let commit = StoredCommit {
                version,
                sequence,
                records,
                instance: 7_u128.to_le_bytes().to_vec().into(),
                digest: vec![0; 16].into(),
            };
            let commit = commit.encode_to_vec();
            let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            let commit = [&[length(&commit)][..], &commit].concat();
            let mut rows = [&[6, length(&commit)], &b"commit"[..], &commit].concat();
            for stored in stored {
                let value = [&[0][..], &stored.encode_to_vec()].concat();
                rows.extend([18, length(&value)]);
                rows.extend([9; 18]);
                rows.extend(value);
            }
            rows.extend(bytes);
            super::rows(&mutated(rows, changes));
        }
    }

    #[test]
    fn the_values_above_do_make_records() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let made = (0..2000).filter(|_| {
            let stored = stored().new_tree(&mut runner).unwrap().current();
            super::record::decode(&stored.encode_to_vec()).is_ok()
        });
        assert!(made.count() > 20);
    }
}
