//! How records lie in the tree, and how its content is verified.
//!
//! A record is one protobuf, cut into chunks: sled moves a page larger than a
//! quarter of a segment into a file of its own that it never syncs, and splits
//! pages by count, not by size. Short hashed keys and small chunks keep every
//! page far below that, whatever a client_id or a key is called.
//!
//! Every group commit writes, atomically with its records, how many there are
//! now and a digest of all. The tree is trusted exactly when its records match
//! the newest of these and the witness knows of no later commit.
//!
//! A sled batch costs one write and wait more than an insert does. So a group
//! of one row carries the commit inside that row; any other is a batch with a
//! row for the commit. The row with the highest sequence counts.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher as _,
};

use prost::Message;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::record::{self, CHUNK_BYTES, DecodeRecord};
use crate::{
    proto::watchmark::v1::StoredCommit,
    resume::{ClientId, Record},
};

/// Of `StoredCommit` and of how the rows are keyed.
const COMMIT_VERSION: u32 = 1;
/// The row of a commit that stands alone. Every other key has `ROW_KEY_BYTES`.
const COMMIT_KEY: &[u8] = b"commit";
/// Begins every value: how many bytes of commit come before the chunk.
const COMMIT_LENGTH_BYTES: usize = 1;
/// 16 of a hash of the client_id, 2 of the chunk's number.
const ROW_KEY_BYTES: usize = 16 + 2;

/// A key and what it holds.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// A row to write, or to delete.
pub(super) type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// Which store this is: random, made once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instance(pub(super) u128);

impl Instance {
    /// Of the bytes of one record, encoded.
    fn hash(self, bytes: &[u8]) -> u128 {
        let [high, low] = [self.0 >> 64, self.0 & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).unwrap_or_default());
        hash128(SipHasher13::new_with_keys(high, low), bytes)
    }
}

fn hash128(mut hasher: SipHasher13, bytes: &[u8]) -> u128 {
    hasher.write(bytes);
    hasher.finish128().as_u128()
}

/// What one group commit left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Commit {
    /// Counts group commits from 1; 0: there was none.
    pub(super) sequence: u64,
    /// How many records there are.
    pub(super) records: u64,
    /// The sum of all records' hashes: changes one record at a time, and
    /// depends on no order.
    pub(super) digest: u128,
}

/// One stored record.
#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    hash: u128,
    chunks: usize,
}

/// One change, encoded.
#[derive(Debug)]
pub(super) struct Change {
    /// Whose.
    pub(super) client_id: ClientId,
    /// The record and its encoding; `None` removes.
    pub(super) write: Option<(Record, Vec<u8>)>,
}

/// Every durable record.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    instance: Instance,
    commit: Commit,
    entries_by_client_id: BTreeMap<ClientId, Entry>,
}

/// Why the rows are not the content of a sound store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unsound {
    /// A newer watchmark wrote it.
    Newer(u32),
    /// They do not fit together.
    Corrupt(String),
}

fn corrupt<T>(what: impl Into<String>) -> Result<T, Unsound> {
    Err(Unsound::Corrupt(what.into()))
}

/// A group of changes, ready to be written; becomes part of [`Contents`] once durable.
#[derive(Debug)]
pub(super) struct Group {
    /// What the tree must apply atomically.
    pub(super) rows: Vec<RowChange>,
    /// What the witness must hold then.
    pub(super) commit: Commit,
    entries: HashMap<ClientId, Option<Entry>>,
}

impl Contents {
    /// Of a new store.
    pub(super) const fn empty(instance: Instance) -> Self {
        Self {
            instance,
            commit: Commit {
                sequence: 0,
                records: 0,
                digest: 0,
            },
            entries_by_client_id: BTreeMap::new(),
        }
    }

    pub(super) const fn commit(&self) -> Commit {
        self.commit
    }

