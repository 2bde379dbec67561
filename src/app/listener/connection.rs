//! One connection, as the gRPC server reads and writes it.
//!
//! HTTP/2 looks after those that speak it (keep-alive, in `grpc`). Here is
//! what it cannot see: who connects and says nothing, and who takes nothing,
//! does not stay.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::admission::Place;
use crate::grpc::Peer;

/// What every HTTP/2 client sends first, at once (RFC 9113, 3.4).
const PREFACE_BYTES: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// How long that may take, on a bad network too.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection too many is told so.
const EXCESS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer may take nothing at all. HTTP/2's keep-alive does not help
/// there: its question, and its farewell, are written like anything else. As
/// long as that takes to find a peer that is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
    deadline: Option<Deadline>,
    /// When writing fails, while there is no room.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

#[derive(Debug)]
pub(super) enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// When reading fails; a connection that is one too many does not outlive it.
#[derive(Debug)]
struct Deadline {
    sleep: Pin<Box<Sleep>>,
    /// Of the preface.
    missing_bytes: usize,
}

impl Connection {
    /// `names`: what the client's certificate calls it, if it showed one.
    pub(super) fn new(
        io: Io,
        address: Option<SocketAddr>,
        names: Option<Vec<String>>,
        place: Place,
    ) -> Self {
        let timeout = match place.excess() {
            None => PREFACE_TIMEOUT,
            Some(_) => EXCESS_TIMEOUT,
        };
        Self {
            io,
            peer: Peer {
                address,
                identities: names.map(Into::into),
                excess: place.excess(),
            },
            deadline: Some(Deadline {
                sleep: Box::pin(tokio::time::sleep(timeout)),
                missing_bytes: PREFACE_BYTES,
            }),
            stalled: None,
            _place: place,
        }
    }

    /// `written`, or an error once it has been pending for too long.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let timeout = tokio::time::sleep(WRITE_TIMEOUT);
            Box::pin(timeout)
        });
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn note_read(&mut self, bytes: usize) {
        if let Some(deadline) = &mut self.deadline {
            deadline.missing_bytes = deadline.missing_bytes.saturating_sub(bytes);
            if deadline.missing_bytes == 0 && self.peer.excess.is_none() {
                self.deadline = None;
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline
            && deadline.sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(match &mut this.io {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        this.note_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.in_time(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        self.in_time(cx, written)
    }
}
