//! Connections to the admin port. Owns their number and their patience;
//! refuses to let any of them hold a thing for long. Invariant: a new
//! connection is always taken, if need be instead of the oldest, so that
//! nobody can keep the probes out.

use std::{collections::VecDeque, net::SocketAddr, pin::Pin, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::grpc::Peer;

/// Probes, a Prometheus or two, and some browsers need a dozen.
const CONNECTIONS_MAX: usize = 256;
/// Longer than most scrape intervals, so that Prometheus keeps its connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// For a peer that does not read what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Of one HTTP/2 connection.
const STREAMS_MAX: u32 = 32;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The usual cause, no free file descriptor, passes only when others close theirs.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);
/// While that lasts, one line in so long.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Serves until it is dropped, and every connection with it.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::<AbortHandle>::new();
    let mut warned_at = None::<Instant>;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    warned_at = Some(Instant::now());
                    warn!(%error, "cannot accept a connection on the admin port");
                }
                tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            }
        };
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= CONNECTIONS_MAX
            && let Some(oldest) = oldest_first.pop_front()
        {
            debug!(
                max = CONNECTIONS_MAX,
                "closing the oldest connection of the admin port"
            );
            oldest.abort();
        }
        oldest_first.push_back(connections.spawn(connection(stream, peer, router.clone())));
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let caller = Peer {
        address: Some(peer),
        ..Peer::default()
    };
    let service = router.map_request(move |mut request: axum::http::Request<_>| {
        request.extensions_mut().insert(caller.clone());
        request
    });
    // Fails only on a connection that is gone, as reading will find.
    let _ = stream.set_nodelay(true);
    let served = http()
        .serve_connection(patient(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        debug!(%peer, %error, "connection to the admin port ended");
    }
}

fn patient(stream: TcpStream) -> TokioIo<Pin<Box<TimeoutStream<TcpStream>>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(IDLE_TIMEOUT));
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    TokioIo::new(Box::pin(stream))
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}
