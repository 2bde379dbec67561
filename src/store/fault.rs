//! What a disk owes us, and what it can do to us instead.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::StoreError;

/// Makes a file's content survive a power cut.
///
/// A seam for tests: anything that syncs less than [`FdataSync`] breaks the
/// promise of a durable answer.
pub trait DiskSync: Send + Sync + fmt::Debug + 'static {
    /// Returns once everything written to `file` is on disk.
    ///
    /// # Errors
    /// What the disk said; the content is in doubt then.
    fn sync_data(&self, file: &File) -> io::Result<()>;
}

/// fdatasync(2).
#[derive(Clone, Copy, Debug)]
pub struct FdataSync;

impl DiskSync for FdataSync {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// What can be wrong, told apart by what is to be done.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another process has it.
    Locked,
    /// The system refused. Says nothing about the content.
    Io { path: PathBuf, source: io::Error },
    /// The content is wrong.
    Corrupt { path: PathBuf, cause: String },
    /// The content is beyond us.
    Newer { found: u32, known: u32 },
}

impl Fault {
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(super) fn corrupt(path: impl Into<PathBuf>, cause: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.into(),
            cause: cause.into(),
        }
    }

    /// As met while opening.
    pub(super) fn into_error(self, data_dir: &Path) -> StoreError {
        use io::ErrorKind as Kind;
        let show = |path: &Path| path.display().to_string();
        match self {
            Self::Locked => StoreError::Locked {
                path: show(data_dir),
            },
            Self::Io { path, source } => match source.kind() {
                Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                    StoreError::Unavailable {
                        path: show(data_dir),
                        cause: format!("{}: {source}", path.display()),
                    }
                }
                _ => StoreError::Unreadable {
                    path: show(&path),
                    cause: source.to_string(),
                },
            },
            Self::Corrupt { path, cause } => StoreError::Corrupt {
                path: show(&path),
                cause,
            },
            Self::Newer { found, known } => StoreError::NewerFormat {
                path: show(data_dir),
                found,
                known,
            },
        }
    }
}
