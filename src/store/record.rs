//! What a record looks like on disk.
//!
//! Owns the version and the strictness: what is decoded satisfies the same
//! rules as what may be encoded, so nothing impossible gets in or out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::{
    proto::watchmark::v1::{self, StoredFingerprint, StoredSubscription},
    resume::{
        Assumed, ClientId, Fingerprint, History, KeyRange, Proof, RECORD_VERSION, Record, Revision,
        Selection,
    },
};

/// Some 48 MiB, above what a gRPC message carries, in as many chunks as a row's
/// number can tell apart.
const RECORD_BYTES_MAX: usize = CHUNK_BYTES * (u16::MAX as usize);
/// What of a record goes into one row. sled's pages have up to 17 rows:
/// 17 * (768 + 18 + 1 + 65) < 64 KiB / 4.
pub(super) const CHUNK_BYTES: usize = 768;

/// A record that contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// Nothing assumes less than what is acknowledged.
    #[error("the assumed position is below the checkpoint")]
    AssumedBelowCheckpoint,
    /// What cannot be wrong moves the checkpoint.
    #[error("the assumed position has a proof that cannot be wrong")]
    AssumedWithoutDoubt,
    /// What can be wrong does not.
    #[error("the checkpoint has a proof that can be wrong")]
    CheckpointInDoubt,
    /// Something moved a checkpoint that does not exist.
    #[error("there is a proof but no checkpoint")]
    ProofWithoutCheckpoint,
    /// The fingerprint would vouch for a history not yet acknowledged.
    #[error("the fingerprint is above the checkpoint")]
    FingerprintAboveCheckpoint,
    /// etcd has no empty key.
    #[error("the fingerprint has an empty key")]
    FingerprintWithoutKey,
    /// Above what etcd's own limits make possible.
    #[error("it takes more than {RECORD_BYTES_MAX} bytes")]
    TooLarge,
}

/// Why stored bytes are no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum DecodeRecord {
    /// A newer watchmark wrote it.
    #[error("a record has version {found}, this watchmark reads up to {RECORD_VERSION}")]
    Newer {
        /// Of the record.
        found: u32,
    },
    /// It is not what any watchmark writes.
    #[error("{0}")]
    Malformed(String),
}

fn malformed(what: impl ToString) -> DecodeRecord {
    DecodeRecord::Malformed(what.to_string())
}

/// Checks what must hold before a record is written and after it is read.
pub(super) fn check(record: &Record) -> Result<(), InvalidRecord> {
    if record.assumed.is_some_and(|it| !it.proof.can_be_wrong()) {
        return Err(InvalidRecord::AssumedWithoutDoubt);
    }
    let Some(checkpoint) = record.checkpoint else {
        return match record.proof {
            Proof::Fresh => check_fingerprint_key(record),
            _ => Err(InvalidRecord::ProofWithoutCheckpoint),
        };
    };
    if record.proof.can_be_wrong() {
        return Err(InvalidRecord::CheckpointInDoubt);
    }
    if record.assumed.is_some_and(|it| it.revision < checkpoint) {
        return Err(InvalidRecord::AssumedBelowCheckpoint);
    }
    let fingerprint = record.history.fingerprint.as_ref();
    if fingerprint.is_some_and(|it| it.mod_revision > checkpoint) {
        return Err(InvalidRecord::FingerprintAboveCheckpoint);
    }
    check_fingerprint_key(record)
}

fn check_fingerprint_key(record: &Record) -> Result<(), InvalidRecord> {
    match &record.history.fingerprint {
        Some(fingerprint) if fingerprint.key.is_empty() => {
            Err(InvalidRecord::FingerprintWithoutKey)
        }
        _ => Ok(()),
    }
}

/// The bytes of a valid record, written at `now`.
pub(super) fn encode(
    client_id: &ClientId,
    record: &Record,
    now: SystemTime,
) -> Result<Vec<u8>, InvalidRecord> {
    check(record)?;
    let Record {
        selection,
        checkpoint,
        proof,
        assumed,
        history,
        pending_snapshot,
    } = record;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let stored = StoredSubscription {
        version: RECORD_VERSION,
        client_id: client_id.as_str().to_owned(),
        key: selection.range.key().clone(),
        range_end: selection.range.range_end().clone(),
        no_put: selection.no_put,
        no_delete: selection.no_delete,
        checkpoint: Revision::to_wire(*checkpoint),
        proof: v1::Proof::from(*proof).into(),
        assumed: Revision::to_wire(assumed.map(|it| it.revision)),
        assumed_proof: v1::Proof::from(assumed.map_or(Proof::Fresh, |it| it.proof)).into(),
        fingerprint: history.fingerprint.as_ref().map(|it| StoredFingerprint {
            key: it.key.clone(),
            mod_revision: it.mod_revision.get(),
            deleted: it.deleted,
        }),
        cluster_id: history.cluster_id,
        raft_term: history.raft_term,
        pending_snapshot: reason_to_wire(*pending_snapshot).into(),
        written_at_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
    };
    let bytes = stored.encode_to_vec();
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(InvalidRecord::TooLarge);
    }
    Ok(bytes)
}

