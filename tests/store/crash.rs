//! kill -9, over and over.

use std::{fs, path::PathBuf};

use watchmark::store::CheckpointStore as _;

use crate::support::{Syncs, Writer, checkpoint_of, id, open, random_pause, record, wait};

const ROUNDS: usize = 20;

#[test]
fn no_kill_takes_an_answered_checkpoint_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut acks = 0;
    for round in 0..ROUNDS {
        let mut writer = Writer::start(directory.path(), Syncs::All);
        writer.wait_for_first_ack();
        random_pause(1, 120);
        let acked = writer.kill();

        let store = open(directory.path()).unwrap();
        for (client, checkpoint) in acked {
            let found = checkpoint_of(&store, client);
            assert!(
                found >= checkpoint,
                "round {round}: client {client} is at {found}, {checkpoint} was answered"
            );
            acks += checkpoint;
        }
        assert!(store.is_ready());
    }
    assert!(acks > 0);
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
