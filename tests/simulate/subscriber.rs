//! The subscriber's side of a world: streams, and what is taken of them.

use std::collections::VecDeque;

use watchmark::resume::{
    Command, EndReason, Input, Message, OutboxRoom, SessionId, SessionRequest, SnapshotReason,
};

use crate::{
    check::{Arrival, Stream},
    etcd::Entry,
    world::{ALL_CAN_ASK, World},
};

/// What fits into a session's outbox.
const OUTBOX: usize = 3;

/// What the subscriber holds.
pub(crate) struct Subscriber {
    pub(crate) outbox: VecDeque<Message<Entry, Entry>>,
    /// It was full since it was last empty.
    has_filled: bool,
    pub(crate) request: SessionRequest,
}

impl World {
    pub(crate) fn deliver(&mut self, session: SessionId, message: Message<Entry, Entry>) {
        let stored = self.durable_checkpoint().map(|at| (self.durable_epoch, at));
        let mut fingerprint = None;
        if let Message::Opened {
            checkpoint, proof, ..
        } = &message
        {
            self.operations.sought = false;
            assert_eq!(self.durable.as_ref(), self.machine.record());
            fingerprint = checkpoint.and_then(|at| self.fingerprint_before(at.get()));
            let subscriber = self.subscriber.as_ref().expect("P10: nobody is there");
            if let (None, Some((epoch, ok)), Some(at)) =
                (subscriber.request.resume_after, self.ok_acked, checkpoint)
                && epoch == self.durable_epoch
            {
                assert!(at.get() >= ok, "P7: {ok} was acknowledged, begins at {at}");
            }
            if proof.can_be_wrong() {
                self.count("resumed where it is assumed");
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
        if let Message::SnapshotBegin { reason, .. } = &message {
            let is_compacted = *reason == SnapshotReason::Compacted;
            let is_hidden = is_compacted && self.is_snapshot_of_another;
            assert!(!is_hidden, "4.5: another history, told as compacted");
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
        subscriber.has_filled |= subscriber.outbox.len() >= OUTBOX;
        self.tally.count(kind);
        let room = self.room();
        if room == OutboxRoom::None {
            self.tally.count("outbox full");
        }
        self.machine.handle(Input::Outbox(session, room), self.now);
    }

    pub(crate) fn room(&self) -> OutboxRoom {
        match &self.subscriber {
            Some(it) if it.outbox.len() >= OUTBOX => OutboxRoom::None,
            Some(it) if it.has_filled => OutboxRoom::Some,
            _ => OutboxRoom::Free,
        }
    }

    pub(crate) fn end_session(&mut self, session: SessionId, reason: &EndReason) {
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
            EndReason::Sought | EndReason::Deleted => {
                assert!(self.operations.are_under_way(), "nobody asked for it");
            }
            EndReason::RangeMismatch => panic!("{reason:?}"),
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
        self.note_opened();
        self.ended = self.stream.take();
        self.subscriber = None;
    }

    fn note_opened(&mut self) {
        if let Some(stream) = self.stream.as_ref().filter(|stream| stream.opened) {
            self.last_opened = Some(stream.clone());
        }
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
            self.note_opened();
            self.ended = None;
            self.stream = Some(Stream::new(session, request.max_unacked_events));
            self.subscriber = Some(Subscriber {
                outbox: VecDeque::new(),
                has_filled: false,
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
            subscriber.has_filled &= !subscriber.outbox.is_empty();
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
