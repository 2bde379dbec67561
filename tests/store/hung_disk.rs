//! A disk that answers nothing, not even that it fails.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use watchmark::store::{CheckpointStore as _, DiskStore, DiskSync, FdataSync, OnCorruptStore};

use crate::support::{id, record, until, wait};

#[derive(Debug, Default)]
struct Hanging(AtomicBool);

impl DiskSync for Hanging {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        while self.0.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        FdataSync.sync_data(file)
    }
}

#[test]
fn a_disk_that_does_not_answer_is_trouble_until_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(Hanging::default());
    let sync: Arc<dyn DiskSync> = disk.clone();
    let store = DiskStore::open_with_sync(directory.path(), OnCorruptStore::Fail, sync).unwrap();
    wait(store.put(&id(0), record(1))).unwrap();
    assert_eq!(store.trouble(), None);

    disk.0.store(true, Ordering::Relaxed);
    let committed = store.put(&id(0), record(2));
    until("the disk is in trouble", || store.trouble().is_some());
    let (error, _) = store.trouble().unwrap();
    let message = error.to_string();
    assert!(message.contains("does not answer"), "{message}");
    assert!(message.contains("--data-dir"), "{message}");
    assert!(store.is_alive());

    disk.0.store(false, Ordering::Relaxed);
    wait(committed).unwrap();
    until("that is over", || store.trouble().is_none());
}
