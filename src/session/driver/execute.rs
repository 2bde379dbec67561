//! What a driver does for each command of the machine. Nothing here waits:
//! what takes time is started, and heard of as an input.

use tracing::debug;

use super::{Driver, UpstreamUse};
use crate::{
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue},
    },
    resume::{
        Attempt, Command, EndReason, Guard, Input, OutboxRoom, Selection, SessionId, Time,
        input::Upstream as Said,
    },
    session::message::{self, Message},
    upstream::{Upstream, UpstreamEvents, WatchSpec},
};

impl Driver {
    pub(super) fn run_commands(&mut self) {
        let now = self.now();
        while let Some(command) = self.machine.next_command(now) {
            self.execute(command, now);
        }
        self.observer.settled();
        debug_assert!(self.streams.len() <= 1, "a newcomer was not decided about");
        if let Some(stream) = self.streams.last() {
            self.acks_itself = stream.request.auto_ack;
        }
        let (activity, oldest) = (self.machine.activity(), self.machine.oldest_unacked_at());
        self.account.is(activity, oldest, now);
    }

    fn execute(&mut self, command: Command<Event, KeyValue>, now: Time) {
        match command {
            Command::OpenWatch {
                attempt,
                guard,
                avoid_last_member,
            } => self.open_watch(attempt, guard, avoid_last_member, now),
            Command::ReadHead(attempt) => {
                debug!(attempt = attempt.0, "reading etcd's revision");
                self.read(attempt, now, |upstream, selection, _| {
                    upstream.head(selection.range)
                });
            }
            Command::ReadSnapshot(attempt) => {
                debug!(attempt = attempt.0, "reading a snapshot");
                self.read(attempt, now, |upstream, selection, pair_options| {
                    upstream.snapshot(selection.range, pair_options)
                });
            }
            Command::AskProgress => {
                if let Some(ask) = self
                    .attempt
                    .as_ref()
                    .and_then(|it| it.ask_progress.as_ref())
                {
                    // Full: a request is under way already.
                    let _ = ask.try_send(());
                }
            }
            Command::CaughtUp => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.catching_up = None;
                }
            }
            Command::CloseUpstream => {
                self.attempt = None;
                self.observer.upstream_closed(self.machine.is_parked());
            }
            Command::Deliver(session, message) => self.deliver(session, message, now),
            Command::EndSession(session, reason) => self.end(session, reason),
            Command::Persist(record) => {
                debug_assert!(self.write.is_none(), "two writes at a time");
                let store = &self.surroundings.store;
                self.write = Some(store.put(self.place.client_id(), *record));
            }
            Command::Forget => {
                debug_assert!(self.write.is_none(), "two writes at a time");
                self.place.outlives_its_record();
                let store = &self.surroundings.store;
                self.write = Some(store.remove(self.place.client_id()));
            }
            Command::ReplyAck(ack, answer) => {
                if let Some(waiting) = self.answers_by_ack.remove(&ack) {
                    // An error: the caller has gone, its ack holds all the same.
                    let _ = waiting.send(answer);
                }
            }
            Command::ReplyOperation(operation, answer) => {
                if let Some(waiting) = self.answers_by_operation.remove(&operation) {
                    let _ = waiting.send(answer);
                }
            }
        }
    }

    fn open_watch(&mut self, attempt: Attempt, guard: Guard, avoid_last_member: bool, now: Time) {
        debug!(attempt = attempt.0, revision = %guard.revision, "opening a watch");
        self.attempt = None;
        self.observer.watch_begun();
        let Some((selection, pair_options)) = self.wanted() else {
            return self.nobody_asked(attempt, now);
        };
        let watch = self.surroundings.upstream.watch(WatchSpec {
            selection,
            guard,
            pair_options,
            avoid_member: self.last_member.filter(|_| avoid_last_member),
        });
        self.attempt = Some(UpstreamUse {
            number: attempt,
            events: watch.events,
            next: None,
            ask_progress: Some(watch.ask_progress),
            catching_up: Some(watch.catching_up),
        });
    }

    fn read(
        &mut self,
        attempt: Attempt,
        now: Time,
        begin: impl FnOnce(&dyn Upstream, Selection, PairOptions) -> UpstreamEvents,
    ) {
        self.attempt = None;
        self.observer.not_watching();
        let Some((selection, pair_options)) = self.wanted() else {
            return self.nobody_asked(attempt, now);
        };
        self.attempt = Some(UpstreamUse {
            number: attempt,
            events: begin(&*self.surroundings.upstream, selection, pair_options),
            next: None,
            ask_progress: None,
            catching_up: None,
        });
    }

    /// What the live stream asked for.
    fn wanted(&self) -> Option<(Selection, PairOptions)> {
        let stream = self.streams.last()?;
        Some((stream.request.selection.clone(), stream.pair_options))
    }

    /// etcd is used for a live stream only; without one the attempt is over.
    fn nobody_asked(&mut self, attempt: Attempt, now: Time) {
        debug_assert!(false, "an attempt without a stream");
        self.machine
            .handle(Input::Upstream(attempt, Said::Lost), now);
    }

    fn deliver(&mut self, session: SessionId, message: Message, now: Time) {
        message::log(session, &message);
        self.account.delivered(&message, now);
        let size_bytes = message::size_bytes(&message);
        let heard_at = self.observer.delivered(&message, size_bytes);
        let room = self
            .streams
            .iter_mut()
            .find(|stream| stream.session == session)
            .map_or(OutboxRoom::None, |stream| {
                let acknowledgeable = message::acknowledgeable(&message);
                let in_memory = message::in_memory(&message, size_bytes);
                let outbox = &mut stream.outbox;
                outbox.put_timed(message, in_memory, acknowledgeable, heard_at)
            });
        self.machine.handle(Input::Outbox(session, room), now);
    }

    fn end(&mut self, session: SessionId, reason: EndReason) {
        message::log_end(session, &reason);
        self.observer.session_ended(&reason);
        self.streams.retain_mut(|stream| {
            if stream.session == session {
                stream.outbox.end(reason.clone());
            }
            stream.session != session
        });
    }
}
