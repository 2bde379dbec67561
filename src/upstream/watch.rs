//! One watch on a gRPC stream of its own. Owns its opening (creation, guard,
//! version gate), and what each response means; refuses to reopen anything by
//! itself, and to take a position from a header. Invariant: `WatchOpened`
//! comes first, and nothing after a terminal item.

use std::{sync::Arc, time::Duration};

use async_stream::stream;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::{
    UpstreamEvents, UpstreamItem, Watch, WatchSpec,
    call::{READ_TIMEOUT, check_permission, judge, with_token},
    catchup::{CatchUpPermit, PermitSlot},
    connect::WatchSlot,
    convert::{self, Malformed},
    endpoints::{CountedWatch, Endpoint},
    error::{Failure, Meaning, status_text},
    etcd::{Shared, read_head},
    guard,
    live::{LiveWatch, id},
    status::FailureKind,
};
use crate::{
    proto::etcdserverpb::{
        WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
    resume::{KeyRange, Revision, WatchOpened},
};

/// Connecting and creating; etcd answers a creation at once.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// The creation and one progress request.
const REQUESTS_MAX: usize = 2;
/// One question in flight is all there is to ask.
const ASKS_MAX: usize = 1;
/// etcd's id for what concerns the whole stream, such as asked-for progress.
const WHOLE_STREAM: i64 = -1;

/// A watch that nobody reads does nothing.
pub(super) fn watch(shared: Arc<Shared>, spec: WatchSpec) -> Watch {
    let (ask_progress, asked) = mpsc::channel(ASKS_MAX);
    let (catching_up, slot) = CatchUpPermit::pending();
    Watch {
        events: events(shared, spec, slot, asked),
        ask_progress,
        catching_up,
    }
}

fn events(
    shared: Arc<Shared>,
    spec: WatchSpec,
    slot: PermitSlot,
    mut asked: mpsc::Receiver<()>,
) -> UpstreamEvents {
    Box::pin(stream! {
        let opened = match admit(&shared, &spec, &slot).await {
            Ok(()) => open(&shared, &spec).await,
            Err(failure) => Err(failure),
        };
        let (mut stream, opened) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                yield failure.into();
                return;
            }
        };
        yield UpstreamItem::WatchOpened(opened);
        loop {
            let said = stream.next(&mut asked).await;
            match read(said, &stream, spec.keys_only) {
                Said::Nothing => {}
                Said::Item(item) => yield item,
                Said::Last(item) => {
                    yield item;
                    return;
                }
            }
        }
    })
}

/// Waits for a permit, if there is much to catch up with.
async fn admit(shared: &Shared, spec: &WatchSpec, slot: &PermitSlot) -> Result<(), Failure> {
    let range = KeyRange::new(spec.guard.key.clone(), bytes::Bytes::new());
    let range = range.as_ref().unwrap_or(&spec.selection.range);
    let read_head = read_head(shared, range);
    let position = spec.guard.revision;
    shared
        .catch_ups
        .admit(position, &shared.newest, read_head, slot)
        .await
}

/// An open watch.
struct WatchStream {
    /// What the creation already said of the watch.
    first: Option<WatchResponse>,
    responses: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    can_ask_progress: bool,
    /// Whether anybody may still ask for progress.
    is_asked: bool,
    live: LiveWatch,
    slot: WatchSlot,
    endpoint: Arc<Endpoint>,
    _counted: CountedWatch,
}

/// Tries every endpoint once.
async fn open(shared: &Shared, spec: &WatchSpec) -> Result<(WatchStream, WatchOpened), Failure> {
    let mut last = Failure::lost("no endpoint");
    for endpoint in shared.endpoints.for_watch(spec.avoid_member) {
        match open_at(shared, &endpoint, spec).await {
            Ok((stream, opened)) => {
                endpoint.succeeded(Some(opened.member_id));
                shared.denials.allowed(&id(&spec.selection.range));
                return Ok((stream, opened));
            }
            Err(refused @ Failure::Refused(_)) => {
                shared.denials.note(&spec.selection.range, &refused);
                endpoint.note(&refused);
                return Err(refused);
            }
            Err(failure) => {
                endpoint.failed(&failure);
                debug!(endpoint = %endpoint.name, %failure, "watch not opened");
                last = failure;
            }
        }
    }
    Err(last)
}

