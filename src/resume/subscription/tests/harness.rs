//! Drives a subscription by hand and writes its commands as short lines, so
//! that a test reads as a conversation:
//!
//! - `persist 100 acked c1 t2 a@100`: checkpoint, proof, cluster, term, fingerprint
//! - `watch #1 after 100 guard a/`: attempt, position, guarded key
//! - `s1 events 102 [a@101 b@102]`: a message to session 1

use std::time::Duration;

use bytes::Bytes;

use super::lines::{say, say_outcome, say_record, say_refusal};
use crate::resume::{
    AckId, Assumed, Attempt, Command, Fingerprint, GuardReading, Header, History, Input, Item,
    KeyRange, OnCompaction, OperationId, OutboxRoom, ProbeSample, Proof, Record, Revision, SeekTo,
    Selection, SessionId, SessionRequest, Settings, Start, StoreFailed, Subscription, Time,
    WatchOpened, input::Upstream,
};

/// An event or a pair.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) revision: Revision,
    bytes: usize,
    pub(super) deleted: bool,
}

impl Item for Entry {
    fn key(&self) -> &Bytes {
        &self.key
    }
    fn mod_revision(&self) -> Revision {
        self.revision
    }
    fn size_bytes(&self) -> usize {
        self.bytes
    }
    fn is_delete(&self) -> bool {
        self.deleted
    }
}

pub(super) const MIB: usize = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of the member that serves every watch here.
pub(super) const MEMBER: u64 = 7;

/// By the delay rule.
pub(super) fn assumed(at: i64) -> Assumed {
    Assumed {
        revision: revision(at),
        proof: Proof::Delay,
    }
}

pub(super) fn revision(revision: i64) -> Revision {
    Revision::new(revision).unwrap()
}

pub(super) fn put(key: &'static str, at: i64) -> Entry {
    sized(key, at, 10)
}

pub(super) fn sized(key: &'static str, at: i64, bytes: usize) -> Entry {
    Entry {
        key: key.into(),
        revision: revision(at),
        bytes,
        deleted: false,
    }
}

pub(super) fn delete(key: &'static str, at: i64) -> Entry {
    Entry {
        deleted: true,
        ..put(key, at)
    }
}

pub(super) fn selection() -> Selection {
    Selection {
        range: KeyRange::prefix("a/".into()),
        no_put: false,
        no_delete: false,
    }
}

pub(super) fn request() -> SessionRequest {
    SessionRequest {
        selection: selection(),
        start: Start::Snapshot,
        resume_after: None,
        on_compaction: OnCompaction::Resync,
        auto_ack: false,
        max_unacked_events: None,
    }
}

/// Acknowledged up to `checkpoint`, where key `a` changed last.
pub(super) fn record(checkpoint: i64) -> Record {
    Record {
        checkpoint: Revision::new(checkpoint),
        proof: Proof::Acked,
        history: History {
            cluster_id: 1,
            raft_term: 2,
            fingerprint: Some(Fingerprint {
                key: "a".into(),
                mod_revision: revision(checkpoint),
                deleted: false,
            }),
        },
        ..Record::new(selection())
    }
}

pub(super) fn header(head: i64) -> Header {
    Header {
        cluster_id: 1,
        raft_term: 2,
        revision: revision(head),
    }
}

/// The guarded key was last changed at `found`; etcd is at `head`.
pub(super) fn present(head: i64, found: i64) -> GuardReading {
    GuardReading::Present {
        header: header(head),
        mod_revision: Revision::new(found),
    }
}

pub(super) fn compacted_at(compact_revision: i64) -> GuardReading {
    GuardReading::Compacted {
        compact_revision: Revision::new(compact_revision),
    }
}

pub(super) type Said = Upstream<Entry, Entry>;

/// Created on a member where progress requests are sound.
pub(super) fn watch_opened(guard: GuardReading) -> Said {
    Upstream::WatchOpened(WatchOpened {
        member_id: MEMBER,
        can_ask_progress: true,
        guard,
    })
}

/// Created on a member that certifies nothing in time.
pub(super) fn mute_watch_opened(guard: GuardReading) -> Said {
    Upstream::WatchOpened(WatchOpened {
        member_id: MEMBER,
        can_ask_progress: false,
        guard,
    })
}

pub(super) fn response(events: impl Into<Vec<Entry>>) -> Said {
    Upstream::Events {
        events: events.into(),
        fragment: false,
    }
}