/// The record in `bytes`, and whose it is.
///
/// # Errors
/// Whatever [`encode`] cannot have written, and versions above ours.
pub(super) fn decode(bytes: &[u8]) -> Result<(ClientId, Record), DecodeRecord> {
    let stored = StoredSubscription::decode(bytes).map_err(malformed)?;
    match stored.version {
        0 => return Err(malformed("a record has no version")),
        1..=RECORD_VERSION => {}
        found => return Err(DecodeRecord::Newer { found }),
    }
    let client_id = ClientId::parse(&stored.client_id).map_err(malformed)?;
    let within = |what: String| malformed(format!("record of {client_id}: {what}"));
    if stored.written_at_ms < 0 {
        return Err(within("written before 1970".to_owned()));
    }
    let record = record_of(stored).map_err(within)?;
    check(&record).map_err(|invalid| within(invalid.to_string()))?;
    Ok((client_id, record))
}

fn record_of(stored: StoredSubscription) -> Result<Record, String> {
    let proof = v1::Proof::try_from(stored.proof).map_err(|err| err.to_string())?;
    let assumed = position_of("assumed", stored.assumed)?;
    let assumed_proof = v1::Proof::try_from(stored.assumed_proof).map_err(|err| err.to_string())?;
    if assumed.is_none() && assumed_proof != v1::Proof::Unspecified {
        return Err("there is a proof of what is not assumed".to_owned());
    }
    let reason =
        v1::SnapshotReason::try_from(stored.pending_snapshot).map_err(|err| err.to_string())?;
    let range = KeyRange::new(stored.key, stored.range_end).map_err(|err| err.to_string())?;
    let fingerprint = stored.fingerprint.map(fingerprint_of).transpose()?;
    Ok(Record {
        selection: Selection {
            range,
            no_put: stored.no_put,
            no_delete: stored.no_delete,
        },
        checkpoint: position_of("checkpoint", stored.checkpoint)?,
        proof: proof.into(),
        assumed: assumed.map(|revision| Assumed {
            revision,
            proof: match assumed_proof {
                // Written when there was no other.
                v1::Proof::Unspecified => Proof::Delay,
                proof => proof.into(),
            },
        }),
        history: History {
            cluster_id: stored.cluster_id,
            raft_term: stored.raft_term,
            fingerprint,
        },
        pending_snapshot: reason_of(reason),
    })
}

fn position_of(name: &str, revision: i64) -> Result<Option<Revision>, String> {
    match revision {
        0 => Ok(None),
        _ => Revision::new(revision)
            .map(Some)
            .ok_or_else(|| format!("{name} is {revision}")),
    }
}

fn fingerprint_of(stored: StoredFingerprint) -> Result<Fingerprint, String> {
    Ok(Fingerprint {
        key: stored.key,
        mod_revision: Revision::new(stored.mod_revision)
            .ok_or_else(|| format!("a mod_revision is {}", stored.mod_revision))?,
        deleted: stored.deleted,
    })
}

const fn reason_to_wire(reason: Option<crate::resume::SnapshotReason>) -> v1::SnapshotReason {
    use crate::resume::SnapshotReason as Reason;
    match reason {
        None => v1::SnapshotReason::Unspecified,
        Some(Reason::First) => v1::SnapshotReason::First,
        Some(Reason::Compacted) => v1::SnapshotReason::Compacted,
        Some(Reason::HistoryReplaced) => v1::SnapshotReason::HistoryReplaced,
        Some(Reason::Requested) => v1::SnapshotReason::Requested,
    }
}