async fn open_at(
    shared: &Shared,
    endpoint: &Arc<Endpoint>,
    spec: &WatchSpec,
) -> Result<(WatchStream, WatchOpened), Failure> {
    let counted = endpoint.count_watch();
    let slot = endpoint.watch_slot();
    let connection = slot.connection();
    let created = create(shared, &slot, spec).await?;
    // Events wait in the stream meanwhile.
    let (version, reading) = tokio::join!(
        shared.server_version(connection, &endpoint.name),
        guard::read(shared, connection, &spec.guard),
    );
    let guard = reading?;
    let can_ask_progress = created.member_id != 0
        && version.is_some_and(|server| {
            server.member_id == created.member_id
                && server.version.is_some_and(|v| v.answers_progress_soundly())
        });
    let opened = WatchOpened {
        member_id: created.member_id,
        can_ask_progress,
        guard,
    };
    let stream = WatchStream {
        first: created.first,
        responses: created.responses,
        requests: created.requests,
        can_ask_progress,
        is_asked: true,
        live: shared.live.register(&spec.selection.range),
        slot,
        endpoint: Arc::clone(endpoint),
        _counted: counted,
    };
    Ok((stream, opened))
}

struct Created {
    /// Cancelled for compaction at once, which the guard tells better.
    first: Option<WatchResponse>,
    responses: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    member_id: u64,
}

/// Creates the watch; once more on a new stream if a newer token is to be had.
async fn create(shared: &Shared, slot: &WatchSlot, spec: &WatchSpec) -> Result<Created, Failure> {
    let connection = slot.connection();
    let mut token = shared.auth.token().await?;
    let mut renewed = false;
    loop {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let create = RequestUnion::CreateRequest(convert::create_request(spec));
        send(&requests, create);
        let stream = with_token(ReceiverStream::new(receiver), &token);
        let created = timeout(CREATE_TIMEOUT, async {
            let mut responses = connection.watch().watch(stream).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        })
        .await;
        let (meaning, text) = match created {
            Err(_) => {
                shared.auth.doubt(&token);
                connection.retire();
                return Err(Failure::lost("the watch was not created in time"));
            }
            Ok(Err(status)) => {
                judge(connection, &status);
                (Meaning::of_status(&status), status_text(&status))
            }
            Ok(Ok((_, None))) => {
                return Err(Failure::lost(
                    "the stream ended before its watch was created",
                ));
            }
            Ok(Ok((_, Some(first)))) if first.canceled && first.compact_revision == 0 => {
                let meaning = Meaning::of_cancel_reason(&first.cancel_reason);
                (meaning, first.cancel_reason)
            }
            Ok(Ok((responses, Some(first)))) => {
                let header = first.header.filter(|_| first.created || first.canceled);
                let first = first.canceled.then_some(first);
                return Ok(Created {
                    member_id: header.ok_or(Malformed::NotCreated)?.member_id,
                    first,
                    responses,
                    requests,
                });
            }
        };
        if !renewed && meaning == Meaning::Denied {
            // Before 3.5.6 a bad token looks the same, but not to a read; which
            // also renews it.
            let range = &spec.selection.range;
            check_permission(&shared.auth, connection, READ_TIMEOUT, range).await?;
            token = shared.auth.token().await?;
            renewed = true;
            continue;
        }
        // A stream keeps its token, so a new token needs a new stream.
        if !renewed && let Some(newer) = shared.auth.renew(&token, meaning).await? {
            token = newer;
            renewed = true;
            continue;
        }
        return Err(Failure::of(meaning, &text, shared.auth.identity()));
    }
}

