//! What operators ask for: to see subscriptions, to move them, to delete them.
//!
//! A subscription's task answers for it; one that does not answer in time is
//! shown as it is stored, so that nobody waits for it. Moves and deletions go
//! through the task as well, which is started if need be: so no other can begin
//! from the old record meanwhile.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::info;

use super::{Mail, OperationAnswer, Overview, Registry, Standing, SubscribeError};
use crate::{
    resume::{ClientId, OperationRefusal, Revision, SeekTo},
    store::StoreError,
    upstream::{EtcdStatus, Unanswered},
};

/// How long a task may take to describe its subscription: it does nothing that
/// waits, so this is for one that hangs.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long etcd may take to say whether a revision is in its history.
const STANDING_TIMEOUT: Duration = Duration::from_secs(5);

/// A move, made or only looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sought {
    /// The checkpoint before.
    pub previous: Option<Revision>,
    /// The checkpoint after; `None`: a snapshot comes first.
    pub checkpoint: Option<Revision>,
    /// Whether the next stream can begin there without a snapshot of another
    /// reason.
    pub standing: Standing,
}

/// Why an operator's call changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no such subscription.
    #[error("there is no such subscription")]
    NotFound,
    /// The process is stopping.
    #[error("watchmark is stopping")]
    Draining,
    /// The store could not be read, or not make it durable. Repeat the call.
    #[error("the store failed: {0}")]
    StoreFailed(String),
    /// etcd could not be asked whether the revision is in its history.
    #[error("etcd cannot be asked: {0}")]
    UpstreamUnavailable(String),
    /// Something after the revision is compacted.
    #[error("the revision is compacted")]
    Compacted {
        /// etcd's compact_revision, if known.
        compact_revision: Option<Revision>,
    },
    /// etcd has not reached the revision.
    #[error("the revision is in the future")]
    Future {
        /// etcd's newest revision, if known.
        head: Option<Revision>,
    },
    /// The checkpoint is from another history than etcd's present one.
    #[error("etcd's history is another one")]
    Replaced,
    /// The subscription's task stopped before it answered. Repeat the call.
    #[error("the subscription's task has stopped")]
    DriverStopped,
}

impl Registry {
    /// Every client_id, stored or only live, ordered.
    pub fn client_ids(&self) -> Vec<ClientId> {
        let drivers = self.lock();
        self.client_ids_with(&drivers).into_iter().collect()
    }

    /// How many subscriptions there are, and how many there may be.
    pub fn subscription_count(&self) -> (usize, usize) {
        (self.client_ids().len(), self.subscriptions_max)
    }

