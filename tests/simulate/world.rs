//! The surroundings of one subscription: etcd, a store, a subscriber, a driver.

use std::collections::BTreeMap;

use watchmark::resume::{Command, Input, ProbeSample, Record, Settings, Subscription, Time};

use crate::{
    acks::Asked,
    check::Stream,
    etcd::{Entry, Etcd, MEMBERS, Position},
    identity::Known,
    operator::Operations,
    subscriber::Subscriber,
    tally::Tally,
    upstream::{Attempting, Upstream, Watch},
};

/// Progress requests are sound on every member.
pub(crate) const ALL_CAN_ASK: u8 = (1 << MEMBERS) - 1;

/// Everything.
pub(crate) struct World {
    pub(crate) etcd: Etcd,
    pub(crate) upstream: Upstream,
    pub(crate) machine: Subscription<Entry, Entry>,
    pub(crate) settings: Settings,
    pub(crate) now: Time,
    /// On disk as the machine knows it.
    pub(crate) durable: Option<Record>,
    /// The write under way; within it `None`: the record is removed.
    pub(crate) in_flight: Option<Option<Record>>,
    /// On disk in truth, with the history that its checkpoint belongs to: a
    /// write that was reported as failed may have got there.
    pub(crate) disk: Option<Record>,
    pub(crate) disk_epoch: usize,
    /// The last write was reported as failed.
    pub(crate) store_failed: bool,
    /// Everything in range up to here is acknowledged, or was never asked for.
    pub(crate) settled: Option<Position>,
    pub(crate) durable_epoch: usize,
    pub(crate) in_flight_epoch: usize,
    /// What was settled before a write under way moved it backwards.
    pub(crate) settled_before: Option<Option<Position>>,
    /// What an `Ack` was answered OK for.
    pub(crate) ok_acked: Option<Position>,
    pub(crate) stream: Option<Stream>,
    /// The last stream of this process, for acks after its end.
    pub(crate) ended: Option<Stream>,
    /// The last of them that was opened and is gone.
    pub(crate) last_opened: Option<Stream>,
    pub(crate) subscriber: Option<Subscriber>,
    /// The position that the subscriber keeps itself.
    pub(crate) own: Option<Position>,
    /// One that it brought, and that is to be written.
    pub(crate) accepted_own: Option<i64>,
    pub(crate) last_session: u64,
    /// Of this process: 0 for none.
    pub(crate) process_session: u64,
    pub(crate) last_ack: u64,
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) head_read: Option<Position>,
    pub(crate) draining: bool,
    pub(crate) operations: Operations,
    /// What the session can know of the history that it follows.
    pub(crate) known: Known,
    /// The same, for a write that waited when a snapshot was begun.
    pub(crate) known_before: Option<Known>,
    /// The last guard that must not be used found etcd behind, no more.
    pub(crate) is_behind: bool,
    /// The snapshot that was begun is of another history, by its header.
    pub(crate) is_snapshot_of_another: bool,
    /// How often etcd was found behind, and since when.
    pub(crate) doubts: Option<(u32, Time)>,
    /// Of the attempt under way, as its words are heard.
    pub(crate) heard_epoch: usize,
    /// How many attempts the machine has ended.
    pub(crate) ended_attempts: u64,
    /// A replaced history went unseen, as it must: what was acknowledged of
    /// the old one may still give it away.
    pub(crate) was_unseen: bool,
    /// The newest sample of each member that was probed.
    pub(crate) samples: BTreeMap<u64, ProbeSample>,
    pub(crate) next_probe: Time,
    pub(crate) next_service: Time,
    /// The process stood still, and has not read everything since.
    pub(crate) has_leapt: bool,
    pub(crate) last_member: Option<usize>,
    /// Nothing more can be checked in this world.
    pub(crate) is_over: bool,
    /// The process dies before it does what this command says, counted from 0.
    pub(crate) dies_at: Option<u64>,
    pub(crate) commands: u64,
    pub(crate) is_dying: bool,
    pub(crate) tally: Tally,
    pub(crate) log: Vec<String>,
}

impl World {
    pub(crate) fn new(etcd: Etcd, settings: Settings, can_ask: u8) -> Self {
        Self {
            etcd,
            upstream: Upstream {
                can_ask,
                ..Upstream::default()
            },
            machine: Subscription::new(None, settings.clone(), 1),
            settings,
            now: Time::ZERO,
            durable: None,
            in_flight: None,
            disk: None,
            disk_epoch: 0,
            store_failed: false,
            settled: None,
            durable_epoch: 0,
            in_flight_epoch: 0,
            settled_before: None,
            ok_acked: None,
            stream: None,
            ended: None,
            last_opened: None,
            subscriber: None,
            own: None,
            accepted_own: None,
            last_session: 0,
            process_session: 0,
            last_ack: 0,
            asked: BTreeMap::new(),
            head_read: None,
            draining: false,
            operations: Operations::default(),
            known: Known::default(),
            known_before: None,
            is_behind: false,
            is_snapshot_of_another: false,
            doubts: None,
            heard_epoch: 0,
            ended_attempts: 0,
            was_unseen: false,
            samples: BTreeMap::new(),
            next_probe: Time::ZERO,
            next_service: Time::ZERO,
            has_leapt: false,
            last_member: None,
            is_over: false,
            dies_at: None,
            commands: 0,
            is_dying: false,
            tally: Tally::default(),
            log: Vec::new(),
        }
    }

