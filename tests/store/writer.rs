//! A process that writes to a store as fast as it can and can be killed at any
//! moment, and what may be in the store after that.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use watchmark::store::{CheckpointStore as _, DiskStore, DiskSync, FdataSync, OnCorruptStore};

use crate::support::{checkpoint_of, id, is_witness, record, until};

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

const WRITER_STORE: &str = "WATCHMARK_TEST_WRITER_STORE";
const WRITER_SYNCS: &str = "WATCHMARK_TEST_WRITER_SYNCS";
const WRITER_QUARANTINES: &str = "WATCHMARK_TEST_WRITER_QUARANTINES";
const WRITER_THREADS: usize = 4;
const SUBSCRIPTIONS_PER_THREAD: usize = 8;
const SUBSCRIPTIONS: usize = WRITER_THREADS * SUBSCRIPTIONS_PER_THREAD;

/// Not a test of its own: what [`Writer`] runs as another process. Changes
/// checkpoints for ever, and prints what it found, asks and gets answered.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os(WRITER_STORE) else {
        return;
    };
    let syncs = std::env::var(WRITER_SYNCS).unwrap();
    let is_named = |it: &Syncs| format!("{it:?}") == syncs;
    let sync = Arc::new(Syncs::ALL.into_iter().find(is_named).unwrap());
    let on_corrupt = match std::env::var_os(WRITER_QUARANTINES) {
        Some(_) => OnCorruptStore::Quarantine,
        None => OnCorruptStore::Fail,
    };
    let path = PathBuf::from(path);
    let store = DiskStore::open_with_sync(&path, on_corrupt, sync).unwrap();
    for client in 0..SUBSCRIPTIONS {
        say("found", client, checkpoint_of(&store, client));
    }
    thread::scope(|scope| {
        for thread in 0..WRITER_THREADS {
            let store = &store;
            scope.spawn(move || change_checkpoints(store, thread));
        }
    });
}

fn change_checkpoints(store: &DiskStore, thread: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let first = thread * SUBSCRIPTIONS_PER_THREAD;
    for round in 1_u64.. {
        for client in first..first + SUBSCRIPTIONS_PER_THREAD {
            let base = checkpoint_of(store, client);
            // Up to three at once, so that a crash may find any of them there.
            let mut asked = Vec::new();
            for step in 1..=1 + round % 3 {
                let forget = round % 16 == 0 && step == 1;
                let checkpoint = if forget { 0 } else { base + step };
                say("asked", client, checkpoint);
                let id = id(client);
                asked.push(match checkpoint {
                    0 => store.remove(&id),
                    _ => store.put(&id, record(checkpoint)),
                });
            }
            for answer in asked {
                runtime.block_on(answer).unwrap().unwrap();
                say("answered", client, 0);
            }
        }
    }
}

/// One write each: never torn by a kill.
fn say(what: &str, client: usize, checkpoint: u64) {
    let line = format!("{what} {client} {checkpoint}\n");
    io::stdout().write_all(line.as_bytes()).unwrap();
    io::stdout().flush().unwrap();
}

/// What one subscription's checkpoint was made to be, in order; 0: no record.
#[derive(Clone, Debug)]
struct Life {
    /// The first was there before anything was asked.
    checkpoints: Vec<u64>,
    /// Where in these the last answer is.
    answered: usize,
}

impl Life {
    fn at(checkpoint: u64) -> Self {
        Self {
            checkpoints: vec![checkpoint],
            answered: 0,
        }
    }

    /// The answered one or one asked for since, and nothing else.
    fn check(&self, found: u64) -> Result<(), String> {
        let possible = &self.checkpoints[self.answered..];
        if possible.contains(&found) {
            return Ok(());
        }
        let [answered, asked] = [possible[0], possible[possible.len() - 1]];
        Err(format!(
            "is at {found}, {answered} was answered, {asked} was asked for"
        ))
    }
}

/// What may be in a store, by what its writers said of every subscription.
#[derive(Clone, Debug)]
pub(crate) struct Lives {
    by_client: BTreeMap<usize, Life>,
    pub(crate) answers: u64,
}

impl Lives {
    /// Of a new store.
    pub(crate) fn new() -> Self {
        Self {
            by_client: (0..SUBSCRIPTIONS).map(|it| (it, Life::at(0))).collect(),
            answers: 0,
        }
    }

    /// Compares `store` with what may be in it; what is found there is what
    /// must be there from now on.
    pub(crate) fn settle(&mut self, store: &DiskStore) -> Result<(), String> {
        for client in 0..SUBSCRIPTIONS {
            let found = checkpoint_of(store, client);
            self.found(client, found)?;
            let expected = (found > 0).then(|| record(found));
            if store.load(&id(client)) != Ok(expected) {
                return Err(format!("client {client} has a record that was never put"));
            }
        }
        let records = self.by_client.values().filter(|it| it.checkpoints[0] > 0);
        if store.client_ids().len() != records.count() {
            return Err("there are records of others".to_owned());
        }
        Ok(())
    }