const fn reason_of(reason: v1::SnapshotReason) -> Option<crate::resume::SnapshotReason> {
    use crate::resume::SnapshotReason as Reason;
    match reason {
        v1::SnapshotReason::Unspecified => None,
        v1::SnapshotReason::First => Some(Reason::First),
        v1::SnapshotReason::Compacted => Some(Reason::Compacted),
        v1::SnapshotReason::HistoryReplaced => Some(Reason::HistoryReplaced),
        v1::SnapshotReason::Requested => Some(Reason::Requested),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::SnapshotReason;
    use proptest::prelude::*;

    fn revision(n: i64) -> Revision {
        Revision::new(n).unwrap()
    }

    fn assumed(at: i64, proof: Proof) -> Assumed {
        let revision = revision(at);
        Assumed { revision, proof }
    }

    fn full() -> Record {
        Record {
            selection: Selection {
                range: KeyRange::prefix("orders/".into()),
                no_put: false,
                no_delete: true,
            },
            checkpoint: Some(revision(40)),
            proof: Proof::Progress,
            assumed: Some(assumed(50, Proof::Delay)),
            history: History {
                cluster_id: u64::MAX,
                raft_term: 7,
                fingerprint: Some(Fingerprint {
                    key: "orders/1".into(),
                    mod_revision: revision(40),
                    deleted: true,
                }),
            },
            pending_snapshot: Some(SnapshotReason::Requested),
        }
    }

    fn id() -> ClientId {
        ClientId::parse("billing/eu:1").unwrap()
    }

    fn stored(change: impl FnOnce(&mut StoredSubscription)) -> Vec<u8> {
        let bytes = encode(&id(), &full(), SystemTime::now()).unwrap();
        let mut stored = StoredSubscription::decode(&bytes[..]).unwrap();
        change(&mut stored);
        stored.encode_to_vec()
    }

    #[test]
    fn a_record_survives_the_round_trip_in_full() {
        let fresh = Record::new(full().selection);
        for record in [full(), fresh] {
            let bytes = encode(&id(), &record, SystemTime::now()).unwrap();
            assert_eq!(decode(&bytes), Ok((id(), record)));
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_is_not_encoded() {
        type Spoil = fn(&mut Record);
        let cases: [(Spoil, InvalidRecord); 6] = [
            (
                |it| it.proof = Proof::Delay,
                InvalidRecord::CheckpointInDoubt,
            ),
            (
                |it| it.assumed = Some(assumed(39, Proof::Delay)),
                InvalidRecord::AssumedBelowCheckpoint,
            ),
            (
                |it| it.assumed = Some(assumed(50, Proof::Progress)),
                InvalidRecord::AssumedWithoutDoubt,
            ),
            (
                |it| it.checkpoint = None,
                InvalidRecord::ProofWithoutCheckpoint,
            ),
            (
                |it| it.checkpoint = Some(revision(39)),
                InvalidRecord::FingerprintAboveCheckpoint,
            ),
            (
                |it| it.history.fingerprint.as_mut().unwrap().key = "".into(),
                InvalidRecord::FingerprintWithoutKey,
            ),
        ];
        for (spoil, expected) in cases {
            let mut record = full();
            spoil(&mut record);
            let refusal = encode(&id(), &record, SystemTime::now()).unwrap_err();
            assert_eq!(refusal, expected);
        }
    }

    #[test]
    fn what_was_assumed_before_there_were_reasons_is_the_delay_rules() {
        let bytes = stored(|it| it.assumed_proof = v1::Proof::Unspecified.into());
        assert_eq!(decode(&bytes), Ok((id(), full())));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let found = RECORD_VERSION + 1;
        let newer = stored(|it| it.version = found);
        assert_eq!(decode(&newer), Err(DecodeRecord::Newer { found }));
    }

    #[test]
    fn impossible_values_are_refused() {
        let spoils: [fn(&mut StoredSubscription); 18] = [
            |it| it.version = 0,
            |it| it.client_id = "a b".to_owned(),
            |it| it.client_id.clear(),
            |it| it.key = "".into(),
            |it| it.range_end = "a".into(),
            |it| it.checkpoint = -1,
            |it| it.assumed = i64::MIN,
            |it| it.assumed = 1,
            |it| it.assumed_proof = v1::Proof::Acked.into(),
            |it| it.assumed_proof = 99,
            |it| it.assumed = 0,
            |it| {
                it.checkpoint = 0;
                it.proof = v1::Proof::Unspecified.into();
                it.fingerprint = None;
                it.assumed_proof = v1::Proof::Acked.into();
            },
            |it| it.proof = 99,
            |it| it.proof = v1::Proof::Delay.into(),
            |it| it.pending_snapshot = -1,
            |it| it.fingerprint.as_mut().unwrap().mod_revision = 0,
            |it| it.fingerprint.as_mut().unwrap().mod_revision = 41,
            |it| it.written_at_ms = -1,
        ];
        for (number, spoil) in spoils.into_iter().enumerate() {
            let refusal = decode(&stored(spoil)).unwrap_err();
            assert!(
                matches!(refusal, DecodeRecord::Malformed(_)),
                "case {number}: {refusal:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn what_decodes_after_damage_still_obeys_the_rules(at in 0_usize..100, bit in 0_u8..8) {
            let mut bytes = stored(|_| {});
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok((_, record)) = decode(&bytes) {
                prop_assert_eq!(check(&record), Ok(()));
            }
        }
    }
}
