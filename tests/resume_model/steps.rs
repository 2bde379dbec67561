//! What may happen next, and how a world ends.

use std::time::Duration;

use proptest::prelude::*;
use watchmark::resume::{
    Attempt, IdleProof, Input, OnCompaction, SessionRequest, Settings, Start, StreamState, Time,
    WatchOpened,
};

use crate::{
    etcd::{Change, Etcd, rev},
    upstream::{Act, Said},
    world::World,
};

/// What does not change in a world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) can_ask_progress: bool,
    /// 0: auto, 1: progress, 2: delay.
    pub(crate) idle_proof: u8,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Commit(Vec<Change>),
    /// Up to so many revisions below the newest.
    Compact(u8),
    /// Keeps all but so many revisions.
    Replace(u8, bool),
    Elect,
    Etcd(Act),
    /// An input of an older attempt.
    Old(u8, u8),
    Probe(u8, u8),
    Stored,
    /// Reported as failed; whether it reached the disk all the same.
    NotStored(bool),
    Crash(bool),
    Subscribe(Ask),
    Close,
    Read(u8),
    Ack(Which, u8),
    Wait(Pause),
    Drain,
}

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) latest: bool,
    pub(crate) fail: bool,
    pub(crate) auto: bool,
    pub(crate) window: Option<u8>,
    pub(crate) resume: Resume,
}

/// The position that it brings.
#[derive(Clone, Debug)]
pub(crate) enum Resume {
    None,
    Own,
    Back(u8),
    Above,
}

/// What it acknowledges, at or near this.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Current,
    Named,
    Older,
}

/// How long nothing happens.
#[derive(Clone, Debug)]
pub(crate) enum Pause {
    Timer,
    Millis(u16),
    Seconds(u16),
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let change = (
        0..6_u8,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(key, delete, large)| Change { key, delete, large });
    let huge = Just(
        (0..4)
            .map(|key| Change {
                key,
                delete: false,
                large: true,
            })
            .collect::<Vec<_>>(),
    );
    let changes = prop_oneof![
        9 => prop::collection::vec(change, 1..4),
        1 => huge,
    ];
    prop_oneof![
        14 => changes.prop_map(Step::Commit),
        2 => (0..12_u8).prop_map(Step::Compact),
        1 => (0..12_u8, any::<bool>()).prop_map(|(lost, new)| Step::Replace(lost, new)),
        1 => Just(Step::Elect),
        30 => any_act().prop_map(Step::Etcd),
        2 => (0..8_u8, 1..4_u8).prop_map(|(said, back)| Step::Old(said, back)),
        2 => (1..3_u8, 0..60_u8).prop_map(|(member, age)| Step::Probe(member, age)),
        14 => Just(Step::Stored),
        1 => any::<bool>().prop_map(Step::NotStored),
        1 => any::<bool>().prop_map(Step::Crash),
        5 => any_ask().prop_map(Step::Subscribe),
        1 => Just(Step::Close),
        16 => (1..5_u8).prop_map(Step::Read),
        10 => (any_which(), 0..6_u8).prop_map(|(which, near)| Step::Ack(which, near)),
        8 => any_pause().prop_map(Step::Wait),
        1 => prop::bool::weighted(0.3).prop_map(|drain| if drain {
            Step::Drain
        } else {
            Step::Stored
        }),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (0..6_u8, prop::option::weighted(0.3, 0..4_u8))
            .prop_map(|(many, cut)| Act::Go { many, cut }),
        6 => prop_oneof![3 => Just(0), 1 => 0..5_u8].prop_map(|back| Act::Bookmark { back }),
        2 => (0..20_u8, 0..6_u8).prop_map(|(from, many)| Act::Replay { from, many }),
        2 => Just(Act::Lost),
        1 => prop::bool::weighted(0.1).prop_map(|refuse| if refuse {
            Act::Refuse
        } else {
            Act::Lost
        }),
        1 => (0..4_u8).prop_map(|back| Act::Stale { back }),
    ]
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let resume = prop_oneof![
        10 => Just(Resume::None),
        2 => Just(Resume::Own),
        2 => (0..8_u8).prop_map(Resume::Back),
        1 => Just(Resume::Above),
    ];
    let window = prop::option::weighted(0.3, 1..6_u8);
    let flag = || prop::bool::weighted(0.2);
    (flag(), flag(), flag(), window, resume).prop_map(|(latest, fail, auto, window, resume)| Ask {
        latest,
        fail,
        auto,
        window,
        resume,
    })
}

