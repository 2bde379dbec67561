//! Damage: an error, a quarantine, or exactly the right data. Never a panic of
//! ours, never one of sled's that nobody catches, never a wrong or missing
//! checkpoint, and nothing overwritten.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use watchmark::store::{CheckpointStore as _, StoreError};

use crate::{
    damage::{
        Files, SEGMENT_BYTES, Store, WITHOUT_RECORDS, is_refused, large_store_files, names,
        store_files,
    },
    seed::seed,
    support::{contents, files, id, open, record, wait, write_files},
    writer::at_once,
};

/// Stores looked at at once.
const WORKERS: usize = 6;
/// `WATCHMARK_TEST_DAMAGES` asks for more.
const RANDOM_DAMAGES: usize = 150;

/// `count` offsets, spread over `length`, ends included.
fn offsets(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let last = length.saturating_sub(1);
    (0..count)
        .map(move |n| last * n / (count - 1).max(1))
        // An odd step, so that not all are aligned alike.
        .map(move |at| {
            if at == last {
                at
            } else {
                (at + at % 61).min(last)
            }
        })
}

/// A file, what is done to it, and how that is called.
type Damage = (PathBuf, String, Box<dyn Fn(&mut Vec<u8>) + Send + Sync>);

fn damage(
    file: &Path,
    what: String,
    change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
) -> Damage {
    (file.to_owned(), what, Box::new(change))
}

/// Both stores, and the files of each that are damaged: of the large one those
/// that are large.
fn stores() -> [(Store, Files); 2] {
    let small = store_files(3);
    let all = small.0.clone();
    [(small, all), large_store()]
}

fn large_store() -> (Store, Files) {
    let large = large_store_files();
    let mut few = large.0.clone();
    few.retain(|_, content| content.len() > SEGMENT_BYTES);
    (large, few)
}

/// How many of the `damages` were refused, by file.
fn refusals((pristine, expected): &Store, damages: &[Damage]) -> BTreeMap<PathBuf, usize> {
    let refused = at_once(WORKERS, damages.len(), |number| {
        let (name, what, change) = &damages[number];
        let mut damaged = pristine.clone();
        change(damaged.get_mut(name).unwrap());
        let what = format!("{}: {what}", name.display());
        let is_same = damaged == *pristine;
        let is_refused = is_refused(&what, &damaged, expected);
        assert!(!(is_same && is_refused), "{what}: refused undamaged");
        (name.clone(), usize::from(is_refused))
    });
    let mut counts = BTreeMap::new();
    for (name, is_refused) in refused {
        *counts.entry(name).or_insert(0) += is_refused;
    }
    counts
}

/// Where sled's headers, and everybody's ends, are.
fn edges(length: usize) -> Vec<usize> {
    let segments = (0..=(length / SEGMENT_BYTES).min(3)).map(|it| it * SEGMENT_BYTES);
    let around = |at: usize| [at.saturating_sub(1), at, at + 7, at + 19];
    let mut edges: Vec<usize> = segments.flat_map(around).chain([length]).collect();
    edges.extend((1..4).map(|n| length * n / 4));
    edges.push(length.saturating_sub(1));
    edges.retain(|&at| at <= length);
    edges.sort_unstable();
    edges.dedup();
    edges
}

#[test]
fn the_files_of_a_store_are_those_that_are_damaged_here() {
    let (files, _) = store_files(1);
    let is_known = |name: &PathBuf| {
        let known = ["lock", "checkpoints/witness", "checkpoints/tree/"];
        known
            .iter()
            .any(|it| name.to_str().unwrap().starts_with(it))
    };
    assert!(files.keys().all(is_known), "{:?}", names(&files));
    for name in ["conf", "db"] {
        assert!(files.contains_key(&Path::new("checkpoints/tree").join(name)));
    }
}

#[test]
fn a_file_that_is_gone_is_noticed() {
    let (pristine, expected) = store_files(2);
    let mut refused = Vec::new();
    for name in names(&pristine) {
        let mut damaged = pristine.clone();
        damaged.remove(&name);
        if is_refused(&format!("{name:?} deleted"), &damaged, &expected) {
            refused.push(name);
        }
    }
    for name in ["checkpoints/witness", "checkpoints/tree/db"] {
        assert!(refused.contains(&name.into()), "{name} went unnoticed");
    }
}

