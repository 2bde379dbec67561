//! The resume guard. Owns the one `Range` that tells whether the history
//! after a position is whole, and finding out etcd's compact_revision; refuses
//! to conclude anything from the watch alone. Invariant: `Present` means that
//! nothing after the guard's revision was compacted when it was read.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    auth::Token,
    call::{READ_TIMEOUT, SINGLE_KEY_BYTES_MAX, range, single_key, with_token},
    connect::Connection,
    convert,
    error::Failure,
    requests::Requests,
    shared::Shared,
};
use crate::{
    proto::etcdserverpb::WatchCreateRequest,
    resume::{Guard, GuardReading, Revision},
};

/// etcd cancels a compacted watch within 100 ms of its creation.
const COMPACTION_NOTICE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the guard on the connection of the watch it is for.
pub(super) async fn read(
    shared: &Shared,
    connection: &Connection,
    guard: &Guard,
) -> Result<GuardReading, Failure> {
    let asked_at = Instant::now();
    let request = single_key(guard.key.clone(), Some(guard.revision));
    let answer = range(
        &shared.auth,
        connection,
        READ_TIMEOUT,
        &request,
        SINGLE_KEY_BYTES_MAX,
    )
    .await;
    match answer {
        Ok(answer) => {
            let header = convert::header(answer.header.as_ref())?;
            shared.newest.update(header, asked_at);
            let pair = answer.kvs.first();
            Ok(GuardReading::Present {
                header,
                mod_revision: pair.and_then(|pair| Revision::new(pair.mod_revision)),
            })
        }
        Err(Failure::Compacted) => Ok(GuardReading::Compacted {
            compact_revision: compact_revision(shared, connection, &guard.key).await,
        }),
        Err(Failure::FutureRevision) => Ok(GuardReading::Future),
        Err(failure) => Err(failure),
    }
}

/// etcd tells its compact_revision only to a watch that starts before it: one
/// that starts at the first revision, thrown away at once. `None`: not found out.
pub(super) async fn compact_revision(
    shared: &Shared,
    connection: &Connection,
    key: &bytes::Bytes,
) -> Option<Revision> {
    let token = shared.auth.token().await.ok()?;
    timeout(COMPACTION_NOTICE_TIMEOUT, notice(connection, key, &token))
        .await
        .ok()
        .flatten()
}

async fn notice(connection: &Connection, key: &bytes::Bytes, token: &Token) -> Option<Revision> {
    // Kept: the end of the requests would end the watch.
    let (_requests, requested) = Requests::new(WatchCreateRequest {
        key: key.clone(),
        start_revision: 1,
        fragment: true,
        ..WatchCreateRequest::default()
    });
    let requested = with_token(requested, token);
    let answer = connection.watch().watch(requested).await;
    let mut responses = answer.ok()?.into_inner();
    loop {
        let response = responses.message().await.ok().flatten()?;
        if response.canceled {
            return Revision::new(response.compact_revision);
        }
        if !response.events.is_empty() {
            return None;
        }
    }
}
