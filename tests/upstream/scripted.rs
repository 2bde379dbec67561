//! What a real etcd cannot be made to do: a server that says what a test wants.

use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use watchmark::{
    proto::{
        etcdserverpb::{
            RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
            TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
            kv_server::{Kv, KvServer},
            watch_request::RequestUnion,
            watch_server::{Watch, WatchServer},
        },
        watchmark::v1::{Event, KeyValue},
    },
    upstream::{Etcd, EtcdConfig},
};

use super::harness::{Item, ended, events, next, open, revision, spec};

/// etcd's newest revision.
const NEWEST: i64 = 10_000;
/// What etcd puts into one response.
const RESPONSE: i64 = 1000;

type Said = Vec<Result<WatchResponse, Status>>;
/// What a watch says; whether its stream ends then.
type Script = dyn Fn(&WatchCreateRequest) -> (Said, bool) + Send + Sync;

#[derive(Clone)]
struct Scripted {
    script: Arc<Script>,
    created: Arc<Mutex<Vec<WatchCreateRequest>>>,
    /// All is compacted in the moment in which the first watch ahead is created.
    compacts: bool,
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 1,
        member_id: 1,
        revision: NEWEST,
        raft_term: 2,
    })
}

fn created() -> WatchResponse {
    WatchResponse {
        header: header(),
        created: true,
        ..WatchResponse::default()
    }
}

fn cancelled(compact_revision: i64) -> WatchResponse {
    WatchResponse {
        canceled: true,
        compact_revision,
        ..WatchResponse::default()
    }
}

/// The puts of these revisions, in responses as large as etcd's.
fn history(from: i64) -> Said {
    let event = |at| Event {
        kv: Some(KeyValue {
            key: "a/1".into(),
            mod_revision: at,
            ..KeyValue::default()
        }),
        ..Event::default()
    };
    let all: Vec<_> = (from..=NEWEST).map(event).collect();
    let response = |events: &[Event]| WatchResponse {
        header: header(),
        events: events.to_vec(),
        ..WatchResponse::default()
    };
    let size = usize::try_from(RESPONSE).unwrap();
    all.chunks(size).map(|it| Ok(response(it))).collect()
}

/// What etcd says.
fn plainly(create: &WatchCreateRequest) -> (Said, bool) {
    let mut said = vec![Ok(created())];
    said.extend(history(create.start_revision));
    (said, false)
}

#[tonic::async_trait]
impl Watch for Scripted {
    type WatchStream = std::pin::Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = request.into_inner().message().await?.unwrap();
        let Some(RequestUnion::CreateRequest(create)) = first.request_union else {
            return Err(Status::internal("no creation"));
        };
        let (said, ends) = (self.script)(&create);
        self.created.lock().unwrap().push(create);
        let said = stream::iter(said);
        Ok(Response::new(if ends {
            said.boxed()
        } else {
            said.chain(stream::pending()).boxed()
        }))
    }
}

#[tonic::async_trait]
impl Kv for Scripted {
    type RangeStreamStream = stream::Pending<Result<RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        if self.compacts && self.ahead() > 0 {
            let compacted = "etcdserver: mvcc: required revision has been compacted";
            return Err(Status::out_of_range(compacted));
        }
        Ok(Response::new(RangeResponse {
            header: header(),
            ..RangeResponse::default()
        }))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("3.7"))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

impl Scripted {
    fn new(script: impl Fn(&WatchCreateRequest) -> (Said, bool) + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            created: Arc::default(),
            compacts: false,
        }
    }

    /// With an upstream that uses it.
    async fn start(
        script: impl Fn(&WatchCreateRequest) -> (Said, bool) + Send + Sync + 'static,
    ) -> (Self, Etcd) {
        let scripted = Self::new(script);
        let etcd = scripted.serve().await;
        (scripted, etcd)
    }

    async fn serve(&self) -> Etcd {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Server::builder()
            .add_service(WatchServer::new(self.clone()))
            .add_service(KvServer::new(self.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        let config = EtcdConfig {
            endpoints: vec![endpoint],
            ..EtcdConfig::default()
        };
        Etcd::connect(config).unwrap()
    }

    /// How many were created ahead of another: only these ask for fragments.
    fn ahead(&self) -> usize {
        let created = self.created.lock().unwrap();
        created.iter().filter(|create| create.fragment).count()
    }
}

/// All of the history, whatever happens to the watches ahead.
async fn all_comes(script: impl Fn(&WatchCreateRequest) -> (Said, bool) + Send + Sync + 'static) {
    let (scripted, etcd) = Scripted::start(script).await;
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    let count = usize::try_from(NEWEST - 1).unwrap();
    let (found, _) = events(&mut watch, count).await;
    assert!(found.iter().map(|(at, _)| *at).eq(2..=NEWEST));
    assert!(scripted.ahead() > 5, "{} ahead", scripted.ahead());
}

/// Its range is quiet from the second response on, others are not.
#[tokio::test]
async fn a_watch_that_has_caught_up_is_not_read_ahead_of() {
    let quiet = |create: &WatchCreateRequest| {
        let mut said = vec![Ok(created())];
        let certified = WatchResponse {
            created: false,
            ..created()
        };
        if create.fragment {
            return (said, false);
        }
        let mut all = history(create.start_revision);
        let live = all.pop();
        said.extend(all.into_iter().take(1).chain([Ok(certified)]).chain(live));
        (said, false)
    };
    let (scripted, etcd) = Scripted::start(quiet).await;
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    events(&mut watch, usize::try_from(RESPONSE).unwrap()).await;
    assert!(matches!(next(&mut watch.events).await, Item::Bookmark(_)));
    let ahead = scripted.ahead();
    assert!(ahead > 5);
    let live = usize::try_from((NEWEST - 1) % RESPONSE).unwrap();
    assert_eq!(events(&mut watch, live).await.0.len(), live);
    assert_eq!(scripted.ahead(), ahead);
}

/// As `said` for the watches ahead that start after 5,000.
fn far_ahead(
    said: impl Fn() -> (Said, bool) + Send + Sync + 'static,
) -> impl Fn(&WatchCreateRequest) -> (Said, bool) + Send + Sync + 'static {
    move |create| match create.fragment && create.start_revision > 5_000 {
        true => said(),
        false => plainly(create),
    }
}