    pub(crate) fn durable_checkpoint(&self) -> Option<i64> {
        let record = self.durable.as_ref()?;
        record.checkpoint.map(|at| at.get())
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        if !what.is_empty() {
            self.log.push(format!("({what})"));
            self.tally.count(what);
        }
    }

    /// The same input to the machine, and everything that follows from it.
    pub(crate) fn handle(&mut self, input: Input<Entry, Entry>) {
        if self.is_dying {
            return;
        }
        self.log.push(format!("{:?} <- {input:?}", self.now));
        self.machine.handle(input, self.now);
        self.run();
    }

    pub(crate) fn run(&mut self) {
        let first = self.commands;
        while let Some(command) = self.machine.next_command(self.now) {
            self.log.push(format!("{:?} -> {command:?}", self.now));
            assert!(self.commands < first + 10_000, "never ends");
            if self.dies_at == Some(self.commands) {
                self.is_dying = true;
            }
            self.commands += 1;
            if self.is_dying {
                return;
            }
            self.obey(command);
        }
        let due = self.machine.poll_timeout();
        assert!(due.is_none_or(|at| at > self.now), "spins at {due:?}");
        let live = self.machine.session().map(|session| session.0);
        let known = self.stream.as_ref().map(|stream| stream.session);
        assert_eq!(live, known, "P10");
    }

    fn obey(&mut self, command: Command<Entry, Entry>) {
        match command {
            Command::OpenWatch {
                attempt,
                guard,
                avoid_last_member,
            } => {
                self.begin_attempt(attempt);
                self.check_guard(&guard);
                let mut member = usize::try_from(attempt.0).unwrap() % MEMBERS;
                if avoid_last_member && Some(member) == self.last_member {
                    member = (member + 1) % MEMBERS;
                }
                self.last_member = Some(member);
                self.upstream.guard = Some(guard.clone());
                self.upstream.attempting = Some(Attempting::Watch(Watch::new(guard, member)));
            }
            Command::ReadHead(attempt) => {
                self.begin_attempt(attempt);
                self.upstream.attempting = Some(Attempting::Head);
            }
            Command::ReadSnapshot(attempt) => {
                self.begin_attempt(attempt);
                self.upstream.attempting = Some(Attempting::Snapshot(None));
            }
            Command::AskProgress => {
                let Some(Attempting::Watch(watch)) = &mut self.upstream.attempting else {
                    // It may have said its last word already.
                    assert!(!self.upstream.on_its_way.is_empty(), "no watch to ask");
                    return;
                };
                watch.asked = true;
                let member = watch.member;
                // An old member's answer would run ahead of its events.
                let is_sound = self.upstream.can_ask(&self.etcd, member);
                assert!(is_sound, "P6: asks where the answer is not sound");
            }
            Command::CaughtUp => {
                let is_there = self.upstream.attempting.is_some();
                let may_be_over = !self.upstream.on_its_way.is_empty();
                assert!(is_there || may_be_over, "no watch has caught up");
            }
            Command::CloseUpstream => self.end_attempt(),
            Command::Deliver(session, message) => self.deliver(session, message),
            Command::EndSession(session, reason) => self.end_session(session, &reason),
            Command::Persist(record) => self.persist(*record),
            Command::Forget => self.forget(),
            Command::ReplyOperation(operation, answer) => {
                self.operation_answered(operation, &answer);
            }
            Command::ReplyAck(ack, answer) => self.answered(ack, answer),
        }
    }

    fn begin_attempt(&mut self, attempt: watchmark::resume::Attempt) {
        assert!(attempt > self.upstream.attempt, "attempts ascend");
        let stream = self.stream.as_mut().expect("an attempt for nobody");
        if !std::mem::replace(&mut stream.has_attempted, true) {
            self.known = Known::stored(self.durable.as_ref());
            self.known_before = None;
            self.doubts = None;
        }
        self.end_attempt();
        self.upstream.attempt = attempt;
    }

    fn end_attempt(&mut self) {
        self.ended_attempts += 1;
        self.upstream.end();
    }

    /// The process dies and starts again.
    pub(crate) fn crash(&mut self, is_durable: bool) {
        self.is_dying = false;
        self.store_failed = false;
        let before = self.settled_before.take();
        match self.in_flight.take() {
            Some(record) if is_durable => {
                self.count("crash, and the write under way is on disk");
                self.disk = record;
                self.disk_epoch = self.in_flight_epoch;
            }
            Some(_) => {
                self.count("crash, and the write under way is lost");
                self.settled = before.unwrap_or(self.settled);
            }
            None => self.count("crash"),
        }
        self.durable.clone_from(&self.disk);
        self.durable_epoch = self.disk_epoch;
        self.machine = Subscription::new(self.durable.clone(), self.settings.clone(), 2);
        self.upstream = Upstream {
            can_ask: self.upstream.can_ask,
            was_stale: self.upstream.was_stale,
            ..Upstream::default()
        };
        self.samples.clear();
        self.stream = None;
        self.ended = None;
        self.last_opened = None;
        self.subscriber = None;
        self.process_session = 0;
        self.asked.clear();
        self.head_read = None;
        self.accepted_own = None;
        self.draining = false;
        self.operations = Operations::default();
        self.run();
    }

    pub(crate) fn unanswered_acks(&self) -> usize {
        self.asked.len()
    }
}