    fn found(&mut self, client: usize, checkpoint: u64) -> Result<(), String> {
        let checked = self.by_client[&client].check(checkpoint);
        checked.map_err(|why| format!("client {client} {why}"))?;
        self.by_client.insert(client, Life::at(checkpoint));
        Ok(())
    }

    /// Takes a line of [`writer_process`].
    fn hear(&mut self, line: &str) -> Result<(), String> {
        // libtest's own first line may stand before the first of ours.
        let words: Vec<&str> = line.split_ascii_whitespace().rev().take(3).collect();
        let [checkpoint, client, what] = words[..] else {
            return Ok(());
        };
        let (Ok(client), Ok(checkpoint)) = (client.parse(), checkpoint.parse()) else {
            return Ok(());
        };
        let life = self.by_client.get_mut(&client);
        match (what, life) {
            ("found", _) => return self.found(client, checkpoint),
            ("asked", Some(life)) => life.checkpoints.push(checkpoint),
            ("answered", Some(life)) => {
                life.answered += 1;
                self.answers += 1;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Another process that writes as fast as it can.
pub(crate) struct Writer {
    child: Child,
    heard: Arc<Mutex<Result<Lives, String>>>,
    stdout: JoinHandle<()>,
    stderr: JoinHandle<String>,
}

impl Writer {
    /// Where `lives` is what may be in `store`.
    pub(crate) fn start(store: &Path, syncs: Syncs, lives: Lives) -> Self {
        Self::spawn(store, syncs, lives, Command::new(exe()))
    }

    /// As [`Writer::start`], and a corrupt store is moved aside.
    pub(crate) fn start_quarantining(store: &Path, lives: Lives) -> Self {
        let mut command = Command::new(exe());
        command.env(WRITER_QUARANTINES, "");
        Self::spawn(store, Syncs::All, lives, command)
    }

    fn spawn(store: &Path, syncs: Syncs, lives: Lives, mut command: Command) -> Self {
        command
            .args(["writer::writer_process", "--exact", "--nocapture"])
            .env(WRITER_STORE, store)
            .env(WRITER_SYNCS, format!("{syncs:?}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let heard = Arc::new(Mutex::new(Ok(lives)));
        let stdout = thread::spawn({
            let heard = Arc::clone(&heard);
            move || hear_all(stdout, &heard)
        });
        Self {
            child,
            heard,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Waits for an answer, the first one of this process or of one before it.
    pub(crate) fn wait_for_first_answer(&mut self) {
        let before = self.answers();
        until("the writer process writes", || {
            assert_eq!(self.child.try_wait().unwrap(), None, "the writer ended");
            self.answers() > before
        });
    }

    fn answers(&self) -> u64 {
        let heard = self.heard.lock().unwrap();
        heard.as_ref().map_or(u64::MAX, |it| it.answers)
    }

    /// Kills the process; what may be in its store then. An error says what it
    /// found there itself that may not be.
    pub(crate) fn kill(self) -> Result<Lives, String> {
        let (heard, stderr) = self.end();
        assert!(!stderr.contains("panicked"), "{stderr}");
        heard
    }

    /// Kills the process, if it did not end by itself: the store was corrupt.
    pub(crate) fn kill_refused(self) {
        let (_, stderr) = self.end();
        // The process itself may: it expects a store.
        assert!(!stderr.contains("panicked at src"), "{stderr}");
    }

    fn end(mut self) -> (Result<Lives, String>, String) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stdout.join().unwrap();
        let stderr = self.stderr.join().unwrap();
        let heard = Arc::into_inner(self.heard).unwrap();
        (heard.into_inner().unwrap(), stderr)
    }
}

fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn hear_all(stdout: impl BufRead, heard: &Mutex<Result<Lives, String>>) {
    for line in stdout.lines().map_while(Result::ok) {
        let mut heard = heard.lock().unwrap();
        if let Ok(lives) = &mut *heard
            && let Err(why) = lives.hear(&line)
        {
            *heard = Err(why);
        }
    }
}

/// Runs `case` for each number below `count`, some at once: most of what they
/// do is wait for the disk or for a process. Returns what each returned.
pub(crate) fn at_once<T: Send>(
    workers: usize,
    count: usize,
    case: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let case = &case;
        let work = |worker| move || (worker..count).step_by(workers).map(case).collect();
        let workers: Vec<_> = (0..workers).map(|it| scope.spawn(work(it))).collect();
        workers
            .into_iter()
            .flat_map(|it| -> Vec<T> { it.join().unwrap() })
            .collect()
    })
}
