//! Which task owns which subscription.
//!
//! A driver is started by the first `Subscribe` of its client_id, or by an
//! operator who moves or deletes the subscription, and lives until the process
//! drains or the subscription is deleted. One that panicked is replaced on the
//! next call: what it made durable is in the store, and what it did not was
//! never answered with OK.
//!
//! Invariant: at most one driver of a client_id has an open mailbox.

mod operator;
mod place;
mod standing;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{self, JoinSet},
    time::Instant,
};
use tracing::{Instrument, error, info_span};

use super::{
    Message, Overview,
    driver::{Driver, Mail, Newcomer, OperationAnswer, Surroundings},
    observe,
    outbox::{Receiver, measured_outbox},
    pace::Pace,
};
use crate::{
    metrics,
    proto::PairOptions,
    resume::{AckRefusal, ClientId, Revision, Selection, SessionId, SessionRequest, Settings},
    store::{CheckpointStore, StoreError},
    upstream::Upstream,
};

pub(super) use self::place::Place;
pub use self::{
    operator::{OperationError, Sought},
    standing::{Standing, Standings},
};

/// Calls that may queue for one driver; further callers wait.
const MAILBOX_CAPACITY: usize = 64;

/// How often a call is repeated whose driver stopped in between. Once is
/// enough unless drivers panic in a row.
const DELIVERY_TRIES_MAX: usize = 3;

/// What a registry needs to know.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// How every subscription behaves.
    pub resume: Settings,
    /// How many subscriptions there may be; more are refused.
    pub subscriptions_max: usize,
    /// Where the `Time` of probe samples counts from.
    pub origin: Instant,
    /// Where all jitter comes from: another one in every process.
    pub seed: u64,
}

/// A new stream.
#[derive(Debug)]
pub struct Subscribed {
    /// Its number.
    pub session: SessionId,
    /// What it carries.
    pub messages: Receiver<Message>,
}

/// Why there is no new stream. Repeating helps but for `TooManySubscriptions`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The process is stopping.
    #[error("watchmark is stopping")]
    Draining,
    /// The client_id is new, and there are enough already.
    #[error("there are {max} subscriptions already")]
    TooManySubscriptions {
        /// `--max-subscriptions`.
        max: usize,
    },
    /// The stored position could not be read.
    #[error("cannot read the stored subscription")]
    LoadRecord(#[source] StoreError),
    /// The subscription's task stopped before it took the call.
    #[error("the subscription's task has stopped")]
    DriverStopped,
}

/// Why an `Ack` is not answered with a checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AckError {
    /// The subscription refuses it.
    #[error("the ack is refused: {0:?}")]
    Refused(AckRefusal),
    /// Nothing is stored of this client_id.
    #[error("there is no such subscription")]
    SubscriptionNotFound,
    /// The stored position could not be read. Repeat the ack.
    #[error("cannot read the stored subscription")]
    LoadRecord(#[source] StoreError),
    /// The subscription's task stopped before it answered. Repeat the ack.
    #[error("the subscription's task has stopped")]
    DriverStopped,
}

/// Every subscription of this process.
pub struct Registry {
    surroundings: Arc<Surroundings>,
    subscriptions_max: usize,
    seed: u64,
    next_session: AtomicU64,
    draining: watch::Sender<bool>,
    drivers: Arc<Mutex<Drivers>>,
    has_started_one: Notify,
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct Drivers {
    by_client_id: HashMap<ClientId, Handle>,
    /// Those that began with nothing stored, as far as it was not stored since.
    unstored: HashSet<ClientId>,
    /// Those that had, or have, their record removed: whether a new one is
    /// stored since is not known.
    removed: HashSet<ClientId>,
    tasks: JoinSet<()>,
}

struct Handle {
    mailbox: mpsc::Sender<Box<Mail>>,
    task: task::Id,
}

impl Registry {
    /// A registry without drivers. Run [`supervise`](Self::supervise) beside it.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        store: Arc<dyn CheckpointStore>,
        settings: RegistrySettings,
    ) -> Self {
        Self::measured(upstream, store, settings, metrics::Sessions::default())
    }

    /// As [`new`](Self::new); `metrics` is what is counted.
    pub fn measured(
        upstream: Arc<dyn Upstream>,
        store: Arc<dyn CheckpointStore>,
        settings: RegistrySettings,
        metrics: metrics::Sessions,
    ) -> Self {
        Self {
            surroundings: Arc::new(Surroundings {
                upstream,
                store,
                settings: settings.resume,
                metrics: Arc::new(metrics),
                pace: Pace::default(),
                origin: settings.origin,
            }),
            subscriptions_max: settings.subscriptions_max,
            seed: settings.seed,
            next_session: AtomicU64::new(unix_micros()),
            draining: watch::Sender::new(false),
            drivers: Arc::default(),
            has_started_one: Notify::new(),
            running: watch::Sender::new(0),
        }
    }

