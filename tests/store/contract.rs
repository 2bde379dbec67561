//! What every store promises.

use watchmark::{
    resume::{Assumed, ClientId, KeyRange, Proof, Record, Revision, Selection},
    store::{CheckpointStore, DiskStore, InvalidRecord, StoreError},
};

use crate::{
    memory::MemoryStore,
    support::{contents, files, id, open, record, wait},
};

fn each_store(check: impl Fn(&dyn CheckpointStore)) {
    check(&MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    check(&open(directory.path()).unwrap());
}

#[test]
fn what_was_put_is_loaded_and_listed_in_order() {
    each_store(|store| {
        assert_eq!(store.load(&id(1)), Ok(None));
        for number in [2, 1, 3] {
            wait(store.put(&id(number), record(7))).unwrap();
        }
        assert_eq!(store.client_ids(), [id(1), id(2), id(3)]);
        assert_eq!(store.count(), 3);
        assert_eq!(store.load(&id(2)), Ok(Some(record(7))));
        assert!(store.is_ready());
    });
}

#[test]
fn changes_of_one_subscription_take_effect_in_the_order_made() {
    each_store(|store| {
        let mut changes: Vec<_> = (1..=50)
            .map(|checkpoint| store.put(&id(1), record(checkpoint)))
            .collect();
        changes.push(store.remove(&id(1)));
        changes.push(store.put(&id(1), record(3)));
        for change in changes {
            wait(change).unwrap();
        }
        assert_eq!(store.load(&id(1)), Ok(Some(record(3))));
    });
}

#[test]
fn a_removed_subscription_is_gone_and_removing_it_again_succeeds() {
    each_store(|store| {
        wait(store.put(&id(1), record(1))).unwrap();
        for _ in 0..2 {
            wait(store.remove(&id(1))).unwrap();
            assert_eq!(store.load(&id(1)), Ok(None));
            assert_eq!(store.client_ids(), []);
        }
    });
}

#[test]
fn a_record_that_contradicts_itself_is_refused_and_changes_nothing() {
    each_store(|store| {
        wait(store.put(&id(1), record(5))).unwrap();
        let mut broken = record(9);
        broken.assumed = Some(Assumed {
            revision: Revision::new(8).unwrap(),
            proof: Proof::Delay,
        });
        let refused = wait(store.put(&id(1), broken)).unwrap_err();
        assert_eq!(
            refused,
            StoreError::Refused {
                client_id: id(1),
                cause: InvalidRecord::AssumedBelowCheckpoint
            }
        );
        assert!(!refused.is_retryable());
        assert_eq!(store.load(&id(1)), Ok(Some(record(5))));
        assert!(store.is_ready());
    });
}

#[test]
fn everything_is_there_after_a_restart_in_the_same_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for round in 1..=5 {
        let store = open(directory.path()).unwrap();
        assert_eq!(contents(&store), expected);
        for number in 0..20 {
            let checkpoint = round * 100 + u64::try_from(number).unwrap();
            wait(store.put(&id(number), record(checkpoint))).unwrap();
            expected.insert(id(number), record(checkpoint));
        }
        wait(store.remove(&id(7))).unwrap();
        expected.remove(&id(7));
    }
}

#[test]
fn closing_writes_what_is_still_queued() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let changes: Vec<_> = (0..500).map(|n| store.put(&id(n), record(1))).collect();
    drop(store);
    for change in changes {
        assert_eq!(wait(change), Ok(()));
    }
    assert_eq!(open(directory.path()).unwrap().client_ids().len(), 500);
}

/// sled moves large pages to files that it does not sync.
#[test]
fn the_longest_names_and_keys_stay_in_the_file_that_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let put = |store: &DiskStore, number: usize, key_bytes: usize| {
        let name = format!("{number:0>128}");
        let record = Record::new(Selection {
            range: KeyRange::prefix(vec![b'k'; key_bytes].into()),
            no_put: false,
            no_delete: false,
        });
        let id = ClientId::parse(&name).unwrap();
        (id.clone(), record.clone(), store.put(&id, record))
    };
    let mut expected = std::collections::BTreeMap::new();
    // 700: a single chunk each; 40,000: many; then shorter again.
    for (count, key_bytes) in [(2000, 350), (40, 40_000), (20, 900)] {
        let changes: Vec<_> = (0..count).map(|n| put(&store, n, key_bytes)).collect();
        for (id, record, change) in changes {
            wait(change).unwrap();
            expected.insert(id, record);
        }
    }
    drop(store);
    let blobs: Vec<_> = files(directory.path())
        .into_keys()
        .filter(|name| name.to_string_lossy().contains("blobs"))
        .collect();
    assert_eq!(blobs, Vec::<std::path::PathBuf>::new());
    assert_eq!(contents(&open(directory.path()).unwrap()), expected);
}

#[test]
fn memory_can_hold_changes_back_and_fail_them() {
    let store = MemoryStore::new();
    store.hold();
    let mut first = store.put(&id(1), record(1));
    let mut second = store.put(&id(1), record(2));
    assert!(first.try_recv().is_err());
    assert_eq!((store.held_count(), store.load(&id(1))), (2, Ok(None)));

    assert!(store.release_one());
    assert_eq!(first.try_recv(), Ok(Ok(())));
    assert_eq!(store.load(&id(1)), Ok(Some(record(1))));

    store.fail("no space");
    let failure = second.try_recv().unwrap().unwrap_err();
    assert!(failure.is_retryable(), "{failure}");
    assert!(wait(store.put(&id(1), record(3))).is_err());
    assert!(!store.is_ready());
    assert_eq!(store.load(&id(1)), Ok(Some(record(1))));

    store.recover();
    store.release();
    wait(store.put(&id(1), record(4))).unwrap();
    assert!(store.is_ready());
    assert_eq!(store.load(&id(1)), Ok(Some(record(4))));
}

#[test]
fn a_fresh_record_has_no_proof() {
    each_store(|store| {
        let mut fresh = Record::new(record(1).selection);
        wait(store.put(&id(1), fresh.clone())).unwrap();
        assert_eq!(store.load(&id(1)), Ok(Some(fresh.clone())));
        fresh.proof = Proof::Acked;
        assert!(wait(store.put(&id(1), fresh)).is_err());
    });
}
