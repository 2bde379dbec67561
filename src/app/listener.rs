//! The sockets that applications connect to: loopback TCP and Unix sockets, as
//! one stream of connections that also counts them.
//!
//! Invariant: a socket file is removed only when nobody listens on it, or by
//! the one that made it.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as BlockingUnixStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    time::Sleep,
};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::config::Listen;

/// The application's user and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// How long to wait when a connection cannot be accepted: the usual cause, no
/// free file descriptor, passes only when others close theirs.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("--listen {listen}: {problem}")]
pub struct ListenError {
    listen: Listen,
    problem: String,
}

/// Every connection to any of our sockets. Never ends.
#[derive(Debug)]
pub struct Connections {
    listeners: Vec<Listener>,
    open: watch::Sender<usize>,
    pause: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removes the file when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    open: watch::Sender<usize>,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None`: a Unix socket.
    pub address: Option<SocketAddr>,
}

impl Connections {
    /// Binds every socket, or none.
    ///
    /// # Errors
    /// When one is in use, or may not or cannot be made.
    pub async fn bind(sockets: &[Listen]) -> Result<Self, ListenError> {
        let mut listeners = Vec::with_capacity(sockets.len());
        for listen in sockets {
            let listener = bind(listen).await.map_err(|error| ListenError {
                listen: listen.clone(),
                problem: match error.kind() {
                    io::ErrorKind::AddrInUse => "the address is in use already".to_owned(),
                    _ => error.to_string(),
                },
            })?;
            listeners.push(listener);
        }
        Ok(Self {
            listeners,
            open: watch::Sender::new(0),
            pause: None,
        })
    }

    /// What is listened on; port 0 is replaced by the one that was given.
    pub fn addresses(&self) -> Vec<Listen> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Listener::Unix(_, file) => Some(Listen::Unix(file.0.clone())),
        };
        self.listeners.iter().filter_map(address).collect()
    }

    /// How many connections are open, as it changes.
    pub fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }
}

async fn bind(listen: &Listen) -> io::Result<Listener> {
    match listen {
        Listen::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
        Listen::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            let file = SocketFile(path.clone());
            fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
            Ok(Listener::Unix(listener, file))
        }
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

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nothing depends on it.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Io>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                // Fails only on a connection that is gone, as reading will find.
                let _ = stream.set_nodelay(true);
                Ok(Io::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Io::Unix(ready!(listener.poll_accept(cx))?.0)),
        })
    }
}

impl Stream for Connections {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let accepted = self
                .listeners
                .iter()
                .map(|listener| listener.poll_accept(cx))
                .find(Poll::is_ready);
            match accepted {
                Some(Poll::Ready(Ok(io))) => {
                    self.open.send_modify(|open| *open += 1);
                    let open = self.open.clone();
                    return Poll::Ready(Some(Ok(Connection { io, open })));
                }
                Some(Poll::Ready(Err(error))) => {
                    warn!(%error, "cannot accept a connection");
                    // Kept, and polled above: what is dropped wakes nobody.
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_RETRY_AFTER)));
                }
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            address: match &self.io {
                Io::Tcp(stream) => stream.peer_addr().ok(),
                Io::Unix(_) => None,
            },
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_but_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchmark.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind, as by kill -9");
        let listen = [Listen::Unix(path.clone())];

        let first = Connections::bind(&listen).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let second = Connections::bind(&listen).await.unwrap_err().to_string();
        assert!(
            second.contains("--listen") && second.contains("in use"),
            "{second}"
        );

        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let refused = Connections::bind(&[Listen::Unix(path.clone())]).await;
        assert!(refused.unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn connections_of_every_socket_come_in_and_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchmark.sock");
        let loopback = "127.0.0.1:0".parse().unwrap();
        let sockets = [Listen::Tcp(loopback), Listen::Unix(path.clone())];
        let mut connections = Connections::bind(&sockets).await.unwrap();
        let open = connections.open();
        let [Listen::Tcp(address), Listen::Unix(_)] = connections.addresses()[..] else {
            panic!("{:?}", connections.addresses());
        };

        let _unix = UnixStream::connect(&path).await.unwrap();
        let Ok(first) = connections.next().await.unwrap();
        assert!(first.connect_info().address.is_none());
        let _tcp = TcpStream::connect(address).await.unwrap();
        let Ok(second) = connections.next().await.unwrap();
        assert!(second.connect_info().address.is_some());
        assert_eq!(*open.borrow(), 2);
        drop((first, second));
        assert_eq!(*open.borrow(), 0);
    }
}
