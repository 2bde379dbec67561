//! One seed is one world: which are lived through, on all cores, and what is
//! said of them.

use std::{
    cell::{Cell, RefCell},
    env, panic,
    sync::{
        Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use crate::tally::Tally;

/// How a world of a seed is lived through: what happened, or what broke.
pub(crate) type Live = fn(seed: u64, shows_log: bool) -> Result<Tally, String>;

/// Of the worlds that are part of every run of the tests.
const FIRST_OF_SHARE: u64 = 1_000_000;

/// The seeds to live through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    first: u64,
    count: u64,
    /// One that is to be looked at.
    is_replay: bool,
}

impl Seeds {
    /// `SEEDS`: how many, else `share`. `SEED`: the first, or the only one.
    /// Without both, always the same: what is red then is the change's doing.
    pub(crate) fn from_env(share: u64) -> Self {
        let seed = number_from("SEED");
        let seeds = number_from("SEEDS");
        Self {
            first: seed.unwrap_or_else(|| seeds.map_or(FIRST_OF_SHARE, |_| random() >> 16)),
            count: seeds.unwrap_or(if seed.is_some() { 1 } else { share }),
            is_replay: seed.is_some() && seeds.is_none_or(|seeds| seeds == 1),
        }
    }

    /// Lives through all of them and returns what happened. `test`: the name
    /// that a replay runs.
    ///
    /// # Panics
    /// With what a world that broke says, and how to replay it.
    pub(crate) fn live(self, test: &str, live: Live) -> Tally {
        println!("SEED={} SEEDS={}: {test}", self.first, self.count);
        let started = Instant::now();
        let next = AtomicU64::new(0);
        let has_failed = AtomicBool::new(false);
        let together = Mutex::new((Tally::default(), Vec::new()));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    panics_quietly();
                    let mut tally = Tally::default();
                    while !has_failed.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.count {
                            break;
                        }
                        let seed = self.first.wrapping_add(number);
                        match live(seed, self.is_replay) {
                            Ok(happened) => tally.merge(&happened),
                            Err(broken) => {
                                has_failed.store(true, Ordering::Relaxed);
                                together.lock().unwrap().1.push((seed, broken));
                            }
                        }
                    }
                    together.lock().unwrap().0.merge(&tally);
                });
            }
        });
        let (tally, failed) = together.into_inner().unwrap();
        let worlds = next.into_inner().min(self.count);
        if let Some((seed, broken)) = failed.first() {
            panic!(
                "world {seed} broke, the {worlds}. or so:\n{broken}\n\n\
                 replay it with its log:\n  \
                 SEED={seed} cargo test --test simulate {test} -- --nocapture\n"
            );
        }
        println!("{worlds} worlds in {:.1?}", started.elapsed());
        for (what, times) in tally.iter() {
            println!("{times:>12}  {what}");
        }
        tally
    }

    /// A simulator that stops injecting what it says must fail, too.
    pub(crate) fn must_have_happened(self, tally: &Tally, faults: &[&'static str]) {
        /// With fewer seeds, a rare one may well be missing.
        const ENOUGH: u64 = 1000;
        if self.count < ENOUGH {
            return;
        }
        let missing: Vec<_> = faults.iter().filter(|it| tally.times(it) == 0).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of this thread are caught and told of: they need not be printed,
/// least of all while a world is shrunk.
fn panics_quietly() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_QUIET.get() {
                LAST_PANIC.set(Some(info.to_string()));
            } else {
                print(info);
            }
        }));
    });
    IS_QUIET.set(true);
}

/// What the last panic of this thread said, and where.
pub(crate) fn last_panic() -> String {
    take_panic().unwrap_or_else(|| "see the panic above".into())
}

/// As `last_panic`; `None`: there was none since.
pub(crate) fn take_panic() -> Option<String> {
    LAST_PANIC.take()
}

fn number_from(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Another one every time.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
