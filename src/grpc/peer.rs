//! Who is at the other end of a connection. Whoever accepts connections says
//! it of each; every call on it carries it in its extensions.

use std::{fmt, net::SocketAddr, sync::Arc};

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    /// What its certificate, signed by one of `--tls-client-ca-file`, calls it:
    /// the DNS names and URIs of its subject alternative names. `None`: it
    /// showed none.
    pub identities: Option<Arc<[String]>>,
    /// It is one connection too many: its calls are answered with that alone.
    pub excess: Option<ConnectionLimit>,
}

/// A limit that a connection exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionLimit {
    /// `--max-connections`, and its value.
    Total(usize),
    /// `--max-connections-per-peer`, and its value.
    PerPeer(usize),
}

impl Peer {
    /// On this host: by loopback, or a Unix socket.
    pub fn is_local(&self) -> bool {
        self.address
            .is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

impl ConnectionLimit {
    /// The flag that sets it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Total(_) => "--max-connections",
            Self::PerPeer(_) => "--max-connections-per-peer",
        }
    }

    /// What it is set to.
    pub const fn max(self) -> usize {
        match self {
            Self::Total(max) | Self::PerPeer(max) => max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_any_form_and_unix_sockets_are_local_and_nothing_else_is() {
        let tcp = |address: &str| Peer {
            address: Some(address.parse().unwrap()),
            ..Peer::default()
        };
        for local in [
            "127.0.0.1:5",
            "127.9.9.9:5",
            "[::1]:5",
            "[::ffff:127.0.0.1]:5",
        ] {
            assert!(tcp(local).is_local(), "{local}");
        }
        for remote in [
            "10.1.2.3:5",
            "[fe80::1]:5",
            "[::ffff:10.1.2.3]:5",
            "0.0.0.0:5",
        ] {
            assert!(!tcp(remote).is_local(), "{remote}");
        }
        assert!(Peer::default().is_local());
        assert_eq!(tcp("10.1.2.3:5555").to_string(), "10.1.2.3:5555");
        assert_eq!(Peer::default().to_string(), "unix");
    }
}
