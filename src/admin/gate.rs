//! Who may do what on the admin port.
//!
//! Anybody who reaches it may read. Only this host may change anything, and
//! not a web page that happens to be open on it: a page of another site can
//! send requests here by name tricks (DNS rebinding) or by forms.
//!
//! Invariant: what is not known to be a read is a change.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, header, uri::Authority};

/// gRPC calls that change nothing; a `*` ends a prefix.
const READING_CALLS: &[&str] = &[
    "/watchmark.v1.AdminService/Get*",
    "/watchmark.v1.AdminService/List*",
    "/grpc.health.v1.Health/*",
    "/grpc.reflection.v1.ServerReflection/*",
    "/grpc.reflection.v1alpha.ServerReflection/*",
];

/// A request, as far as it matters here.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    /// It comes from this host.
    pub(super) is_local: bool,
    /// The port is bound to loopback only.
    pub(super) is_for_this_host: bool,
}

/// # Errors
/// Why not, for whoever asked.
pub(super) fn admit(asked: &Asked<'_>) -> Result<(), &'static str> {
    let host = host(asked);
    let is_named_plainly = host.as_ref().is_some_and(is_number_or_localhost);
    if asked.is_for_this_host && host.is_some() && !is_named_plainly {
        return Err("this port is on loopback: use 127.0.0.1, [::1] or localhost in the URL");
    }
    if is_read(asked) {
        return Ok(());
    }
    if !asked.is_local {
        return Err("only this host may change anything: connect to the loopback address");
    }
    if !is_named_plainly {
        return Err("to change anything use 127.0.0.1, [::1] or localhost in the URL");
    }
    if comes_from_another_site(asked.headers, host.as_ref()) {
        return Err("a page of another site may change nothing here");
    }
    Ok(())
}

fn host(asked: &Asked<'_>) -> Option<Authority> {
    let header = asked.headers.get(header::HOST);
    let header = header.and_then(|host| host.to_str().ok());
    let header = header.map(|host| {
        // One that can't be read is some name.
        host.parse().unwrap_or(Authority::from_static("unreadable"))
    });
    asked.uri.authority().cloned().or(header)
}

fn is_number_or_localhost(host: &Authority) -> bool {
    let host = host.host();
    let number = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || number.parse::<IpAddr>().is_ok()
}

/// Whether it is a gRPC call, which is answered whatever its method.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

fn is_read(asked: &Asked<'_>) -> bool {
    let is_reading_call = || {
        let path = asked.uri.path();
        READING_CALLS
            .iter()
            .any(|call| path.starts_with(call.trim_end_matches('*')))
    };
    match *asked.method {
        Method::GET | Method::HEAD => !is_call(asked.headers),
        Method::POST => is_reading_call(),
        _ => false,
    }
}

/// What browsers add to what a page sends.
fn comes_from_another_site(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let is_own_origin = |origin: &str| {
        let origin = origin.strip_prefix("http://");
        origin.is_some_and(|origin| host.is_some_and(|host| host.as_str() == origin))
    };
    text("origin").is_some_and(|origin| !is_own_origin(origin))
        || text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        method: &'static str,
        path: &'static str,
        host: &'static str,
        is_local: bool,
        headers: &'static [(&'static str, &'static str)],
        is_for_this_host: bool,
    }

    const CHANGE: Case = Case {
        method: "PUT",
        path: "/log",
        host: "127.0.0.1:7380",
        is_local: true,
        headers: &[],
        is_for_this_host: true,
    };
    const READ_FROM_AFAR: Case = Case {
        method: "GET",
        path: "/metrics",
        host: "watchmark.example:7380",
        is_local: false,
        headers: &[],
        is_for_this_host: false,
    };

    fn is_admitted(case: &Case) -> bool {
        let mut headers = HeaderMap::new();
        if !case.host.is_empty() {
            headers.insert(header::HOST, case.host.parse().unwrap());
        }
        for (name, value) in case.headers {
            headers.insert(*name, value.parse().unwrap());
        }
        admit(&Asked {
            method: &case.method.parse().unwrap(),
            uri: &case.path.parse().unwrap(),
            headers: &headers,
            is_local: case.is_local,
            is_for_this_host: case.is_for_this_host,
        })
        .is_ok()
    }

    #[test]
    fn this_host_may_change_something_by_number_or_as_localhost() {
        for host in [
            "127.0.0.1:7380",
            "[::1]:7380",
            "localhost:7380",
            "LOCALHOST",
            "10.0.0.7",
        ] {
            assert!(is_admitted(&Case { host, ..CHANGE }), "{host}");
        }
        for host in [
            "evil.example:7380",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!is_admitted(&Case { host, ..CHANGE }), "{host}");
        }
        assert!(!is_admitted(&Case {
            is_local: false,
            ..CHANGE
        }));
    }

    #[test]
    fn a_page_of_another_site_may_not() {
        const OTHERS: &[&[(&str, &str)]] = &[
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[("origin", "https://127.0.0.1:7380")],
            &[("origin", "http://127.0.0.1:8080")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ];
        for headers in OTHERS {
            assert!(!is_admitted(&Case { headers, ..CHANGE }), "{headers:?}");
        }
        const OWN: &[(&str, &str)] = &[
            ("origin", "http://127.0.0.1:7380"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(is_admitted(&Case {
            headers: OWN,
            ..CHANGE
        }));
    }

    #[test]
    fn others_may_read_and_nothing_else() {
        assert!(is_admitted(&READ_FROM_AFAR));
        assert!(!is_admitted(&Case {
            is_for_this_host: true,
            ..READ_FROM_AFAR
        }));
        let call = |path| Case {
            method: "POST",
            path,
            ..READ_FROM_AFAR
        };
        for path in [
            "/watchmark.v1.AdminService/ListSubscriptions",
            "/watchmark.v1.AdminService/GetStatus",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(is_admitted(&call(path)), "{path}");
        }
        for path in [
            "/watchmark.v1.AdminService/SeekSubscription",
            "/watchmark.v1.AdminService/DeleteSubscription",
            "/watchmark.v1.AdminService/FromTomorrow",
            "/watchmark.v1.WatchService/Ack",
            "/log",
        ] {
            assert!(!is_admitted(&call(path)), "{path}");
        }
        // A call is answered whatever its method, so that says nothing of it.
        for method in ["GET", "HEAD"] {
            assert!(
                !is_admitted(&Case {
                    method,
                    headers: &[("content-type", "application/grpc+proto")],
                    ..call("/watchmark.v1.AdminService/DeleteSubscription")
                }),
                "{method}"
            );
        }
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            assert!(
                !is_admitted(&Case {
                    method,
                    ..READ_FROM_AFAR
                }),
                "{method}"
            );
        }
    }
}
