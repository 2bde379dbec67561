//! An operator, who records what they change.

use tonic::transport::Channel;
use watchmark::proto::watchmark::v1::{
    DeleteSubscriptionRequest, GetStatusRequest, GetStatusResponse, GetSubscriptionRequest,
    ListSubscriptionsRequest, ListSubscriptionsResponse, SeekSubscriptionRequest,
    SeekSubscriptionResponse, Subscription, admin_service_client::AdminServiceClient,
    seek_subscription_request::Target,
};

use super::{
    client::{Ended, in_time},
    history::{End, Operated, Recorder},
};

pub(crate) struct Operator {
    pub(crate) api: AdminServiceClient<Channel>,
    pub(crate) recorder: Recorder,
}

impl Operator {
    pub(crate) async fn list(
        &mut self,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListSubscriptionsResponse, Ended> {
        let request = ListSubscriptionsRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        let answer = in_time("the list", self.api.list_subscriptions(request)).await;
        Ok(answer?.into_inner())
    }

    pub(crate) async fn get(&mut self, client_id: &str) -> Result<Subscription, Ended> {
        let request = GetSubscriptionRequest {
            client_id: client_id.to_owned(),
        };
        let answer = in_time("the subscription", self.api.get_subscription(request)).await;
        Ok(answer?.into_inner().subscription.unwrap())
    }

    /// Changes nothing.
    pub(crate) async fn dry_run(
        &mut self,
        client_id: &str,
        target: Target,
    ) -> Result<SeekSubscriptionResponse, Ended> {
        self.ask_to_seek(client_id, Some(target), true).await
    }

    pub(crate) async fn seek(
        &mut self,
        client_id: &str,
        target: Target,
    ) -> Result<SeekSubscriptionResponse, Ended> {
        let what = match target {
            Target::Revision(revision) => Operated::Moved(revision),
            Target::Snapshot(_) => Operated::MovedToSnapshot,
        };
        let sent = self.recorder.operation_sent(client_id, what);
        let answer = self.ask_to_seek(client_id, Some(target), false).await;
        let recorded = answer.as_ref().map(|_| ()).map_err(End::from);
        self.recorder.operation_answered(&sent, recorded);
        answer
    }

    /// As it is, unrecorded: for what is refused.
    pub(crate) async fn ask_to_seek(
        &mut self,
        client_id: &str,
        target: Option<Target>,
        dry_run: bool,
    ) -> Result<SeekSubscriptionResponse, Ended> {
        let request = SeekSubscriptionRequest {
            client_id: client_id.to_owned(),
            target,
            dry_run,
        };
        let answer = in_time("the seek", self.api.seek_subscription(request)).await;
        Ok(answer?.into_inner())
    }

    /// Returns the checkpoint that was forgotten.
    pub(crate) async fn delete(&mut self, client_id: &str) -> Result<i64, Ended> {
        let sent = self.recorder.operation_sent(client_id, Operated::Deleted);
        let request = DeleteSubscriptionRequest {
            client_id: client_id.to_owned(),
        };
        let answer = in_time("the deletion", self.api.delete_subscription(request)).await;
        let answer = answer.map_err(Ended::from);
        let recorded = answer.as_ref().map(|_| ()).map_err(End::from);
        self.recorder.operation_answered(&sent, recorded);
        Ok(answer?.into_inner().checkpoint)
    }

    pub(crate) async fn status(&mut self) -> GetStatusResponse {
        let answer = in_time("the status", self.api.get_status(GetStatusRequest {})).await;
        answer.unwrap().into_inner()
    }
}
