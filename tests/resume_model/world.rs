//! The surroundings of one subscription: etcd, a store, a subscriber, a driver.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use watchmark::resume::{
    Attempt, Command, EndReason, Input, Message, OutboxRoom, ProbeSample, Record, SessionId,
    SessionRequest, Settings, StreamState, Subscription, Time,
};

use crate::{
    acks::Asked,
    check::{Position, Stream},
    etcd::{Entry, Etcd, rev},
    upstream::{Act, Attempting, Said, Upstream, Watch},
};

/// What fits into a session's outbox.
const OUTBOX: usize = 3;

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
    pub(crate) log: Vec<String>,
}

impl World {
    pub(crate) fn new(etcd: Etcd, settings: Settings, can_ask_progress: bool) -> Self {
        Self {
            etcd,
            upstream: Upstream {
                attempt: Attempt::default(),
                attempting: None,
                broken: false,
                can_ask_progress,
                was_stale: false,
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
            log: Vec::new(),
        }
    }

    pub(crate) fn durable_checkpoint(&self) -> Option<i64> {
        let record = self.durable.as_ref()?;
        record.checkpoint.map(|at| at.get())
    }

    /// The same input to the machine, and everything that follows from it.
    pub(crate) fn handle(&mut self, input: Input<Entry, Entry>) {
        self.log.push(format!("{:?} <- {input:?}", self.now));
        self.machine.handle(input, self.now);
        self.run();
    }

    pub(crate) fn run(&mut self) {
        let mut commands = 0;
        while let Some(command) = self.machine.next_command(self.now) {
            self.log.push(format!("{:?} -> {command:?}", self.now));
            commands += 1;
            assert!(commands < 10_000, "never ends");
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
            Command::OpenWatch { attempt, guard, .. } => {
                let member_id = 1 + attempt.0 % 2;
                self.attempt(attempt, Attempting::Watch(Watch::new(guard, member_id)));
            }
            Command::ReadHead(attempt) => self.attempt(attempt, Attempting::Head),
            Command::ReadSnapshot(attempt) => self.attempt(attempt, Attempting::Snapshot(None)),
            Command::AskProgress | Command::CaughtUp => {
                let watches = matches!(self.upstream.attempting, Some(Attempting::Watch(_)));
                assert!(watches, "there is no watch to ask");
            }
            Command::CloseUpstream => self.upstream.end(),
            Command::Deliver(session, message) => self.deliver(session, message),
            Command::EndSession(session, reason) => self.end_session(session, &reason),
            Command::Persist(record) => self.persist(record),
            Command::Forget | Command::ReplyOperation(..) => panic!("nobody asked for it"),
            Command::ReplyAck(ack, answer) => self.answered(ack, answer),
        }
    }

    fn attempt(&mut self, attempt: Attempt, attempting: Attempting) {
        assert!(attempt > self.upstream.attempt, "attempts ascend");
        assert!(self.stream.is_some(), "an attempt for nobody");
        self.upstream.end();
        self.upstream.attempt = attempt;
        self.upstream.attempting = Some(attempting);
    }

    fn deliver(&mut self, session: SessionId, message: Message<Entry, Entry>) {
        let stream = self.stream.as_mut().expect("P10: nobody is there");
        assert_eq!(stream.session, session.0, "P10: to another session");
        let subscriber = self.subscriber.as_mut().expect("P10: nobody is there");
        assert!(subscriber.outbox.len() < OUTBOX, "P11: no room");
        let stored = self
            .durable
            .as_ref()
            .and_then(|record| record.checkpoint)
            .map(|at| (self.durable_epoch, at.get()));
        if let Message::Opened { checkpoint, .. } = &message {
            assert_eq!(self.durable.as_ref(), self.machine.record());
            if let (None, Some((epoch, ok)), Some(at)) =
                (subscriber.request.resume_after, self.ok_acked, checkpoint)
                && epoch == self.durable_epoch
            {
                assert!(at.get() >= ok, "P7: {ok} was acknowledged, begins at {at}");
            }
        }
        if let Message::SnapshotBegin { reason, .. } = &message
            && !self.upstream.was_stale
        {
            let position = stream.position.or(stored);
            let pending = self.durable.as_ref().and_then(|it| it.pending_snapshot);
            assert!(
                pending == Some(*reason)
                    || self.etcd.calls_for(*reason, position)
                    || (stored.is_none() && *reason == watchmark::resume::SnapshotReason::First),
                "a needless snapshot: {reason:?} at {position:?}"
            );
        }
        let acked = stored.map_or(0, |(_, at)| at);
        let mute = !self.upstream.can_ask_progress;
        stream.receive(&message, &self.etcd, acked, stored, mute);
        subscriber.outbox.push_back(message);
        let room = self.room();
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
                assert!(
                    self.upstream.was_stale || self.etcd.epoch() > 0 || self.own.is_some(),
                    "4.5: a false alarm"
                );
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
        self.log.push("crash".into());
        self.store_failed = false;
        let before = self.settled_before.take();
        match self.in_flight.take() {
            Some(record) if is_durable => {
                self.disk = Some(record);
                self.disk_epoch = self.in_flight_epoch;
            }
            Some(_) => self.settled = before.unwrap_or(self.settled),
            None => {}
        }
        self.durable.clone_from(&self.disk);
        self.durable_epoch = self.disk_epoch;
        self.machine = Subscription::new(self.durable.clone(), self.settings.clone(), 2);
        self.upstream.end();
        self.upstream.attempt = Attempt::default();
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

    /// etcd does something to the attempt under way, if the driver reads.
    pub(crate) fn upstream_acts(&mut self, act: &Act) {
        let is_end = matches!(act, Act::Lost);
        if !is_end && !self.machine.wants_upstream() {
            return;
        }
        let attempt = self.upstream.attempt;
        let watched = matches!(self.upstream.attempting, Some(Attempting::Watch(_)));
        let Some(said) = self.upstream.act(&self.etcd, act) else {
            return;
        };
        if let Said::Head(header) = &said {
            self.head_read = Some((self.etcd.epoch(), header.revision.get()));
        }
        let is_lost = matches!(said, Said::Lost);
        self.handle(Input::Upstream(attempt, said));
        let is_opened = self.stream.as_ref().is_some_and(|stream| stream.opened);
        if is_lost && watched && is_opened && self.room() != OutboxRoom::None {
            let told = self.machine.stream_state();
            assert_eq!(told, Some(StreamState::UpstreamLost), "P12");
        }
    }

    pub(crate) fn probe(&mut self, member_id: u64, age: Duration) {
        let sample = ProbeSample {
            member_id,
            asked_at: self.now.saturating_sub(age),
            revision: rev(self.etcd.head()),
        };
        self.handle(Input::Probe(sample));
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
