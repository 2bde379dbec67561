//! What the store's tests share: records, waiting, copies.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use watchmark::{
    resume::{ClientId, Fingerprint, KeyRange, Proof, Record, Revision, Selection},
    store::{CheckpointStore, Committed, DiskStore, OnCorruptStore, StoreError},
};

/// Longer than anything here takes, even on a slow disk.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn id(number: usize) -> ClientId {
    ClientId::parse(&format!("client-{number}")).unwrap()
}

pub(crate) fn record(checkpoint: u64) -> Record {
    let revision = Revision::new(i64::try_from(checkpoint).unwrap()).unwrap();
    let mut record = Record::new(Selection {
        range: KeyRange::prefix("orders/".into()),
        no_put: false,
        no_delete: false,
    });
    record.checkpoint = Some(revision);
    record.proof = Proof::Acked;
    record.history.cluster_id = 42;
    record.history.fingerprint = Some(Fingerprint {
        key: format!("orders/{checkpoint}").into(),
        mod_revision: revision,
        deleted: false,
    });
    record
}

pub(crate) fn open(path: &Path) -> Result<DiskStore, StoreError> {
    DiskStore::open(path, OnCorruptStore::Fail)
}

/// The answer, once there is one.
pub(crate) fn wait(mut committed: Committed) -> Result<(), StoreError> {
    let mut answer = None;
    until("a change is answered", || {
        answer = committed.try_recv().ok();
        answer.is_some()
    });
    answer.unwrap()
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Every record of the store, by client_id.
pub(crate) fn contents(store: &dyn CheckpointStore) -> BTreeMap<ClientId, Record> {
    let load = |id: ClientId| {
        let record = store.load(&id).unwrap().unwrap();
        (id, record)
    };
    store.client_ids().into_iter().map(load).collect()
}

/// Every file below `path` with its content, by path relative to it.
pub(crate) fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn visit(root: &Path, path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(root, &path, files);
            } else {
                let content = fs::read(&path).unwrap();
                files.insert(path.strip_prefix(root).unwrap().to_owned(), content);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(path, path, &mut found);
    found
}

/// Replaces what is in `path` by `files`.
pub(crate) fn write_files(path: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = fs::remove_dir_all(path);
    for (name, content) in files {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    // sled's, and always empty.
    fs::create_dir_all(path.join("checkpoints/tree/blobs")).unwrap();
}

/// The witness has three blocks, and sled's file never has.
pub(crate) fn is_witness(file: &File) -> bool {
    file.metadata().unwrap().len() == 3 * 4096
}

/// 0: none.
pub(crate) fn checkpoint_of(store: &DiskStore, client: usize) -> u64 {
    let record = store.load(&id(client)).unwrap();
    let checkpoint = record.and_then(|it| it.checkpoint);
    checkpoint.map_or(0, |it| u64::try_from(it.get()).unwrap())
}

/// Somewhere between the two, differently each time.
pub(crate) fn random_pause(from_ms: u64, to_ms: u64) {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    thread::sleep(Duration::from_millis(from_ms + random % (to_ms - from_ms)));
}
