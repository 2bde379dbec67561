//! What operators see and do. Reading changes nothing; what changes something
//! is taken from the own host only.

use std::{sync::Arc, time::SystemTime};

use tonic::{Request, Response, Status};

use super::{
    admin_convert, edge,
    peer::Peer,
    status::{Cause, status},
};
use crate::{
    proto::watchmark::v1::{
        DeleteSubscriptionRequest, DeleteSubscriptionResponse, GetStatusRequest, GetStatusResponse,
        GetSubscriptionRequest, GetSubscriptionResponse, ListSubscriptionsRequest,
        ListSubscriptionsResponse, SeekSubscriptionRequest, SeekSubscriptionResponse, Subscription,
        admin_service_server::AdminService, seek_subscription_request::Target,
    },
    resume::{ClientId, Revision, SeekTo},
    session::{Overview, Registry},
    survey::Surveyor,
};

/// What a page holds when nothing is said, and at most.
const PAGE_SIZE: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;

/// Before the last client_id of a page, in the token of the next.
const TOKEN_PREFIX: &str = "after:";

/// What operators are served.
#[derive(Clone)]
pub struct Operators {
    /// `AdminService` is on every port, for local callers. Not where a
    /// client_id is tied to a certificate: it would show and move them all.
    pub on_every_port: bool,
    /// How the process is doing; `None`: nothing is wrong.
    pub surveyor: Option<Arc<Surveyor>>,
}

impl Default for Operators {
    /// On every port, with nothing wrong.
    fn default() -> Self {
        Self {
            on_every_port: true,
            surveyor: None,
        }
    }
}

/// The service, over the registry that owns every subscription.
#[derive(Clone)]
pub(super) struct Admin {
    registry: Arc<Registry>,
    surveyor: Option<Arc<Surveyor>>,
    /// Also to look, a caller must be local.
    is_for_local_callers: bool,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        self.check_reader(&request)?;
        let page = Page::parse(request.get_ref()).map_err(|cause| status("", cause))?;
        let (client_ids, next_page_token) = page.of(self.registry.client_ids());
        let overviews = self.registry.overviews_of(&client_ids).await;
        let overviews =
            overviews.map_err(|error| status("", Cause::StoreUnavailable(error.to_string())))?;
        Ok(Response::new(ListSubscriptionsResponse {
            subscriptions: self.subscriptions(overviews).await,
            next_page_token,
        }))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<GetSubscriptionResponse>, Status> {
        self.check_reader(&request)?;
        let client_id = client_id(&request.get_ref().client_id)?;
        let told = |cause| status(client_id.as_str(), cause);
        let overview = self.registry.overview(&client_id).await;
        let overview = overview
            .map_err(|error| told(Cause::StoreUnavailable(error.to_string())))?
            .ok_or_else(|| told(Cause::SubscriptionNotFound))?;
        let subscription = self.subscriptions(vec![overview]).await.pop();
        Ok(Response::new(GetSubscriptionResponse { subscription }))
    }

    async fn seek_subscription(
        &self,
        request: Request<SeekSubscriptionRequest>,
    ) -> Result<Response<SeekSubscriptionResponse>, Status> {
        let asked = request.get_ref();
        if asked.dry_run {
            self.check_reader(&request)?;
        } else {
            check_local(&request)?;
        }
        let client_id = client_id(&asked.client_id)?;
        let told = |cause| status(client_id.as_str(), cause);
        let to = seek_to(asked.target.as_ref()).map_err(told)?;
        let sought = self.registry.seek(&client_id, to, asked.dry_run).await;
        let sought = sought.map_err(|error| told(error.into()))?;
        Ok(Response::new(admin_convert::sought(sought)))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        check_local(&request)?;
        let client_id = client_id(&request.get_ref().client_id)?;
        let deleted = self.registry.delete(&client_id).await;
        let checkpoint = deleted.map_err(|error| status(client_id.as_str(), error.into()))?;
        Ok(Response::new(DeleteSubscriptionResponse {
            checkpoint: Revision::to_wire(checkpoint),
        }))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        self.check_reader(&request)?;
        let (subscriptions, subscriptions_max) = self.registry.subscription_count();
        let survey = match &self.surveyor {
            Some(surveyor) => Some(surveyor.survey().await),
            None => None,
        };
        let problems = survey.iter().flat_map(|survey| &survey.problems);
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_time: Some(self.registry.started_at().into()),
            etcd: Some(admin_convert::etcd(self.registry.etcd_status())),
            store_ready: self.registry.is_store_ready(),
            problems: problems.map(admin_convert::problem).collect(),
            subscriptions: u32::try_from(subscriptions).unwrap_or(u32::MAX),
            max_subscriptions: u32::try_from(subscriptions_max).unwrap_or(u32::MAX),
        }))
    }
}

