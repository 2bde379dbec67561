//! The operators' port: probes, metrics, the status page, the log's filter,
//! and whatever gRPC services are mounted beside them.
//!
//! | file | owns |
//! |---|---|
//! | `listener` | the socket, and the limits of its connections |
//! | `gate` | who may do what |
//! | `routes` | what is answered where |
//! | `scrape` | a survey as metrics |
//! | `page` | a survey as the status page shows it, and what it showed lately |
//!
//! HTTP/1 and HTTP/2 without TLS. Whoever is not on this host may only read.
//! Refuses to slow anything down: every wait and every size has a limit, and
//! connections beyond theirs push out the oldest.

mod gate;
mod listener;
mod page;
mod routes;
mod scrape;

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::net::TcpListener;

use crate::{logging::LogFilter, metrics::Metrics, survey::Surveyor};

/// What the port shows.
pub struct Sources {
    /// How the process is doing.
    pub surveyor: Arc<Surveyor>,
    /// What was counted.
    pub metrics: Metrics,
    /// What is logged.
    pub log: LogFilter,
    /// The gRPC services to serve besides.
    pub grpc: Router,
}

/// The bound port.
#[derive(Debug)]
pub struct AdminPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminPort {
    /// Binds, and answers nobody yet.
    ///
    /// # Errors
    /// When the address is in use, or may not or cannot be had.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens; port 0 is replaced by the one that was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self, sources: Sources) {
        let is_for_this_host = self.address.ip().is_loopback();
        let router = routes::router(sources, is_for_this_host);
        listener::serve(self.listener, router).await;
    }
}
