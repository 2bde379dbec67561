//! The network between the members of a cluster: one TCP proxy before each
//! member's peer port, so that a member can be cut off from its peers while
//! clients still reach it.
//!
//! Peers speak HTTP/1 and name themselves (`X-Server-From`) in the first
//! request of a connection, so a proxy knows whom it lets in.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// A first request is far smaller.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Who is cut off, by member id.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Cuts(BTreeSet<u64>);

/// The proxies of one cluster; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Peers {
    cuts: watch::Sender<Cuts>,
    ids: Arc<Mutex<Vec<u64>>>,
    _proxies: JoinSet<()>,
}

impl Peers {
    /// Listens at each `from` and connects to its `to`, in member order.
    pub(crate) async fn start(routes: &[(String, String)]) -> Self {
        let (cuts, _) = watch::channel(Cuts::default());
        let ids = Arc::new(Mutex::new(Vec::new()));
        let mut proxies = JoinSet::new();
        for (at, (from, to)) in routes.iter().enumerate() {
            let listener = TcpListener::bind(from).await.unwrap();
            let proxy = Proxy {
                at,
                to: to.clone(),
                cuts: cuts.clone(),
                ids: Arc::clone(&ids),
            };
            proxies.spawn(proxy.serve(listener));
        }
        Self {
            cuts,
            ids,
            _proxies: proxies,
        }
    }

    /// Says which member ids stand behind the routes.
    pub(crate) fn identify(&self, ids: Vec<u64>) {
        *self.ids.lock().unwrap() = ids;
    }

    /// Cuts a member off from its peers, in both directions.
    pub(crate) fn isolate(&self, member: usize) {
        let id = self.ids.lock().unwrap()[member];
        self.cuts.send_modify(|cuts| {
            cuts.0.insert(id);
        });
    }

    /// Ends every cut.
    pub(crate) fn heal(&self) {
        self.cuts.send_modify(|cuts| cuts.0.clear());
    }
}

#[derive(Clone)]
struct Proxy {
    at: usize,
    to: String,
    cuts: watch::Sender<Cuts>,
    ids: Arc<Mutex<Vec<u64>>>,
}

impl Proxy {
    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(self.clone().pass(stream));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One connection, until either side or a cut ends it.
    async fn pass(self, mut from: TcpStream) {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
            match from.read_buf(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let sender = sender(&head);
        let mut cuts = self.cuts.subscribe();
        if self.cut(&cuts.borrow_and_update(), sender) {
            return;
        }
        let Ok(mut to) = TcpStream::connect(&self.to).await else {
            return;
        };
        if to.write_all(&head).await.is_err() {
            return;
        }
        let cut = async {
            while cuts.changed().await.is_ok() {
                if self.cut(&cuts.borrow_and_update(), sender) {
                    return;
                }
            }
        };
        tokio::select! {
            _ = copy_bidirectional(&mut from, &mut to) => {}
            () = cut => {}
        }
    }

    /// A sender that does not name itself passes only while nobody is cut off.
    fn cut(&self, cuts: &Cuts, sender: Option<u64>) -> bool {
        let own = self.ids.lock().unwrap().get(self.at).copied();
        let hit = |id: Option<u64>| id.is_none_or(|id| cuts.0.contains(&id));
        !cuts.0.is_empty() && (hit(own) || hit(sender))
    }
}

/// The member id in `X-Server-From`.
fn sender(head: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head);
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-server-from")
            .then(|| u64::from_str_radix(value.trim(), 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::sender;

    #[test]
    fn a_peer_is_known_by_the_name_it_gives() {
        let head = b"POST /raft HTTP/1.1\r\nx-server-from: 8e9e05c52164694d\r\n\r\n";
        assert_eq!(sender(head), Some(0x8e9e_05c5_2164_694d));
        assert_eq!(sender(b"GET /raft/probing HTTP/1.1\r\n\r\n"), None);
    }
}
