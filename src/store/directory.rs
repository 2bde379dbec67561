//! The store's directory: who may use it, what lies where, and how a corrupt
//! store is moved aside.
//!
//! ```text
//! <data-dir>/lock                          held while open
//! <data-dir>/checkpoints/witness           see witness.rs; also says the format
//! <data-dir>/checkpoints/tree/             sled's
//! <data-dir>/checkpoints/rehearsal/        a copy of tree, only while opening
//! <data-dir>/checkpoints.corrupt-<time>/   quarantined
//! ```
//!
//! `checkpoints` appears with its witness in one rename, and leaves in one:
//! no crash makes half a store.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{fault::Fault, witness::Witness};

/// How long a lock may take to come free after its owner is gone.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A data directory that is ours until dropped.
#[derive(Debug)]
pub(super) struct Directory {
    data_dir: PathBuf,
    /// The lock lasts as long as this is open.
    _lock: File,
}

impl Directory {
    /// Creates `data_dir` where it is missing, and locks it.
    pub(super) fn lock(data_dir: &Path) -> Result<Self, Fault> {
        fs::create_dir_all(data_dir).map_err(|err| Fault::io(data_dir, err))?;
        let path = data_dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|err| Fault::io(&path, err))?;
        wait_for_lock(&lock, &path)?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn witness(&self) -> PathBuf {
        self.store().join("witness")
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.store().join("tree")
    }

    pub(super) fn rehearsal(&self) -> PathBuf {
        self.store().join("rehearsal")
    }

    fn store(&self) -> PathBuf {
        self.data_dir.join("checkpoints")
    }

    /// Creates an empty store, unless there is one in whatever state.
    pub(super) fn create_store(&self) -> Result<(), Fault> {
        let store = self.store();
        if exists(&store)? {
            return Ok(());
        }
        let new = self.data_dir.join("checkpoints.new");
        remove_dir(&new)?;
        fs::create_dir(&new)
            .and_then(|()| Witness::create(&new.join("witness")))
            .and_then(|()| sync_dir(&new))
            .and_then(|()| fs::rename(&new, &store))
            .and_then(|()| sync_dir(&self.data_dir))
            .map_err(|err| Fault::io(&store, err))
    }

    /// Moves the store aside; says where to.
    pub(super) fn quarantine(&self) -> Result<PathBuf, Fault> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let now = now.replace(['-', ':'], "");
        // Bounded: a second one within a second is rare, a tenth is a loop.
        for attempt in 1..10 {
            let suffix = if attempt == 1 {
                String::new()
            } else {
                format!("-{attempt}")
            };
            let aside = self
                .data_dir
                .join(format!("checkpoints.corrupt-{now}{suffix}"));
            if exists(&aside)? {
                continue;
            }
            return fs::rename(self.store(), &aside)
                .and_then(|()| sync_dir(&self.data_dir))
                .map(|()| aside)
                .map_err(|err| Fault::io(self.store(), err));
        }
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(Fault::io(self.store(), source))
    }
}

/// Locks `file`. A lock outlives its owner for moments: sled gives its own
/// back from a background thread, and a fork holds it until it executes.
pub(super) fn wait_for_lock(file: &File, path: &Path) -> Result<(), Fault> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(Fault::Locked),
            Err(TryLockError::Error(err)) => return Err(Fault::io(path, err)),
        }
    }
}

/// Whether there is anything of this name. Unlike `Path::exists`, a refusal is no "no".
pub(super) fn exists(path: &Path) -> Result<bool, Fault> {
    path.try_exists().map_err(|err| Fault::io(path, err))
}

/// Removes a directory of ours, if it is there.
pub(super) fn remove_dir(path: &Path) -> Result<(), Fault> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Fault::io(path, err)),
        _ => Ok(()),
    }
}

/// Calls `visit` on every file below `path`, then on every directory.
pub(super) fn walk(
    path: &Path,
    visit: &mut dyn FnMut(&Path, bool) -> io::Result<()>,
) -> Result<(), Fault> {
    let at = |err| Fault::io(path, err);
    for entry in fs::read_dir(path).map_err(at)? {
        let entry = entry.map_err(at)?;
        let child = entry.path();
        if entry.file_type().map_err(at)?.is_dir() {
            walk(&child, visit)?;
        } else {
            visit(&child, false).map_err(|err| Fault::io(&child, err))?;
        }
    }
    visit(path, true).map_err(at)
}

/// Fails unless every file below `path` may be read and written.
pub(super) fn check_access(path: &Path) -> Result<(), Fault> {
    walk(path, &mut |path, is_dir| {
        if !is_dir {
            OpenOptions::new().read(true).write(true).open(path)?;
        }
        Ok(())
    })
}

/// Makes everything below `path` survive a power cut, names included.
pub(super) fn sync_all(path: &Path) -> Result<(), Fault> {
    walk(path, &mut |path, _| File::open(path)?.sync_all())
}

/// Copies the files below `from` into `to`, which must not exist.
pub(super) fn copy_dir(from: &Path, to: &Path) -> Result<(), Fault> {
    let mut files = Vec::new();
    let mut directories = Vec::new();
    walk(from, &mut |path, is_dir| {
        let list = if is_dir { &mut directories } else { &mut files };
        list.push(path.to_owned());
        Ok(())
    })?;
    let counterpart = |path: &Path| {
        path.strip_prefix(from)
            .map_or(to.into(), |rest| to.join(rest))
    };
    for directory in &directories {
        let copy = counterpart(directory);
        fs::create_dir_all(&copy).map_err(|err| Fault::io(&copy, err))?;
    }
    for file in &files {
        let copy = counterpart(file);
        fs::copy(file, &copy).map_err(|err| Fault::io(&copy, err))?;
    }
    Ok(())
}

/// Makes the names on the way to `tree` durable: a first start, or a
/// quarantine, may have been interrupted before it did so.
pub(super) fn sync_names(tree: &Path) -> Result<(), Fault> {
    for (above, folder) in tree.ancestors().skip(1).enumerate() {
        let is_here = folder.as_os_str().is_empty();
        let folder = if is_here { Path::new(".") } else { folder };
        match sync_dir(folder) {
            // The store and --data-dir are ours; what is above need not be.
            Err(err) if above < 2 => return Err(Fault::io(folder, err)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
