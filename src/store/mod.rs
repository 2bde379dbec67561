//! Where checkpoints live: one [`Record`] per subscription, on disk before
//! anyone is told so.
//!
//! ```text
//! put --bounded queue--> committer thread --group--> sled, fdatasync --> witness, fdatasync --> answer
//! load <-- records in memory, exactly the durable ones
//! ```
//!
//! Refuses to start fresh when it should not: a store that lost what it once
//! answered is an error ([`StoreError::Corrupt`]), never an empty store.
//!
//! | file | owns |
//! |---|---|
//! | `record` | what a record looks like on disk, and which ones are impossible |
//! | `rows` | how records lie in the tree, and how its content is verified |
//! | `witness` | the proof beside the tree of what was answered |
//! | `sled` | the tree itself |
//! | `directory` | lock, layout, quarantine |
//! | `opening` | how these make a store that can be trusted |
//! | `committer` | the one thread that writes |
//! | `disk`, `memory` | the two [`CheckpointStore`]s |

#[cfg(any(test, fuzzing))]
pub mod any_bytes;
mod committer;
mod directory;
mod disk;
mod memory;
mod opening;
mod record;
mod rows;
mod sled;
mod witness;

pub use self::{
    directory::{DiskSync, FdataSync},
    disk::{DiskStore, OnCorruptStore},
    memory::MemoryStore,
    record::InvalidRecord,
};

use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};

use crate::resume::{ClientId, Record};

/// Resolves once a change is on disk, so that no crash or power cut takes it
/// back, or once that has failed. A store that was closed meanwhile drops the
/// sender; the change may or may not be there then.
pub type Committed = oneshot::Receiver<Result<(), StoreError>>;

/// After how long a change that met [`StoreError::Unavailable`] is worth repeating.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the store cannot do what it is asked.
///
/// Retry `Unavailable`: the store heals itself as soon as the disk lets it.
/// Give up on everything else: it needs a person, and nothing was overwritten.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk takes no writes at present (it is full, or failing), or too
    /// many are waiting. The change may or may not be there after a restart.
    #[error(
        "checkpoint store in {path} (--data-dir) cannot write: {cause}; make room there, \
         it is retried until it works"
    )]
    Unavailable {
        /// Where the store is.
        path: String,
        /// What the disk said.
        cause: String,
    },
    /// Another process has the store open.
    #[error(
        "checkpoint store in {path} (--data-dir) is in use by another process: \
         stop that one, or give this one a --data-dir of its own"
    )]
    Locked {
        /// Where the store is.
        path: String,
    },
    /// The operating system refuses to open or read it.
    #[error(
        "cannot open {path} of the checkpoint store (--data-dir): {cause}; \
         check that the path, its owner and its permissions are right"
    )]
    Unreadable {
        /// The file or directory.
        path: String,
        /// What the operating system said.
        cause: String,
    },
    /// The content is damaged, or older than what was answered.
    #[error(
        "checkpoint store in {path} (--data-dir) is corrupt: {cause}; restore it, \
         or start with --on-corrupt-store=quarantine, which moves it aside so that every \
         subscription begins again with a snapshot"
    )]
    Corrupt {
        /// The file or directory.
        path: String,
        /// What does not fit.
        cause: String,
    },
    /// A newer watchmark wrote it.
    #[error(
        "checkpoint store in {path} (--data-dir) has format {found}, this watchmark reads up \
         to {known}: run the newer one, or give this one a --data-dir of its own"
    )]
    NewerFormat {
        /// Where the store is.
        path: String,
        /// Of the store.
        found: u32,
        /// The newest readable one.
        known: u32,
    },
    /// The record contradicts itself, so it was not stored: a defect of watchmark.
    #[error("refused to store a record of {client_id}: {cause}")]
    Refused {
        /// Whose record.
        client_id: ClientId,
        /// What is impossible about it.
        cause: InvalidRecord,
    },
}

impl StoreError {
    /// Whether repeating the call later may help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Keeps one record per subscription. Cheap to call from async code: nothing
/// here waits for the disk but the answers of `put` and `remove`.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The record of one subscription as last made durable, or `None`. Serves
    /// while the store cannot write, too. A change whose answer is still
    /// awaited does not show yet.
    ///
    /// # Errors
    /// Where reading takes more than memory, what the disk said.
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError>;

    /// Every durable subscription, ordered by client_id.
    fn client_ids(&self) -> Vec<ClientId>;

    /// How many there are.
    fn count(&self) -> usize {
        self.client_ids().len()
    }

    /// Stores a record. Changes of one client_id become durable in the order
    /// made; a later one's answer implies the earlier ones. Dropping the
    /// receiver does not take the change back. Never blocks: when too many
    /// changes wait, the answer is [`StoreError::Unavailable`] at once.
    fn put(&self, client_id: &ClientId, record: Record) -> Committed;

    /// Forgets a subscription, like a `put` in every other respect. Removing
    /// what is not there succeeds.
    fn remove(&self, client_id: &ClientId) -> Committed;

    /// Whether changes are being accepted; follows every change of that.
    fn readiness(&self) -> watch::Receiver<bool>;

    /// Whether it may heal by itself. `false`: only a restart helps.
    fn is_alive(&self) -> bool {
        true
    }

    /// Why changes are not being accepted, and since when.
    fn trouble(&self) -> Option<(StoreError, SystemTime)> {
        None
    }

    /// Whether changes are being accepted at this moment.
    fn is_ready(&self) -> bool {
        *self.readiness().borrow()
    }
}
