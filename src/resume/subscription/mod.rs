//! The state machine of one subscription.
//!
//! `handle` takes in what happened, `next_command` hands out what to do,
//! `poll_timeout` says when to ask again although nothing happened. The parts:
//!
//! - `session`: how a stream begins, opens and ends
//! - `acks`: how the checkpoint moves and becomes durable
//! - `operator`: what an operator sees, moves and deletes
//! - `plan`: what an attempt on etcd is for
//! - `opening`: how an attempt on etcd begins and fails, and what its guard means
//! - `watching`: what a running watch says, and what its silence means
//! - `snapshot`: the state of the range, when there is no history to resume
//! - `delivery`: what may be sent now
//! - `idle`: what moves a position although no event came
//!
//! Invariants: the checkpoint never passes what was delivered and acknowledged
//! but by idle advance, and never falls but by `resume_after`, a replaced
//! history or an operator; a message is sent only while its session is the current one; an
//! input of another attempt than the current one changes nothing.

mod acks;
mod delivery;
mod idle;
mod opening;
mod operator;
mod plan;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::VecDeque;

use self::{
    acks::Writes, plan::Plan, session::Session, snapshot::Snapshotting, watching::Watching,
};
use super::{
    AckRefusal, Attempt, Command, EndReason, History, Input, Item, OnCompaction, Record, Revision,
    SessionId, Settings, StreamState, Time, backoff::Backoff, batch::Assembler, history::Suspicion,
    input::Upstream, ledger::Ledger,
};

/// One subscription: feed it inputs, run the commands it hands out.
#[derive(Debug)]
pub struct Subscription<E, K> {
    settings: Settings,
    writes: Writes,
    ledger: Ledger,
    /// The newest cluster_id and raft_term that a linearizable answer carried
    /// in this session; never a fingerprint.
    seen: History,
    suspicion: Suspicion,
    session: Option<Session>,
    /// The last session, live or ended; `None`: none since the start.
    last_session: Option<SessionId>,
    /// A stream of the stored range was opened, by this process.
    was_opened: bool,
    /// Why what was delivered can't be acknowledged any more.
    void: Option<AckRefusal>,
    /// A stream ended with that error since the history was found replaced. To
    /// one that chose to fail, that is all there is to be told.
    replacement_told: Option<OnCompaction>,
    draining: bool,
    phase: Phase<E, K>,
    assembler: Assembler<E>,
    attempt: Attempt,
    backoff: Backoff,
    /// The member that served the last attempt failed it.
    avoid_last_member: bool,
    /// How many stalls there were since etcd last said anything.
    stalls: u32,
    commands: VecDeque<Command<E, K>>,
}

/// What is being done for the session.
#[derive(Debug)]
enum Phase<E, K> {
    /// Nothing: there is no live session.
    Idle,
    /// The session begins once the writes of the last one are done.
    AwaitingStore,
    /// Another attempt begins at `at`.
    Waiting { at: Time, plan: Plan },
    /// etcd has not answered yet.
    Asking(Plan),
    /// A watch is running.
    Watching(Watching),
    /// The subscriber is slow: no watch is held for it.
    Parked {
        /// How many events must fit into its window before one is opened.
        needs: u64,
    },
    /// A snapshot is being read.
    Snapshotting(Snapshotting<E, K>),
}

