//! `Subscribe` and `Ack`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    convert,
    edge::{Asked, AskedAck, EdgeRules},
    status::{Cause, status},
};
use crate::{
    proto::watchmark::v1::{
        AckRequest, AckResponse, SubscribeRequest, SubscribeResponse,
        watch_service_server::WatchService,
    },
    resume::{ClientId, SessionId},
    session::{Message, Receiver, Registry, Subscribed},
};

/// The service, over the registry that owns every subscription.
pub(super) struct Watches {
    pub(super) registry: Arc<Registry>,
    pub(super) rules: EdgeRules,
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
        let peer = Caller::of(&request).peer;
        let asked = Asked::parse(request.into_inner()).map_err(|cause| status("", cause))?;
        let client_id = asked.client_id.clone();
        match self.start(asked, peer).await {
            Ok(Subscribed { session, messages }) => Ok(Response::new(Responses {
                client_id,
                session,
                messages,
            })),
            Err(cause) => Err(status(client_id.as_str(), cause)),
        }
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let ack = AskedAck::parse(&request.into_inner()).map_err(|cause| status("", cause))?;
        let checkpoint = self
            .registry
            .ack(&ack.client_id, ack.session, ack.revision)
            .await
            .map_err(|error| status(ack.client_id.as_str(), Cause::ack(ack.revision, error)))?;
        Ok(Response::new(AckResponse {
            checkpoint: checkpoint.get(),
        }))
    }
}

impl Watches {
    async fn start(&self, asked: Asked, peer: String) -> Result<Subscribed, Cause> {
        let client_id = asked.client_id.clone();
        let rendering = asked.rendering;
        let stored = if asked.needs_stored_selection() {
            self.registry
                .selection_of(&client_id)
                .map_err(|error| Cause::StoreUnavailable(error.to_string()))?
        } else {
            None
        };
        let request = asked.resolve(stored, &self.rules)?;
        let subscribed = self
            .registry
            .subscribe(&client_id, request, rendering, peer);
        Ok(subscribed.await?)
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
