//! A watchmark that answers what it was told to, and keeps what it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt, stream};
use prost_types::Timestamp;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, ServerTlsConfig, server::Router},
};
use tonic_types::{ErrorDetails, StatusExt};
use watchmark::proto::watchmark::v1::{
    self as pb, AckRequest, AckResponse, DeleteSubscriptionRequest, DeleteSubscriptionResponse,
    GetStatusRequest, GetStatusResponse, GetSubscriptionRequest, GetSubscriptionResponse,
    ListSubscriptionsRequest, ListSubscriptionsResponse, SeekSubscriptionRequest,
    SeekSubscriptionResponse, SubscribeRequest, SubscribeResponse, Subscription,
    admin_service_server::{AdminService, AdminServiceServer},
    subscribe_response::Message,
    watch_service_server::{WatchService, WatchServiceServer},
};

/// What it says, and what was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) status: GetStatusResponse,
    /// To all of the admin service.
    pub(crate) refusal: Option<Status>,
    pub(crate) ack: Option<Status>,
    pub(crate) seek: SeekSubscriptionResponse,
    /// One for each stream; the last without an end.
    pub(crate) streams: VecDeque<Vec<Result<Message, Status>>>,
    /// What is there once somebody subscribed.
    pub(crate) after_subscribe: Option<Vec<Subscription>>,

    pub(crate) subscribes: Vec<SubscribeRequest>,
    pub(crate) acks: Vec<AckRequest>,
    pub(crate) seeks: Vec<SeekSubscriptionRequest>,
    pub(crate) deletes: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Said>>);

/// The fake while it is served. Ends when dropped.
pub(crate) struct Served {
    pub(crate) fake: Fake,
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Served {
    /// On a port of its own.
    pub(crate) async fn start(said: Said) -> Self {
        Self::over(said, Server::builder(), |router| router).await
    }

    /// With TLS.
    pub(crate) async fn start_tls(said: Said, tls: ServerTlsConfig) -> Self {
        let builder = Server::builder().tls_config(tls).unwrap();
        let mut served = Self::over(said, builder, |router| router).await;
        served.address = format!("https://{}", served.address);
        served
    }

    /// With one more service.
    pub(crate) async fn over(
        said: Said,
        mut builder: Server,
        also: impl FnOnce(Router) -> Router,
    ) -> Self {
        let fake = Fake(Arc::new(Mutex::new(said)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = also(
            builder
                .add_service(AdminServiceServer::new(fake.clone()))
                .add_service(WatchServiceServer::new(fake.clone())),
        );
        let serve = router.serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async { serve.await.unwrap() });
        Self {
            fake,
            address,
            task,
        }
    }

    /// On a socket.
    pub(crate) fn start_unix(said: Said, path: &std::path::Path) -> Self {
        let fake = Fake(Arc::new(Mutex::new(said)));
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let router = Server::builder().add_service(AdminServiceServer::new(fake.clone()));
        let serve = router.serve_with_incoming(UnixListenerStream::new(listener));
        Self {
            fake,
            address: format!("unix://{}", path.display()),
            task: tokio::spawn(async { serve.await.unwrap() }),
        }
    }

    pub(crate) fn said(&self) -> MutexGuard<'_, Said> {
        self.fake.0.lock().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A status of ours.
pub(crate) fn refusal(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "watchmark", []);
    Status::with_error_details(code, message, details)
}

/// As [`refusal`], that passes.
pub(crate) fn passing(reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "watchmark", []);
    details.set_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// So long before now.
pub(crate) fn ago(seconds: u64) -> Option<Timestamp> {
    Some((SystemTime::now() - Duration::from_secs(seconds)).into())
}

/// A subscription with a prefix, and nothing else.
pub(crate) fn subscription(client_id: &str) -> Subscription {
    Subscription {
        client_id: client_id.to_owned(),
        key: "/config/".into(),
        range_end: "/config0".into(),
        state: pb::SubscriptionState::Disconnected.into(),
        ..Subscription::default()
    }
}

/// One with a live stream, that went on after 1042.
pub(crate) fn live(client_id: &str) -> Subscription {
    Subscription {
        state: pb::SubscriptionState::Live.into(),
        session: Some(pb::Session {
            session_id: 1_795_339_954_341_279,
            peer: "127.0.0.1:51234".to_owned(),
            since: ago(2 * 60 * 60 + 30),
        }),
        checkpoint: 1042,
        delivered: 1050,
        unacked_events: 8,
        oldest_unacked_time: ago(90),
        lag_revisions: 12,
        lag_seconds: 3.42,
        last_event_time: ago(3 * 60 + 30),
        last_advance: Some(pb::Advance {
            proof: pb::Proof::Acked.into(),
            time: ago(90),
        }),
        resumable: Some(true),
        ..subscription(client_id)
    }
}

impl Fake {
    fn said(&self) -> Result<MutexGuard<'_, Said>, Status> {
        let said = self.0.lock().unwrap();
        match &said.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(said),
        }
    }

    fn found(&self, client_id: &str) -> Result<Subscription, Status> {
        let said = self.said()?;
        let found = said.subscriptions.iter();
        let found = found.into_iter().find(|it| it.client_id == client_id);
        found.cloned().ok_or_else(|| {
            let message = format!("there is no subscription of client_id {client_id:?}");
            refusal(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", &message)
        })
    }
}

#[tonic::async_trait]
impl AdminService for Fake {
    /// Two a page.
    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let said = self.said()?;
        let token = request.into_inner().page_token;
        let from: usize = token.parse().unwrap_or(0);
        let subscriptions: Vec<_> = said.subscriptions.iter().skip(from).take(2).collect();
        let next = from + subscriptions.len();
        let is_last = next >= said.subscriptions.len();
        Ok(Response::new(ListSubscriptionsResponse {
            subscriptions: subscriptions.into_iter().cloned().collect(),
            next_page_token: if is_last {
                String::new()
            } else {
                next.to_string()
            },
        }))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<GetSubscriptionResponse>, Status> {
        let subscription = Some(self.found(&request.into_inner().client_id)?);
        Ok(Response::new(GetSubscriptionResponse { subscription }))
    }

    async fn seek_subscription(
        &self,
        request: Request<SeekSubscriptionRequest>,
    ) -> Result<Response<SeekSubscriptionResponse>, Status> {
        self.found(&request.get_ref().client_id)?;
        let mut said = self.said()?;
        said.seeks.push(request.into_inner());
        Ok(Response::new(said.seek))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        let found = self.found(&request.get_ref().client_id)?;
        self.said()?.deletes.push(request.into_inner().client_id);
        Ok(Response::new(DeleteSubscriptionResponse {
            checkpoint: found.checkpoint,
        }))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.said()?.status.clone()))
    }
}

#[tonic::async_trait]
impl WatchService for Fake {
    type SubscribeStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut said = self.0.lock().unwrap();
        said.subscribes.push(request.into_inner());
        if let Some(subscriptions) = said.after_subscribe.take() {
            said.subscriptions = subscriptions;
        }
        let is_last = said.streams.len() <= 1;
        let messages = said.streams.pop_front().unwrap_or_default();
        let messages = stream::iter(messages).map(|message| {
            message.map(|message| SubscribeResponse {
                message: Some(message),
            })
        });
        Ok(Response::new(if is_last {
            messages.chain(stream::pending()).boxed()
        } else {
            messages.boxed()
        }))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let mut said = self.0.lock().unwrap();
        let request = request.into_inner();
        let checkpoint = request.revision;
        said.acks.push(request);
        match &said.ack {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Response::new(AckResponse { checkpoint })),
        }
    }
}
