//! The sockets that applications connect to, as one stream of connections:
//! counted, bounded, and through with TLS where that is spoken.

mod admission;
mod connection;
mod socket;
mod throttle;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::Sleep};
use tracing::{debug, warn};

pub use self::connection::Connection;
use self::{
    admission::{Admission, Place},
    connection::Io,
    socket::{Accepted, Listener},
    throttle::Throttle,
};
use super::tls::{self, Tls};
use crate::config::{ConnectionLimits, Listen};

/// How long to wait when a connection cannot be accepted: the usual cause, no
/// free file descriptor, passes only when others close theirs.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A handshake is two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    tls: Option<Tls>,
    /// Each holds a place, so there are no more than connections: with a limit
    /// of their own, a few peers that say nothing would keep everybody out.
    handshakes: JoinSet<Option<Connection>>,
    admission: Arc<Admission>,
    pause: Option<Pin<Box<Sleep>>>,
    throttle: Arc<Throttle>,
}

impl Connections {
    /// Binds every socket, or none. `tls`: on every TCP port.
    ///
    /// # Errors
    /// When one is in use, or may not or cannot be made.
    pub async fn bind(
        sockets: &[Listen],
        limits: ConnectionLimits,
        tls: Option<Tls>,
    ) -> Result<Self, ListenError> {
        let mut listeners = Vec::with_capacity(sockets.len());
        for listen in sockets {
            let listener = Listener::bind(listen).await.map_err(|error| ListenError {
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
            tls,
            handshakes: JoinSet::new(),
            admission: Admission::new(limits),
            pause: None,
            throttle: Arc::default(),
        })
    }

    /// What is listened on; port 0 is replaced by the one that was given.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listeners
            .iter()
            .filter_map(Listener::address)
            .collect()
    }

    /// How many connections are open, as it changes.
    pub fn open(&self) -> watch::Receiver<usize> {
        self.admission.open()
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let mut polled = self.listeners.iter().map(|it| it.poll_accept(cx));
        polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
    }

    /// A connection that is ready to be served; `None`: it is closed, or not
    /// through with TLS.
    fn take_in(&mut self, accepted: Accepted) -> Option<Connection> {
        let address = match &accepted {
            Accepted::Tcp(_, address) => Some(*address),
            Accepted::Unix(_) => None,
        };
        let place = match self.admission.admit(address.map(|address| address.ip())) {
            Ok(place) => place,
            Err(limit) => {
                self.complain_of_excess(limit.flag());
                return None;
            }
        };
        if let Some(limit) = place.excess() {
            self.complain_of_excess(limit.flag());
        }
        match (accepted, &self.tls) {
            (Accepted::Unix(stream), _) => {
                Some(Connection::new(Io::Unix(stream), None, None, place))
            }
            (Accepted::Tcp(stream, address), None) => {
                Some(Connection::new(Io::Tcp(stream), Some(address), None, place))
            }
            (Accepted::Tcp(stream, address), Some(tls)) => {
                let throttle = Arc::clone(&self.throttle);
                let handshake = shake_hands(tls.clone(), stream, address, place, throttle);
                self.handshakes.spawn(handshake);
                None
            }
        }
    }

    fn complain_of_excess(&self, flag: &str) {
        if let Some(unsaid) = self.throttle.pass(flag) {
            warn!(flag, unsaid, "too many connections: new ones are refused");
        }
    }
}

async fn shake_hands(
    tls: Tls,
    stream: TcpStream,
    address: SocketAddr,
    place: Place,
    throttle: Arc<Throttle>,
) -> Option<Connection> {
    let problem = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok((stream, names))) => {
            let io = Io::Tls(Box::new(stream));
            return Some(Connection::new(io, Some(address), names, place));
        }
        // A probe, or a client that changed its mind.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            debug!(peer = %address, "connection closed before TLS was spoken");
            return None;
        }
        Ok(Err(error)) => tls::in_words(&error),
        Err(_) => "it took too long".to_owned(),
    };
    if let Some(unsaid) = throttle.pass(&problem) {
        warn!(peer = %address, problem, unsaid, "TLS handshake failed");
    }
    None
}

impl Stream for Connections {
    type Item = Connection;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(cx) {
                if let Ok(Some(connection)) = ended {
                    return Poll::Ready(Some(connection));
                }
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.poll_accept(cx)) {
                Ok(accepted) => {
                    if let Some(connection) = self.take_in(accepted) {
                        return Poll::Ready(Some(connection));
                    }
                }
                Err(error) => {
                    if let Some(unsaid) = self.throttle.pass(&error.to_string()) {
                        warn!(%error, unsaid, "cannot accept a connection");
                    }
                    // Kept, and polled above: what is dropped wakes nobody.
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_RETRY_AFTER)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use futures_util::StreamExt;
    use tokio::net::{TcpStream, UnixStream};
    use tonic::transport::server::Connected;

    use super::{socket::SOCKET_MODE, *};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        total: 10,
        per_peer: 10,
    };

    #[tokio::test]
    async fn a_stale_socket_is_replaced_but_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchmark.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind, as by kill -9");
        let listen = [Listen::Unix(path.clone())];

        let first = Connections::bind(&listen, LIMITS, None).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let second = Connections::bind(&listen, LIMITS, None)
            .await
            .unwrap_err()
            .to_string();
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
        let refused = Connections::bind(&[Listen::Unix(path.clone())], LIMITS, None).await;
        assert!(refused.unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn connections_of_every_socket_come_in_and_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchmark.sock");
        let loopback = "127.0.0.1:0".parse().unwrap();
        let sockets = [Listen::Tcp(loopback), Listen::Unix(path.clone())];
        let mut connections = Connections::bind(&sockets, LIMITS, None).await.unwrap();
        let open = connections.open();
        let [Listen::Tcp(address), Listen::Unix(_)] = connections.addresses()[..] else {
            panic!("{:?}", connections.addresses());
        };

        let _unix = UnixStream::connect(&path).await.unwrap();
        let first = connections.next().await.unwrap();
        assert!(first.connect_info().address.is_none());
        let _tcp = TcpStream::connect(address).await.unwrap();
        let second = connections.next().await.unwrap();
        assert!(second.connect_info().address.is_some());
        assert_eq!(*open.borrow(), 2);
        drop((first, second));
        assert_eq!(*open.borrow(), 0);
    }
}
