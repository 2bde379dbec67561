//! One call to one server. Owns deadlines, the token on each call and its
//! renewal, and the verdict on a connection that failed; refuses to retry
//! anything but once with a newer token. Invariant: every call ends within its
//! deadline, authentication aside, which has its own.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{
    auth::{Auth, Token},
    connect::Connection,
    error::{Failure, Meaning, status_text},
};
use crate::{
    proto::etcdserverpb::{
        RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op,
    },
    resume::{KeyRange, Revision},
};

/// For one key.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Puts the token on a message, and requires a leader.
pub(super) fn with_token<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(
        "hasleader",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    if let Some(token) = token.value() {
        metadata.insert("token", token.clone());
    }
    request
}

/// Makes a call, a second time with a newer token if the first met a stale one.
pub(super) async fn call<T, F>(
    auth: &Auth,
    connection: &Connection,
    deadline: Duration,
    call: impl Fn(Token) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut token = auth.token().await?;
    let mut renewed = false;
    loop {
        let status = match timeout(deadline, call(token.clone())).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => {
                auth.doubt(&token);
                connection.retire();
                return Err(Failure::lost(format!("no answer within {deadline:?}")));
            }
        };
        let meaning = Meaning::of_status(&status);
        if !renewed && let Some(newer) = auth.renew(&token, meaning).await? {
            token = newer;
            renewed = true;
            continue;
        }
        judge(connection, &status);
        return Err(Failure::of(meaning, &status_text(&status), auth.identity()));
    }
}

/// A status that no server sent came from the connection, which is broken then.
pub(super) fn judge(connection: &Connection, status: &Status) {
    let came_from_here = std::error::Error::source(status).is_some();
    if came_from_here && Meaning::of_status(status) != Meaning::TooLarge {
        connection.retire();
    }
}

/// The request for one key; `revision`: `None` reads the newest.
pub(super) fn single_key(key: bytes::Bytes, revision: Option<Revision>) -> RangeRequest {
    RangeRequest {
        key,
        limit: 1,
        revision: Revision::to_wire(revision),
        keys_only: true,
        ..RangeRequest::default()
    }
}

/// Linearizable; answers larger than `answer_bytes_max` are refused unread.
pub(super) async fn range(
    auth: &Auth,
    connection: &Connection,
    deadline: Duration,
    request: &RangeRequest,
    answer_bytes_max: usize,
) -> Result<RangeResponse, Failure> {
    call(auth, connection, deadline, |token| {
        let mut kv = connection.kv().max_decoding_message_size(answer_bytes_max);
        let request = with_token(request.clone(), &token);
        async move { kv.range(request).await }
    })
    .await
}

/// For an answer that holds one key and no value.
pub(super) const SINGLE_KEY_BYTES_MAX: usize = 4 << 20;

/// Whether `read` may be read, all of it, with etcd's newest header: a
/// read-only transaction whose branch that is not run reads it. etcd checks
/// the permissions of both branches, so that this costs no key, and is
/// linearizable as any read.
pub(super) async fn check_permission(
    auth: &Auth,
    connection: &Connection,
    deadline: Duration,
    read: &KeyRange,
) -> Result<TxnResponse, Failure> {
    let read = RangeRequest {
        key: read.key().clone(),
        range_end: read.range_end().clone(),
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    // Without a comparison the first branch is run, which is empty.
    let transaction = TxnRequest {
        success: Vec::new(),
        failure: vec![RequestOp {
            request: Some(request_op::Request::RequestRange(read)),
        }],
    };
    call(auth, connection, deadline, |token| {
        let mut kv = connection.kv();
        let request = with_token(transaction.clone(), &token);
        async move { kv.txn(request).await }
    })
    .await
}
