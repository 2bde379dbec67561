//! How a watch begins. Owns the choice of the endpoint, the creation, the
//! guard and the version gate; refuses to open a watch on another connection
//! than its guard was read on. Invariant: nothing after a watch's start was
//! compacted when it was created, or its guard says so.

use std::{iter, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::debug;

use super::{
    WatchSpec,
    auth::Token,
    call::{READ_TIMEOUT, check_permission, judge, with_token},
    catchup::PermitSlot,
    connect::{Connection, WatchSlot},
    convert::{self, Malformed},
    endpoints::{CountedWatch, Endpoint},
    error::{Failure, Meaning, status_text},
    guard,
    live::id,
    requests::Requests,
    shared::{Shared, read_head},
};
use crate::{
    proto::etcdserverpb::WatchResponse,
    resume::{Guard, GuardReading, KeyRange, Revision, WatchOpened},
};

/// Connecting and creating; etcd answers a creation at once.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// One watch that etcd created.
pub(super) struct Created {
    /// It starts right after it.
    pub(super) after: Revision,
    /// Cancelled for compaction at once. The guard tells better; a watch ahead is
    /// given up.
    pub(super) first: Option<WatchResponse>,
    pub(super) responses: Streaming<WatchResponse>,
    pub(super) requests: Requests,
    pub(super) slot: WatchSlot,
    member_id: u64,
}

/// A watch whose guard was read.
pub(super) struct Open {
    pub(super) created: Created,
    pub(super) opened: WatchOpened,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) counted: CountedWatch,
}

impl Created {
    pub(super) const fn connection(&self) -> &Arc<Connection> {
        self.slot.connection()
    }
}

/// Waits for a permit, if there is much to catch up with.
pub(super) async fn admit(
    shared: &Shared,
    spec: &WatchSpec,
    slot: &PermitSlot,
) -> Result<(), Failure> {
    let range = KeyRange::new(spec.guard.key.clone(), bytes::Bytes::new());
    let range = range.as_ref().unwrap_or(&spec.selection.range);
    let read_head = read_head(shared, range);
    let position = spec.guard.revision;
    shared
        .catch_ups
        .admit(position, &shared.newest, read_head, slot)
        .await
}

/// Tries every endpoint once.
pub(super) async fn open(shared: &Shared, spec: &WatchSpec) -> Result<Open, Failure> {
    let mut last = Failure::lost("no endpoint");
    for endpoint in shared.endpoints.for_watch(spec.avoid_member) {
        match open_at(shared, &endpoint, spec).await {
            Ok(open) => {
                endpoint.succeeded(Some(open.opened.member_id));
                shared.denials.allowed(&id(&spec.selection.range));
                return Ok(open);
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
) -> Result<Open, Failure> {
    let counted = endpoint.count_watch();
    let after = spec.guard.revision;
    let created = create(shared, endpoint.watch_slot(), spec, after, false).await?;
    // Events wait in the stream meanwhile.
    let (version, reading) = tokio::join!(
        shared.server_version(created.connection(), &endpoint.name),
        guard::read(shared, created.connection(), &spec.guard),
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
    Ok(Open {
        created,
        opened,
        endpoint: Arc::clone(endpoint),
        counted,
    })
}

/// More watches of `spec` on `connection`, one right after each of `starts`,
/// ascending; as many as it has places for, besides `place`, which the first
/// takes. With etcd's newest revision. One guard, read last, speaks for all:
/// what it finds whole was so before.
///
/// # Errors
/// If one of them could not be created, or what comes after the first start is
/// compacted.
pub(super) async fn open_more(
    shared: &Shared,
    connection: &Arc<Connection>,
    spec: &WatchSpec,
    place: Option<WatchSlot>,
    starts: &[Revision],
) -> Result<(Vec<Created>, Revision), Failure> {
    let is_ahead = place.is_none();
    let places = place.into_iter();
    let slots = places.chain(iter::from_fn(|| connection.reserve_watch()));
    let creating = slots.zip(starts).enumerate().map(|(n, (slot, &after))| {
        // What they have to say is only guessed, and etcd would hold all of it
        // at once.
        let fragment = is_ahead || n > 0;
        create(shared, slot, spec, after, fragment)
    });
    let created = try_join_all(creating).await?;
    let Some(first) = created.first().map(|first| first.after) else {
        return Err(Failure::lost(
            "the connection has no place for more watches",
        ));
    };
    let guard = Guard {
        revision: first,
        key: spec.guard.key.clone(),
    };
    match guard::read(shared, connection, &guard).await? {
        GuardReading::Present { header, .. } => Ok((created, header.revision)),
        GuardReading::Compacted { .. } | GuardReading::Future => {
            Err(Failure::lost("the history was compacted meanwhile"))
        }
    }
}

/// Creates a watch; once more on a new stream if a newer token is to be had.
async fn create(
    shared: &Shared,
    slot: WatchSlot,
    spec: &WatchSpec,
    after: Revision,
    fragment: bool,
) -> Result<Created, Failure> {
    let connection = slot.connection();
    let range = &spec.selection.range;
    let mut token = shared.auth.token().await?;
    let mut renewed = false;
    loop {
        let fragment = fragment || shared.oversized.contains(range);
        let create = convert::create_request(spec, after, fragment);
        let (requests, requested) = Requests::new(create);
        let stream = with_token(requested, &token);
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
                    after,
                    first,
                    responses,
                    requests,
                    slot,
                });
            }
        };
        if !renewed
            && let Some(newer) = newer_token(shared, connection, range, &token, meaning).await?
        {
            // A stream keeps its token, so a new token needs a new stream.
            token = newer;
            renewed = true;
            continue;
        }
        return Err(Failure::of(meaning, &text, shared.auth.identity()));
    }
}

/// Another token than the one that a creation failed with, for that `meaning`.
async fn newer_token(
    shared: &Shared,
    connection: &Connection,
    range: &KeyRange,
    token: &Token,
    meaning: Meaning,
) -> Result<Option<Token>, Failure> {
    if meaning != Meaning::Denied {
        return shared.auth.renew(token, meaning).await;
    }
    // Before 3.5.6 a bad token looks the same, but not to a read; which also
    // renews it.
    check_permission(&shared.auth, connection, READ_TIMEOUT, range).await?;
    shared.auth.token().await.map(Some)
}
