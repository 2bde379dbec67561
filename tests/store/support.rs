//! What the store's tests share: records, waiting, copies, mounts, and a
//! writer process that can be killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use watchmark::{
    resume::{ClientId, Fingerprint, KeyRange, Proof, Record, Revision, Selection},
    store::{
        CheckpointStore, Committed, DiskStore, DiskSync, FdataSync, OnCorruptStore, StoreError,
    },
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

/// What a writer process syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Syncs {
    /// As it should be.
    All,
    /// As if the disk lost what it said it had: only the witness survives.
    WitnessOnly,
    /// What the store would be without its fdatasync.
    Nothing,
}

impl Syncs {
    const ALL: [Self; 3] = [Self::All, Self::WitnessOnly, Self::Nothing];
}

impl DiskSync for Syncs {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        match self {
            Self::All => FdataSync.sync_data(file),
            Self::WitnessOnly if is_witness(file) => FdataSync.sync_data(file),
            Self::WitnessOnly | Self::Nothing => Ok(()),
        }
    }
}

/// The witness has three blocks, and sled's file never has.
pub(crate) fn is_witness(file: &File) -> bool {
    file.metadata().unwrap().len() == 3 * 4096
}

const WRITER_STORE: &str = "WATCHMARK_TEST_WRITER_STORE";
const WRITER_SYNCS: &str = "WATCHMARK_TEST_WRITER_SYNCS";
const WRITER_THREADS: usize = 4;
const SUBSCRIPTIONS_PER_THREAD: usize = 8;

/// Not a test of its own: what [`Writer`] runs as another process. Raises
/// checkpoints for ever and prints `ack <client> <checkpoint>` after each answer.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os(WRITER_STORE) else {
        return;
    };
    let syncs = std::env::var(WRITER_SYNCS).unwrap();
    let is_named = |it: &Syncs| format!("{it:?}") == syncs;
    let sync = Arc::new(Syncs::ALL.into_iter().find(is_named).unwrap());
    let path = PathBuf::from(path);
    let store = DiskStore::open_with_sync(&path, OnCorruptStore::Fail, sync).unwrap();
    thread::scope(|scope| {
        for thread in 0..WRITER_THREADS {
            let store = &store;
            scope.spawn(move || raise_checkpoints(store, thread));
        }
    });
}

fn raise_checkpoints(store: &DiskStore, thread: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let first = thread * SUBSCRIPTIONS_PER_THREAD;
    for round in 1.. {
        for client in first..first + SUBSCRIPTIONS_PER_THREAD {
            let base = checkpoint_of(store, client);
            let checkpoint = base + 1 + round % 3;
            runtime
                .block_on(store.put(&id(client), record(checkpoint)))
                .unwrap()
                .unwrap();
            // One write each: never torn by a kill.
            let line = format!("ack {client} {checkpoint}\n");
            io::stdout().write_all(line.as_bytes()).unwrap();
            io::stdout().flush().unwrap();
        }
    }
}

/// 0: none.
pub(crate) fn checkpoint_of(store: &DiskStore, client: usize) -> u64 {
    let record = store.load(&id(client)).unwrap();
    let checkpoint = record.and_then(|it| it.checkpoint);
    checkpoint.map_or(0, |it| u64::try_from(it.get()).unwrap())
}

/// Another process that writes as fast as it can.
pub(crate) struct Writer {
    child: Child,
    acked: Arc<Mutex<BTreeMap<usize, u64>>>,
    reader: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(store: &Path, syncs: Syncs) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["support::writer_process", "--exact", "--nocapture"])
            .env(WRITER_STORE, store)
            .env(WRITER_SYNCS, format!("{syncs:?}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let acked = Arc::new(Mutex::new(BTreeMap::new()));
        let reader = thread::spawn({
            let acked = Arc::clone(&acked);
            move || read_acks(BufReader::new(stdout), &acked)
        });
        Self {
            child,
            acked,
            reader,
        }
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Waits until the first checkpoint is acknowledged.
    pub(crate) fn wait_for_first_ack(&mut self) {
        until("the writer process writes", || {
            assert_eq!(self.child.try_wait().unwrap(), None, "the writer ended");
            !self.acked.lock().unwrap().is_empty()
        });
    }

    /// Kills the process; the highest checkpoint acknowledged, by client.
    pub(crate) fn kill(mut self) -> BTreeMap<usize, u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        Arc::into_inner(self.acked).unwrap().into_inner().unwrap()
    }
}

fn read_acks(stdout: impl BufRead, acked: &Mutex<BTreeMap<usize, u64>>) {
    for line in stdout.lines().map_while(Result::ok) {
        // libtest's own first line may stand before an ack.
        let Some((_, ack)) = line.rsplit_once("ack ") else {
            continue;
        };
        let (client, checkpoint) = ack.split_once(' ').unwrap();
        let checkpoint = checkpoint.parse().unwrap();
        let old = acked
            .lock()
            .unwrap()
            .insert(client.parse().unwrap(), checkpoint);
        assert!(old.unwrap_or(0) < checkpoint);
    }
}

/// Somewhere between the two, differently each time.
pub(crate) fn random_pause(from_ms: u64, to_ms: u64) {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    thread::sleep(Duration::from_millis(from_ms + random % (to_ms - from_ms)));
}
