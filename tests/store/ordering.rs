//! What is on disk before an answer, seen through the sync.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use watchmark::store::{CheckpointStore as _, DiskStore, DiskSync, OnCorruptStore, StoreError};

use crate::support::{
    DEADLINE, checkpoint_of, contents, files, id, is_witness, open, record, until, wait,
    write_files,
};

/// Announces each sync, and waits to be told how it ends.
#[derive(Debug)]
struct Stepped {
    began: Sender<&'static str>,
    ends: Mutex<Receiver<()>>,
}

impl DiskSync for Stepped {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        let name = if is_witness(file) { "witness" } else { "db" };
        self.began.send(name).unwrap();
        self.ends.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        file.sync_data()
    }
}

fn stepped(path: &Path) -> (DiskStore, Receiver<&'static str>, Sender<()>) {
    let (began, syncs) = channel();
    let (end, ends) = channel();
    let sync = Stepped {
        began,
        ends: Mutex::new(ends),
    };
    let store = DiskStore::open_with_sync(path, OnCorruptStore::Fail, Arc::new(sync)).unwrap();
    (store, syncs, end)
}

#[test]
fn an_answer_waits_for_the_sync_of_the_tree_and_then_of_the_witness() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs, end) = stepped(directory.path());
    let mut change = store.put(&id(1), record(5));
    for file in ["db", "witness"] {
        assert_eq!(syncs.recv_timeout(DEADLINE), Ok(file));
        assert!(
            change.try_recv().is_err(),
            "answered before {file} was synced"
        );
        assert_eq!(store.load(&id(1)), Ok(None), "shown before it is durable");
        end.send(()).unwrap();
    }
    assert_eq!(wait(change), Ok(()));
    assert_eq!(store.load(&id(1)), Ok(Some(record(5))));
    assert!(syncs.try_recv().is_err(), "one sync too many");
}

#[test]
fn changes_that_wait_together_share_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs, end) = stepped(directory.path());
    let first = store.put(&id(0), record(1));
    assert_eq!(syncs.recv_timeout(DEADLINE), Ok("db"));
    let others: Vec<_> = (1..=100).map(|n| store.put(&id(n), record(1))).collect();
    // Two commits of two syncs each.
    for _ in 0..4 {
        end.send(()).unwrap();
    }
    for change in others.into_iter().chain([first]) {
        assert_eq!(wait(change), Ok(()));
    }
    let rest: Vec<_> = syncs.try_iter().collect();
    assert_eq!(rest, ["witness", "db", "witness"]);
}

/// Whatever the moment, what is in the files opens, and has every answer.
#[test]
fn a_crash_between_any_two_steps_leaves_a_sound_store() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs, end) = stepped(directory.path());
    let mut at_each_step = Vec::new();
    for checkpoint in 1..=6 {
        let change = store.put(&id(1), record(checkpoint));
        for _ in 0..2 {
            syncs.recv_timeout(DEADLINE).unwrap();
            at_each_step.push((checkpoint - 1, files(directory.path())));
            end.send(()).unwrap();
        }
        wait(change).unwrap();
        at_each_step.push((checkpoint, files(directory.path())));
    }
    for (step, (answered, files)) in at_each_step.into_iter().enumerate() {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("data");
        write_files(&path, &files);
        let store = open(&path).unwrap();
        let found = checkpoint_of(&store, 1);
        assert!(
            found == answered || found == answered + 1,
            "step {step}: {found}, {answered} was answered"
        );
        // The next commit after such a crash is as durable as any.
        wait(store.put(&id(1), record(100))).unwrap();
        drop(store);
        assert_eq!(contents(&open(&path).unwrap())[&id(1)], record(100));
    }
}