impl<E: Item, K: Item> Subscription<E, K> {
    /// A subscription as stored; `None`: a new one. The same `seed` gives the
    /// same jitter.
    pub fn new(record: Option<Record>, settings: Settings, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(settings.backoff_max, seed),
            settings,
            writes: Writes::new(record),
            ledger: Ledger::default(),
            seen: History::default(),
            suspicion: Suspicion::default(),
            session: None,
            last_session: None,
            was_opened: false,
            void: None,
            replacement_told: None,
            draining: false,
            phase: Phase::Idle,
            assembler: Assembler::new(None),
            attempt: Attempt::default(),
            avoid_last_member: false,
            stalls: 0,
            commands: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, input: Input<E, K>, now: Time) {
        match input {
            Input::Subscribe { session, request } => self.subscribe(session, request, now),
            Input::SessionClosed(session) if self.is_current(session) => {
                self.hand_rest();
                self.leave();
            }
            Input::Outbox(id, room) => {
                if let Some(session) = self.session.as_mut().filter(|session| session.id == id) {
                    session.room = room;
                }
            }
            Input::Handed(session, revision) if self.is_current(session) => {
                self.handed(revision, now);
            }
            Input::Ack {
                ack,
                session,
                revision,
            } => self.ack(ack, session, revision),
            Input::Seek {
                operation,
                to,
                header,
            } => self.seek(operation, to, header),
            Input::Delete { operation } => self.delete(operation),
            Input::Drain => self.drain(),
            Input::Upstream(attempt, said) if attempt == self.attempt => self.upstream(said, now),
            Input::Probe(sample) => {
                if let Phase::Watching(watching) = &mut self.phase {
                    watching.sampled(sample, now);
                }
            }
            Input::Persisted(outcome) => self.persisted(outcome, now),
            // Of another session or attempt than the current one.
            Input::SessionClosed(_) | Input::Handed(..) | Input::Upstream(..) => {}
        }
        self.check_invariants();
    }

    /// The next thing to do. Call it until `None` after every `handle`, and
    /// when `poll_timeout` has passed. After a `Deliver`, feed in the outbox's
    /// room before the next call.
    pub fn next_command(&mut self, now: Time) -> Option<Command<E, K>> {
        if self.commands.is_empty() {
            self.act(now);
        }
        let command = self.commands.pop_front();
        self.check_invariants();
        debug_assert!(
            command.is_some() || self.poll_timeout().is_none_or(|at| at > now),
            "a timer that is due and does nothing would make the caller spin"
        );
        command
    }

