//! The services of our ports, and how large their messages may be.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{service::Routes, transport::server::Connected};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    admin_service::{Admin, Operators},
    calls,
    edge::EdgeRules,
    http2,
    limits::{Limited, REQUEST_BYTES_MAX},
    peer::Peer,
    status::{Cause, status},
    watch_service::Watches,
};
use crate::{
    metrics::Calls,
    proto::{
        FILE_DESCRIPTOR_SET,
        watchmark::v1::{
            admin_service_server::AdminServiceServer, watch_service_server::WatchServiceServer,
        },
    },
    session::Registry,
};

/// An ack waits for the disk, which answers within milliseconds, and within
/// seconds when it is in trouble. A client that waits longer is better told.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The services of our ports.
#[derive(Clone, Debug)]
pub struct Api {
    /// For applications.
    routes: Routes,
    /// For operators: without `WatchService`.
    admin: Routes,
    calls: Calls,
}

/// What the gRPC health service says, of the whole server and of `WatchService`.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
}

impl Api {
    /// The API over `registry`. Not serving, says its [`Health`], until told
    /// otherwise.
    ///
    /// # Errors
    /// When the reflection service cannot read our descriptors.
    pub async fn new(
        registry: Arc<Registry>,
        rules: EdgeRules,
        operators: Operators,
    ) -> Result<(Self, Health), tonic_reflection::server::Error> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health { reporter };
        health.set_serving(false).await;
        let has_admin = operators.on_every_port;
        let admin = Admin::new(Arc::clone(&registry), operators.surveyor);
        let watches = Watches {
            registry,
            rules,
            answer_within: ANSWER_WITHIN,
        };
        let watches = WatchServiceServer::new(watches)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            // The state machine keeps to 4 MiB, but for a single larger event.
            .max_encoding_message_size(usize::MAX);
        let health_service = health_service.max_decoding_message_size(REQUEST_BYTES_MAX);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let common = Routes::new(health_service)
            .add_service(
                reflection()
                    .build_v1()?
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            );
        let mut routes = common.clone().add_service(watches);
        if has_admin {
            // Whoever may subscribe need not see what others watch.
            routes = routes.add_service(service(admin.clone().for_local_callers()));
        }
        let api = Self {
            routes,
            admin: common.add_service(service(admin)),
            calls: Calls::default(),
        };
        Ok((api, health))
    }

    /// Counts its calls in `calls`.
    #[must_use]
    pub fn counted(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }

    /// What a port of operators serves: any caller may look; to change
    /// anything, its [`Peer`] (a request extension) must be local.
    pub fn admin_router(&self) -> Router {
        calls::counted(self.admin.clone().into_axum_router(), self.calls.clone())
    }

    /// Serves `connections` until `shutdown` resolves or there are no more, then
    /// lets the calls under way finish.
    pub async fn serve<C>(
        self,
        connections: impl Stream<Item = C>,
        shutdown: impl Future<Output = ()>,
    ) where
        C: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
    {
        let router = calls::counted(self.routes.into_axum_router(), self.calls);
        http2::serve(connections, Limited::new(router), shutdown).await;
    }
}

fn service(admin: Admin) -> AdminServiceServer<Admin> {
    AdminServiceServer::new(admin)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        // A page of 1,000 subscriptions with the longest keys.
        .max_encoding_message_size(usize::MAX)
}

/// The answer to a call that a port of operators does not take from there.
pub fn local_only() -> Response<Body> {
    status("", Cause::LocalOnly).into_http()
}

impl Health {
    /// Whether callers should come.
    pub async fn set_serving(&self, is_serving: bool) {
        let status = if is_serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in ["", "watchmark.v1.WatchService"] {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
