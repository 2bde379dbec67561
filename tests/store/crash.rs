//! kill -9, over and over.

use watchmark::store::CheckpointStore as _;

use crate::support::{Syncs, Writer, checkpoint_of, open, random_pause};

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
