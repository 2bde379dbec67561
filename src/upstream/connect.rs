//! One connection to one etcd server. Owns windows, keep-alive, TLS and the
//! counting of watches; refuses to dial twice. Invariant: everything sent
//! through one [`Connection`] reached the same server process, because a
//! connection that breaks stays broken.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::OnceCell;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::{Channel, Endpoint},
};
use tower::Service;
use tracing::warn;

use super::{
    config::{EtcdConfig, EtcdConfigError},
    pieces::{InPieces, in_pieces},
    version::Version,
};
use crate::proto::{
    codec::SmallBuffers,
    etcdserverpb::{RangeRequest, RangeResponse, kv_client::KvClient, watch_client::WatchClient},
};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// etcd answers pings faster than every 5 s with GOAWAY (too_many_pings).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// With the interval: a hung server is noticed within 15 s.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams on one connection; etcd before 3.5.5 with TLS takes 250, of which
/// the guards of watches that are being opened need some.
pub(super) const WATCHES_PER_CONNECTION_MAX: usize = 100;
/// As much comes in a round trip: 64 MB/s where that is 1 ms, 1.3 MB/s where it
/// is 50 ms. 256 KiB make a catch-up on one machine 10 % faster, and each stalled
/// watch that much larger.
const WATCH_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Above 100 × 64 KiB = 6.25 MiB, so that watches nobody reads stop no other.
const WATCH_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const UNARY_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Room for 1,000 snapshots that nobody reads.
const UNARY_CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Long-lived watches, and what belongs to opening them.
    Watches,
    /// Reads, snapshots and authentication.
    Unary,
    /// The probe.
    Probe,
}

/// One dialling of one endpoint. Dials on first use.
#[derive(Debug)]
pub(super) struct Connection {
    channel: Channel,
    broken: Arc<AtomicBool>,
    watches: AtomicUsize,
    /// Of the server at the other end, once known.
    pub(super) version: OnceCell<ServerVersion>,
}

/// What `Status` said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ServerVersion {
    pub(super) member_id: u64,
    /// `None`: unreadable.
    pub(super) version: Option<Version>,
}

impl Connection {
    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    /// Takes messages of any size, which arrive in pieces.
    pub(super) fn watch(&self) -> WatchClient<InPieces> {
        WatchClient::new(in_pieces(self.channel.clone())).max_decoding_message_size(usize::MAX)
    }

    /// `Range`, whose answer, of any size, arrives in pieces: all but the last
    /// say `fragment`. On the wire one answer and a stream of them are the same.
    pub(super) async fn range_in_pieces(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Streaming<RangeResponse>>, Status> {
        let channel = in_pieces(self.channel.clone());
        let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        client.ready().await.map_err(io::Error::other)?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = SmallBuffers::default();
        client.server_streaming(request, path, codec).await
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// No new use from here on; what uses it now may go on.
    pub(super) fn retire(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Counts one watch more, unless the connection is full or broken.
    pub(super) fn reserve_watch(self: &Arc<Self>) -> Option<WatchSlot> {
        let reserve = |watches| (watches < WATCHES_PER_CONNECTION_MAX).then_some(watches + 1);
        let reserved = self.is_usable()
            && self
                .watches
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve)
                .is_ok();
        reserved.then(|| WatchSlot(Arc::clone(self)))
    }
}

/// The place of one watch on a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct WatchSlot(Arc<Connection>);

impl WatchSlot {
    pub(super) const fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes connections to one endpoint.
#[derive(Debug)]
pub(super) struct Dialer {
    uri: Uri,
    config: Arc<EtcdConfig>,
    /// The last TLS settings that were good.
    endpoint: Mutex<Endpoint>,
}

impl Dialer {
    /// # Errors
    /// TLS files that cannot be read or used.
    pub(super) fn new(uri: Uri, config: Arc<EtcdConfig>) -> Result<Self, EtcdConfigError> {
        let endpoint = Mutex::new(build(&uri, &config)?);
        Ok(Self {
            uri,
            config,
            endpoint,
        })
    }

    /// A connection that dials on first use. Reads the TLS files again, so
    /// that renewed certificates are used.
    pub(super) fn connection(&self, purpose: Purpose) -> Arc<Connection> {
        let endpoint = self.endpoint();
        let (stream_window_bytes, connection_window_bytes) = match purpose {
            Purpose::Watches => (WATCH_STREAM_WINDOW_BYTES, WATCH_CONNECTION_WINDOW_BYTES),
            Purpose::Unary | Purpose::Probe => {
                (UNARY_STREAM_WINDOW_BYTES, UNARY_CONNECTION_WINDOW_BYTES)
            }
        };
        let broken = Arc::new(AtomicBool::new(false));
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let channel = endpoint
            .initial_stream_window_size(stream_window_bytes)
            .initial_connection_window_size(connection_window_bytes)
            .connect_with_connector_lazy(DialOnce {
                http,
                dialled: false,
                broken: Arc::clone(&broken),
            });
        Arc::new(Connection {
            channel,
            broken,
            watches: AtomicUsize::new(0),
            version: OnceCell::new(),
        })
    }

    fn endpoint(&self) -> Endpoint {
        let mut current = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if self.config.has_tls_files() {
            match build(&self.uri, &self.config) {
                Ok(endpoint) => *current = endpoint,
                Err(error) => warn!(%error, "keeping the previous TLS files of etcd"),
            }
        }
        current.clone()
    }
}

fn build(uri: &Uri, config: &EtcdConfig) -> Result<Endpoint, EtcdConfigError> {
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(false);
    if uri.scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    endpoint
        .tls_config(config.tls()?)
        .map_err(|source| EtcdConfigError::Tls {
            flags: if config.has_tls_files() {
                "--etcd-ca-file, --etcd-cert-file, --etcd-key-file"
            } else {
                "--etcd-ca-file is not given"
            },
            source,
        })
}

/// Dials once. A channel would dial again by itself, and then not every call
/// on it would be answered by the same process.
struct DialOnce {
    http: HttpConnector,
    dialled: bool,
    broken: Arc<AtomicBool>,
}

impl Service<Uri> for DialOnce {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.http.poll_ready(cx).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if std::mem::replace(&mut self.dialled, true) {
            self.broken.store(true, Ordering::Relaxed);
            let error = io::Error::new(io::ErrorKind::NotConnected, "the connection broke");
            return Box::pin(async { Err(error) });
        }
        let broken = Arc::clone(&self.broken);
        let connecting = self.http.call(uri);
        Box::pin(async move {
            connecting.await.map_err(|error| {
                broken.store(true, Ordering::Relaxed);
                io::Error::other(error)
            })
        })
    }
}
