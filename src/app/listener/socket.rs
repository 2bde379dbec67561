//! One socket that is listened on.
//!
//! Invariant: a socket file is removed only when nobody listens on it, or by
//! the one that made it.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as BlockingUnixStream,
    },
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Listen;

/// The application's user and group may connect.
pub(super) const SOCKET_MODE: u32 = 0o660;

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// What came in.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Removes the file when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Listener {
    pub(super) async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                let file = SocketFile(path.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// What is listened on; port 0 is replaced by the one that was given.
    pub(super) fn address(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Self::Unix(_, file) => Some(Listen::Unix(file.0.clone())),
        }
    }

    /// The next connection; polling it wakes this task.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                // Fails only on a connection that is gone, as reading will find.
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream, address))
            }
            Self::Unix(listener, _) => Ok(Accepted::Unix(ready!(listener.poll_accept(cx))?.0)),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nothing depends on it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what a killed process left behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("the path exists and is no socket"));
        }
        Ok(_) => {}
    }
    match BlockingUnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}
