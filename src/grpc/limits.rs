//! What is answered before any service sees the call: one connection too many,
//! headers too large; and, in our words, a message too large, or one that does
//! not come.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, Request, Response},
};
use tonic::{Code, Status};
use tower::Service;

use super::{
    peer::Peer,
    status::{Cause, status},
};

/// Requests are a client_id, a range and some numbers; etcd's keys are short.
pub(super) const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// gRPC's own headers, and tracing's, take less than 1 KiB; tokens some more.
pub(super) const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How long it may take from a call's headers until its answer begins. Longer
/// than any service takes; without it a call whose message never comes would
/// hold its memory for as long as the connection.
const ANSWER_BEGINS_WITHIN: Duration = Duration::from_secs(30);

/// What HTTP/2 itself counts besides name and value (RFC 9113, 6.5.2).
const HEADER_OVERHEAD_BYTES: usize = 32;

/// A service that keeps these limits.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
}

impl<S> Limited<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(cause) = refusal(&request) {
            return Box::pin(async { Ok(status("", cause).into_http()) });
        }
        let answer = tokio::time::timeout(ANSWER_BEGINS_WITHIN, self.inner.call(request));
        Box::pin(async {
            let Ok(answer) = answer.await else {
                let waited = ANSWER_BEGINS_WITHIN;
                return Ok(status("", Cause::RequestIncomplete { waited }).into_http());
            };
            let answer = answer?;
            Ok(if is_about_a_large_message(answer.headers()) {
                let max_bytes = REQUEST_BYTES_MAX;
                let cause = Cause::RequestTooLarge {
                    limit: "message_bytes",
                    max_bytes,
                };
                status("", cause).into_http()
            } else {
                answer
            })
        })
    }
}

fn refusal(request: &Request<Body>) -> Option<Cause> {
    let peer = request.extensions().get::<Peer>();
    if let Some(limit) = peer.and_then(|peer| peer.excess) {
        return Some(Cause::TooManyConnections(limit));
    }
    (bytes(request.headers()) > HEADER_BYTES_MAX).then_some(Cause::RequestTooLarge {
        limit: "header_bytes",
        max_bytes: HEADER_BYTES_MAX,
    })
}

fn bytes(headers: &HeaderMap) -> usize {
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.as_bytes().len() + HEADER_OVERHEAD_BYTES);
    bytes.sum()
}

/// tonic answers a message above the limit with OUT_OF_RANGE and nothing but
/// words; every OUT_OF_RANGE of ours carries details.
fn is_about_a_large_message(answer: &HeaderMap) -> bool {
    let told = Status::from_header_map(answer);
    told.is_some_and(|told| {
        told.code() == Code::OutOfRange
            && told.details().is_empty()
            && told.message().contains("message length too large")
    })
}
