//! Stands between the consumers and watchmark: passes everything on, records it
//! for the validators, and looks at a consumer's file in the moment in which it
//! acknowledges: what it acknowledges must be in there, and be right.
//!
//! It is as awkward as watchmark may be: every revision comes alone, the parts
//! of one come with pauses between, what follows `opened` comes together with
//! it, and the answer to an ack takes its time.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::Stream;
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, time::sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};
use watchmark::proto::watchmark::v1::{
    AckRequest, AckResponse, DeleteSubscriptionRequest, DeleteSubscriptionResponse, Events,
    GetStatusRequest, GetStatusResponse, GetSubscriptionRequest, GetSubscriptionResponse,
    ListSubscriptionsRequest, ListSubscriptionsResponse, SeekSubscriptionRequest,
    SeekSubscriptionResponse, SubscribeRequest, SubscribeResponse,
    admin_service_client::AdminServiceClient,
    admin_service_server::{AdminService, AdminServiceServer},
    subscribe_response::Message,
    watch_service_client::WatchServiceClient,
    watch_service_server::{WatchService, WatchServiceServer},
};

use crate::{
    consumer::State,
    support::{
        client::Ended,
        history::{End, Operated, Recorder, StreamId, Truth, mod_revision},
        host::Host,
        wait,
    },
};

const PORT: u16 = 7379;

/// Before `opened` is passed on: events pile up behind it.
const OPENED_AFTER: Duration = Duration::from_millis(200);
/// After a part of a revision.
const PARTS_APART: Duration = Duration::from_millis(300);
/// Before an ack is passed on: events pile up for the next.
const ACK_AFTER: Duration = Duration::from_millis(30);

/// Listens where consumers connect, while it is open.
pub(crate) struct Tap {
    host: Host,
    eyes: Arc<Eyes>,
    upstream: Endpoint,
    /// Of its own, so that closing it breaks every connection as a kill does.
    runtime: Option<Runtime>,
}

/// What it sees.
pub(crate) struct Eyes {
    pub(crate) recorder: Recorder,
    truth: Arc<Truth>,
    /// Of the instance that was started last.
    state_files_by_client_id: Mutex<BTreeMap<String, PathBuf>>,
    state_files_by_session_id: Mutex<BTreeMap<u64, PathBuf>>,
    /// Acks that should not have been sent.
    wrong: Mutex<Vec<String>>,
    /// Whose next ack goes no further, and who waits for it.
    held_by_client_id: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
}

impl Tap {
    pub(crate) fn new(upstream: Endpoint, truth: Arc<Truth>) -> Self {
        Self {
            host: Host::claim(),
            eyes: Arc::new(Eyes {
                recorder: Recorder::default(),
                truth,
                state_files_by_client_id: Mutex::default(),
                state_files_by_session_id: Mutex::default(),
                wrong: Mutex::default(),
                held_by_client_id: Mutex::default(),
            }),
            upstream,
            runtime: None,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.host.address(PORT)
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.eyes.recorder
    }

    /// Where the instance that is about to start keeps what it acknowledges.
    pub(crate) fn expect(&self, client_id: &str, state_file: &std::path::Path) {
        let mut files = self.eyes.state_files_by_client_id.lock().unwrap();
        files.insert(client_id.to_owned(), state_file.to_owned());
    }

    /// Keeps the next ack of that client_id from watchmark, for ever. Returns
    /// once it came: the consumer has processed, and waits for the answer.
    pub(crate) async fn hold_next_ack(&self, client_id: &str) {
        let (came, coming) = oneshot::channel();
        {
            let mut held = self.eyes.held_by_client_id.lock().unwrap();
            held.insert(client_id.to_owned(), came);
        }
        let what = format!("an ack of {client_id}");
        let came = tokio::time::timeout(wait::DEADLINE, coming).await;
        came.unwrap_or_else(|_| panic!("{what}: not in time"))
            .unwrap();
    }

    /// Everything that was wrong at the time of an ack.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.eyes.wrong.lock().unwrap().clone()
    }

