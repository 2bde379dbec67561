//! A full disk, for real: a file system of 4 MB.

use std::{fs, time::Instant};

use watchmark::store::{CheckpointStore as _, StoreError};

use crate::{
    mount::{fill, small_disk},
    support::{contents, files, id, open, record, until, wait},
};

#[test]
fn a_full_disk_fails_writes_serves_reads_and_heals_by_itself() {
    let Some(disk) = small_disk() else { return };
    let path = disk.path().join("data");
    let store = open(&path).unwrap();
    wait(store.put(&id(0), record(1))).unwrap();

    for round in 0..3_u64 {
        let filler = fill(disk.path());
        let mut acked = contents(&store);
        // sled has some allocated space left to use up.
        let failure = (1..).find_map(|n| {
            let checkpoint = round * 1_000_000 + n;
            match wait(store.put(&id(0), record(checkpoint))) {
                Ok(()) => {
                    acked.insert(id(0), record(checkpoint));
                    None
                }
                Err(failure) => Some(failure),
            }
        });
        let failure = failure.unwrap();
        assert!(
            matches!(failure, StoreError::Unavailable { .. }),
            "{failure:?}"
        );
        let message = failure.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("--data-dir"), "{message}");
        assert!(!store.is_ready());
        assert_eq!(contents(&store), acked, "reads serve what is durable");

        // Many changes fail promptly, and not only the first.
        let before = Instant::now();
        let changes: Vec<_> = (1..500).map(|n| store.put(&id(n), record(1))).collect();
        for change in changes {
            let failure = wait(change).unwrap_err();
            assert!(failure.is_retryable(), "{failure:?}");
        }
        assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
        assert_eq!(contents(&store), acked);

        fs::remove_file(filler).unwrap();
        until("the store is ready again", || store.is_ready());
        for (id, record) in &acked {
            assert!(store.load(id).unwrap().unwrap().checkpoint >= record.checkpoint);
        }
        for n in 0..50 {
            wait(store.put(&id(n), record(2_000_000 * (round + 1)))).unwrap();
        }
    }
    let expected = contents(&store);
    drop(store);
    assert_eq!(contents(&open(&path).unwrap()), expected);
}

#[test]
fn a_store_on_a_full_disk_is_refused_untouched_and_opens_once_there_is_room() {
    let Some(disk) = small_disk() else { return };
    let path = disk.path().join("data");
    let store = open(&path).unwrap();
    for n in 0..50 {
        wait(store.put(&id(n), record(7))).unwrap();
    }
    let expected = contents(&store);
    drop(store);
    let filler = fill(disk.path());
    let before = files(&path);

    let refused = open(&path).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused:?}"
    );
    assert!(files(&path) == before, "something was overwritten");

    fs::remove_file(filler).unwrap();
    assert_eq!(contents(&open(&path).unwrap()), expected);
}

#[test]
fn a_new_store_on_a_full_disk_is_refused_and_starts_once_there_is_room() {
    let Some(disk) = small_disk() else { return };
    let path = disk.path().join("data");
    let filler = fill(disk.path());
    assert!(matches!(
        open(&path).unwrap_err(),
        StoreError::Unavailable { .. }
    ));
    fs::remove_file(filler).unwrap();
    wait(open(&path).unwrap().put(&id(0), record(1))).unwrap();
}