fn any_which() -> impl Strategy<Value = Which> {
    prop_oneof![
        5 => Just(Which::Current),
        4 => Just(Which::Named),
        1 => Just(Which::Older),
    ]
}

fn any_pause() -> impl Strategy<Value = Pause> {
    prop_oneof![
        6 => Just(Pause::Timer),
        2 => (1..2000_u16).prop_map(Pause::Millis),
        1 => (1..2000_u16).prop_map(Pause::Seconds),
    ]
}

/// Lives through `steps`, then stops the faults and waits for everything.
pub(crate) fn run(setup: &Setup, steps: &[Step]) {
    let settings = Settings {
        idle_proof: match setup.idle_proof {
            0 => IdleProof::Auto,
            1 => IdleProof::Progress,
            _ => IdleProof::Delay,
        },
        ..Settings::default()
    };
    let etcd = Etcd::new(setup.no_put, setup.no_delete);
    let mut world = World::new(etcd, settings, setup.can_ask_progress);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in steps {
            world.log.push(format!("{step:?}"));
            world.step(step);
        }
        world.log.push("the faults stop".into());
        world.settle_down();
    }));
    if let Err(panic) = outcome {
        if std::env::var_os("RESUME_MODEL_LOG").is_some() {
            eprintln!("{}", world.log.join("\n"));
        }
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(changes) => self.etcd.commit(changes),
            Step::Compact(back) => self.etcd.compact(self.etcd.head() - i64::from(*back)),
            Step::Replace(lost, new_cluster) => {
                let keep = self.etcd.head() - i64::from(*lost);
                self.etcd.replace(keep, *new_cluster);
                self.upstream.broken = self.upstream.attempting.is_some();
            }
            Step::Elect => self.etcd.elect(),
            Step::Etcd(act) => self.upstream_acts(act),
            Step::Old(said, back) => self.old_attempt_says(*said, u64::from(*back)),
            Step::Probe(member, age) => {
                self.probe(u64::from(*member), Duration::from_secs(u64::from(*age)));
            }
            Step::Stored => self.store_answers(true, true),
            Step::NotStored(reached) => self.store_answers(false, *reached),
            Step::Crash(reached) => self.crash(*reached),
            Step::Subscribe(ask) => {
                let request = self.request(ask);
                self.subscribe(request);
            }
            Step::Close => self.close(),
            Step::Read(many) => self.read(usize::from(*many)),
            Step::Ack(which, near) => {
                let session = match which {
                    Which::Current => None,
                    Which::Named => Some(self.process_session.max(1)),
                    Which::Older => Some(self.process_session.saturating_sub(1)),
                };
                let delivered = self.machine.delivered().map_or(1, |at| at.get());
                let at = (delivered + 1 - i64::from(*near)).max(1);
                self.ack(session, at);
            }
            Step::Wait(pause) => self.pause(pause),
            Step::Drain => self.drain(),
        }
    }

    fn pause(&mut self, pause: &Pause) {
        let wait = match pause {
            Pause::Timer => {
                let due = self.machine.poll_timeout();
                due.map_or(Time::ZERO, |due| due - self.now)
            }
            Pause::Millis(millis) => Duration::from_millis(u64::from(*millis)),
            Pause::Seconds(seconds) => Duration::from_secs(u64::from(*seconds)),
        };
        self.now += wait;
        self.log.push(format!("{:?}", self.now));
        self.run();
    }

    fn request(&self, ask: &Ask) -> SessionRequest {
        // A position from an earlier history can only be told from one of this
        // where the record knows that earlier history.
        let history = self.durable.as_ref().map(|record| &record.history);
        let is_known = history.is_some_and(|history| history.cluster_id != 0);
        let own = self.own.filter(|&(epoch, _)| {
            is_known && (epoch == self.etcd.epoch() || epoch == self.durable_epoch)
        });
        let resume_after = match ask.resume {
            Resume::None => None,
            Resume::Own => own.map(|(_, at)| at),
            Resume::Back(back) => own.map(|(_, at)| (at - i64::from(back)).max(1)),
            Resume::Above => own.map(|_| 9999),
        };
        SessionRequest {
            selection: self.etcd.selection.clone(),
            start: if ask.latest {
                Start::Latest
            } else {
                Start::Snapshot
            },
            resume_after: resume_after.map(rev),
            on_compaction: if ask.fail {
                OnCompaction::Fail
            } else {
                OnCompaction::Resync
            },
            auto_ack: ask.auto,
            max_unacked_events: ask.window.map(u32::from),
        }
    }

    /// Whatever it says must change nothing.
    fn old_attempt_says(&mut self, said: u8, back: u64) {
        let Some(attempt) = self.upstream.attempt.0.checked_sub(back) else {
            return;
        };
        let head = self.etcd.head();
        let said = match said {
            0 => Said::Events {
                events: self.etcd.events(self.etcd.epoch(), head - 1, head),
                fragment: false,
            },
            1 => Said::Bookmark(rev(head)),
            2 => Said::Compacted {
                compact_revision: rev(head),
            },
            3 => Said::Lost,
            4 => Said::SnapshotEnded,
            5 => Said::SnapshotBegun(self.etcd.header()),
            6 => Said::Head(self.etcd.header()),
            _ => Said::WatchOpened(WatchOpened {
                member_id: 1,
                can_ask_progress: true,
                guard: self.etcd.guard(b"a/0", head),
            }),
        };
        let before = format!("{:?}", self.machine);
        self.machine
            .handle(Input::Upstream(Attempt(attempt), said), self.now);
        assert_eq!(before, format!("{:?}", self.machine), "a stale input");
        self.run();
    }

    /// No more faults: everything must arrive, be acknowledged and be stored.
    fn settle_down(&mut self) {
        if self.draining {
            self.store_answers(true, true);
            self.crash(true);
        }
        let started = self.now;
        let ask = Ask {
            latest: false,
            fail: false,
            auto: false,
            window: None,
            resume: Resume::None,
        };
        for _ in 0..400 {
            if self.stream.is_none() {
                let request = self.request(&ask);
                self.subscribe(request);
            }
            self.store_answers(true, true);
            self.read(9);
            if let Some(delivered) = self.machine.delivered()
                && self.machine.has_unacked()
            {
                self.ack(None, delivered.get());
                self.store_answers(true, true);
            }
            self.upstream_acts(&Act::Go { many: 9, cut: None });
            self.upstream_acts(&Act::Bookmark { back: 0 });
            self.store_answers(true, true);
            self.read(9);
            let is_live = self.machine.stream_state() == Some(StreamState::Live);
            if is_live && self.everything_arrived() {
                assert_eq!(self.unanswered_acks(), 0, "an ack is never answered");
                return;
            }
            self.pause(&Pause::Timer);
        }
        panic!(
            "not everything arrived: {:?} of {} since {started:?}",
            self.durable,
            self.etcd.head()
        );
    }

    fn everything_arrived(&self) -> bool {
        let epoch = self.etcd.epoch();
        let head = self.etcd.head();
        let position = self.stream.as_ref().and_then(|stream| stream.position);
        self.durable_checkpoint().is_some_and(|at| {
            at <= head && {
                let missing = self.etcd.events(epoch, at, head);
                missing.is_empty()
            }
        }) && position.is_some_and(|at| at.0 == epoch && at.1 >= head)
    }
}
