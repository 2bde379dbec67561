//! Power cuts on a disk that writes what is not yet synced in any order: of
//! the blocks of a commit any may be there and any may be missing.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use watchmark::{
    resume::{ClientId, KeyRange, Record},
    store::{CheckpointStore as _, DiskStore, DiskSync, OnCorruptStore},
};

use crate::{
    seed::seed,
    support::{DEADLINE, contents, files, id, is_witness, record, wait, write_files},
    writer::at_once,
};

const DB: &str = "checkpoints/tree/db";
const WITNESS: &str = "checkpoints/witness";
/// `WATCHMARK_TEST_REORDERED_CUTS` asks for more.
const CUTS: usize = 60;
/// Stores whose power is cut at once; each goes on where it was cut.
const STORES: usize = 4;
/// Cuts of one store, before it begins as a new one.
const CUTS_PER_LIFE: usize = 15;

/// Announces each sync and waits to be told to go on, once it is asked to.
#[derive(Debug)]
struct Held {
    holds: Arc<AtomicBool>,
    began: Sender<&'static str>,
    ends: Mutex<Receiver<()>>,
}

impl DiskSync for Held {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        if self.holds.load(Ordering::SeqCst) {
            let name = if is_witness(file) { WITNESS } else { DB };
            self.began.send(name).unwrap();
            // Let go: the power is off.
            let _ = self.ends.lock().unwrap().recv_timeout(DEADLINE);
        }
        Ok(())
    }
}

type Contents = BTreeMap<ClientId, Record>;

/// What its subscribers asked of a store, in order, from one cut to the next.
struct Asked {
    before: Contents,
    changes: Vec<(ClientId, Option<Record>)>,
}

impl Asked {
    /// How many of the changes make the content what was found.
    fn count_in(&self, found: &Contents) -> Option<usize> {
        let differs = |(id, record): &(&ClientId, &Record)| found.get(*id) != Some(*record);
        let mut wrong = self.before.iter().filter(differs).count();
        let is_new = |id: &&ClientId| !self.before.contains_key(*id);
        wrong += found.keys().filter(is_new).count();
        let mut state: BTreeMap<_, _> = self.before.iter().collect();
        // The highest: a change may change nothing.
        let mut count = (wrong == 0).then_some(0);
        for (number, (id, change)) in self.changes.iter().enumerate() {
            wrong -= usize::from(state.get(id).copied() != found.get(id));
            match change {
                Some(record) => state.insert(id, record),
                None => state.remove(id),
            };
            wrong += usize::from(state.get(id).copied() != found.get(id));
            if wrong == 0 {
                count = Some(number + 1);
            }
        }
        count
    }
}

fn change(rng: &mut Rng, checkpoint: u64) -> (ClientId, Option<Record>) {
    let mut record = record(checkpoint);
    let key_bytes = [5, 5, 5, 5, 50, 50, 50, 50, 900, 9000][rng.usize(..10)];
    record.selection.range = KeyRange::prefix(vec![b'k'; key_bytes].into());
    (id(rng.usize(..400)), (rng.u8(..20) > 0).then_some(record))
}

/// What of `new`, written over `old` and not synced, a cut may leave.
fn torn(rng: &mut Rng, old: &[u8], new: &[u8]) -> Vec<u8> {
    let block = [512, 4096, 65536][rng.usize(..3)];
    let differs =
        |at: &usize| old.get(*at..(at + block).min(old.len())) != new.get(*at..at + block);
    let unsynced: Vec<usize> = (0..new.len()).step_by(block).filter(differs).collect();
    let mut left = old.to_vec();
    // The file may have grown before its new blocks were written.
    left.resize(new.len().max(old.len()), 0);
    let only_lost = rng.bool().then(|| rng.usize(..unsynced.len().max(1)));
    let share_lost = rng.f64();
    for (number, &at) in unsynced.iter().enumerate() {
        let is_lost = match only_lost {
            Some(only) => number == only,
            None => rng.f64() < share_lost,
        };
        if !is_lost {
            let end = (at + block).min(new.len());
            left[at..end].copy_from_slice(&new[at..end]);
        }
    }
    if rng.bool() {
        // Or it has not grown: then nothing that is beyond its end is there.
        let end = rng.usize(old.len().min(left.len())..=left.len());
        left.truncate(end);
    }
    left
}

