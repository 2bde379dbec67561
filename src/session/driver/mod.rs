//! The one task that owns one subscription.
//!
//! It waits for whatever comes first, hands it to the state machine as an
//! `Input`, and runs the commands that come out. It decides nothing itself.
//! Owns what the machine's names stand for: the attempt on etcd, the streams'
//! outboxes, the acks that wait, the write under way.
//!
//! Invariants: at most one attempt and one write exist at a time; a stream's
//! first message is queued after the stream before it has ended.

mod account;
mod execute;
mod turn;

use std::{collections::HashMap, future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, Sleep},
};
use tracing::debug;

use self::{account::Account, turn::Turn};
use super::{
    Overview,
    message::Message,
    observe::{Observer, Position},
    outbox::{Outbox, Signal},
    pace::{self, Pace},
    registry::Place,
};
use crate::{
    metrics,
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue},
    },
    resume::{
        AckId, AckRefusal, Attempt, Header, Input, OperationId, OperationRefusal, ProbeSample,
        Record, Revision, SeekTo, SessionId, SessionRequest, Settings, StoreFailed, Subscription,
        Time, input::Upstream as Said,
    },
    store::{CheckpointStore, StoreError},
    upstream::{CatchUpPermit, Upstream, UpstreamEvents},
};

/// Acks that may wait for the disk at once; beyond it the mailbox is left
/// unread until some are answered. Far more than any client has under way.
const WAITING_ACKS_MAX: usize = 1024;

/// A deadline that has passed is looked at again no sooner than this, so that
/// one that stays in the past does not turn into a busy loop.
const RETIMER_AFTER: Duration = Duration::from_millis(1);

/// A task that has nothing to own any more looks this often whether those who
/// hold its mailbox, and may never send anything, are gone.
const LEAVE_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What all drivers share.
pub(super) struct Surroundings {
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<metrics::Sessions>,
    pub(super) pace: Pace,
    /// Where every `Time` of this process counts from.
    pub(super) origin: Instant,
}

/// What a driver is asked to do. Comes boxed: a mailbox has room for 32 as long
/// as it lasts.
pub(super) enum Mail {
    Subscribe(Newcomer),
    Ack {
        session: Option<SessionId>,
        revision: Revision,
        answer: oneshot::Sender<Result<Revision, AckRefusal>>,
    },
    Seek {
        to: SeekTo,
        header: Option<Header>,
        answer: OperationAnswer,
    },
    Delete {
        answer: OperationAnswer,
    },
    /// `None`: there is no such subscription.
    Describe {
        answer: oneshot::Sender<Option<Overview>>,
    },
}

/// Takes the checkpoint as it was before.
pub(super) type OperationAnswer = oneshot::Sender<Result<Option<Revision>, OperationRefusal>>;

/// A new stream.
pub(super) struct Newcomer {
    pub(super) session: SessionId,
    pub(super) request: SessionRequest,
    pub(super) pair_options: PairOptions,
    /// An address and port, or `unix`.
    pub(super) peer: String,
    pub(super) since: Time,
    pub(super) outbox: Outbox<Message>,
}

/// The task. Dropped in the order of its fields: when it panics, its streams
/// end before its mailbox closes, so before another driver can begin.
pub(super) struct Driver {
    place: Place,
    surroundings: Arc<Surroundings>,
    machine: Subscription<Event, KeyValue>,
    observer: Observer,
    /// One stream; two only while a newcomer is being decided about, newest last.
    streams: Vec<Newcomer>,
    /// The last stream acknowledges by itself what the transport takes.
    acks_itself: bool,
    attempt: Option<UpstreamUse>,
    /// The member that served the newest watch.
    last_member: Option<u64>,
    write: Option<oneshot::Receiver<Result<(), StoreError>>>,
    answers_by_ack: HashMap<AckId, oneshot::Sender<Result<Revision, AckRefusal>>>,
    answers_by_operation: HashMap<OperationId, OperationAnswer>,
    next_ack: AckId,
    next_operation: OperationId,
    account: Account,
    probe: watch::Receiver<Vec<ProbeSample>>,
    /// Until then etcd is left unread.
    rests_until: Option<Time>,
    timer: Pin<Box<Sleep>>,
    draining: watch::Receiver<bool>,
    is_draining: bool,
    mailbox: mpsc::Receiver<Box<Mail>>,
}