    /// Starts a stream for `peer` (an address and port, or `unix`: an operator
    /// sees it). The live one of the same client_id, if any, ends first.
    ///
    /// # Errors
    /// See [`SubscribeError`]; nothing has changed then.
    pub async fn subscribe(
        &self,
        client_id: &ClientId,
        request: SessionRequest,
        pair_options: PairOptions,
        peer: String,
    ) -> Result<Subscribed, SubscribeError> {
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let delivery = self.surroundings.metrics.delivery.clone();
        let (outbox, messages) = measured_outbox(request.auto_ack, delivery);
        let mail = Mail::Subscribe(Newcomer {
            session,
            request,
            pair_options,
            peer,
            since: self.surroundings.origin.elapsed(),
            outbox,
        });
        self.post(client_id, Box::new(mail)).await?;
        Ok(Subscribed { session, messages })
    }

    /// Hands `mail` to the client_id's driver, which is started if need be.
    async fn post(&self, client_id: &ClientId, mut mail: Box<Mail>) -> Result<(), SubscribeError> {
        for _ in 0..DELIVERY_TRIES_MAX {
            let mailbox = self.mailbox_of(client_id)?;
            match mailbox.send(mail).await {
                Ok(()) => return Ok(()),
                Err(mpsc::error::SendError(unsent)) => mail = unsent,
            }
        }
        Err(SubscribeError::DriverStopped)
    }

    /// Acknowledges everything at or below `revision`, and returns the durable
    /// checkpoint. `session`: `None` is the current one.
    ///
    /// # Errors
    /// See [`AckError`].
    pub async fn ack(
        &self,
        client_id: &ClientId,
        session: Option<SessionId>,
        revision: Revision,
    ) -> Result<Revision, AckError> {
        let answer = self.answer(client_id, session, revision).await;
        observe::ack_answered(&self.surroundings.metrics, &answer);
        answer
    }

    async fn answer(
        &self,
        client_id: &ClientId,
        session: Option<SessionId>,
        revision: Revision,
    ) -> Result<Revision, AckError> {
        if let Some(mailbox) = self.running_mailbox_of(client_id) {
            let (answer, answered) = oneshot::channel();
            let mail = Mail::Ack {
                session,
                revision,
                answer,
            };
            let sent = mailbox.send(Box::new(mail)).await;
            // Who waits for an answer does not hold up a task that ends.
            drop(mailbox);
            if sent.is_ok() {
                return answered
                    .await
                    .map_err(|_| AckError::DriverStopped)?
                    .map_err(AckError::Refused);
            }
        }
        self.answer_from_the_store(client_id, revision)
    }

    /// What a client_id's stored subscription watches; `None`: nothing is stored.
    ///
    /// # Errors
    /// The store's.
    pub fn selection_of(&self, client_id: &ClientId) -> Result<Option<Selection>, StoreError> {
        let record = self.surroundings.store.load(client_id)?;
        Ok(record.map(|record| record.selection))
    }

    /// Refuses new streams and ends the live ones. Resolves when nothing that
    /// was delivered can be acknowledged any more. Cancel-safe.
    pub async fn drain(&self) {
        {
            // Under the lock, so that no driver starts after it.
            let _drivers = self.lock();
            self.draining.send_replace(true);
        }
        // The sender lives as long as self: there is no error.
        let _ = self
            .running
            .subscribe()
            .wait_for(|&running| running == 0)
            .await;
    }

    /// How many drivers are running.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Notices drivers that end; says loudly when one panicked. Never returns.
    pub async fn supervise(&self) {
        loop {
            match poll_fn(|cx| self.lock().tasks.poll_join_next_with_id(cx)).await {
                None => self.has_started_one.notified().await,
                Some(Ok((task, ()))) => self.forget(task, None),
                Some(Err(error)) => self.forget(error.id(), Some(&error)),
            }
        }
    }

    fn forget(&self, task: task::Id, error: Option<&task::JoinError>) {
        let mut drivers = self.lock();
        // Not there: another driver took its place already.
        let client_id = drivers
            .by_client_id
            .iter()
            .find_map(|(client_id, handle)| (handle.task == task).then(|| client_id.clone()));
        if let Some(client_id) = &client_id {
            drivers.by_client_id.remove(client_id);
        }
        self.running.send_replace(drivers.tasks.len());
        drop(drivers);
        if let Some(error) = error.filter(|error| error.is_panic()) {
            error!(
                client_id = client_id.as_ref().map(ClientId::as_str),
                %error,
                "a subscription's task panicked; the next call starts it again from its checkpoint"
            );
        }
    }