#[tokio::test]
async fn several_watches_say_what_one_would() {
    all_comes(plainly).await;
}

#[tokio::test]
async fn a_watch_ahead_that_ends_however_is_done_without() {
    let lost = || Err(Status::unavailable("no leader"));
    all_comes(far_ahead(|| (vec![Ok(created())], true))).await;
    all_comes(far_ahead(move || (vec![Ok(created()), lost()], false))).await;
    all_comes(far_ahead(|| {
        (vec![Ok(created()), Ok(cancelled(9_000))], false)
    }))
    .await;
    all_comes(far_ahead(|| (vec![Ok(created()), Ok(cancelled(0))], false))).await;
    // Cancelled before it was created, and not created.
    all_comes(far_ahead(|| (vec![Ok(cancelled(9_000))], false))).await;
}

#[tokio::test]
async fn watches_ahead_that_cannot_be_created_are_done_without() {
    let (scripted, etcd) = Scripted::start(far_ahead(|| (Vec::new(), true))).await;
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    let count = usize::try_from(NEWEST - 1).unwrap();
    let (found, _) = events(&mut watch, count).await;
    assert!(found.iter().map(|(at, _)| *at).eq(2..=NEWEST));
    assert!(scripted.ahead() > 5);
}

/// What comes before the watch ends must be without a gap; and how it ends.
async fn ends(etcd: &Etcd) -> (i64, Item) {
    let (mut watch, _) = open(etcd, spec("a/", 1)).await;
    let mut reached = 1;
    loop {
        match next(&mut watch.events).await {
            Item::Events { events, .. } => {
                for event in events {
                    reached += 1;
                    assert_eq!(event.kv.unwrap().mod_revision, reached);
                }
            }
            last => {
                ended(&mut watch.events).await;
                return (reached, last);
            }
        }
    }
}

/// Watches ahead lose their first event, as where etcd compacts it.
fn lossy(create: &WatchCreateRequest) -> (Said, bool) {
    let mut said = vec![Ok(created())];
    said.extend(history(create.start_revision + i64::from(create.fragment)));
    (said, false)
}

#[tokio::test]
async fn what_is_compacted_while_watches_ahead_are_created_is_left_to_the_front() {
    let scripted = Scripted {
        compacts: true,
        ..Scripted::new(lossy)
    };
    let etcd = scripted.serve().await;
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    let count = usize::try_from(NEWEST - 1).unwrap();
    let (found, _) = events(&mut watch, count).await;
    assert!(found.iter().map(|(at, _)| *at).eq(2..=NEWEST));
    assert!(scripted.ahead() > 5);
}

#[tokio::test]
async fn a_watch_ahead_that_lost_its_first_event_is_not_believed() {
    let (scripted, etcd) = Scripted::start(lossy).await;
    let (reached, last) = ends(&etcd).await;
    assert!(matches!(last, Item::Lost), "{last:?}");
    assert!(scripted.ahead() > 5 && reached < NEWEST);
}

#[tokio::test]
async fn the_compaction_of_the_front_ends_everything_there() {
    let compacted = |create: &WatchCreateRequest| match create.fragment {
        true => plainly(create),
        false => {
            let mut said = plainly(create).0;
            said.truncate(2);
            said.push(Ok(cancelled(8_000)));
            (said, false)
        }
    };
    let (_, etcd) = Scripted::start(compacted).await;
    let (reached, last) = ends(&etcd).await;
    assert_eq!(reached, 1 + RESPONSE);
    let is_told = matches!(&last, Item::Compacted { compact_revision } if *compact_revision == revision(8_000));
    assert!(is_told, "{last:?}");
}

#[tokio::test]
async fn a_range_with_more_than_a_message_holds_is_asked_for_in_fragments() {
    let too_large = |create: &WatchCreateRequest| match create.fragment {
        true => plainly(create),
        false => {
            let large = "grpc: trying to send message larger than max (2415919104 vs. 2147483647)";
            let too_large = Status::resource_exhausted(large);
            (vec![Ok(created()), Err(too_large)], false)
        }
    };
    let (_, etcd) = Scripted::start(too_large).await;
    let (reached, last) = ends(&etcd).await;
    assert!(reached == 1 && matches!(last, Item::Lost), "{last:?}");
    let (mut watch, _) = open(&etcd, spec("a/", 1)).await;
    let count = usize::try_from(NEWEST - 1).unwrap();
    assert_eq!(events(&mut watch, count).await.0.len(), count);
    // No other range pays for it.
    let (mut other, _) = open(&etcd, spec("b/", 1)).await;
    assert!(matches!(next(&mut other.events).await, Item::Lost));
}
