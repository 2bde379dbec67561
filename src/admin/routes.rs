//! What is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::timeout;
use tower::ServiceExt;

use super::{
    Sources, gate,
    page::{self, History},
    scrape,
};
use crate::{
    grpc::{self, Peer},
    metrics::MEDIA_TYPE,
    survey::Readiness,
};

/// Until an answer begins. Scrapers and probes wait 10 s at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// A filter is a line.
const FILTER_BYTES_MAX: usize = 4096;

const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Clone)]
struct Shown {
    sources: Arc<Sources>,
    history: Arc<History>,
}

#[derive(Clone, Copy)]
struct Gate {
    is_for_this_host: bool,
}

pub(super) fn router(sources: Sources, is_for_this_host: bool) -> Router {
    let services = sources.grpc.clone();
    let shown = Shown {
        sources: Arc::new(sources),
        history: Arc::default(),
    };
    Router::new()
        .route("/", get(status_page))
        .route("/status.json", get(status_json))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/log", get(log_filter).put(change_log_filter))
        .fallback(move |request: Request| elsewhere(services.clone(), request))
        .with_state(shown)
        .layer(middleware::from_fn_with_state(
            Gate { is_for_this_host },
            guarded,
        ))
}

/// Checks who asks, and that an answer begins in time.
async fn guarded(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let admitted = gate::admit(&gate::Asked {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        is_local: is_local(&request),
        is_for_this_host: gate.is_for_this_host,
    });
    if let Err(why) = admitted {
        if gate::is_call(request.headers()) {
            return grpc::local_only();
        }
        return plain(StatusCode::FORBIDDEN, format!("{why}\n"));
    }
    let mut response = match timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no answer within {ANSWER_TIMEOUT:?}\n"),
        ),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(Peer::is_local)
}

/// gRPC calls go to their services; all others went to a wrong path.
async fn elsewhere(services: Router, request: Request) -> Response {
    if gate::is_call(request.headers()) {
        return services.oneshot(request).await.into_response();
    }
    plain(
        StatusCode::NOT_FOUND,
        "not found; there are: / /status.json /metrics /livez /readyz /log\n",
    )
}

async fn status_page() -> Response {
    let (html, policy) = page::html();
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, html).into_response()
}

async fn status_json(State(shown): State<Shown>) -> Response {
    let survey = shown.sources.surveyor.survey().await;
    shown.history.add(&survey);
    match page::json(&survey, &shown.history) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let survey = shown.sources.surveyor.survey().await;
    shown.history.add(&survey);
    match shown.sources.metrics.text(&scrape::scrape(&survey)) {
        Ok(text) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn livez(State(shown): State<Shown>) -> Response {
    if shown.sources.surveyor.is_alive() {
        plain(StatusCode::OK, "ok\n")
    } else {
        let why = "the thread that writes checkpoints has ended; its last words are in the log\n";
        plain(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let readiness = shown.sources.surveyor.readiness();
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    plain(status, readiness_text(readiness))
}

/// What is there and what is missing, by name.
fn readiness_text(readiness: Readiness) -> String {
    let line = |is_there: bool, name: &str, missing: &str| {
        if is_there {
            format!("[+] {name}\n")
        } else {
            format!("[-] {name}: {missing}\n")
        }
    };
    let store = "takes no writes at present; see / or the log";
    let etcd = "not reached since the start; see / or the log";
    [
        line(readiness.is_store_ready, "store", store),
        line(readiness.is_etcd_reached, "etcd", etcd),
        line(!readiness.is_draining, "serving", "stopping"),
        if readiness.is_ready() {
            "ready\n"
        } else {
            "not ready\n"
        }
        .to_owned(),
    ]
    .concat()
}

async fn log_filter(State(shown): State<Shown>) -> Response {
    plain(StatusCode::OK, format!("{}\n", shown.sources.log.current()))
}

async fn change_log_filter(State(shown): State<Shown>, body: Body) -> Response {
    let Ok(body) = to_bytes(body, FILTER_BYTES_MAX).await else {
        let why = format!("a filter has at most {FILTER_BYTES_MAX} bytes\n");
        return plain(StatusCode::PAYLOAD_TOO_LARGE, why);
    };
    let Ok(filter) = std::str::from_utf8(&body) else {
        return plain(StatusCode::BAD_REQUEST, "a filter is text\n");
    };
    match shown.sources.log.change(filter.trim()) {
        Ok(()) => plain(StatusCode::OK, format!("{}\n", shown.sources.log.current())),
        Err(why) => plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT)], text.into()).into_response()
}
