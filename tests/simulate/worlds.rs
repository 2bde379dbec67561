//! The worlds of one subscription's state machine: made from a seed, lived
//! through, died in, and shrunk when they break.

use std::cell::{Cell, RefCell};

use proptest::{
    collection::vec,
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use crate::{
    life::{Death, Lived, run},
    seeds::Seeds,
    steps::{Setup, Step, any_setup, any_step},
    tally::Tally,
};

/// About fifteen seconds. The mistakes that were planted to try the simulator
/// show within fewer.
const SHARE: u64 = 1500;
/// Every so many worlds, one dies once before every command that it has, with
/// the write under way lost and kept; the others die a few times.
const DIES_EVERYWHERE: u64 = 25;
const DEATHS: usize = 3;

/// What must have happened in a share of worlds.
const FAULTS: &[&str] = &[
    "ack refused",
    "bookmark below what was sent",
    "change while the subscriber is absent",
    "clock leaps",
    "compaction",
    "compaction cancels a watch",
    "compaction cancels a watch before its guard is read",
    "compaction overtakes a snapshot",
    "crash",
    "crash before a command",
    "crash, and the write under way is lost",
    "crash, and the write under way is on disk",
    "a position is assumed",
    "deletion",
    "delayed input",
    "disconnect",
    "disconnect that swallows what was said",
    "election",
    "events repeated",
    "late ack of a superseded session",
    "member lags",
    "member takes in a snapshot",
    "outbox full",
    "part of a revision",
    "probe that a lagging member leaves unanswered",
    "progress request without an answer",
    "refusal",
    "replaced history that nobody can tell",
    "response in fragments",
    "restore as a new cluster",
    "restore with the same flags",
    "restore with the same flags and term",
    "resumed where it is assumed",
    "seek",
    "seek refused in a replaced history",
    "seek to a snapshot",
    "seek to what is compacted",
    "stale input of an attempt that is over",
    "stale linearizable answer",
    "stream told of a replaced history",
    "takeover",
    "write failed",
    "write reported as failed that reached the disk",
];

#[test]
fn every_promise_holds_in_every_world() {
    let seeds = Seeds::from_env(SHARE);
    let tally = seeds.live("every_promise_holds_in_every_world", live);
    seeds.must_have_happened(&tally, FAULTS);
}

fn live(seed: u64, shows_log: bool) -> Result<Tally, String> {
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tree = (any_setup(), vec(any_step(), 1..120)).new_tree(&mut runner);
    let tally = RefCell::new(Tally::default());
    let is_shrinking = Cell::new(false);
    let needs_deaths = Cell::new(false);
    let outcome = runner.run_one(tree.unwrap(), |(setup, steps)| {
        let shows_log = shows_log && !is_shrinking.get();
        let is_first = !is_shrinking.replace(true);
        let whole = run(&setup, &steps, None, shows_log);
        needs_deaths.set(needs_deaths.get() || is_first);
        if needs_deaths.get() {
            let deaths = die(seed, &setup, &steps, &whole);
            tally.borrow_mut().merge(&deaths);
        }
        tally.borrow_mut().merge(&whole.tally);
        Ok(())
    });
    match outcome {
        Ok(_) => Ok(tally.into_inner()),
        Err(TestError::Fail(why, (setup, steps))) => {
            let steps: Vec<_> = steps.iter().map(|step| format!("  {step:?},")).collect();
            let steps = steps.join("\n");
            Err(format!("{why}\n\nshrunk to {setup:?} and\n{steps}"))
        }
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// Lives through a world again, with a crash more.
fn die(seed: u64, setup: &Setup, steps: &[Step], whole: &Lived) -> Tally {
    let mut tally = Tally::default();
    let deaths: Vec<u64> = if seed.is_multiple_of(DIES_EVERYWHERE) {
        tally.count("worlds that die before every command");
        (0..whole.commands).collect()
    } else {
        let mut random = fastrand::Rng::with_seed(seed);
        let any = || random.u64(0..whole.commands.max(1));
        std::iter::repeat_with(any).take(DEATHS).collect()
    };
    for before in deaths {
        for is_durable in [false, true] {
            let lived = run(setup, steps, Some(Death { before, is_durable }), false);
            tally.merge(&lived.tally);
            if !lived.died_writing {
                break;
            }
        }
    }
    tally
}