    /// Listens.
    pub(crate) async fn open(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let address = self.address();
        let listener = wait::until("a place to listen", async || {
            TcpListener::bind(&address).await.ok()
        });
        let listener = listener.await.into_std().unwrap();
        let (eyes, upstream) = (Arc::clone(&self.eyes), self.upstream.clone());
        runtime.spawn(async move {
            let listener = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let channel = upstream.connect_lazy();
            let service = Service { eyes, channel };
            let server = Server::builder()
                .add_service(WatchServiceServer::new(service.clone()))
                .add_service(AdminServiceServer::new(service));
            server.serve_with_incoming(listener).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Breaks every connection.
    pub(crate) fn close(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Eyes {
    /// What is acknowledged must be in the consumer's file, and be right.
    async fn look(&self, ack: &AckRequest) {
        let file = {
            let files = self.state_files_by_session_id.lock().unwrap();
            files.get(&ack.session_id).cloned()
        };
        let seen = match file.and_then(|file| State::read(&file)) {
            None => Err("nothing is saved, or it is no session's".to_owned()),
            Some(state) if state.revision < ack.revision => {
                Err(format!("only {} is saved", state.revision))
            }
            Some(state) => {
                let history = self.truth.until(state.revision).await;
                state.compare(&State::of(&history, state.revision))
            }
        };
        if let Err(problem) = seen {
            let problem = format!(
                "{} acknowledged {}, but {problem}",
                ack.client_id, ack.revision
            );
            self.wrong.lock().unwrap().push(problem);
        }
    }
}

#[derive(Clone)]
struct Service {
    eyes: Arc<Eyes>,
    channel: Channel,
}

/// Records that a stream was dropped, unless it ended before.
struct Watched(Arc<Eyes>, StreamId);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.recorder.ended(&self.1, End::Dropped);
    }
}

fn end(status: &Status) -> End {
    End::from(&Ended::from(status.clone()))
}

/// The same, a message for each revision.
fn revisions(message: Message) -> Vec<Message> {
    let Message::Events(batch) = message else {
        return vec![message];
    };
    let mut revisions: Vec<Events> = Vec::new();
    for event in batch.events {
        let revision = mod_revision(&event);
        match revisions.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => revisions.push(Events {
                revision,
                events: vec![event],
                partial: false,
            }),
        }
    }
    if let Some(last) = revisions.last_mut() {
        last.partial = batch.partial;
    }
    revisions.into_iter().map(Message::Events).collect()
}

#[tonic::async_trait]
impl WatchService for Service {
    type SubscribeStream =
        Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send + 'static>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let file = {
            let files = self.eyes.state_files_by_client_id.lock().unwrap();
            files[&request.client_id].clone()
        };
        let id = self.eyes.recorder.subscribing(&request);
        let watched = Watched(Arc::clone(&self.eyes), id.clone());
        let eyes = Arc::clone(&self.eyes);
        let mut api = WatchServiceClient::new(self.channel.clone());
        let answer = api.subscribe(request).await;
        let answer = answer.inspect_err(|status| eyes.recorder.ended(&id, end(status)))?;
        let mut stream = answer.into_inner();
        let passed_on = async_stream::stream! {
            let _watched = watched;
            loop {
                match stream.message().await {
                    Ok(Some(response)) => {
                        let message = response.message.unwrap();
                        if let Message::Opened(opened) = &message {
                            let mut files = eyes.state_files_by_session_id.lock().unwrap();
                            files.insert(opened.session_id, file.clone());
                        }
                        if matches!(message, Message::Opened(_)) {
                            sleep(OPENED_AFTER).await;
                        }
                        for message in revisions(message) {
                            eyes.recorder.received(&id, message.clone());
                            let is_part = matches!(&message, Message::Events(it) if it.partial);
                            yield Ok(SubscribeResponse { message: Some(message) });
                            if is_part {
                                sleep(PARTS_APART).await;
                            }
                        }
                    }
                    Ok(None) => return eyes.recorder.ended(&id, End::Silent),
                    Err(status) => {
                        eyes.recorder.ended(&id, end(&status));
                        yield Err(status);
                        return;
                    }
                }
            }
        };
        Ok(Response::new(Box::pin(passed_on)))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let ack = request.into_inner();
        self.eyes.look(&ack).await;
        let held = self
            .eyes
            .held_by_client_id
            .lock()
            .unwrap()
            .remove(&ack.client_id);
        if let Some(held) = held {
            held.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        sleep(ACK_AFTER).await;
        let recorder = &self.eyes.recorder;
        let id = recorder.ack_sent(&ack.client_id, ack.session_id, ack.revision);
        let answer = WatchServiceClient::new(self.channel.clone()).ack(ack).await;
        let recorded = answer.as_ref().map(|it| it.get_ref().checkpoint);
        recorder.ack_answered(&id, recorded.map_err(end));
        answer
    }
}

#[tonic::async_trait]
impl AdminService for Service {
    async fn seek_subscription(
        &self,
        request: Request<SeekSubscriptionRequest>,
    ) -> Result<Response<SeekSubscriptionResponse>, Status> {
        let request = request.into_inner();
        let recorder = &self.eyes.recorder;
        let id = recorder.operation_sent(&request.client_id, Operated::MovedToSnapshot);
        let answer = AdminServiceClient::new(self.channel.clone());
        let answer = { answer }.seek_subscription(request).await;
        recorder.operation_answered(&id, answer.as_ref().map(drop).map_err(end));
        answer
    }

    async fn list_subscriptions(
        &self,
        _: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        Err(Status::unimplemented("no consumer asks for it"))
    }

    async fn get_subscription(
        &self,
        _: Request<GetSubscriptionRequest>,
    ) -> Result<Response<GetSubscriptionResponse>, Status> {
        Err(Status::unimplemented("no consumer asks for it"))
    }

    async fn delete_subscription(
        &self,
        _: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        Err(Status::unimplemented("no consumer asks for it"))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Err(Status::unimplemented("no consumer asks for it"))
    }
}