/// A use of etcd.
struct UpstreamUse {
    number: Attempt,
    events: UpstreamEvents,
    /// What was read of them, and is still to be taken in.
    next: Option<Box<Option<Said<Event, KeyValue>>>>,
    ask_progress: Option<mpsc::Sender<()>>,
    catching_up: Option<CatchUpPermit>,
}

/// Which arm was first.
enum Happened {
    Written(Result<(), StoreFailed>),
    Draining,
    Mail(Option<Box<Mail>>),
    Stream(SessionId, Signal),
    TimePassed,
    Probed,
    EtcdSaid(Attempt, Option<Said<Event, KeyValue>>),
}

impl Driver {
    pub(super) fn new(
        place: Place,
        record: Option<Record>,
        surroundings: Arc<Surroundings>,
        seed: u64,
        draining: watch::Receiver<bool>,
        mailbox: mpsc::Receiver<Box<Mail>>,
    ) -> Box<Self> {
        // A task that takes its argument by value has room for it twice.
        Box::new(Self {
            account: Account::new(record.as_ref(), surroundings.origin.elapsed()),
            machine: Subscription::new(record, surroundings.settings.clone(), seed),
            observer: Observer::new(Arc::clone(&surroundings.metrics)),
            streams: Vec::new(),
            acks_itself: false,
            attempt: None,
            last_member: None,
            write: None,
            answers_by_ack: HashMap::new(),
            answers_by_operation: HashMap::new(),
            next_ack: AckId(0),
            next_operation: OperationId(0),
            probe: surroundings.upstream.probe(),
            rests_until: None,
            timer: Box::pin(tokio::time::sleep_until(surroundings.origin)),
            draining,
            is_draining: false,
            mailbox,
            place,
            surroundings,
        })
    }

    /// Ends when the process drains and nothing is left to acknowledge, or when
    /// there is no subscription to own any more.
    pub(super) async fn run(mut self: Box<Self>) {
        loop {
            self.run_commands();
            if self.owns_nothing() && self.place.leave(&self.mailbox) {
                return;
            }
            if self.is_draining && self.is_settled() {
                self.mailbox.close();
                if self.mailbox.is_empty() {
                    return;
                }
            }
            match self.wait().await {
                Happened::Mail(None) if !self.is_draining => return,
                Happened::EtcdSaid(attempt, said) => self.take_turn(attempt, said),
                happened => self.take_in(happened),
            }
        }
    }

    /// There is no subscription, and nobody waits for an answer.
    fn owns_nothing(&self) -> bool {
        self.machine.is_vacant() && self.is_settled()
    }

    /// Nothing delivered waits for an `Ack`, and no `Ack` for its answer.
    fn is_settled(&self) -> bool {
        let awaits_ack = self.machine.has_unacked() && !self.acks_itself;
        let answers_nobody = self.answers_by_ack.is_empty() && self.answers_by_operation.is_empty();
        !awaits_ack && answers_nobody && self.write.is_none()
    }

    fn now(&self) -> Time {
        self.surroundings.origin.elapsed()
    }