/// Opens the store, makes commits, and cuts the power at one of them: what is
/// on the disk then, what was asked, and how much of it was answered.
fn write_and_cut(
    rng: &mut Rng,
    path: &Path,
    checkpoint: &mut u64,
) -> (BTreeMap<PathBuf, Vec<u8>>, Asked, usize) {
    let holds = Arc::new(AtomicBool::new(false));
    let (began, syncs) = channel();
    let (end, ends) = channel();
    let sync = Arc::new(Held {
        holds: Arc::clone(&holds),
        began,
        ends: Mutex::new(ends),
    });
    let store = DiskStore::open_with_sync(path, OnCorruptStore::Fail, sync).unwrap();
    holds.store(true, Ordering::SeqCst);
    let mut asked = Asked {
        before: contents(&store),
        changes: Vec::new(),
    };
    let mut synced = files(path);
    let mut answers = Vec::new();
    let mut answered = 0;
    let mut commits_left = rng.usize(1..5);
    loop {
        // More than one group holds, at times.
        let group = [1, 1, 2, 10, 100, 1200][rng.usize(..6)];
        for _ in 0..group {
            *checkpoint += 1;
            let (id, record) = change(rng, *checkpoint);
            answers.push(match &record {
                Some(record) => store.put(&id, record.clone()),
                None => store.remove(&id),
            });
            asked.changes.push((id, record));
        }
        let deadline = Instant::now() + DEADLINE;
        while answered < asked.changes.len() {
            let began = syncs.recv_timeout(Duration::from_millis(1)).ok();
            // All that is answered, if the next commit has begun.
            while let Some(Ok(answer)) = answers.get_mut(answered).map(|it| it.try_recv()) {
                answer.unwrap();
                answered += 1;
            }
            let Some(file) = began else {
                assert!(Instant::now() < deadline, "the store does nothing");
                continue;
            };
            let mut left = files(path);
            if commits_left == 0 && rng.bool() {
                let name = Path::new(file);
                let torn = torn(rng, &synced[name], &left[name]);
                left.insert(name.to_owned(), torn);
                holds.store(false, Ordering::SeqCst);
                drop(end);
                return (left, asked, answered);
            }
            commits_left = commits_left.saturating_sub(usize::from(file == WITNESS));
            synced = left;
            end.send(()).unwrap();
            if file == WITNESS && commits_left > 0 && rng.bool() {
                // What is asked next joins what still waits.
                break;
            }
        }
    }
}

fn live_and_cut(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let mut checkpoint = 0;
    let mut unanswered_but_there = 0;
    for cut in 0..CUTS_PER_LIFE {
        let (left, asked, answered) = write_and_cut(&mut rng, &path, &mut checkpoint);
        write_files(&path, &left);
        let store = crate::support::open(&path)
            .unwrap_or_else(|err| panic!("seed {seed}, cut {cut}: {err}"));
        let found = asked.count_in(&contents(&store));
        assert!(
            found.is_some_and(|found| found >= answered),
            "seed {seed}, cut {cut}: {found:?} of {} changes are there, {answered} were answered",
            asked.changes.len()
        );
        unanswered_but_there += found.unwrap() - answered;
        checkpoint += 1;
        wait(store.put(&id(0), record(checkpoint))).unwrap();
    }
    unanswered_but_there
}

#[test]
fn no_order_of_a_commits_blocks_takes_an_answer_back_or_makes_the_store_refuse() {
    let cuts =
        std::env::var("WATCHMARK_TEST_REORDERED_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let first = seed();
    let lives = cuts.div_ceil(CUTS_PER_LIFE);
    println!("{lives} lives of {CUTS_PER_LIFE} cuts each, from seed {first}");
    let there = at_once(STORES, lives, |life| live_and_cut(first + life as u64));
    println!("unanswered changes that were there: {there:?}");
}
