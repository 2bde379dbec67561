//! HTTP/2 on the connections of applications: windows, limits, keep-alive, and
//! a shutdown that lets calls finish.
//!
//! In place of tonic's own server, which gives no say in how streams are run:
//! here each is a [`Prompt`] task. Unlike it, this does not end a call by its
//! `grpc-timeout`, which every client does itself.

use std::{convert::Infallible, error::Error, future::Future, pin::pin, time::Duration};

use axum::{
    body::Body,
    http::{Request, Response},
};
use futures_util::{Stream, StreamExt};
use hyper::{rt::Executor, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};
use tracing::debug;

use super::{
    limits::{HEADER_BYTES_MAX, REQUEST_BYTES_MAX},
    peer::Peer,
    prompt::Prompt,
};

/// What a client may send ahead: one request on a stream, and many streams.
const STREAM_WINDOW_BYTES: u32 = REQUEST_BYTES_MAX as u32;
const CONNECTION_WINDOW_BYTES: u32 = 16 * STREAM_WINDOW_BYTES;

/// Streams of one connection: more than `--max-subscriptions` is ever set to
/// on one machine, besides its acks. Without a limit one client could take all
/// memory with streams that it opens and forgets.
const CONNECTION_STREAMS_MAX: u32 = 16_384;

/// What HTTP/2 still reads of headers that are too large, so that they can be
/// answered; beyond it the call is reset, or the connection closed.
const HEADER_BYTES_READ_MAX: u32 = 4 * HEADER_BYTES_MAX as u32;

/// Of one connection, in its life: errors of the protocol by which it loses the
/// stream alone. A client that goes on making them loses the connection.
const STREAM_ERRORS_MAX: usize = 1024;

/// Finds clients that vanished without a word, within half a minute.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `connections` with `service`, whose requests have their [`Peer`] as an
/// extension, until `shutdown` resolves or there are no more; then lets the calls
/// under way finish.
pub(super) async fn serve<C, S>(
    connections: impl Stream<Item = C>,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let builder = builder();
    {
        // Gone before calls are waited for, so that nobody connects any more.
        let mut connections = pin!(connections.take_until(shutdown));
        while let Some(connection) = connections.next().await {
            let peer = connection.connect_info();
            let caller = peer.clone();
            let service = service.clone().map_request(move |request: Request<_>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(caller.clone());
                request
            });
            let (builder, watcher) = (builder.clone(), graceful.watcher());
            tokio::spawn(async move {
                let service = TowerToHyperService::new(service);
                let served = builder.serve_connection(TokioIo::new(connection), service);
                if let Err(error) = watcher.watch(served).await {
                    debug!(%peer, error = &error as &dyn Error, "connection ended");
                }
            });
        }
    }
    graceful.shutdown().await;
}

fn builder() -> http2::Builder<Prompted> {
    let mut builder = http2::Builder::new(Prompted);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_local_error_reset_streams(STREAM_ERRORS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_header_list_size(HEADER_BYTES_READ_MAX);
    builder
}

/// Starts the streams of connections.
#[derive(Clone)]
struct Prompted;

impl<F> Executor<F> for Prompted
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Prompt::new(stream));
    }
}
