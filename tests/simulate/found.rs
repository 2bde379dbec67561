//! Failures that were found, each kept as a test: the steps as they were printed.

use crate::{
    etcd::{Change, Identity},
    life::run,
    steps::{
        Ask, Pause, Resume, Setup,
        Step::{self, Ack, Etcd, NotStored, Read, Stored, Subscribe},
        Which,
    },
    upstream::Act,
};

const PLAIN: Setup = Setup {
    no_put: false,
    no_delete: false,
    can_ask: 0,
    is_proxied: false,
    idle_proof: 0,
    spared: 0,
    eager: 0,
};

const GO: Step = Etcd(Act::Go { many: 0, cut: None });

/// The write that forgot the checkpoint was reported as failed, yet reached
/// the disk: an ack of that checkpoint must be written before it is answered.
#[test]
fn an_ack_does_not_rely_on_a_checkpoint_that_a_failed_write_may_have_taken_back() {
    let latest = Subscribe(Ask {
        latest: true,
        fail: false,
        auto: false,
        window: None,
        resume: Resume::None,
    });
    let steps = [
        latest,
        GO,
        Step::Replace(0, Identity::New),
        Stored,
        Stored,
        GO,
        Step::Wait(Pause::Timer),
        GO,
        NotStored(true),
        Ack(Which::Current, 1),
    ];
    run(&PLAIN, &steps, None, false);
}

/// The stream that found the history replaced was superseded before it could
/// say so, by one that chose to fail and brought a position from before.
#[test]
fn a_position_from_before_a_replaced_history_that_nobody_was_told_of_is_not_accepted() {
    let change = || {
        Step::Commit(vec![Change {
            key: 0,
            delete: false,
            large: false,
        }])
    };
    let ask = |fail, auto, resume| {
        Subscribe(Ask {
            latest: false,
            fail,
            auto,
            window: None,
            resume,
        })
    };
    let steps = [
        change(),
        ask(false, true, Resume::None),
        Stored,
        GO,
        change(),
        Read(1),
        GO,
        change(),
        GO,
        change(),
        change(),
        Read(4),
        Step::Replace(0, Identity::New),
        Stored,
        change(),
        ask(false, false, Resume::None),
        GO,
        ask(true, false, Resume::Own),
    ];
    run(&PLAIN, &steps, None, false);
}

/// A process that stood still finds its timers due before it has read what
/// came meanwhile: time in which nothing could be heard is no silence.
#[test]
fn the_delay_rule_does_not_count_time_in_which_the_process_stood_still() {
    let latest = Subscribe(Ask {
        latest: true,
        ..Ask::PLAIN
    });
    let change = Step::Commit(vec![Change {
        key: 0,
        delete: false,
        large: false,
    }]);
    let steps = [
        latest,
        Stored,
        GO,
        Stored,
        Stored,
        GO,
        Read(9),
        Step::Wait(Pause::Seconds(35)),
        Stored,
        Read(9),
        change,
        Step::Delayed(Act::Go { many: 0, cut: None }),
        Step::Probe(2, 0),
        Step::Leap(700),
    ];
    run(&PLAIN, &steps, None, false);
}

/// A restore that keeps the ids and the term, and has overtaken the assumed
/// position: nobody can tell, and what it has below there is not skipped by
/// the next assumption.
#[test]
fn what_an_unseen_history_has_below_an_assumed_position_is_not_the_delay_rules() {
    let setup = Setup {
        spared: 4_178_250_708,
        ..PLAIN
    };
    let commit = || {
        Step::Commit(vec![Change {
            key: 0,
            delete: false,
            large: false,
        }])
    };
    let steps = [
        Step::Delayed(Act::Go { many: 0, cut: None }),
        GO,
        Step::QuietSpell(600, 4, false),
        Step::Delayed(Act::Go { many: 0, cut: None }),
        Stored,
        Step::QuietSpell(600, 2, false),
        commit(),
        Step::Compact(0),
        Step::QuietSpell(600, 2, false),
        commit(),
        commit(),
        Step::Replace(6, Identity::SameFlags),
        Subscribe(Ask::PLAIN),
        Etcd(Act::Lost { arrives: false }),
        commit(),
        Step::QuietSpell(615, 1, false),
    ];
    run(&setup, &steps, None, false);
}