#[test]
fn a_file_cut_short_or_too_long_is_noticed() {
    for (store, damaged) in stores() {
        let mut damages = Vec::new();
        for (name, content) in &damaged {
            for length in edges(content.len()) {
                let what = format!("cut to {length}");
                damages.push(damage(name, what, move |it| it.truncate(length)));
            }
            for (more, byte) in [(1, 0), (1, 255), (5000, 7), (SEGMENT_BYTES, 0)] {
                let what = format!("{more} bytes of {byte} appended");
                damages.push(damage(name, what, move |it| {
                    it.resize(it.len() + more, byte)
                }));
            }
        }
        let refused = refusals(&store, &damages);
        let noticed = |(name, count): (&PathBuf, &usize)| *count > 2 || name.ends_with("conf");
        let matters = |it: &(&PathBuf, &usize)| !it.0.ends_with(WITHOUT_RECORDS);
        assert!(refused.iter().filter(matters).all(noticed), "{refused:?}");
    }
}

#[test]
fn a_flipped_bit_never_gives_an_old_or_wrong_checkpoint() {
    for (store, damaged) in stores() {
        let mut damages = Vec::new();
        for (name, content) in &damaged {
            // Most of sled's file may be empty: most bits are of what is there.
            let used: Vec<usize> = (0..content.len()).filter(|&at| content[at] != 0).collect();
            let spread = offsets(used.len(), 24).filter_map(|number| used.get(number).copied());
            let spread = spread
                .chain(offsets(content.len(), 8))
                .chain(edges(content.len()));
            for (number, at) in spread.filter(|&at| at < content.len()).enumerate() {
                let what = format!("bit {} of byte {at}", number % 8);
                damages.push(damage(name, what, move |it| it[at] ^= 1 << (number % 8)));
            }
        }
        let refused = refusals(&store, &damages);
        let count: usize = refused.values().sum();
        assert!(count > 5, "the damage hits nothing: {refused:?}");
    }
}

/// sled opened such a store, took writes, and refused to open it again.
#[test]
fn damage_that_would_stop_the_next_start_stops_this_one() {
    let (store, damaged) = large_store();
    let db = Path::new("checkpoints/tree/db");
    let headers = (0..damaged[db].len()).step_by(SEGMENT_BYTES);
    let bytes = headers.flat_map(|at| [at, at + 4, at + 11, at + 19]);
    let damages: Vec<_> = bytes
        .map(|at| damage(db, format!("byte {at}"), move |it| it[at] ^= 1))
        .collect();
    assert!(refusals(&store, &damages)[db] > 0);
}

#[test]
fn a_block_of_something_else_never_gives_an_old_or_wrong_checkpoint() {
    for (store, damaged) in stores() {
        let mut damages = Vec::new();
        for (name, content) in &damaged {
            let length = content.len();
            for block in [512, 4096, SEGMENT_BYTES] {
                for at in offsets(length, 5).map(move |at| at / block * block) {
                    let end = (at + block).min(length);
                    let what = format!("{block} zeros at {at}");
                    damages.push(damage(name, what, move |it| it[at..end].fill(0)));
                    // As a disk does that writes to the wrong place.
                    let from = (length / 2) / block * block;
                    let from = from.min(length - (end - at));
                    let what = format!("{block} bytes at {at} from {from}");
                    damages.push(damage(name, what, move |it| {
                        it.copy_within(from..from + (end - at), at);
                    }));
                }
            }
        }
        let refused = refusals(&store, &damages);
        // How many blocks hold anything is up to sled, and to when it flushed.
        let count = refused[Path::new("checkpoints/tree/db")];
        assert!(count > 5, "the damage hits nothing: {refused:?}");
    }
}

