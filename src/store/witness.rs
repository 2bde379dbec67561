//! The witness: a small file beside the tree that knows what was answered.
//!
//! The tree alone proves nothing: truncated or damaged it opens as an older
//! or an empty one. So every group commit goes, in this order, to
//!
//! 1. the tree: records and commit in one batch, flushed, fdatasync;
//! 2. the witness: the same commit, overwritten in place, fdatasync;
//! 3. the answer.
//!
//! The invariant is `answered <= witness <= tree`, at any moment and after a
//! crash or power cut at any moment: the witness names only what the tree
//! holds durably, and only what it names is answered. A tree behind its
//! witness has therefore lost something: corrupt. A tree ahead of it by one
//! commit was interrupted between 1 and 2: sound.
//!
//! Commit n goes to slot n mod 2, each in a block of its own with a checksum,
//! so a torn write costs the slot of a commit that was not answered and the
//! other still names its predecessor. Nothing is allocated or renamed after
//! creation: no full disk, no metadata and no half-done rename can harm it.
//!
//! What it cannot see: tree *and* witness replaced by older copies together,
//! such as a restored backup of the whole directory.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use siphasher::sip::SipHasher13;

use super::{
    fault::{DiskSync, Fault},
    rows::{Commit, Instance},
};

/// Of the directory as a whole. Raise it when an older watchmark must not open it.
pub(super) const STORE_FORMAT: u32 = 1;
/// Begins every witness, of every format.
const MAGIC: [u8; 16] = *b"watchmark store\n";
/// What a disk writes without tearing, or more: keeps header and slots apart.
const BLOCK_BYTES: u64 = 4096;
/// The header and two slots.
const FILE_BYTES: u64 = 3 * BLOCK_BYTES;
/// Magic, format, instance; then its checksum.
const HEADER_BYTES: usize = 16 + 4 + 16;
/// Sequence, records, digest; then its checksum.
const SLOT_BYTES: usize = 8 + 8 + 16;
const CHECKSUM_BYTES: usize = 8;

/// An open witness file.
#[derive(Debug)]
pub(super) struct Witness {
    path: PathBuf,
    file: File,
    instance: Instance,
    answered: Commit,
}

impl Witness {
    /// Creates and syncs the witness of a new store. The caller syncs the directory.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        let random = || u128::from(RandomState::new().build_hasher().finish());
        let instance = Instance((random() << 64) | random());
        let mut bytes = vec![0; usize::try_from(FILE_BYTES).unwrap_or_default()];
        let header = [
            &MAGIC[..],
            &STORE_FORMAT.to_le_bytes(),
            &instance.0.to_le_bytes(),
        ]
        .concat();
        let header = sealed(0, header);
        bytes[..header.len()].copy_from_slice(&header);
        for sequence in [0, 1] {
            // Both slots name commit 0, so that neither is ever unreadable.
            let at = usize::try_from(slot_offset(sequence)).unwrap_or_default();
            let slot = encode_slot(instance, Commit::default());
            bytes[at..at + slot.len()].copy_from_slice(&slot);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    }

    /// Opens the witness of a store and reads what it knows. Writes nothing.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Fault::corrupt(path, "it is missing"),
                _ => Fault::io(path, source),
            })?;
        let length = file.metadata().map_err(|err| Fault::io(path, err))?.len();
        let header = read_sealed::<{ HEADER_BYTES + CHECKSUM_BYTES }>(&file, 0, 0)
            .map_err(|err| Fault::io(path, err))?
            .filter(|header| header.starts_with(&MAGIC))
            .ok_or_else(|| Fault::corrupt(path, "its header is damaged"))?;
        let format = u32::from_le_bytes(array(&header, MAGIC.len()));
        if format > STORE_FORMAT {
            let known = STORE_FORMAT;
            return Err(Fault::Newer {
                found: format,
                known,
            });
        }
        if format == 0 || length != FILE_BYTES {
            return Err(Fault::corrupt(path, "it has a wrong format or length"));
        }
        let instance = Instance(u128::from_le_bytes(array(&header, MAGIC.len() + 4)));
        let mut newest: Option<Commit> = None;
        for parity in [0, 1] {
            let slot = read_slot(&file, instance, parity).map_err(|err| Fault::io(path, err))?;
            newest = newest.into_iter().chain(slot).max_by_key(|it| it.sequence);
        }
        let answered = newest.ok_or_else(|| Fault::corrupt(path, "both its slots are damaged"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            instance,
            answered,
        })
    }

    pub(super) const fn instance(&self) -> Instance {
        self.instance
    }

    /// The last commit that may have been answered.
    pub(super) const fn answered(&self) -> Commit {
        self.answered
    }

    /// Names `commit`, durably. To be called only once the tree holds it durably.
    pub(super) fn advance(&mut self, commit: Commit, sync: &dyn DiskSync) -> Result<(), Fault> {
        let slot = encode_slot(self.instance, commit);
        self.file
            .write_all_at(&slot, slot_offset(commit.sequence))
            .and_then(|()| sync.sync_data(&self.file))
            .map_err(|err| Fault::io(&self.path, err))?;
        self.answered = commit;
        Ok(())
    }
}

const fn slot_offset(sequence: u64) -> u64 {
    BLOCK_BYTES * (1 + sequence % 2)
}

fn encode_slot(instance: Instance, commit: Commit) -> Vec<u8> {
    let slot = [
        &commit.sequence.to_le_bytes()[..],
        &commit.records.to_le_bytes(),
        &commit.digest.to_le_bytes(),
    ]
    .concat();
    sealed(instance.0, slot)
}

fn read_slot(file: &File, instance: Instance, parity: u64) -> io::Result<Option<Commit>> {
    let slot =
        read_sealed::<{ SLOT_BYTES + CHECKSUM_BYTES }>(file, slot_offset(parity), instance.0)?;
    let commit = slot.map(|slot| Commit {
        sequence: u64::from_le_bytes(array(&slot, 0)),
        records: u64::from_le_bytes(array(&slot, 8)),
        digest: u128::from_le_bytes(array(&slot, 16)),
    });
    Ok(commit.filter(|it| it.sequence == 0 || it.sequence % 2 == parity))
}

/// `bytes`, and a checksum of them.
fn sealed(seed: u128, mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(seed, &bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// `None`: what is there has another checksum, or is not all there.
fn read_sealed<const N: usize>(file: &File, at: u64, seed: u128) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    }
    let (body, sum) = bytes.split_at(N - CHECKSUM_BYTES);
    let holds = sum == checksum(seed, body).to_le_bytes();
    Ok(holds.then_some(bytes))
}

fn checksum(seed: u128, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&seed.to_le_bytes());
    hasher.write(bytes);
    hasher.finish()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
