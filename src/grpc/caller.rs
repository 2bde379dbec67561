//! Who calls, as far as the connection tells: for what an operator sees, and
//! for what only the own host may do.

use std::net::SocketAddr;

use tonic::Request;

/// A request extension: every port of ours puts it into the requests it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// An address and port, or `unix`.
    pub peer: String,
    /// On this host: by loopback, or a Unix socket.
    pub is_local: bool,
}

impl Caller {
    /// By TCP.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            peer: address.to_string(),
            is_local: address.ip().to_canonical().is_loopback(),
        }
    }

    /// By a Unix socket.
    pub fn unix() -> Self {
        Self {
            peer: "unix".to_owned(),
            is_local: true,
        }
    }

    /// Whoever sent `request`; from nowhere near, if the port did not say.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(|| Self {
            peer: "unknown".to_owned(),
            is_local: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_any_form_and_unix_sockets_are_local_and_nothing_else_is() {
        let tcp = |address: &str| Caller::tcp(address.parse().unwrap());
        for local in [
            "127.0.0.1:5",
            "127.9.9.9:5",
            "[::1]:5",
            "[::ffff:127.0.0.1]:5",
        ] {
            assert!(tcp(local).is_local, "{local}");
        }
        for remote in [
            "10.1.2.3:5",
            "[fe80::1]:5",
            "[::ffff:10.1.2.3]:5",
            "0.0.0.0:5",
        ] {
            assert!(!tcp(remote).is_local, "{remote}");
        }
        assert!(Caller::unix().is_local);
        assert!(!Caller::of(&Request::new(())).is_local);
        assert_eq!(tcp("10.1.2.3:5555").peer, "10.1.2.3:5555");
    }
}