    /// When to call `next_command` again although nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        let waiting = match &self.phase {
            Phase::Waiting { at, .. } => Some(*at),
            Phase::Watching(watching) => self.watching_timeout(watching),
            Phase::Idle
            | Phase::AwaitingStore
            | Phase::Asking(_)
            | Phase::Parked { .. }
            | Phase::Snapshotting(_) => None,
        };
        let due = [
            waiting,
            self.heartbeat_due(),
            self.handed_again_due(),
            self.open_due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Whether to read more of what etcd says. `false` while what it said
    /// before waits to be delivered.
    pub fn wants_upstream(&self) -> bool {
        match &self.phase {
            Phase::Watching(_) => self.assembler.next_needs().is_none(),
            Phase::Snapshotting(snapshot) => snapshot.messages.is_empty(),
            Phase::Asking(_) => true,
            Phase::Idle | Phase::AwaitingStore | Phase::Waiting { .. } | Phase::Parked { .. } => {
                false
            }
        }
    }

    /// Whether the history is left to etcd until the subscriber takes more.
    pub const fn is_parked(&self) -> bool {
        matches!(self.phase, Phase::Parked { .. })
    }

    /// The durable record; `None`: nothing is stored yet.
    pub const fn record(&self) -> Option<&Record> {
        self.writes.durable.as_ref()
    }

    /// The live session.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    /// What the live session was last told of its state.
    pub fn stream_state(&self) -> Option<StreamState> {
        self.session.as_ref().and_then(|session| session.told)
    }

    /// Everything in range up to here was delivered by the last session.
    pub const fn delivered(&self) -> Option<Revision> {
        self.ledger.delivered()
    }

    /// How many delivered events are not acknowledged.
    pub const fn unacked_events(&self) -> u64 {
        self.ledger.unacked_events()
    }

    /// Whether anything delivered, events or a snapshot, could still be acknowledged.
    pub fn has_unacked(&self) -> bool {
        self.ledger.has_unacked()
    }

    /// One thing that time or room has made possible, if any: it is found as a
    /// command in the queue.
    fn act(&mut self, now: Time) {
        self.write();
        self.hand_again(now);
        self.open_in_time(now);
        self.open_session(now);
        if let Phase::Waiting { at, plan } = self.phase
            && at <= now
        {
            self.begin_attempt(plan);
        }
        self.watch_time(now);
        if self.commands.is_empty() {
            self.deliver(now);
        }
        // Time may have moved a position without causing any other command.
        if self.commands.is_empty() {
            self.write();
        }
    }

    /// What etcd says counts in the phase that asked for it.
    fn upstream(&mut self, said: Upstream<E, K>, now: Time) {
        match (&mut self.phase, said) {
            (Phase::Asking(Plan::Head), Upstream::Head(header)) => self.head_read(header),
            (&mut Phase::Asking(Plan::Watch(base)), Upstream::WatchOpened(opened)) => {
                self.watch_opened(base, &opened, now);
            }
            (&mut Phase::Asking(Plan::Watch(base)), Upstream::Compacted { compact_revision }) => {
                self.cancelled(base, compact_revision, now);
            }
            (Phase::Watching(watching), Upstream::Events { events, fragment }) => {
                watching.heard(now);
                watching.event_at = now;
                self.is_well();
                self.events(events, fragment);
            }
            (Phase::Watching(watching), Upstream::Bookmark(revision)) => {
                watching.bookmark = watching.bookmark.max(Some(revision));
                watching.heard(now);
                watching.ask_at = now + self.settings.progress_interval;
                self.is_well();
            }
            // Whether that is a loss, the next guard tells.
            (Phase::Watching(_), Upstream::Compacted { .. }) => {
                self.set_state(StreamState::CatchingUp);
                if let Some(plan) = self.plan_to_continue() {
                    self.back_off(plan, now);
                }
            }
            (&mut Phase::Asking(Plan::Snapshot(loss)), Upstream::SnapshotBegun(header)) => {
                self.snapshot_begun(loss, header, now);
            }
            (Phase::Snapshotting(snapshot), Upstream::SnapshotPage(kvs)) => snapshot.page(kvs),
            (Phase::Snapshotting(snapshot), Upstream::SnapshotEnded) => snapshot.ended(),
            (_, Upstream::SnapshotCompacted { compact_revision }) => {
                self.snapshot_compacted(compact_revision, now);
            }
            (_, Upstream::Lost) => self.lost(now),
            (_, Upstream::Refused(refusal)) => self.end(EndReason::Refused(refusal)),
            // Nobody asked.
            (
                _,
                Upstream::WatchOpened(_)
                | Upstream::Events { .. }
                | Upstream::Bookmark(_)
                | Upstream::Compacted { .. }
                | Upstream::Head(_)
                | Upstream::SnapshotBegun(_)
                | Upstream::SnapshotPage(_)
                | Upstream::SnapshotEnded,
            ) => {}
        }
    }

    fn is_current(&self, session: SessionId) -> bool {
        self.session() == Some(session)
    }

    fn check_invariants(&self) {
        debug_assert!(self.ledger.is_ordered());
        debug_assert!(self.session.is_some() || matches!(self.phase, Phase::Idle));
        if let Some(record) = self.writes.current() {
            debug_assert!(
                record.assumed.is_none_or(
                    |it| it.proof.can_be_wrong() && Some(it.revision) > record.checkpoint
                )
            );
            debug_assert!(!record.proof.can_be_wrong());
            debug_assert!(record.pending_snapshot.is_none() || record.checkpoint.is_none());
        }
    }

    fn ack_refusal_without_delivery(&self) -> AckRefusal {
        match &self.void {
            _ if self.last_session.is_none() && self.writes.current().is_none() => {
                AckRefusal::NotFound
            }
            Some(refusal) => refusal.clone(),
            None if self.last_session.is_none() => AckRefusal::NoSession,
            None => AckRefusal::BeyondDelivered {
                delivered: self.ledger.delivered(),
            },
        }
    }
}
