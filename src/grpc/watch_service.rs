//! `Subscribe` and `Ack`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    convert,
    edge::{Asked, AskedAck, EdgeRules},
    peer::Peer,
    status::{Cause, status},
};
use crate::{
    proto::watchmark::v1::{
        AckRequest, AckResponse, SubscribeRequest, SubscribeResponse,
        watch_service_server::WatchService,
    },
    resume::{ClientId, Revision, SessionId},
    session::{Message, Receiver, Registry, Subscribed},
};

/// The service, over the registry that owns every subscription.
pub(super) struct Watches {
    pub(super) registry: Arc<Registry>,
    pub(super) rules: EdgeRules,
    /// No call waits longer for the disk.
    pub(super) answer_within: Duration,
}

/// The messages of one stream. Dropping it ends the session.
pub(super) struct Responses {
    client_id: ClientId,
    session: SessionId,
    messages: Receiver<Message>,
}

#[tonic::async_trait]
impl WatchService for Watches {
    type SubscribeStream = Responses;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Responses>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let asked = Asked::parse(request.into_inner()).map_err(|cause| status("", cause))?;
        let client_id = asked.client_id.clone();
        match self.start(asked, peer.as_ref()).await {
            Ok(Subscribed { session, messages }) => Ok(Response::new(Responses {
                client_id,
                session,
                messages,
            })),
            Err(cause) => Err(status(client_id.as_str(), cause)),
        }
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let ack = AskedAck::parse(request.get_ref()).map_err(|cause| status("", cause))?;
        match self.acknowledge(&ack, request.extensions().get()).await {
            Ok(checkpoint) => Ok(Response::new(AckResponse {
                checkpoint: checkpoint.get(),
            })),
            Err(cause) => Err(status(ack.client_id.as_str(), cause)),
        }
    }
}

impl Watches {
    async fn start(&self, asked: Asked, peer: Option<&Peer>) -> Result<Subscribed, Cause> {
        let client_id = asked.client_id.clone();
        self.rules.check_owner(&client_id, peer)?;
        let pair_options = asked.pair_options;
        let stored = if asked.needs_stored_selection() {
            self.registry
                .selection_of(&client_id)
                .map_err(|error| Cause::StoreUnavailable(error.to_string()))?
        } else {
            None
        };
        let request = asked.resolve(stored, &self.rules)?;
        let peer = peer.map_or_else(|| "unknown".to_owned(), Peer::to_string);
        let subscribed = self
            .registry
            .subscribe(&client_id, request, pair_options, peer);
        Ok(self.in_time(subscribed).await??)
    }

    async fn acknowledge(&self, ack: &AskedAck, peer: Option<&Peer>) -> Result<Revision, Cause> {
        self.rules.check_owner(&ack.client_id, peer)?;
        let acked = self.registry.ack(&ack.client_id, ack.session, ack.revision);
        let acked = self.in_time(acked).await?;
        acked.map_err(|error| Cause::ack(ack.revision, error))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Cause> {
        let answer = tokio::time::timeout(self.answer_within, answer).await;
        answer.map_err(|_| Cause::TimedOut {
            waited: self.answer_within,
        })
    }
}

impl Stream for Responses {
    type Item = Result<SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.poll_next_unpin(cx);
        next.map(|next| {
            Some(match next? {
                Ok(message) => Ok(convert::response(self.session, message)),
                Err(ended) => Err(status(self.client_id.as_str(), ended.into())),
            })
        })
    }
}
