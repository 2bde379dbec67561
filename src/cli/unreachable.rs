//! Why a server cannot be spoken to, told to a person. The libraries below
//! say it in a chain of errors, whose last one knows what happened.

use std::{error::Error, io};

use super::words::one_line;

/// Where a chain of errors is read no further.
const CHAIN_LENGTH_MAX: usize = 16;

/// What a TLS library says, and what to do then.
const TLS_HINTS: &[(&str, &str)] = &[
    (
        "certificate required",
        "the server asks for a certificate of yours: give --cert-file and --key-file",
    ),
    (
        "CertificateRequired",
        "the server asks for a certificate of yours: give --cert-file and --key-file",
    ),
    (
        "UnknownIssuer",
        "its certificate is signed by an authority that is not known here: give --ca-file",
    ),
    (
        "not valid for name",
        "its certificate is for another name: give --server-name, or check --address",
    ),
    (
        "expired",
        "its certificate is not valid any more: renew the server's --tls-cert-file",
    ),
    // Whatever else is wrong with one.
    (
        "invalid peer certificate",
        "its certificate cannot be verified: check --ca-file and --server-name",
    ),
    (
        "InvalidContentType",
        "it does not speak TLS: give --address http://HOST:PORT",
    ),
    (
        "received corrupt message",
        "it does not speak TLS: give --address http://HOST:PORT",
    ),
];

/// Of a connection to `address` that was never made.
pub(super) fn never_reached(address: &str, error: &(dyn Error + 'static)) -> String {
    let chain = chain(error);
    let kind = chain
        .iter()
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => format!(
            "nobody listens at {address}: is watchmark serve running there? If it listens \
             elsewhere, give --address"
        ),
        Some(io::ErrorKind::NotFound) => format!(
            "there is no socket at {address}: is watchmark serve --listen {address} running?"
        ),
        Some(io::ErrorKind::PermissionDenied) => format!(
            "not permitted to connect to {address}: run as the user or in the group of watchmark"
        ),
        Some(io::ErrorKind::TimedOut) => no_answer(address),
        _ => explain(&format!("cannot connect to {address}"), address, &chain),
    }
}

/// Of a stream from `address` whose connection broke.
pub(super) fn lost(address: &str, error: &(dyn Error + 'static)) -> String {
    let chain = chain(error);
    let cause = chain.last().map(|error| one_line(&error.to_string()));
    format!(
        "the connection to {address} broke: {}",
        cause.unwrap_or_default()
    )
}

/// Of a call at `address` whose connection broke, or spoke no gRPC.
pub(super) fn broken(address: &str, error: &(dyn Error + 'static)) -> String {
    let chain = chain(error);
    let is_refused = |error: &&(dyn Error + 'static)| {
        let error = error.downcast_ref::<io::Error>().map(io::Error::kind);
        error == Some(io::ErrorKind::ConnectionRefused) || error == Some(io::ErrorKind::NotFound)
    };
    if chain.iter().any(is_refused) {
        return never_reached(address, error);
    }
    explain(
        &format!("the connection to {address} broke"),
        address,
        &chain,
    )
}

/// Of a server that takes too long.
pub(super) fn no_answer(address: &str) -> String {
    format!("{address} does not answer in time: see watchmark's log, or give a longer --timeout")
}

/// Of a server that hangs up, or says what is no gRPC.
fn suspicion(address: &str, texts: &[String]) -> Option<&'static str> {
    const HUNG_UP: &[&str] = &[
        "connection closed",
        "connection reset",
        "broken pipe",
        "frame with invalid size",
    ];
    let said = |text: &String| {
        let text = text.to_lowercase();
        HUNG_UP.iter().any(|what| text.contains(what))
    };
    if !texts.iter().any(said) {
        None
    } else if address.starts_with("https://") {
        Some("does it want a certificate of yours? Give --cert-file and --key-file, or others")
    } else {
        Some("does it speak gRPC there? With TLS, write https://HOST:PORT")
    }
}

fn explain(what: &str, address: &str, chain: &[&(dyn Error + 'static)]) -> String {
    let texts: Vec<String> = chain
        .iter()
        .map(|error| one_line(&error.to_string()))
        .collect();
    let hint = TLS_HINTS
        .iter()
        .find(|(said, _)| texts.iter().any(|text| text.contains(said)))
        .map(|(_, hint)| *hint)
        .or_else(|| suspicion(address, &texts));
    let cause = texts.last().map_or("", String::as_str);
    match hint {
        Some(hint) => format!("{what}: {hint} ({cause})"),
        None => format!("{what}: {cause}"),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut last = error;
    while let Some(source) = last.source()
        && chain.len() < CHAIN_LENGTH_MAX
    {
        chain.push(source);
        last = source;
    }
    chain
}