    async fn wait(&mut self) -> Happened {
        // A stream that always has more must not keep the thread to itself.
        tokio::task::coop::consume_budget().await;
        let now = self.now();
        self.rests_until = self.rests_until.filter(|&until| now < until);
        let wants_upstream = self.machine.wants_upstream() && self.rests_until.is_none();
        let leave_at = self.owns_nothing().then(|| now + LEAVE_AGAIN_AFTER);
        let timeout = leave_at.or_else(|| self.machine.poll_timeout());
        let timeout = timeout.into_iter().chain(self.rests_until).min();
        if let Some(timeout) = timeout {
            let soonest = Instant::now() + RETIMER_AFTER;
            let deadline = soonest.max(self.surroundings.origin + timeout);
            if deadline != self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
        }
        let has_room_for_acks = self.answers_by_ack.len() < WAITING_ACKS_MAX;
        tokio::select! {
            biased;
            // What is durable is answered before anything new is begun.
            written = written(&mut self.write) => Happened::Written(written),
            // Takeovers and acks do not wait behind events.
            Ok(_) = self.draining.wait_for(|draining| *draining), if !self.is_draining => {
                Happened::Draining
            }
            mail = self.mailbox.recv(), if has_room_for_acks && !self.is_mailbox_done() => {
                Happened::Mail(mail)
            }
            // Room, and what was handed on, before more is read.
            (session, signal) = stream_changed(&mut self.streams) => {
                Happened::Stream(session, signal)
            }
            () = self.timer.as_mut(), if timeout.is_some() => Happened::TimePassed,
            Ok(()) = self.probe.changed() => Happened::Probed,
            // Last, because it is what may always have more.
            (attempt, said) = etcd_said(&mut self.attempt), if wants_upstream => {
                Happened::EtcdSaid(attempt, said)
            }
        }
    }

    /// Takes in what etcd said; where that is much, what it says in a moment,
    /// as if it had said it at once.
    fn take_turn(&mut self, attempt: Attempt, mut said: Option<Said<Event, KeyValue>>) {
        let now = self.now();
        if self.surroundings.pace.is_busy(now) {
            said = self.joined(said, now);
        }
        self.take_in(Happened::EtcdSaid(attempt, said));
    }

    fn joined(
        &mut self,
        said: Option<Said<Event, KeyValue>>,
        now: Time,
    ) -> Option<Said<Event, KeyValue>> {
        let mut turn = Turn::begin(said);
        while turn.may_go_on() {
            let Some((_, next)) = etcd_said(&mut self.attempt).now_or_never() else {
                self.rests_until = Some(pace::rest_until(now));
                break;
            };
            if let Some(other) = turn.join(next) {
                if let Some(running) = &mut self.attempt {
                    running.next = Some(Box::new(other));
                }
                break;
            }
            if !self.surroundings.pace.is_busy(now) {
                break;
            }
        }
        turn.said
    }

    fn is_mailbox_done(&self) -> bool {
        self.mailbox.is_closed() && self.mailbox.is_empty()
    }

    fn take_in(&mut self, happened: Happened) {
        let now = self.now();
        match happened {
            Happened::Written(written) => {
                let was_stored = self.machine.record().is_some();
                let before = Position::of(self.machine.record());
                self.machine.handle(Input::Persisted(written), now);
                let record = self.machine.record();
                self.observer.persisted(before, Position::of(record));
                if was_stored && record.is_none() {
                    // Deleted: what comes now is new.
                    self.account = Account::new(None, now);
                }
                self.account.stored(record, now);
            }
            Happened::Draining => {
                self.is_draining = true;
                self.note_handed(now);
                self.machine.handle(Input::Drain, now);
            }
            Happened::Mail(None) | Happened::TimePassed => {}
            Happened::Mail(Some(mail)) => self.open(*mail, now),
            Happened::Stream(session, signal) => {
                let input = match signal {
                    Signal::Handed(revision) => Input::Handed(session, revision),
                    Signal::Room(room) => Input::Outbox(session, room),
                    Signal::Closed => {
                        debug!(session_id = session.0, "subscriber went away");
                        self.streams.retain(|stream| stream.session != session);
                        self.observer.session_closed();
                        Input::SessionClosed(session)
                    }
                };
                self.machine.handle(input, now);
            }
            Happened::Probed => {
                for sample in self.probe.borrow_and_update().iter() {
                    self.machine.handle(Input::Probe(*sample), now);
                }
            }
            Happened::EtcdSaid(attempt, said) => {
                let said = said.unwrap_or(Said::Lost);
                self.note(&said);
                self.observer.etcd_said(&said);
                self.machine.handle(Input::Upstream(attempt, said), now);
            }
        }
    }