    /// Every subscription, ordered by client_id: as its task says, or as it is
    /// stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn overviews(&self) -> Result<Vec<Overview>, StoreError> {
        self.overviews_of(&self.client_ids()).await
    }

    /// Those of `client_ids` that exist, in the same order.
    ///
    /// # Errors
    /// The store's.
    pub async fn overviews_of(&self, client_ids: &[ClientId]) -> Result<Vec<Overview>, StoreError> {
        let overviews = join_all(client_ids.iter().map(|client_id| self.overview(client_id))).await;
        overviews
            .into_iter()
            .filter_map(Result::transpose)
            .collect()
    }

    /// One subscription; `None`: there is no such one.
    ///
    /// # Errors
    /// The store's.
    pub async fn overview(&self, client_id: &ClientId) -> Result<Option<Overview>, StoreError> {
        if let Some(mailbox) = self.running_mailbox_of(client_id)
            && let Some(described) = describe(mailbox).await
        {
            return Ok(described);
        }
        let record = self.surroundings.store.load(client_id)?;
        Ok(record.map(|record| Overview::stored(client_id.clone(), record, self.started_at())))
    }

    /// When the process started, or a little later.
    pub fn started_at(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.surroundings.origin.elapsed())
            .unwrap_or(now)
    }

    /// Whether positions can be made durable at this moment.
    pub fn is_store_ready(&self) -> bool {
        self.surroundings.store.is_ready()
    }

    /// What is known of etcd.
    pub fn etcd_status(&self) -> EtcdStatus {
        self.surroundings.upstream.status()
    }

    /// Moves the checkpoint; with `dry_run` only says what would be. A live
    /// stream ends.
    ///
    /// # Errors
    /// See [`OperationError`]; the position has not changed then.
    pub async fn seek(
        &self,
        client_id: &ClientId,
        to: SeekTo,
        dry_run: bool,
    ) -> Result<Sought, OperationError> {
        let overview = self.overview(client_id).await?;
        let overview = overview.ok_or(OperationError::NotFound)?;
        let (checkpoint, (standing, header)) = match to {
            SeekTo::Snapshot => (None, (Standing::Resumable, None)),
            SeekTo::Revision(revision) => {
                let record = overview.record.as_ref();
                let asked = self.standing_from(record, &overview.selection.range, revision);
                let answer = timeout(STANDING_TIMEOUT, asked).await.map_err(|_| {
                    OperationError::UpstreamUnavailable(format!(
                        "no answer within {STANDING_TIMEOUT:?}"
                    ))
                })?;
                (Some(revision), answer?)
            }
        };
        let sought = |previous| Sought {
            previous,
            checkpoint,
            standing,
        };
        if dry_run {
            return Ok(sought(overview.record.and_then(|record| record.checkpoint)));
        }
        match standing {
            Standing::Resumable => {}
            Standing::Compacted { compact_revision } => {
                return Err(OperationError::Compacted { compact_revision });
            }
            Standing::Future { head } => return Err(OperationError::Future { head }),
            Standing::Replaced => return Err(OperationError::Replaced),
        }
        let previous = self
            .operate(client_id, |answer| Mail::Seek { to, header, answer })
            .await?;
        info!(
            %client_id,
            previous = Revision::to_wire(previous),
            checkpoint = Revision::to_wire(checkpoint),
            "an operator moved the subscription"
        );
        Ok(sought(previous))
    }

    /// Forgets a subscription, and returns its checkpoint. A live stream ends.
    ///
    /// # Errors
    /// See [`OperationError`]; the subscription is still there then, unless it
    /// is `NotFound`.
    pub async fn delete(&self, client_id: &ClientId) -> Result<Option<Revision>, OperationError> {
        let checkpoint = self
            .operate(client_id, |answer| Mail::Delete { answer })
            .await?;
        info!(
            %client_id,
            checkpoint = Revision::to_wire(checkpoint),
            "an operator deleted the subscription"
        );
        Ok(checkpoint)
    }

    /// Has the client_id's task do it, and waits until it is durable.
    async fn operate(
        &self,
        client_id: &ClientId,
        mail: impl FnOnce(OperationAnswer) -> Mail,
    ) -> Result<Option<Revision>, OperationError> {
        if self.running_mailbox_of(client_id).is_none()
            && self.surroundings.store.load(client_id)?.is_none()
        {
            return Err(OperationError::NotFound);
        }
        let (answer, answered) = oneshot::channel();
        self.post(client_id, Box::new(mail(answer))).await?;
        let answer = answered.await.map_err(|_| OperationError::DriverStopped)?;
        answer.map_err(|refusal| match refusal {
            OperationRefusal::NotFound => OperationError::NotFound,
            OperationRefusal::StoreFailed(failed) => OperationError::StoreFailed(failed.0),
        })
    }
}

/// What the task says of its subscription; `None`: it does not say anything.
async fn describe(mailbox: mpsc::Sender<Box<Mail>>) -> Option<Option<Overview>> {
    let asked = async {
        let (answer, answered) = oneshot::channel();
        let mail = Box::new(Mail::Describe { answer });
        mailbox.send(mail).await.ok()?;
        // Who waits for an answer does not hold up a task that ends.
        drop(mailbox);
        answered.await.ok()
    };
    timeout(DESCRIBE_TIMEOUT, asked).await.ok().flatten()
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        Self::StoreFailed(error.to_string())
    }
}

impl From<Unanswered> for OperationError {
    fn from(unanswered: Unanswered) -> Self {
        Self::UpstreamUnavailable(unanswered.0)
    }
}

impl From<SubscribeError> for OperationError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Draining => Self::Draining,
            // Only of what is not there any more.
            SubscribeError::TooManySubscriptions { .. } => Self::NotFound,
            SubscribeError::LoadRecord(error) => error.into(),
            SubscribeError::DriverStopped => Self::DriverStopped,
        }
    }
}