/// The witness's write is torn: one slot is rubbish.
#[test]
fn a_torn_witness_still_opens_and_still_guards() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let store = open(&path).unwrap();
    for checkpoint in 1..=4 {
        wait(store.put(&id(1), record(checkpoint))).unwrap();
    }
    let expected = contents(&store);
    drop(store);
    let witness = path.join("checkpoints/witness");
    let mut bytes = fs::read(&witness).unwrap();
    // Commit 5 would go to the second slot.
    bytes[2 * 4096..2 * 4096 + 20].fill(0xee);
    fs::write(&witness, bytes).unwrap();
    assert_eq!(contents(&open(&path).unwrap()), expected);
}

/// Fails the n-th sync.
#[derive(Debug)]
struct FailsOnce {
    at: usize,
    count: AtomicUsize,
}

impl DiskSync for FailsOnce {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        if self.count.fetch_add(1, Ordering::SeqCst) == self.at {
            return Err(io::Error::other("the disk is on fire"));
        }
        file.sync_data()
    }
}

#[test]
fn a_failed_sync_is_never_an_ok_and_the_store_heals() {
    // The tree's of the second commit, and the witness's.
    for at in [2, 3] {
        let directory = tempfile::tempdir().unwrap();
        let sync = Arc::new(FailsOnce {
            at,
            count: AtomicUsize::new(0),
        });
        let store =
            DiskStore::open_with_sync(directory.path(), OnCorruptStore::Fail, sync).unwrap();
        let mut readiness = store.readiness();
        wait(store.put(&id(1), record(1))).unwrap();
        let failure = wait(store.put(&id(1), record(2))).unwrap_err();
        assert!(
            matches!(&failure, StoreError::Unavailable { cause, .. } if cause.contains("on fire")),
            "{failure:?}"
        );
        assert!(readiness.has_changed().unwrap());
        until("the store is ready again", || {
            *readiness.borrow_and_update()
        });
        wait(store.put(&id(2), record(9))).unwrap();
        let expected = contents(&store);
        drop(store);
        assert_eq!(contents(&open(directory.path()).unwrap()), expected);
    }
}

/// Fails a sync, and with it the disk loses most of the file.
#[derive(Debug)]
struct LosesTheFile {
    at: usize,
    count: AtomicUsize,
}

impl DiskSync for LosesTheFile {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        if self.count.fetch_add(1, Ordering::SeqCst) == self.at {
            file.set_len(300)?;
            return Err(io::Error::other("the disk is on fire"));
        }
        file.sync_data()
    }
}

/// Healing opens the store again, and that must not overwrite what is damaged.
#[test]
fn a_store_found_damaged_while_it_heals_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let sync = Arc::new(LosesTheFile {
        at: 4,
        count: AtomicUsize::new(0),
    });
    let store = DiskStore::open_with_sync(directory.path(), OnCorruptStore::Fail, sync).unwrap();
    for checkpoint in 1..=2 {
        wait(store.put(&id(1), record(checkpoint))).unwrap();
    }
    wait(store.put(&id(1), record(3))).unwrap_err();
    let damaged = files(directory.path());
    let mut failure = None;
    until("the store was opened again", || {
        failure = wait(store.put(&id(1), record(4))).err();
        matches!(failure, Some(StoreError::Corrupt { .. }))
    });
    assert!(!store.is_ready());
    assert_eq!(checkpoint_of(&store, 1), 2, "what is durable is served");
    drop(store);
    assert!(files(directory.path()) == damaged, "overwritten");
    let refused = open(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[test]
fn a_full_queue_refuses_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs, end) = stepped(directory.path());
    let first = store.put(&id(0), record(1));
    syncs.recv_timeout(DEADLINE).unwrap();
    let mut accepted = Vec::new();
    let refusal = loop {
        let mut change = store.put(&id(1), record(1));
        match change.try_recv() {
            Ok(answer) => break answer.unwrap_err(),
            Err(_) => accepted.push(change),
        }
        assert!(accepted.len() < 100_000, "the queue has no end");
    };
    assert!(refusal.is_retryable() && refusal.to_string().contains("waiting"));
    for _ in 0..1000 {
        end.send(()).unwrap();
    }
    for change in accepted.into_iter().chain([first]) {
        assert_eq!(wait(change), Ok(()));
    }
}
