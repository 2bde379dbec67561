//! Where checkpoints live.

use crate::resume::{ClientId, Record};
use tokio::sync::oneshot;

/// Why the store cannot do what it is asked.
///
/// `Unavailable` may pass (a full disk); everything else needs a person.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A write did not become durable; it may be repeated.
    #[error("checkpoint store in {path} cannot write: {cause}")]
    Unavailable {
        /// `--data-dir`.
        path: String,
        /// What the disk said.
        cause: String,
    },
}

/// Keeps one record per subscription.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The record of one subscription, as last made durable or accepted.
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError>;

    /// Every stored subscription, ordered by client_id.
    fn client_ids(&self) -> Vec<ClientId>;

    /// Stores a record. The receiver resolves once it is on disk, so that no
    /// crash or power cut takes it back, or once that has failed. Calls for one
    /// client_id become durable in the order made.
    fn put(
        &self,
        client_id: &ClientId,
        record: Record,
    ) -> oneshot::Receiver<Result<(), StoreError>>;
}
