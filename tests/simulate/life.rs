//! How a world is lived through: its steps, its deaths, and its end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use watchmark::resume::{
    IdleProof, OnCompaction, SessionRequest, Settings, Start, StreamState, Time,
};

use crate::{
    etcd::{Etcd, Identity, rev},
    operator::Operated,
    seeds::last_panic,
    steps::{Ask, Pause, Resume, Setup, Step, Which},
    tally::Tally,
    upstream::{Act, Attempting},
    world::World,
};

/// How much of a broken world's log is shown with it.
const LOG_END: usize = 12;

/// A crash before the process has done what a command says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    /// Of all commands of the world, counted from 0.
    pub(crate) before: u64,
    /// Whether a write under way reaches the disk.
    pub(crate) is_durable: bool,
}

/// What a world has come to.
pub(crate) struct Lived {
    pub(crate) tally: Tally,
    /// Before the faults stopped.
    pub(crate) commands: u64,
    /// It died as it was told, with a write under way.
    pub(crate) died_writing: bool,
}

/// Lives through `steps`, then stops the faults and waits for everything.
///
/// # Panics
/// When a promise is broken; `log` is shown then if it is asked for.
pub(crate) fn run(setup: &Setup, steps: &[Step], death: Option<Death>, shows_log: bool) -> Lived {
    let settings = Settings {
        idle_proof: match setup.idle_proof {
            0 => IdleProof::Auto,
            1 => IdleProof::Progress,
            _ => IdleProof::Delay,
        },
        ..Settings::default()
    };
    let etcd = Etcd::new(setup.no_put, setup.no_delete, setup.is_proxied);
    let mut world = World::new(etcd, settings, setup.can_ask);
    world.dies_at = death.map(|death| death.before);
    let (mut commands, mut died_writing) = (0, false);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for step in steps {
            world.log.push(format!("{step:?}"));
            if setup.spares(step, &world) {
                world.calm(4);
            } else {
                world.step(step);
                world.calm(setup.eager);
            }
            if world.is_dying {
                let is_durable = death.is_some_and(|death| death.is_durable);
                world.count("crash before a command");
                died_writing = world.in_flight.is_some();
                world.crash(is_durable);
            }
            world.tally.count("steps");
            if world.is_over {
                return;
            }
        }
        world.log.push("the faults stop".into());
        commands = world.commands;
        world.dies_at = None;
        world.settle_down();
    }));
    if shows_log {
        println!("{}", world.log.join("\n"));
    }
    if outcome.is_err() {
        let death = death.map_or_else(String::new, |death| format!("\n{death:?}"));
        let log = world.log[world.log.len().saturating_sub(LOG_END)..].join("\n");
        resume_unwind(Box::new(format!("{log}{death}\n{}", last_panic())));
    }
    world.tally.add("commands", world.commands);
    Lived {
        tally: world.tally,
        commands,
        died_writing,
    }
}

impl Setup {
    fn spares(&self, step: &Step, world: &World) -> bool {
        let is_first = matches!(step, Step::Subscribe(_)) && world.stream.is_none();
        let spares = |kind| self.spared & (1_u32 << kind) != 0 && !is_first;
        step.disturbance().is_some_and(spares)
    }
}

impl World {
    /// What goes well of its own accord.
    fn calm(&mut self, how: u8) {
        if how >= 1 {
            self.store_answers(true, true);
        }
        if how >= 2 && !self.is_dying {
            let act = Act::Go { many: 2, cut: None };
            self.etcd_acts(&act, false);
        }
        if how >= 3 {
            if self.stream.is_none() && !self.draining {
                let request = self.request(&Ask::PLAIN);
                self.subscribe(request);
            }
            self.read(2);
        }
        if how >= 4
            && self.stream.is_some()
            && self.machine.has_unacked()
            && let Some(delivered) = self.machine.delivered()
        {
            self.ack(None, delivered.get());
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(changes) => {
                if self.stream.is_none() {
                    self.count("change while the subscriber is absent");
                }
                self.etcd.commit(changes);
            }
            Step::Compact(back) => {
                self.count("compaction");
                self.etcd.compact(self.etcd.head() - i64::from(*back));
            }
            Step::Replace(lost, identity) => {
                self.count(match identity {
                    Identity::New => "restore as a new cluster",
                    Identity::SameFlags => "restore with the same flags",
                    Identity::SameTerm => "restore with the same flags and term",
                });
                let keep = self.etcd.head() - i64::from(*lost);
                self.etcd.replace(keep, *identity);
                self.upstream.is_broken = self.upstream.attempting.is_some();
            }
            Step::Elect => {
                self.count("election");
                self.etcd.elect();
            }
            Step::Lag(member) => {
                self.count("member lags");
                self.etcd.lag(usize::from(*member));
            }
            Step::CatchUp(by_snapshot) => {
                let lagged = self.etcd.catch_up();
                if let Some(Attempting::Watch(watch)) = &mut self.upstream.attempting
                    && lagged == Some(watch.member)
                    && *by_snapshot
                {
                    watch.member_took_a_snapshot();
                    self.count("member takes in a snapshot");
                }
            }
            Step::Etcd(act) => self.etcd_acts(act, false),
            Step::Delayed(act) => self.etcd_acts(act, true),
            Step::Old(said, back) => self.old_attempt_speaks(*said, u64::from(*back)),
            Step::Probe(member, age) => {
                self.probe(usize::from(*member), Duration::from_secs(u64::from(*age)));
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
            Step::Seek(None) => {
                self.count("seek to a snapshot");
                self.operate(Operated::ToSnapshot);
            }
            Step::Seek(Some(back)) => self.seek(i64::from(*back)),
            Step::Delete => {
                self.count("deletion");
                self.operate(Operated::Deleted);
            }
            Step::QuietSpell(seconds, changes, lags) => {
                self.quiet_spell(*seconds, *changes, *lags);
            }
            Step::Leap(seconds) => self.leap(Duration::from_secs(u64::from(*seconds))),
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
        self.walk(wait);
    }

    fn request(&self, ask: &Ask) -> SessionRequest {
        let resume_after = match ask.resume {
            Resume::None => None,
            Resume::Own => self.own.map(|(_, at)| at),
            Resume::Back(back) => self.own.map(|(_, at)| (at - i64::from(back)).max(1)),
            Resume::Above => self.own.map(|_| 9999),
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

    /// No more faults: everything must arrive, be acknowledged and be stored.
    fn settle_down(&mut self) {
        if self.draining {
            self.store_answers(true, true);
            self.crash(true);
        }
        let started = self.now;
        self.etcd.catch_up();
        for _ in 0..400 {
            if self.is_over {
                return;
            }
            if self.stream.is_none() {
                let request = self.request(&Ask::PLAIN);
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
            self.etcd_acts(&Act::Go { many: 9, cut: None }, false);
            self.etcd_acts(&Act::Bookmark { back: 0 }, false);
            self.store_answers(true, true);
            self.read(9);
            let is_live = self.machine.stream_state() == Some(StreamState::Live);
            if is_live && self.everything_arrived() {
                assert_eq!(self.unanswered_acks(), 0, "an ack is never answered");
                let operations = self.unanswered_operations();
                assert_eq!(operations, 0, "an operator is never answered");
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