impl Admin {
    /// For a port of operators.
    pub(super) fn new(registry: Arc<Registry>, surveyor: Option<Arc<Surveyor>>) -> Self {
        Self {
            registry,
            surveyor,
            is_for_local_callers: false,
        }
    }

    /// For a port where others come too.
    pub(super) fn for_local_callers(mut self) -> Self {
        self.is_for_local_callers = true;
        self
    }

    fn check_reader<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.is_for_local_callers {
            check_local(request)
        } else {
            Ok(())
        }
    }

    async fn subscriptions(&self, overviews: Vec<Overview>) -> Vec<Subscription> {
        let standings = self.registry.standings(&overviews).await;
        let now = SystemTime::now();
        let overviews = overviews.into_iter();
        overviews
            .map(|overview| admin_convert::subscription(overview, &standings, now))
            .collect()
    }
}

/// A part of the list.
#[derive(PartialEq, Eq, Debug)]
struct Page {
    after: Option<ClientId>,
    size: usize,
}

impl Page {
    fn parse(request: &ListSubscriptionsRequest) -> Result<Self, Cause> {
        let invalid = |field, problem| Err(Cause::InvalidArgument { field, problem });
        let size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE_SIZE,
            Ok(size) => size.min(PAGE_SIZE_MAX),
            Err(_) => {
                let problem = format!("{} is negative; leave it out", request.page_size);
                return invalid("page_size", problem);
            }
        };
        let token = request.page_token.as_str();
        let after = match token.strip_prefix(TOKEN_PREFIX).map(ClientId::parse) {
            _ if token.is_empty() => None,
            Some(Ok(client_id)) => Some(client_id),
            Some(Err(_)) | None => {
                let problem = "not a next_page_token of this service; leave it out to begin";
                return invalid("page_token", problem.to_owned());
            }
        };
        Ok(Self { after, size })
    }

    /// This page of all `client_ids`, which ascend, and the token of the next.
    fn of(&self, client_ids: Vec<ClientId>) -> (Vec<ClientId>, String) {
        let from = match &self.after {
            Some(after) => client_ids.partition_point(|client_id| client_id <= after),
            None => 0,
        };
        let mut page = client_ids;
        page.drain(..from);
        let has_more = page.len() > self.size;
        page.truncate(self.size);
        let next = match page.last() {
            Some(last) if has_more => format!("{TOKEN_PREFIX}{last}"),
            _ => String::new(),
        };
        (page, next)
    }
}

fn check_local<T>(request: &Request<T>) -> Result<(), Status> {
    let peer = request.extensions().get::<Peer>();
    if peer.is_some_and(Peer::is_local) {
        Ok(())
    } else {
        Err(status("", Cause::LocalOnly))
    }
}

fn client_id(text: &str) -> Result<ClientId, Status> {
    edge::client_id(text).map_err(|cause| status("", cause))
}

fn seek_to(target: Option<&Target>) -> Result<SeekTo, Cause> {
    let invalid = |field, problem: String| Err(Cause::InvalidArgument { field, problem });
    match target {
        Some(Target::Snapshot(true)) => Ok(SeekTo::Snapshot),
        Some(Target::Revision(revision)) => match Revision::new(*revision) {
            Some(revision) => Ok(SeekTo::Revision(revision)),
            None => invalid(
                "revision",
                format!("{revision} is not above zero; to begin anew, ask for a snapshot"),
            ),
        },
        Some(Target::Snapshot(false)) => invalid(
            "snapshot",
            "false asks for nothing; give true, or a revision".to_owned(),
        ),
        None => invalid("revision", "give a revision, or snapshot".to_owned()),
    }
}