    fn running_mailbox_of(&self, client_id: &ClientId) -> Option<mpsc::Sender<Box<Mail>>> {
        let drivers = self.lock();
        let handle = drivers.by_client_id.get(client_id)?;
        (!handle.mailbox.is_closed()).then(|| handle.mailbox.clone())
    }

    /// The mailbox of the client_id's driver, which is started if need be.
    fn mailbox_of(&self, client_id: &ClientId) -> Result<mpsc::Sender<Box<Mail>>, SubscribeError> {
        let mut drivers = self.lock();
        if *self.draining.borrow() {
            return Err(SubscribeError::Draining);
        }
        if let Some(handle) = drivers.by_client_id.get(client_id)
            && !handle.mailbox.is_closed()
        {
            return Ok(handle.mailbox.clone());
        }
        // Read under the lock: no other driver can be writing this record.
        let store = &self.surroundings.store;
        let record = store.load(client_id).map_err(SubscribeError::LoadRecord)?;
        if record.is_none() {
            let max = self.subscriptions_max;
            if self.places_at_most(&mut drivers) >= max {
                let mut client_ids = self.client_ids_with(&drivers);
                client_ids.remove(client_id);
                if client_ids.len() >= max {
                    return Err(SubscribeError::TooManySubscriptions { max });
                }
            }
            drivers.unstored.insert(client_id.clone());
        }
        let (mailbox, incoming) = mpsc::channel(MAILBOX_CAPACITY);
        let driver = Driver::new(
            Place::new(client_id.clone(), &self.drivers),
            record,
            Arc::clone(&self.surroundings),
            // Differs between subscriptions and between restarts.
            hash(self.seed, client_id),
            self.draining.subscribe(),
            incoming,
        );
        let span = info_span!("subscription", %client_id);
        let task = drivers.tasks.spawn(driver.run().instrument(span)).id();
        self.running.send_replace(drivers.tasks.len());
        self.has_started_one.notify_one();
        let handle = Handle {
            mailbox: mailbox.clone(),
            task,
        };
        drivers.by_client_id.insert(client_id.clone(), handle);
        Ok(mailbox)
    }

    /// An ack of a client_id without a driver: nothing was delivered since the
    /// process started.
    fn answer_from_the_store(
        &self,
        client_id: &ClientId,
        revision: Revision,
    ) -> Result<Revision, AckError> {
        let record = self.surroundings.store.load(client_id);
        let record = record.map_err(AckError::LoadRecord)?;
        let record = record.ok_or(AckError::SubscriptionNotFound)?;
        record
            .checkpoint
            .filter(|&checkpoint| revision <= checkpoint)
            .ok_or(AckError::Refused(AckRefusal::NoSession))
    }

    /// How many client_ids take a place, or a few more: found without looking
    /// at all of them.
    fn places_at_most(&self, drivers: &mut Drivers) -> usize {
        let Drivers {
            by_client_id,
            unstored,
            removed,
            ..
        } = drivers;
        let store = &self.surroundings.store;
        unstored.retain(|client_id| {
            by_client_id.contains_key(client_id) && !matches!(store.load(client_id), Ok(Some(_)))
        });
        removed.retain(|client_id| by_client_id.contains_key(client_id));
        store.count() + unstored.len() + removed.len()
    }

    /// Every client_id that takes a place.
    fn client_ids_with(&self, drivers: &Drivers) -> BTreeSet<ClientId> {
        let mut client_ids = BTreeSet::from_iter(self.surroundings.store.client_ids());
        client_ids.extend(drivers.by_client_id.keys().cloned());
        client_ids
    }

    fn lock(&self) -> MutexGuard<'_, Drivers> {
        lock(&self.drivers)
    }
}

fn lock(drivers: &Mutex<Drivers>) -> MutexGuard<'_, Drivers> {
    // Every change under it is one insert or remove.
    drivers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since 1970: above every number that an earlier process of less
/// than a million sessions a second has given out, and below 2^53 until 2255.
fn unix_micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(1, |since| u64::try_from(since.as_micros()).unwrap_or(1))
}

/// The same for the same arguments.
fn hash(seed: u64, client_id: &ClientId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, client_id).hash(&mut hasher);
    hasher.finish()
}
