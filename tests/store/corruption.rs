//! Damage: an error, a quarantine, or exactly the right data. Never a panic,
//! never a wrong or missing checkpoint, and nothing overwritten.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use watchmark::{
    resume::{ClientId, Record},
    store::{CheckpointStore as _, DiskStore, OnCorruptStore, StoreError},
};

use crate::support::{contents, files, id, open, record, wait, write_files};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store with a past: overwritten, reopened, with and without removals.
fn store_files(rounds: u64) -> (Files, BTreeMap<ClientId, Record>) {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=rounds {
        let store = open(directory.path()).unwrap();
        for number in 0..60 {
            wait(store.put(&id(number), record(round * 1000))).unwrap();
        }
        wait(store.remove(&id(3))).unwrap();
    }
    let store = open(directory.path()).unwrap();
    let expected = contents(&store);
    drop(store);
    (files(directory.path()), expected)
}

/// Opens `damaged`, and says whether that was refused.
fn is_refused(what: &str, damaged: &Files, expected: &BTreeMap<ClientId, Record>) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    write_files(&path, damaged);
    match open(&path) {
        Ok(store) => {
            assert_eq!(contents(&store), *expected, "{what}: wrong content");
            // Sound means writable, too.
            let answer = wait(store.put(&id(1), record(99_999)));
            assert_eq!(answer, Ok(()), "{what}: takes no writes");
            false
        }
        Err(err) => {
            assert!(matches!(err, StoreError::Corrupt { .. }), "{what}: {err:?}");
            assert_untouched(what, &path, damaged);
            assert_quarantined(what, &path, damaged);
            true
        }
    }
}

fn assert_untouched(what: &str, path: &Path, damaged: &Files) {
    let mut found = files(path);
    found.remove(Path::new("lock"));
    let mut expected = damaged.clone();
    expected.remove(Path::new("lock"));
    assert!(found == expected, "{what}: something was overwritten");
}

fn assert_quarantined(what: &str, path: &Path, damaged: &Files) {
    let store = DiskStore::open(path, OnCorruptStore::Quarantine).unwrap();
    assert_eq!(store.client_ids(), [], "{what}");
    let aside = store.quarantined().expect(what).to_owned();
    wait(store.put(&id(1), record(1))).unwrap();
    drop(store);
    let found = files(&aside);
    for (name, content) in damaged {
        if let Ok(name) = name.strip_prefix("checkpoints") {
            assert!(found.get(name) == Some(content), "{what}: {name:?} changed");
        }
    }
    // What is there now is a store like any other.
    let store = DiskStore::open(path, OnCorruptStore::Quarantine).unwrap();
    assert_eq!(store.quarantined(), None);
    assert_eq!(store.client_ids(), [id(1)]);
}

/// `count` offsets, spread over `length`, ends included.
fn offsets(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let last = length.saturating_sub(1);
    (0..count)
        .map(move |n| last * n / (count - 1).max(1))
        // An odd step, so that not all are aligned alike.
        .map(move |at| {
            if at == last {
                at
            } else {
                (at + at % 61).min(last)
            }
        })
}

fn names(files: &Files) -> Vec<PathBuf> {
    files.keys().cloned().collect()
}

#[test]
fn a_file_that_is_gone_is_noticed() {
    let (pristine, expected) = store_files(2);
    let mut refused = Vec::new();
    for name in names(&pristine) {
        let mut damaged = pristine.clone();
        damaged.remove(&name);
        if is_refused(&format!("{name:?} deleted"), &damaged, &expected) {
            refused.push(name);
        }
    }
    for name in ["checkpoints/witness", "checkpoints/tree/db"] {
        assert!(refused.contains(&name.into()), "{name} went unnoticed");
    }
}

#[test]
fn a_truncated_file_is_noticed() {
    let (pristine, expected) = store_files(2);
    for name in names(&pristine) {
        for length in offsets(pristine[&name].len(), 14) {
            let mut damaged = pristine.clone();
            damaged.get_mut(&name).unwrap().truncate(length);
            is_refused(&format!("{name:?} cut to {length}"), &damaged, &expected);
        }
    }
}

#[test]
fn a_flipped_bit_never_gives_an_old_or_wrong_checkpoint() {
    let (pristine, expected) = store_files(3);
    let mut refused = 0;
    for name in names(&pristine) {
        // Most of sled's log is history, so it gets the most.
        let count = if name.ends_with("db") { 60 } else { 12 };
        for (number, at) in offsets(pristine[&name].len(), count).enumerate() {
            let mut damaged = pristine.clone();
            if let Some(byte) = damaged.get_mut(&name).unwrap().get_mut(at) {
                *byte ^= 1 << (number % 8);
            }
            let what = format!("{name:?} bit {} of byte {at}", number % 8);
            refused += usize::from(is_refused(&what, &damaged, &expected));
        }
    }
    assert!(
        refused > 10,
        "only {refused} refused: the damage hits nothing"
    );
}

#[test]
fn zeroed_blocks_never_give_an_old_or_wrong_checkpoint() {
    let (pristine, expected) = store_files(3);
    for name in names(&pristine) {
        for at in offsets(pristine[&name].len(), 16) {
            let mut damaged = pristine.clone();
            let content = damaged.get_mut(&name).unwrap();
            let block = at / 4096 * 4096;
            let end = (block + 4096).min(content.len());
            content[block..end].fill(0);
            is_refused(&format!("{name:?} block {block}"), &damaged, &expected);
        }
    }
}

#[test]
fn a_tree_rolled_back_by_a_single_answered_commit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let store = open(&path).unwrap();
    wait(store.put(&id(1), record(1))).unwrap();
    drop(store);
    let old = files(&path);
    let store = open(&path).unwrap();
    wait(store.put(&id(1), record(2))).unwrap();
    let expected = contents(&store);
    drop(store);

    let mut rolled_back = files(&path);
    rolled_back.retain(|name, _| !name.starts_with("checkpoints/tree"));
    let tree = old.into_iter();
    rolled_back.extend(tree.filter(|(name, _)| name.starts_with("checkpoints/tree")));

    assert!(is_refused("rolled back", &rolled_back, &expected));
    write_files(&path, &rolled_back);
    let message = open(&path).unwrap_err().to_string();
    for part in [
        "--data-dir",
        path.to_str().unwrap(),
        "rolled back to commit 1, but commit 2 was answered",
        "--on-corrupt-store=quarantine",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn a_tree_of_another_store_is_refused() {
    let (ours, expected) = store_files(1);
    let (theirs, _) = store_files(1);
    let mut mixed = theirs;
    mixed.insert(
        "checkpoints/witness".into(),
        ours[Path::new("checkpoints/witness")].clone(),
    );
    assert!(is_refused("mixed", &mixed, &expected));
}

#[test]
fn a_store_without_a_tree_is_refused_even_if_its_directory_is_gone() {
    let (mut damaged, _) = store_files(1);
    damaged.retain(|name, _| !name.starts_with("checkpoints/tree"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    write_files(&path, &damaged);
    fs::remove_dir_all(path.join("checkpoints/tree")).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}