    pub(super) fn record(&self, client_id: &ClientId) -> Option<&Record> {
        Some(&self.entries_by_client_id.get(client_id)?.record)
    }

    pub(super) fn client_ids(&self) -> Vec<ClientId> {
        self.entries_by_client_id.keys().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.entries_by_client_id.len()
    }

    /// Puts `changes`, in order, into one group. Changes nothing yet.
    pub(super) fn group(&self, changes: impl IntoIterator<Item = Change>) -> Group {
        let mut entries = HashMap::new();
        let mut encodings_by_client_id = HashMap::new();
        for Change { client_id, write } in changes {
            let (entry, bytes) = match write {
                Some((record, bytes)) => {
                    let entry = Entry {
                        record,
                        hash: self.instance.hash(&bytes),
                        chunks: bytes.len().div_ceil(CHUNK_BYTES),
                    };
                    (Some(entry), bytes)
                }
                None => (None, Vec::new()),
            };
            entries.insert(client_id.clone(), entry);
            encodings_by_client_id.insert(client_id, bytes);
        }
        let mut commit = self.commit;
        commit.sequence += 1;
        let mut rows = Vec::with_capacity(entries.len() + 1);
        for (client_id, entry) in &entries {
            let old = self.entries_by_client_id.get(client_id);
            commit.records += u64::from(entry.is_some());
            commit.records -= u64::from(old.is_some());
            let hash = |entry: Option<&Entry>| entry.map_or(0, |it| it.hash);
            commit.digest = commit.digest.wrapping_add(hash(entry.as_ref()));
            commit.digest = commit.digest.wrapping_sub(hash(old));
            let bytes = &encodings_by_client_id[client_id];
            let mut chunks = bytes.chunks(CHUNK_BYTES);
            let had = old.map_or(0, |it| it.chunks);
            let has = entry.as_ref().map_or(0, |it| it.chunks);
            for number in 0..had.max(has) {
                let value = chunks.next().map(|chunk| row_value(&[], chunk));
                rows.push((row_key(client_id, number), value));
            }
        }
        let encoded = self.encode_commit(commit);
        match &mut rows[..] {
            [(_, Some(value))] => *value = row_value(&encoded, &value[COMMIT_LENGTH_BYTES..]),
            _ => rows.push((COMMIT_KEY.to_vec(), Some(row_value(&encoded, &[])))),
        }
        Group {
            rows,
            commit,
            entries,
        }
    }

    /// The group is durable.
    pub(super) fn accept(&mut self, group: Group) {
        self.commit = group.commit;
        for (client_id, entry) in group.entries {
            match entry {
                Some(entry) => self.entries_by_client_id.insert(client_id, entry),
                None => self.entries_by_client_id.remove(&client_id),
            };
        }
    }

    fn encode_commit(&self, commit: Commit) -> Vec<u8> {
        let stored = StoredCommit {
            version: COMMIT_VERSION,
            instance: self.instance.0.to_le_bytes().to_vec().into(),
            sequence: commit.sequence,
            records: commit.records,
            digest: commit.digest.to_le_bytes().to_vec().into(),
        };
        stored.encode_to_vec()
    }

