//! Where checkpoints live: one [`Record`] per subscription, durable before
//! anyone is told so. What every store promises is [`CheckpointStore`]'s; there
//! is one, on disk:
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
//! | `fault` | what a disk owes us, and what it does instead |
//! | `opening` | how these make a store that can be trusted |
//! | `committer` | the one thread that writes |
//! | `disk` | all that, as a [`CheckpointStore`] |
//!
//! Another store is a file of its own, a line in [`open`], what [`StoreConfig`]
//! then says of it, and its flag in `config::serve`.

#[cfg(any(test, fuzzing))]
pub mod any_bytes;
mod committer;
mod directory;
mod disk;
mod fault;
mod opening;
mod record;
mod rows;
mod sled;
mod witness;

pub use self::{
    disk::DiskStore,
    fault::{DiskSync, FdataSync},
    record::InvalidRecord,
};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{oneshot, watch};

use crate::{
    metrics,
    resume::{ClientId, Record},
};

/// Which store, and how it is opened: the types of its flags, which
/// `config::serve` has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--on-corrupt-store`.
    pub on_corrupt: OnCorruptStore,
}

/// What to do with a store that is damaged or older than what was answered.
/// Never applied to one that is locked, unreadable or of a newer format.
// What its values do is also their help on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum OnCorruptStore {
    /// Exit, and leave it as it is.
    #[default]
    Fail,
    /// Move it aside and start empty: every subscriber resyncs.
    Quarantine,
}

/// A store that can be trusted.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn CheckpointStore>,
    /// Where a corrupt one was moved to.
    pub quarantined: Option<PathBuf>,
}

/// Opens the store that `config` says; `metrics` is what is counted. Blocks.
///
/// # Errors
/// Why there is none. Nothing was overwritten.
pub fn open(config: &StoreConfig, metrics: metrics::Store) -> Result<Opened, StoreError> {
    // In full: so the compiler warns of a flag that goes nowhere.
    let StoreConfig {
        data_dir,
        on_corrupt,
    } = config;
    let store = DiskStore::open_measured(data_dir, *on_corrupt, metrics)?;
    Ok(Opened {
        quarantined: store.quarantined().map(Path::to_owned),
        store: Arc::new(store),
    })
}

/// Resolves once a change is durable, so that no crash or power cut takes it
/// back, or once that has failed. A store that was closed meanwhile drops the
/// sender; the change may or may not be there then.
pub type Committed = oneshot::Receiver<Result<(), StoreError>>;

/// After how long a change that met [`StoreError::Unavailable`] is worth repeating.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where the store is, as an operator says it.
const FLAG: &str = "--data-dir";

/// Why the store cannot do what it is asked.
///
/// Retry `Unavailable`: the store heals itself as soon as what it writes to lets it.
/// Give up on everything else: it needs a person, and nothing was overwritten.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// No writes are taken at present (a disk is full, or failing), or too
    /// many are waiting. The change may or may not be there after a restart.
    #[error(
        "checkpoint store in {path} ({FLAG}) cannot write: {cause}; make room there, \
         it is retried until it works"
    )]
    Unavailable {
        /// Where the store is.
        path: String,
        /// What stands in the way, as the disk says it.
        cause: String,
    },
    /// Another process has the store open.
    #[error(
        "checkpoint store in {path} ({FLAG}) is in use by another process: \
         stop that one, or give this one a {FLAG} of its own"
    )]
    Locked {
        /// Where the store is.
        path: String,
    },
    /// The operating system refuses to open or read it.
    #[error(
        "cannot open {path} of the checkpoint store ({FLAG}): {cause}; \
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
        "checkpoint store in {path} ({FLAG}) is corrupt: {cause}; restore it, \
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
        "checkpoint store in {path} ({FLAG}) has format {found}, this watchmark reads up \
         to {known}: run the newer one, or give this one a {FLAG} of its own"
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

/// What every store checks before it takes a record.
///
/// # Errors
/// What is impossible about it, for [`StoreError::Refused`].
pub fn check(record: &Record) -> Result<(), InvalidRecord> {
    record::check(record)
}

/// Keeps one record per subscription. Cheap to call from async code: nothing
/// here waits for what makes a change durable but the answers of `put` and
/// `remove`, and nothing else takes longer than looking into memory.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The record of one subscription as last made durable, or `None`. Serves
    /// while the store cannot write, too. A change whose answer is still
    /// awaited does not show yet.
    ///
    /// # Errors
    /// Why it cannot be read. One whose records are all in memory has none.
    fn load(&self, client_id: &ClientId) -> Result<Option<Record>, StoreError>;

    /// Every durable subscription, ordered by client_id.
    fn client_ids(&self) -> Vec<ClientId>;

    /// How many there are. Asked for at every subscription: without a copy of
    /// all client_ids.
    fn count(&self) -> usize;

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
