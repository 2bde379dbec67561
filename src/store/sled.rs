//! The tree: sled 0.34.7, and everything that one must know about it.
//!
//! - `flush` does not survive a power cut: it leaves out the fsync. So every
//!   write ends with an fdatasync of our own.
//! - `flush_async` deadlocks from 7 callers on: never used.
//! - A failed write poisons the open tree for ever: drop it and open it again.
//! - A damaged file opens as an older or an empty tree, or panics. Panics
//!   become [`Fault::Corrupt`] here; the rest is for `rows` and `witness` to
//!   notice. The build must therefore unwind.
//! - Opening repairs and so overwrites: show it a copy of what may be corrupt.
//! - It reads a snapshot that a crash or a full disk left half written as if it
//!   were the newest, and refuses to open: removed here before it looks.

use std::{
    fs::{self, File, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use ::sled::{Batch, Config, Db, Error, Mode};

use super::{
    fault::{DiskSync, Fault},
    rows::{Row, RowChange},
};

/// Small, since a sled file is a whole number of segments: 0.4 MB for 1,000
/// records instead of 2.5. Fixed for the life of a store.
const SEGMENT_BYTES: usize = 64 * 1024;
/// Records are read from memory of our own, so this holds pages being written.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Within the tree's directory: the log that holds everything.
pub(super) const DB_FILE: &str = "db";
/// Of a snapshot that is not yet synced and renamed. The one before it is
/// removed only after that, so nothing depends on this one.
const UNFINISHED: &str = "generating";

/// An open tree.
pub(super) struct Tree {
    path: PathBuf,
    db: Db,
    file: File,
    sync: Arc<dyn DiskSync>,
}

impl Tree {
    /// Opens or creates the tree in `path`. Repairs, and so overwrites.
    pub(super) fn open(path: &Path, sync: Arc<dyn DiskSync>) -> Result<Self, Fault> {
        let config = Config::new()
            .path(path)
            .mode(Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None);
        remove_unfinished_snapshots(path)?;
        let db = guarded(path, || config.open())?;
        let db_path = path.join(DB_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&db_path)
            .map_err(|err| Fault::io(&db_path, err))?;
        Ok(Self {
            path: path.to_owned(),
            db,
            file,
            sync,
        })
    }

    /// All rows, in key order.
    pub(super) fn rows(&self) -> Result<Vec<Row>, Fault> {
        guarded(&self.path, || {
            self.db
                .iter()
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// Applies `rows` atomically and makes them durable.
    pub(super) fn write(&self, rows: &[RowChange]) -> Result<(), Fault> {
        guarded(&self.path, || {
            match rows {
                // Atomic without a batch, and one write less.
                [(key, Some(value))] => drop(self.db.insert(key, &value[..])?),
                _ => self.db.apply_batch(batch(rows))?,
            }
            self.db.flush()
        })?;
        self.sync
            .sync_data(&self.file)
            .map_err(|err| Fault::io(self.path.join(DB_FILE), err))
    }

    /// Gives the files back, even if sled panics over it.
    pub(super) fn close(self) {
        let path = self.path;
        let db = self.db;
        // Everything answered is durable already; there is nothing to lose.
        let _ = guarded(&path, move || {
            drop(db);
            Ok(())
        });
    }
}

fn remove_unfinished_snapshots(path: &Path) -> Result<(), Fault> {
    for entry in fs::read_dir(path).map_err(|err| Fault::io(path, err))? {
        let file = entry.map_err(|err| Fault::io(path, err))?.path();
        if file.extension().is_some_and(|it| it == UNFINISHED) {
            fs::remove_file(&file).map_err(|err| Fault::io(&file, err))?;
        }
    }
    Ok(())
}

fn batch(rows: &[RowChange]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in rows {
        match value {
            Some(value) => batch.insert(&key[..], &value[..]),
            None => batch.remove(&key[..]),
        }
    }
    batch
}

/// Runs sled where it may panic.
fn guarded<T>(path: &Path, run: impl FnOnce() -> ::sled::Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(err)) => Err(fault(path, err)),
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            let what = what.unwrap_or("for no stated reason");
            Err(Fault::corrupt(path, format!("sled panicked: {what}")))
        }
    }
}

/// sled reports a lock, a full disk and damage alike as I/O errors, some of
/// its own making: only what the operating system says of the environment is
/// not damage.
fn fault(path: &Path, err: Error) -> Fault {
    use io::ErrorKind as Kind;
    let Error::Io(err) = err else {
        return Fault::corrupt(path, err.to_string());
    };
    if err.to_string().contains("could not acquire lock") {
        return Fault::Locked;
    }
    let of_the_file = matches!(
        err.kind(),
        Kind::NotFound | Kind::UnexpectedEof | Kind::InvalidData | Kind::InvalidInput
    );
    let of_the_system = err.raw_os_error().is_some()
        || matches!(
            err.kind(),
            Kind::StorageFull
                | Kind::QuotaExceeded
                | Kind::FileTooLarge
                | Kind::PermissionDenied
                | Kind::ReadOnlyFilesystem
                | Kind::OutOfMemory
        );
    if of_the_system && !of_the_file {
        Fault::io(path, err)
    } else {
        Fault::corrupt(path, err.to_string())
    }
}
