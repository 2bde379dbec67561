//! Failures that were found, each kept as a test: the steps as they were printed.

use crate::{
    steps::{
        Ask, Pause, Resume, Setup,
        Step::{self, Ack, Etcd, NotStored, Read, Stored, Subscribe},
        Which, run,
    },
    upstream::Act,
};

const PLAIN: Setup = Setup {
    no_put: false,
    no_delete: false,
    can_ask_progress: false,
    idle_proof: 0,
};

const GO: Step = Etcd(Act::Go { many: 0, cut: None });

fn subscribe(resume: Resume) -> Step {
    Subscribe(Ask {
        latest: false,
        fail: false,
        auto: false,
        window: None,
        resume,
    })
}

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
        Step::Replace(0, true),
        Stored,
        Stored,
        GO,
        Step::Wait(Pause::Timer),
        GO,
        NotStored(true),
        Ack(Which::Current, 1),
    ];
    run(&PLAIN, &steps);
}

/// What was to become the position of a stream that failed to open.
#[test]
fn an_ack_does_not_count_what_a_stream_that_never_opened_would_have_begun_at() {
    let steps = [
        subscribe(Resume::None),
        Stored,
        GO,
        Step::Commit(vec![]),
        GO,
        Read(3),
        GO,
        Read(1),
        subscribe(Resume::Own),
        GO,
        NotStored(false),
        Ack(Which::Current, 1),
    ];
    run(&PLAIN, &steps);
}