#[test]
fn no_random_damage_gives_an_old_or_wrong_checkpoint() {
    let count =
        std::env::var("WATCHMARK_TEST_DAMAGES").map_or(RANDOM_DAMAGES, |it| it.parse().unwrap());
    let stores = [store_files(3), store_files(40), large_store_files()];
    let first = seed();
    let refused = at_once(WORKERS, count, |case| {
        let seed = first + case as u64;
        let mut rng = Rng::with_seed(seed);
        let (pristine, expected) = &stores[rng.usize(..stores.len())];
        let mut damaged = pristine.clone();
        let mut what = format!("seed {seed}");
        for _ in 0..rng.usize(1..4) {
            what += &damage_at_random(&mut rng, &mut damaged);
        }
        usize::from(is_refused(&what, &damaged, expected))
    });
    let refused: usize = refused.iter().sum();
    println!("{refused} of {count} damages were refused, from seed {first}");
    assert!(refused > count / 3, "the damage hits nothing");
}

fn damage_at_random(rng: &mut Rng, files: &mut Files) -> String {
    let names = names(files);
    let db = names.iter().find(|it| it.ends_with("db"));
    let name = db.filter(|_| rng.bool());
    let name = name.unwrap_or_else(|| &names[rng.usize(..names.len())]);
    let content = files.get_mut(name).unwrap();
    let length = content.len();
    if length == 0 {
        return String::new();
    }
    let at = match rng.bool() {
        true => rng.usize(..length),
        // sled's headers.
        false => rng.usize(..=length / SEGMENT_BYTES) * SEGMENT_BYTES + rng.usize(..40),
    };
    let at = at.min(length - 1);
    let end = (at + rng.usize(1..SEGMENT_BYTES)).min(length);
    let how = match rng.u8(..7) {
        0..=2 => {
            content[at] ^= 1 << rng.u8(..8);
            "a bit".to_owned()
        }
        3 => {
            content.truncate(at);
            "cut".to_owned()
        }
        4 => {
            rng.fill(&mut content[at..end]);
            format!("garbage to {end}")
        }
        5 => {
            let from = rng.usize(..=length - (end - at));
            content.copy_within(from..from + (end - at), at);
            format!("what is at {from} to {end}")
        }
        _ => {
            files.remove(name);
            "deleted".to_owned()
        }
    };
    format!(", {} at {at}: {how}", name.display())
}

#[test]
fn what_an_interrupted_start_left_behind_is_no_damage() {
    let (mut files, expected) = store_files(1);
    for name in [
        "checkpoints/rehearsal/db",
        "checkpoints/rehearsal/blobs/7",
        "checkpoints.new/witness",
        "checkpoints/tree/blobs/7",
    ] {
        files.insert(name.into(), b"rubbish".to_vec());
    }
    assert!(!is_refused("leftovers", &files, &expected));
}

#[test]
fn a_tree_rolled_back_by_a_single_answered_commit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let store = open(&path).unwrap();
    wait(store.put(&id(1), record(1))).unwrap();
    drop(store);
    let old = files(&path);
    let store = open(&path).unwrap();
    wait(store.put(&id(1), record(2))).unwrap();
    let expected = contents(&store);
    drop(store);

    let mut rolled_back = files(&path);
    rolled_back.retain(|name, _| !name.starts_with("checkpoints/tree"));
    let tree = old.into_iter();
    rolled_back.extend(tree.filter(|(name, _)| name.starts_with("checkpoints/tree")));

    assert!(is_refused("rolled back", &rolled_back, &expected));
    write_files(&path, &rolled_back);
    let message = open(&path).unwrap_err().to_string();
    for part in [
        "--data-dir",
        path.to_str().unwrap(),
        "rolled back to commit 1, but commit 2 was answered",
        "--on-corrupt-store=quarantine",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn a_tree_of_another_store_is_refused() {
    let (ours, expected) = store_files(1);
    let (theirs, _) = store_files(1);
    let mut mixed = theirs;
    mixed.insert(
        "checkpoints/witness".into(),
        ours[Path::new("checkpoints/witness")].clone(),
    );
    assert!(is_refused("mixed", &mixed, &expected));
}

#[test]
fn a_store_without_a_tree_is_refused_even_if_its_directory_is_gone() {
    let (mut damaged, _) = store_files(1);
    damaged.retain(|name, _| !name.starts_with("checkpoints/tree"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    write_files(&path, &damaged);
    fs::remove_dir_all(path.join("checkpoints/tree")).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}