    fn open(&mut self, mail: Mail, now: Time) {
        let input = match mail {
            Mail::Subscribe(newcomer) => {
                let session = newcomer.session;
                let request = newcomer.request.clone();
                self.note_handed(now);
                self.observer.session_begun();
                // Seldom more than one, and each is large.
                self.streams.reserve_exact(1);
                self.streams.push(newcomer);
                Input::Subscribe { session, request }
            }
            Mail::Ack {
                session,
                revision,
                answer,
            } => {
                let ack = self.next_ack;
                self.next_ack.0 += 1;
                self.answers_by_ack.insert(ack, answer);
                Input::Ack {
                    ack,
                    session,
                    revision,
                }
            }
            Mail::Seek { to, header, answer } => Input::Seek {
                operation: self.operation(answer),
                to,
                header,
            },
            Mail::Delete { answer } => Input::Delete {
                operation: self.operation(answer),
            },
            Mail::Describe { answer } => {
                // An error: the caller did not wait.
                let _ = answer.send(self.overview(now));
                return;
            }
        };
        self.machine.handle(input, now);
    }

    fn operation(&mut self, answer: OperationAnswer) -> OperationId {
        let operation = self.next_operation;
        self.next_operation.0 += 1;
        self.answers_by_operation.insert(operation, answer);
        operation
    }

    /// What the transport took counts as acknowledged, where it does, also if
    /// the stream is about to end.
    fn note_handed(&mut self, now: Time) {
        let stream = self.streams.last_mut();
        let handed = stream.and_then(|it| Some((it.session, it.outbox.take_handed()?)));
        if let Some((session, revision)) = handed {
            self.machine.handle(Input::Handed(session, revision), now);
        }
    }

    /// What the driver itself keeps of what etcd says.
    fn note(&mut self, said: &Said<Event, KeyValue>) {
        match said {
            Said::WatchOpened(opened) => {
                self.last_member = Some(opened.member_id).filter(|&member| member != 0);
            }
            // The attempt is over: so is its use of etcd.
            Said::Lost
            | Said::Refused(_)
            | Said::Compacted { .. }
            | Said::Head(_)
            | Said::SnapshotEnded
            | Said::SnapshotCompacted { .. } => self.attempt = None,
            Said::Events { .. }
            | Said::Bookmark(_)
            | Said::SnapshotBegun(_)
            | Said::SnapshotPage(_) => {}
        }
    }
}

/// The outcome of the write under way; never resolves without one.
async fn written(
    write: &mut Option<oneshot::Receiver<Result<(), StoreError>>>,
) -> Result<(), StoreFailed> {
    let Some(receiver) = write else {
        return future::pending().await;
    };
    let outcome = receiver.await;
    *write = None;
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StoreFailed(error.to_string())),
        Err(_) => Err(StoreFailed("the checkpoint store has stopped".to_owned())),
    }
}

async fn stream_changed(streams: &mut [Newcomer]) -> (SessionId, Signal) {
    match streams.last_mut() {
        Some(stream) => (stream.session, stream.outbox.changed().await),
        None => future::pending().await,
    }
}

async fn etcd_said(attempt: &mut Option<UpstreamUse>) -> (Attempt, Option<Said<Event, KeyValue>>) {
    match attempt {
        Some(attempt) => {
            let said = match attempt.next.take() {
                Some(next) => *next,
                None => attempt.events.next().await,
            };
            (attempt.number, said)
        }
        None => future::pending().await,
    }
}