pub(super) fn fragment(events: impl Into<Vec<Entry>>) -> Said {
    Upstream::Events {
        events: events.into(),
        fragment: true,
    }
}

pub(super) fn bookmark(at: i64) -> Said {
    Upstream::Bookmark(revision(at))
}

/// A subscription and its surroundings.
pub(super) struct Machine {
    pub(super) subscription: Subscription<Entry, Entry>,
    /// What the outbox has after every message.
    pub(super) room: OutboxRoom,
    now: Time,
    attempt: Attempt,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self::with(None, Settings::default())
    }

    pub(super) fn stored(record: Record) -> Self {
        Self::with(Some(record), Settings::default())
    }

    pub(super) fn with(record: Option<Record>, settings: Settings) -> Self {
        Self {
            subscription: Subscription::new(record, settings, 1),
            room: OutboxRoom::Free,
            now: Time::ZERO,
            attempt: Attempt::default(),
        }
    }

    /// Resumed from 100, with etcd at `head`; everything so far is delivered.
    pub(super) fn watching(head: i64) -> Self {
        Self::watching_as(head, request())
    }

    pub(super) fn watching_as(head: i64, request: SessionRequest) -> Self {
        let mut machine = Self::stored(record(100));
        machine.subscribe_as(1, request);
        machine.says(watch_opened(present(head, 100)));
        machine
    }

    /// As `watching`, on a member that certifies nothing in time.
    pub(super) fn watching_mute(head: i64) -> Self {
        let mut machine = Self::stored(record(100));
        machine.subscribe(1);
        machine.says(mute_watch_opened(present(head, 100)));
        machine
    }

    pub(super) fn subscribe(&mut self, session: u64) -> Vec<String> {
        self.subscribe_as(session, request())
    }

    pub(super) fn subscribe_as(&mut self, session: u64, request: SessionRequest) -> Vec<String> {
        self.handle(Input::Subscribe {
            session: SessionId(session),
            request,
        })
    }

    /// etcd says it to the newest attempt.
    pub(super) fn says(&mut self, said: Said) -> Vec<String> {
        self.handle(Input::Upstream(self.attempt, said))
    }

    pub(super) fn says_to(&mut self, attempt: u64, said: Said) -> Vec<String> {
        self.handle(Input::Upstream(Attempt(attempt), said))
    }

    pub(super) fn persisted(&mut self) -> Vec<String> {
        self.handle(Input::Persisted(Ok(())))
    }

    pub(super) fn persist_fails(&mut self) -> Vec<String> {
        self.handle(Input::Persisted(Err(StoreFailed("full".into()))))
    }

    /// An ack of the current session.
    pub(super) fn ack(&mut self, ack: u64, at: i64) -> Vec<String> {
        self.handle(Input::Ack {
            ack: AckId(ack),
            session: None,
            revision: revision(at),
        })
    }

    pub(super) fn ack_of(&mut self, session: u64, ack: u64, at: i64) -> Vec<String> {
        self.handle(Input::Ack {
            ack: AckId(ack),
            session: Some(SessionId(session)),
            revision: revision(at),
        })
    }

    pub(super) fn handed(&mut self, session: u64, at: i64) -> Vec<String> {
        self.handle(Input::Handed(SessionId(session), revision(at)))
    }

    pub(super) fn closes(&mut self, session: u64) -> Vec<String> {
        self.handle(Input::SessionClosed(SessionId(session)))
    }

    /// The outbox fills or drains, and stays so.
    pub(super) fn outbox(&mut self, session: u64, room: OutboxRoom) -> Vec<String> {
        self.room = room;
        self.handle(Input::Outbox(SessionId(session), room))
    }

    /// `member` says at once that etcd is at `head`.
    pub(super) fn probe(&mut self, member_id: u64, head: i64) -> Vec<String> {
        self.handle(Input::Probe(ProbeSample {
            member_id,
            asked_at: self.now,
            revision: revision(head),
        }))
    }

    pub(super) fn seek(&mut self, operation: u64, to: i64) -> Vec<String> {
        self.handle(Input::Seek {
            operation: OperationId(operation),
            to: SeekTo::Revision(revision(to)),
            header: None,
        })
    }

    /// As `seek`, after etcd said who it is.
    pub(super) fn seek_as(&mut self, operation: u64, to: i64, header: Header) -> Vec<String> {
        self.handle(Input::Seek {
            operation: OperationId(operation),
            to: SeekTo::Revision(revision(to)),
            header: Some(header),
        })
    }

    pub(super) fn seek_snapshot(&mut self, operation: u64) -> Vec<String> {
        self.handle(Input::Seek {
            operation: OperationId(operation),
            to: SeekTo::Snapshot,
            header: None,
        })
    }

    pub(super) fn delete(&mut self, operation: u64) -> Vec<String> {
        self.handle(Input::Delete {
            operation: OperationId(operation),
        })
    }

    pub(super) fn drain(&mut self) -> Vec<String> {
        self.handle(Input::Drain)
    }

    pub(super) const fn now(&self) -> Time {
        self.now
    }

    /// Time passes, in one leap.
    pub(super) fn after(&mut self, wait: Duration) -> Vec<String> {
        self.now += wait;
        self.commands()
    }

    pub(super) fn after_secs(&mut self, seconds: u64) -> Vec<String> {
        self.after(Duration::from_secs(seconds))
    }

    /// Time passes up to the next timer.
    pub(super) fn at_next_timer(&mut self) -> Vec<String> {
        self.now = self.subscription.poll_timeout().unwrap();
        assert!(self.now < 2 * DAY, "waits in vain");
        self.commands()
    }

    pub(super) fn checkpoint(&self) -> i64 {
        let record = self.subscription.record();
        Revision::to_wire(record.and_then(|record| record.checkpoint))
    }

    pub(super) fn handle(&mut self, input: Input<Entry, Entry>) -> Vec<String> {
        self.subscription.handle(input, self.now);
        self.commands()
    }

    fn commands(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(command) = self.subscription.next_command(self.now) {
            assert!(lines.len() < 1000, "never ends: {lines:?}");
            lines.push(self.line(&command));
            if let Command::Deliver(session, _) = command {
                let room = Input::Outbox(session, self.room);
                self.subscription.handle(room, self.now);
            }
        }
        let timeout = self.subscription.poll_timeout();
        assert!(timeout.is_none_or(|at| at > self.now), "spins: {timeout:?}");
        lines
    }

    fn line(&mut self, command: &Command<Entry, Entry>) -> String {
        match command {
            Command::OpenWatch {
                attempt,
                guard,
                avoid_last_member,
            } => {
                self.attempt = *attempt;
                let key = String::from_utf8_lossy(&guard.key);
                let avoid = if *avoid_last_member { " elsewhere" } else { "" };
                format!(
                    "watch #{} after {} guard {key}{avoid}",
                    attempt.0, guard.revision
                )
            }
            Command::ReadHead(attempt) => {
                self.attempt = *attempt;
                format!("head #{}", attempt.0)
            }
            Command::ReadSnapshot(attempt) => {
                self.attempt = *attempt;
                format!("snapshot #{}", attempt.0)
            }
            Command::AskProgress => "ask progress".into(),
            Command::CaughtUp => "caught up".into(),
            Command::CloseUpstream => "close".into(),
            Command::Deliver(session, message) => format!("s{} {}", session.0, say(message)),
            Command::EndSession(session, reason) => format!("s{} end {reason:?}", session.0),
            Command::Persist(record) => say_record(record),
            Command::Forget => "forget".into(),
            Command::ReplyOperation(operation, answer) => {
                format!("op {} {}", operation.0, say_outcome(answer))
            }
            Command::ReplyAck(ack, Ok(checkpoint)) => format!("ack {} ok {checkpoint}", ack.0),
            Command::ReplyAck(ack, Err(refusal)) => {
                format!("ack {} {}", ack.0, say_refusal(refusal))
            }
        }
    }
}

/// Resumed from 100, with 101 to 103 delivered and not acknowledged.
pub(super) fn delivered_up_to_103() -> Machine {
    let mut machine = Machine::watching(100);
    machine.says(response([
        put("a/1", 101),
        put("a/2", 102),
        put("a/3", 103),
    ]));
    machine
}

/// Asks for a range that is not stored.
pub(super) fn other_range() -> SessionRequest {
    SessionRequest {
        selection: Selection {
            range: KeyRange::prefix("b/".into()),
            ..selection()
        },
        ..request()
    }
}

/// No commands.
pub(super) const NOTHING: [&str; 0] = [];
