//! What a flag's value may be, and how it is written.

use std::{
    borrow::Cow, fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};

/// Where applications connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Where operators and probes connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// An address, which need not be a loopback one: only reads are served
    /// to others.
    Tcp(SocketAddr),
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// [`IdleProof`](crate::resume::IdleProof), which knows nothing of flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum IdleProofFlag {
    /// By the etcd server's version.
    Auto,
    /// Only what etcd certifies.
    Progress,
    /// Never ask etcd for progress.
    Delay,
}

/// The longest duration. Durations are multiplied, and added to what a clock
/// says: this is as good as for ever, and far below what overflows.
const DAYS_MAX: u64 = 365;

/// A duration, which may be zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 90s or 10m"))?;
    if duration > Duration::from_secs(DAYS_MAX * 24 * 60 * 60) {
        return Err(format!("must be at most {DAYS_MAX}d"));
    }
    Ok(duration)
}

/// A duration above zero.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above zero".to_owned()),
        duration => Ok(duration),
    }
}

/// Yes or no. An empty variable, as deployment templates leave behind, is a no.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "1" => Ok(true),
        "" | "false" | "no" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// A number of bytes above zero.
pub(super) fn size(text: &str) -> Result<NonZeroUsize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: usize = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("write it like 8MiB (B, KiB, MiB, GiB)".to_owned()),
    };
    let bytes = digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    bytes
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| "write a whole number above zero, like 8MiB".to_owned())
}

/// As [`parse_log_filter`], for a flag.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    parse_log_filter(text).map(|_| text.to_owned())
}

/// What to log: a level, or directives of tracing's.
///
/// # Errors
/// What is wrong with it. A name alone is refused, which tracing would take
/// for a target of which everything is logged, and nothing of all others; half
/// a directive; and spans and fields, which only a filter with regular
/// expressions knows.
pub fn parse_log_filter(text: &str) -> Result<Targets, String> {
    let directives: Vec<_> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
        let is_of_a_target = directive
            .split_once('=')
            .is_some_and(|(target, level)| !target.is_empty() && !level.is_empty());
        if !is_level && (!is_of_a_target || directive.contains('[')) {
            return Err(format!(
                "{directive:?} is no level; write one of error, warn, info, debug, trace, off, \
                 or directives like watchmark=debug,h2=warn"
            ));
        }
    }
    let filter = directives.join(",").parse();
    filter.map_err(|error: ParseError| error.to_string())
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = numeric(text).parse();
        address
            .map(Self::Tcp)
            .map_err(|_| "write an address and port like 127.0.0.1:7380, or off".to_owned())
    }
}

/// `localhost` is known without asking anybody.
fn numeric(text: &str) -> Cow<'_, str> {
    match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").into(),
        None => text.into(),
    }
}

impl Listen {
    /// Whether only this machine can connect.
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("a socket needs an absolute path: unix:///path.sock".to_owned())
            };
        }
        let address = numeric(text).parse();
        address.map(Self::Tcp).map_err(|_| {
            "write an address and port like 127.0.0.1:7379, or unix:///path.sock".to_owned()
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
