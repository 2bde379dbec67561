//! kill -9, over and over.

use std::{
    fs,
    path::{Path, PathBuf},
};

use watchmark::store::{CheckpointStore as _, StoreError};

use crate::{
    damage::{Files, WITHOUT_RECORDS, assert_untouched, store_files},
    support::{checkpoint_of, contents, files, id, open, random_pause, record, wait, write_files},
    writer::{Lives, Syncs, Writer, at_once},
};

/// In all, on as many stores at once as there are workers.
const ROUNDS: usize = 200;
const WORKERS: usize = 5;

/// And none makes a checkpoint higher than what was asked for, or another.
#[test]
fn no_kill_takes_an_answered_checkpoint_back() {
    let answers = at_once(WORKERS, WORKERS, |worker| {
        let directory = tempfile::tempdir().unwrap();
        let mut lives = Lives::new();
        for round in 0..ROUNDS / WORKERS {
            let mut writer = Writer::start(directory.path(), Syncs::All, lives);
            if round % 4 == 0 {
                // While it starts or opens the store.
                random_pause(1, 60);
            } else {
                writer.wait_for_first_answer();
                random_pause(1, 80);
            }
            let killed = writer.kill();
            // Every other time the next writer is the first to open it.
            lives = killed
                .and_then(|mut lives| {
                    if round % 2 == 1 {
                        let store = open(directory.path()).unwrap();
                        assert!(store.is_ready());
                        lives.settle(&store)?;
                    }
                    Ok(lives)
                })
                .unwrap_or_else(|why| panic!("store {worker}, round {round}: {why}"));
        }
        lives.answers
    });
    println!("{ROUNDS} kills, {answers:?} answers by store");
    assert!(answers.iter().all(|&it| it > 0));
}

/// sled writes one whenever it opens, and a full disk does the same.
#[test]
fn a_snapshot_that_a_crash_left_half_written_is_no_corruption() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("checkpoints/tree");
    for checkpoint in 1..4 {
        let store = open(directory.path()).unwrap();
        wait(store.put(&id(0), record(checkpoint))).unwrap();
    }
    let is_snapshot = |path: &PathBuf| path.to_string_lossy().contains("/snap.");
    let snapshot = fs::read_dir(&tree)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(is_snapshot)
        .unwrap();
    let whole = fs::read(snapshot).unwrap();
    let unfinished = tree.join("snap.00000000FFFFFFFF.generating");
    for length in [0, 5, whole.len() / 2, whole.len() - 1] {
        fs::write(&unfinished, &whole[..length]).unwrap();
        let store = open(directory.path()).unwrap();
        assert_eq!(checkpoint_of(&store, 0), 3, "{length} bytes");
        assert!(!unfinished.exists());
    }
}

/// Killed at any moment of it: the damaged files are there still, in place or
/// aside, once; and what was answered after that holds as ever.
#[test]
fn a_kill_while_a_corrupt_store_is_moved_aside_loses_nothing() {
    let (pristine, _) = store_files(2);
    at_once(4, 40, |round| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let mut damaged = pristine.clone();
        let db = damaged.get_mut(Path::new("checkpoints/tree/db")).unwrap();
        match round % 3 {
            0 => db.truncate(1000),
            1 => db.clear(),
            _ => damaged.get_mut(Path::new("checkpoints/witness")).unwrap()[3] ^= 1,
        }
        write_files(&path, &damaged);
        // Killed while it opens, and killed once it writes.
        let writer = Writer::start_quarantining(&path, Lives::new());
        random_pause(1, 50);
        let lives = writer.kill().unwrap();
        let mut writer = Writer::start_quarantining(&path, lives);
        writer.wait_for_first_answer();
        random_pause(1, 20);
        let mut lives = writer.kill().unwrap();

        let store = open(&path).unwrap();
        assert_eq!(lives.settle(&store), Ok(()), "round {round}");
        drop(store);
        let is_aside = |entry: &PathBuf| {
            let name = entry.file_name().unwrap().to_str().unwrap();
            name.starts_with("checkpoints.corrupt-")
        };
        let entries = fs::read_dir(&path).unwrap();
        let aside: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(is_aside)
            .collect();
        assert_eq!(aside.len(), 1, "round {round}: {aside:?}");
        let mut found = files(&aside[0]);
        // What the first opening was interrupted in.
        found.retain(|name, _| !name.starts_with("rehearsal"));
        damaged.remove(Path::new(WITHOUT_RECORDS));
        let expected: Files = damaged
            .into_iter()
            .map(|(name, it)| (name.strip_prefix("checkpoints").unwrap().to_owned(), it))
            .collect();
        assert!(found == expected, "round {round}: changed");
    });
}

/// And one that is to be refused stays as it was.
#[test]
fn a_kill_while_a_corrupt_store_is_refused_changes_nothing() {
    let (pristine, expected) = store_files(2);
    at_once(4, 20, |round| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let mut damaged = pristine.clone();
        let db = damaged.get_mut(Path::new("checkpoints/tree/db")).unwrap();
        db.truncate(1000);
        write_files(&path, &damaged);
        let writer = Writer::start(&path, Syncs::All, Lives::new());
        random_pause(1, 50);
        writer.kill_refused();
        assert!(is_refused_again(&path, &damaged), "round {round}");
        // And is a store again, once it is restored.
        write_files(&path, &pristine);
        assert_eq!(contents(&open(&path).unwrap()), expected);
    });
}

fn is_refused_again(path: &Path, damaged: &Files) -> bool {
    let refused = open(path).err();
    assert_untouched("killed", path, damaged);
    matches!(refused, Some(StoreError::Corrupt { .. }))
}