/// Never waits: what does not fit is asked again by whoever needs it.
fn send(requests: &mpsc::Sender<WatchRequest>, request: RequestUnion) {
    let _ = requests.try_send(WatchRequest {
        request_union: Some(request),
    });
}

/// What happened to an open watch.
enum Event {
    Response(Result<Option<WatchResponse>, Status>),
    Refused(crate::resume::Refusal),
    Asked,
}

impl WatchStream {
    /// Cancel-safe.
    async fn next(&mut self, asked: &mut mpsc::Receiver<()>) -> Event {
        if let Some(first) = self.first.take() {
            return Event::Response(Ok(Some(first)));
        }
        tokio::select! {
            biased;
            // Rare, and must not wait behind a busy stream.
            refusal = self.live.refused() => Event::Refused(refusal),
            ask = asked.recv(), if self.is_asked => {
                self.is_asked = ask.is_some();
                if ask.is_some() && self.can_ask_progress {
                    send(
                        &self.requests,
                        RequestUnion::ProgressRequest(WatchProgressRequest {}),
                    );
                }
                Event::Asked
            }
            response = self.responses.message() => Event::Response(response),
        }
    }
}

/// What a watch says next.
pub(super) enum Said {
    Nothing,
    Item(UpstreamItem),
    Last(UpstreamItem),
}

fn read(event: Event, stream: &WatchStream, keys_only: bool) -> Said {
    let endpoint = &stream.endpoint;
    match event {
        Event::Asked => Said::Nothing,
        Event::Refused(refusal) => Said::Last(UpstreamItem::Refused(refusal)),
        Event::Response(Ok(Some(response))) => {
            match read_response(response, stream.can_ask_progress, keys_only) {
                Ok(said) => said,
                Err(malformed) => {
                    warn!(endpoint = %endpoint.name, %malformed, "closing a watch: etcd broke its protocol");
                    endpoint.failed(&Failure::lost_as(FailureKind::Other, malformed.to_string()));
                    Said::Last(UpstreamItem::Lost)
                }
            }
        }
        Event::Response(Ok(None)) => {
            debug!(endpoint = %endpoint.name, "watch ended by etcd");
            endpoint.failed(&Failure::lost("it ended a watch"));
            Said::Last(UpstreamItem::Lost)
        }
        Event::Response(Err(status)) => {
            judge(stream.slot.connection(), &status);
            debug!(endpoint = %endpoint.name, code = ?status.code(), reason = status.message(), "watch lost");
            endpoint.failed(&Failure::of(
                Meaning::Retryable,
                &status_text(&status),
                None,
            ));
            Said::Last(UpstreamItem::Lost)
        }
    }
}

/// Cancellation, events or bookmark.
pub(super) fn read_response(
    response: WatchResponse,
    can_ask_progress: bool,
    keys_only: bool,
) -> Result<Said, Malformed> {
    if response.canceled {
        return Ok(Said::Last(match Revision::new(response.compact_revision) {
            Some(compact_revision) => UpstreamItem::Compacted { compact_revision },
            None => {
                debug!(reason = response.cancel_reason, "watch cancelled by etcd");
                UpstreamItem::Lost
            }
        }));
    }
    if !response.events.is_empty() {
        return Ok(Said::Item(UpstreamItem::Events {
            events: convert::events(response.events, keys_only)?,
            fragment: response.fragment,
        }));
    }
    // A timed bookmark is sound from 3.4 on, an asked-for one by version only.
    let is_sound = response.watch_id != WHOLE_STREAM || can_ask_progress;
    let revision = response.header.and_then(|h| Revision::new(h.revision));
    Ok(match revision {
        Some(revision) if is_sound && !response.created && !response.fragment => {
            Said::Item(UpstreamItem::Bookmark(revision))
        }
        _ => Said::Nothing,
    })
}
