//! Stores, and what opening one that is damaged must come to.

use std::{
    collections::BTreeMap,
    panic,
    path::{Path, PathBuf},
    sync::{Mutex, Once, mpsc::channel},
    thread,
};

use watchmark::{
    resume::{ClientId, KeyRange, Record},
    store::{CheckpointStore as _, DiskStore, OnCorruptStore, StoreError},
};

use crate::support::{DEADLINE, contents, files, id, open, record, wait, write_files};

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;
/// The files, and what they hold.
pub(crate) type Store = (Files, BTreeMap<ClientId, Record>);

/// sled's, as the store sets it.
pub(crate) const SEGMENT_BYTES: usize = 64 * 1024;
/// Holds nothing, and is made anew where it is missing.
pub(crate) const WITHOUT_RECORDS: &str = "lock";

/// A store with a past: overwritten, reopened, with and without removals.
pub(crate) fn store_files(rounds: u64) -> Store {
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

/// As [`store_files`], of a store of several segments.
pub(crate) fn large_store_files() -> Store {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let store = open(directory.path()).unwrap();
        let changes: Vec<_> = (0..150)
            .map(|number| {
                let mut record = record(round * 1000);
                record.selection.range = KeyRange::prefix(vec![b'k'; 900].into());
                store.put(&id(number), record)
            })
            .collect();
        for change in changes {
            wait(change).unwrap();
        }
        wait(store.remove(&id(3))).unwrap();
    }
    let store = open(directory.path()).unwrap();
    let expected = contents(&store);
    drop(store);
    let files = files(directory.path());
    assert!(files[Path::new("checkpoints/tree/db")].len() > 4 * SEGMENT_BYTES);
    (files, expected)
}

/// Panics that are no answer to damage: in our own code, or where nobody can
/// catch them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |at| at.file());
            let is_ours = file.starts_with("src/");
            let is_a_thread_of_sled = thread::current()
                .name()
                .is_some_and(|name| name.starts_with("sled"));
            if is_ours || is_a_thread_of_sled {
                PANICS.lock().unwrap().push(info.to_string());
            }
            print(info);
        }));
    });
}

/// Opens `damaged`, and says whether that was refused.
pub(crate) fn is_refused(
    what: &str,
    damaged: &Files,
    expected: &BTreeMap<ClientId, Record>,
) -> bool {
    watch_for_panics();
    let (done, is_done) = channel();
    let is_refused = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let is_refused = is_refused_in_time(what, damaged, expected);
            done.send(()).unwrap();
            is_refused
        });
        let ended = is_done.recv_timeout(DEADLINE);
        assert!(ended.is_ok() || opening.is_finished(), "{what}: hangs");
        opening.join().unwrap()
    });
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "{what}: {panics:?}");
    is_refused
}

fn is_refused_in_time(what: &str, damaged: &Files, expected: &BTreeMap<ClientId, Record>) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    write_files(&path, damaged);
    match open(&path) {
        Ok(store) => {
            assert_eq!(contents(&store), *expected, "{what}: wrong content");
            assert_stays_sound(what, &path, store, expected);
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

/// Sound means writable, too, and for good.
fn assert_stays_sound(
    what: &str,
    path: &Path,
    mut store: DiskStore,
    expected: &BTreeMap<ClientId, Record>,
) {
    let mut expected = expected.clone();
    for (round, writes) in [1, 20].into_iter().enumerate() {
        for number in 0..writes {
            let record = record(99_000 + number);
            expected.insert(id(1), record.clone());
            let answer = wait(store.put(&id(1), record));
            assert_eq!(answer, Ok(()), "{what}: takes no writes");
        }
        drop(store);
        store = DiskStore::open(path, OnCorruptStore::Quarantine).unwrap();
        assert_eq!(store.quarantined(), None, "{what}: quarantined {round}");
        assert_eq!(contents(&store), expected, "{what}: wrong content");
    }
}

pub(crate) fn assert_untouched(what: &str, path: &Path, damaged: &Files) {
    let mut found = files(path);
    found.remove(Path::new(WITHOUT_RECORDS));
    let mut expected = damaged.clone();
    expected.remove(Path::new(WITHOUT_RECORDS));
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

pub(crate) fn names(files: &Files) -> Vec<PathBuf> {
    files.keys().cloned().collect()
}