    /// The content of a tree, given all its rows in order, where the witness
    /// holds `answered`.
    pub(super) fn verify(
        instance: Instance,
        answered: Commit,
        rows: &[Row],
    ) -> Result<Self, Unsound> {
        let mut newest: Option<Commit> = None;
        for (_, value) in rows {
            let (commit, _) = split(value)?;
            if let Some(commit) = decode_commit(instance, commit)? {
                newest = newest
                    .into_iter()
                    .chain([commit])
                    .max_by_key(|it| it.sequence);
            }
        }
        let Some(commit) = newest else {
            if !rows.is_empty() {
                return corrupt(format!("{} rows and no commit among them", rows.len()));
            }
            if answered.sequence > 0 {
                return corrupt(format!("empty, after {} commits", answered.sequence));
            }
            return Ok(Self::empty(instance));
        };
        if commit.sequence < answered.sequence {
            return corrupt(format!(
                "rolled back to commit {}, but commit {} was answered",
                commit.sequence, answered.sequence
            ));
        }
        if commit.sequence == answered.sequence && commit != answered {
            return corrupt(format!(
                "commit {} is not the one that was answered",
                commit.sequence
            ));
        }
        let mut contents = Self::empty(instance);
        let mut digest = 0_u128;
        for chunks in rows
            .chunk_by(|(a, _), (b, _)| a.len() == b.len() && a.get(..16) == b.get(..16))
            .filter(|chunks| chunks[0].0 != COMMIT_KEY)
        {
            let (client_id, entry) = join(instance, chunks)?;
            digest = digest.wrapping_add(entry.hash);
            contents.entries_by_client_id.insert(client_id, entry);
        }
        let found = Commit {
            sequence: commit.sequence,
            records: u64::try_from(contents.entries_by_client_id.len()).unwrap_or(u64::MAX),
            digest,
        };
        if found != commit {
            return corrupt(format!(
                "{} records do not match what commit {} left, which were {}",
                found.records, commit.sequence, commit.records
            ));
        }
        contents.commit = commit;
        Ok(contents)
    }
}

fn row_key(client_id: &ClientId, number: usize) -> Vec<u8> {
    let hash = hash128(SipHasher13::new(), client_id.as_str().as_bytes());
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    [&hash.to_be_bytes()[..], &number.to_be_bytes()].concat()
}

/// The value of a row: a commit, or none, and a chunk, or none.
fn row_value(commit: &[u8], chunk: &[u8]) -> Vec<u8> {
    let length = u8::try_from(commit.len()).unwrap_or(u8::MAX);
    [&[length], commit, chunk].concat()
}

/// The commit and the chunk of a row's value.
fn split(value: &[u8]) -> Result<(&[u8], &[u8]), Unsound> {
    let parts = value
        .split_first()
        .and_then(|(&length, rest)| rest.split_at_checked(length.into()));
    parts.ok_or_else(|| Unsound::Corrupt("a row is too short".to_owned()))
}

fn join(instance: Instance, chunks: &[Row]) -> Result<(ClientId, Entry), Unsound> {
    let mut bytes = Vec::new();
    for (_, value) in chunks {
        bytes.extend(split(value)?.1);
    }
    let (client_id, record) = record::decode(&bytes).map_err(|err| match err {
        DecodeRecord::Newer { found } => Unsound::Newer(found),
        DecodeRecord::Malformed(what) => Unsound::Corrupt(what),
    })?;
    for (number, (key, _)) in chunks.iter().enumerate() {
        if key.len() != ROW_KEY_BYTES || *key != row_key(&client_id, number) {
            return corrupt(format!("a row of {client_id} is where it does not belong"));
        }
    }
    let entry = Entry {
        record,
        hash: instance.hash(&bytes),
        chunks: chunks.len(),
    };
    Ok((client_id, entry))
}

fn decode_commit(instance: Instance, bytes: &[u8]) -> Result<Option<Commit>, Unsound> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let stored =
        StoredCommit::decode(bytes).map_err(|err| Unsound::Corrupt(format!("commit: {err}")))?;
    match stored.version {
        COMMIT_VERSION => {}
        0 => return corrupt("a commit has no version"),
        found => return Err(Unsound::Newer(found)),
    }
    let wide = |bytes: &[u8]| bytes.try_into().map(u128::from_le_bytes).ok();
    if wide(&stored.instance) != Some(instance.0) {
        return corrupt("the records are of another store than the witness");
    }
    match wide(&stored.digest) {
        Some(digest) if stored.sequence > 0 => Ok(Some(Commit {
            sequence: stored.sequence,
            records: stored.records,
            digest,
        })),
        _ => corrupt("a commit is malformed"),
    }
}

#[cfg(test)]
mod tests;
