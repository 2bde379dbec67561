//! Counts every call of a gRPC port by method and status code, when it ends:
//! a stream with its last message, or when its caller goes away.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http_body::{Frame, SizeHint};
use tonic::{Code, codegen::http::HeaderMap};

use crate::metrics::Calls;

const STATUS: &str = "grpc-status";

/// Every method that is counted under its name. What a peer makes up is not.
const METHODS: &[&str] = &[
    "watchmark.v1.WatchService/Subscribe",
    "watchmark.v1.WatchService/Ack",
    "watchmark.v1.AdminService/ListSubscriptions",
    "watchmark.v1.AdminService/GetSubscription",
    "watchmark.v1.AdminService/SeekSubscription",
    "watchmark.v1.AdminService/DeleteSubscription",
    "watchmark.v1.AdminService/GetStatus",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.health.v1.Health/List",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// `router`, counted.
pub(super) fn counted(router: Router, calls: Calls) -> Router {
    router.layer(middleware::from_fn_with_state(calls, count))
}

async fn count(
    State(calls): State<Calls>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let path = request.uri().path().trim_start_matches('/');
    let method = METHODS.iter().find(|method| **method == path);
    let mut open = OpenCall {
        calls,
        method: method.copied().unwrap_or("other"),
        is_counted: false,
    };
    let (parts, body) = next.run(request).await.into_parts();
    // A call that failed at once has its status here.
    open.end_if_told(&parts.headers);
    let body = Body::new(CountedBody { body, open });
    Ok(Response::from_parts(parts, body))
}

struct OpenCall {
    calls: Calls,
    method: &'static str,
    is_counted: bool,
}

impl OpenCall {
    fn end_if_told(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.end(Code::from_bytes(status.as_bytes()));
        }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.calls.ended(self.method, name(code));
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

struct CountedBody {
    body: Body,
    open: OpenCall,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.open.end_if_told(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// As gRPC's documents write it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_method_of_ours_is_counted_under_its_name() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
        let mut found = 0;
        for file in files.iter().filter(|file| file.package() == "watchmark.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("watchmark.v1.{}/{}", service.name(), method.name());
                    assert!(METHODS.contains(&path.as_str()), "{path} is not in METHODS");
                    found += 1;
                }
            }
        }
        let ours = METHODS.iter().filter(|it| it.starts_with("watchmark."));
        assert_eq!(ours.count(), found);
    }
}
