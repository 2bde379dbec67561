//! The surroundings of one subscription: etcd, a store, a subscriber, a driver.

use std::collections::{BTreeMap, VecDeque};

use watchmark::resume::{
    Command, EndReason, Input, Message, OutboxRoom, ProbeSample, Proof, Record, SessionId,
    SessionRequest, Settings, SnapshotReason, Subscription, Time,
};

use crate::{
    acks::Asked,
    check::{Arrival, Stream},
    etcd::{Entry, Etcd, MEMBERS, Position},
    identity::Known,
    tally::Tally,
    upstream::{Attempting, Upstream, Watch},
};

/// What fits into a session's outbox.
const OUTBOX: usize = 3;
/// Progress requests are sound on every member.
pub(crate) const ALL_CAN_ASK: u8 = (1 << MEMBERS) - 1;

/// What the subscriber holds.
pub(crate) struct Subscriber {
    pub(crate) outbox: VecDeque<Message<Entry, Entry>>,
    pub(crate) request: SessionRequest,
}

/// Everything.
pub(crate) struct World {
    pub(crate) etcd: Etcd,
    pub(crate) upstream: Upstream,
    pub(crate) machine: Subscription<Entry, Entry>,
    pub(crate) settings: Settings,
    pub(crate) now: Time,
    /// On disk as the machine knows it.
    pub(crate) durable: Option<Record>,
    pub(crate) in_flight: Option<Record>,
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
    pub(crate) subscriber: Option<Subscriber>,
    /// The position that the subscriber keeps itself.
    pub(crate) own: Option<Position>,
    pub(crate) last_session: u64,
    /// Of this process: 0 for none.
    pub(crate) process_session: u64,
    pub(crate) last_ack: u64,
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) head_read: Option<Position>,
    pub(crate) draining: bool,
    /// What the session can know of the history that it follows.
    pub(crate) known: Known,
    /// The same, for a write that waited when a snapshot was begun.
    pub(crate) known_before: Option<Known>,
    /// The last guard that must not be used found etcd behind, no more.
    pub(crate) is_behind: bool,
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
            subscriber: None,
            own: None,
            last_session: 0,
            process_session: 0,
            last_ack: 0,
            asked: BTreeMap::new(),
            head_read: None,
            draining: false,
            known: Known::default(),
            known_before: None,
            is_behind: false,
            doubts: None,
            heard_epoch: 0,
            ended_attempts: 0,
            was_unseen: false,
            samples: BTreeMap::new(),
            next_probe: Time::ZERO,
            next_service: Time::ZERO,
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
            Command::Persist(record) => self.persist(record),
            Command::Forget | Command::ReplyOperation(..) => panic!("nobody asked for it"),
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

    fn deliver(&mut self, session: SessionId, message: Message<Entry, Entry>) {
        let stored = self.durable_checkpoint().map(|at| (self.durable_epoch, at));
        let mut fingerprint = None;
        if let Message::Opened {
            checkpoint, proof, ..
        } = &message
        {
            assert_eq!(self.durable.as_ref(), self.machine.record());
            fingerprint = checkpoint.and_then(|at| self.fingerprint_before(at.get()));
            let subscriber = self.subscriber.as_ref().expect("P10: nobody is there");
            if let (None, Some((epoch, ok)), Some(at)) =
                (subscriber.request.resume_after, self.ok_acked, checkpoint)
                && epoch == self.durable_epoch
            {
                assert!(at.get() >= ok, "P7: {ok} was acknowledged, begins at {at}");
            }
            if *proof == Proof::Delay {
                self.count("resumed where the delay rule assumes");
            }
        }
        let stream = self.stream.as_mut().expect("P10: nobody is there");
        assert_eq!(stream.session, session.0, "P10: to another session");
        let subscriber = self.subscriber.as_mut().expect("P10: nobody is there");
        assert!(subscriber.outbox.len() < OUTBOX, "P11: no room");
        if let Message::SnapshotBegin { reason, .. } = &message
            && !self.upstream.was_stale
            && !self.was_unseen
        {
            let position = stream.position.or(stored);
            let pending = self.durable.as_ref().and_then(|it| it.pending_snapshot);
            assert!(
                pending == Some(*reason)
                    || self.etcd.calls_for(*reason, position)
                    || (stored.is_none() && *reason == SnapshotReason::First),
                "a needless snapshot: {reason:?} at {position:?}"
            );
        }
        let arrival = Arrival {
            etcd: &self.etcd,
            acked: stored.map_or(0, |(_, at)| at),
            resumed_at: stored,
            fingerprint,
            epoch: self.heard_epoch,
            mute: self.upstream.can_ask != ALL_CAN_ASK || self.etcd.is_proxied,
        };
        stream.receive(&message, &arrival);
        let kind = kind_of(&message);
        subscriber.outbox.push_back(message);
        self.tally.count(kind);
        let room = self.room();
        if room == OutboxRoom::None {
            self.tally.count("outbox full");
        }
        self.machine.handle(Input::Outbox(session, room), self.now);
    }

    pub(crate) fn room(&self) -> OutboxRoom {
        match self.subscriber.as_ref().map_or(0, |it| it.outbox.len()) {
            0 => OutboxRoom::Empty,
            OUTBOX.. => OutboxRoom::None,
            _ => OutboxRoom::Some,
        }
    }

    fn end_session(&mut self, session: SessionId, reason: &EndReason) {
        match reason {
            EndReason::Draining if self.draining => {}
            EndReason::HistoryReplaced => {
                let pending = self.durable.as_ref().and_then(|it| it.pending_snapshot);
                let is_true = self.etcd.epoch() > 0
                    || self.own.is_some()
                    || pending == Some(SnapshotReason::HistoryReplaced);
                assert!(self.upstream.was_stale || is_true, "4.5: a false alarm");
                self.count("stream told of a replaced history");
                self.own = None;
            }
            EndReason::Superseded
            | EndReason::Draining
            | EndReason::Refused(_)
            | EndReason::StoreFailed(_)
            | EndReason::UpstreamUnavailable => {}
            EndReason::Compacted { .. } => self.own = None,
            EndReason::RangeMismatch | EndReason::Sought | EndReason::Deleted => {
                panic!("{reason:?}")
            }
        }
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.session == session.0)
        {
            self.leave();
        }
    }

    /// The stream is gone, and what was in its outbox.
    pub(crate) fn leave(&mut self) {
        self.ended = self.stream.take();
        self.subscriber = None;
    }

    /// The process dies and starts again.
    pub(crate) fn crash(&mut self, is_durable: bool) {
        self.is_dying = false;
        self.store_failed = false;
        let before = self.settled_before.take();
        match self.in_flight.take() {
            Some(record) if is_durable => {
                self.count("crash, and the write under way is on disk");
                self.disk = Some(record);
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
        self.subscriber = None;
        self.process_session = 0;
        self.asked.clear();
        self.head_read = None;
        self.draining = false;
        self.run();
    }

    pub(crate) fn subscribe(&mut self, request: SessionRequest) {
        if self.is_dying {
            return;
        }
        self.last_session += 1;
        let session = self.last_session;
        let input = Input::Subscribe {
            session: SessionId(session),
            request: request.clone(),
        };
        self.log.push(format!("{:?} <- {input:?}", self.now));
        self.machine.handle(input, self.now);
        if !self.draining {
            // The end of the older stream is the first command.
            if let Some(older) = self.stream.as_ref().map(|stream| stream.session) {
                self.count("takeover");
                let ended = self.machine.next_command(self.now);
                let expected = Command::EndSession(SessionId(older), EndReason::Superseded);
                assert_eq!(ended, Some(expected), "4.7");
            }
            self.process_session = session;
            self.ended = None;
            self.stream = Some(Stream::new(session, request.max_unacked_events));
            self.subscriber = Some(Subscriber {
                outbox: VecDeque::new(),
                request,
            });
        }
        self.run();
    }

    /// The transport takes up to so many messages to the subscriber.
    pub(crate) fn read(&mut self, many: usize) {
        for _ in 0..many {
            if self.is_dying {
                return;
            }
            let (Some(stream), Some(subscriber)) = (&self.stream, &mut self.subscriber) else {
                return;
            };
            let Some(message) = subscriber.outbox.pop_front() else {
                return;
            };
            let session = SessionId(stream.session);
            let is_auto = subscriber.request.auto_ack;
            let epoch = stream.position.map(|(epoch, _)| epoch);
            let taken = match message {
                Message::Events {
                    revision,
                    partial: false,
                    ..
                }
                | Message::SnapshotEnd { revision, .. } => Some(revision),
                _ => None,
            };
            if let (Some(revision), Some(epoch)) = (taken, epoch) {
                self.own = Some((epoch, revision.get()));
                if is_auto {
                    self.settle((epoch, revision.get()));
                }
                self.handle(Input::Handed(session, revision));
            }
            let room = self.room();
            self.handle(Input::Outbox(session, room));
        }
    }

    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.handle(Input::Drain);
    }

    pub(crate) fn close(&mut self) {
        if let Some(stream) = &self.stream {
            let session = SessionId(stream.session);
            self.leave();
            self.handle(Input::SessionClosed(session));
        }
    }

    pub(crate) fn unanswered_acks(&self) -> usize {
        self.asked.len()
    }
}

fn kind_of(message: &Message<Entry, Entry>) -> &'static str {
    match message {
        Message::Opened { .. } => "stream opened",
        Message::Events { partial: true, .. } => "part of a revision",
        Message::Events { .. } => "events message",
        Message::SnapshotBegin { .. } => "snapshot begun",
        Message::SnapshotChunk(_) => "snapshot chunk",
        Message::SnapshotEnd { .. } => "snapshot ended",
        Message::Progress(_) => "progress message",
        Message::State(..) => "state message",
    }
}
