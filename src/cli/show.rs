//! `watchmark show`

use std::time::SystemTime;

use clap::Args;

use super::{
    EXIT_CODES, connect,
    connect::ConnectFlags,
    failure::Failure,
    json,
    output::{Format, Output, OutputFlags},
    words::{self, NONE},
};
use crate::proto::{
    PairOptions,
    watchmark::v1::{AckMode, CompactionPolicy, SnapshotReason, Subscription},
};

const AFTER_HELP: &str = "\
Examples:
  watchmark show orders
  watchmark show orders --output json | jq .checkpoint";

#[derive(Debug, Args)]
#[command(after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Flags {
    /// The subscriber
    #[arg(value_parser = super::client_id)]
    client_id: String,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let subscription = server.subscription(&flags.client_id).await?;
    match flags.output.output {
        Format::Json => output.json(&json::subscription(&subscription)),
        Format::Text => {
            let fields = fields(&subscription, SystemTime::now());
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in fields {
                output.line(&format!("{name:<width$}  {value}"))?;
            }
            Ok(())
        }
    }
}

fn fields(it: &Subscription, now: SystemTime) -> Vec<(&'static str, String)> {
    let time = |time| words::time_and_age(time, now);
    let unacked = match &it.oldest_unacked_time {
        Some(oldest) => format!(
            "{}, the oldest from {}",
            it.unacked_events,
            time(Some(oldest))
        ),
        None => it.unacked_events.to_string(),
    };
    let session = it.session.as_ref().map_or_else(
        || NONE.to_owned(),
        |session| {
            let peer = words::one_line(&session.peer);
            let since = time(session.since.as_ref());
            format!("{} from {peer}, since {since}", session.session_id)
        },
    );
    let last_advance = it.last_advance.as_ref().map_or_else(
        || NONE.to_owned(),
        |advance| {
            let proof = words::proof(advance.proof());
            format!("{proof}, {}", time(advance.time.as_ref()))
        },
    );
    vec![
        ("client_id", words::readable(it.client_id.as_bytes())),
        ("state", words::state(it.state()).to_owned()),
        ("range", words::range(it)),
        ("filters", filters(it)),
        ("session", session),
        ("options", options(it)),
        ("checkpoint", words::revision(it.checkpoint)),
        ("delivered", words::revision(it.delivered)),
        ("unacked_events", unacked),
        ("lag_revisions", it.lag_revisions.to_string()),
        ("lag_seconds", words::span(it.lag_seconds)),
        ("last_event", time(it.last_event_time.as_ref())),
        ("last_advance", last_advance),
        ("assumed", words::revision(it.assumed)),
        ("resyncs", it.resyncs.to_string()),
        ("resumable", resumable(it)),
        ("next stream", next_stream(it)),
    ]
}

fn filters(it: &Subscription) -> String {
    match (it.no_put, it.no_delete) {
        (false, false) => NONE,
        (true, false) => "no_put",
        (false, true) => "no_delete",
        (true, true) => "no_put, no_delete",
    }
    .to_owned()
}

/// Of the live stream.
fn options(it: &Subscription) -> String {
    if it.session.is_none() {
        return NONE.to_owned();
    }
    let mut options = vec![
        match it.ack_mode() {
            AckMode::Auto => "acks automatic".to_owned(),
            AckMode::Manual | AckMode::Unspecified => "acks manual".to_owned(),
        },
        match it.on_compaction() {
            CompactionPolicy::Fail => "fails on compaction".to_owned(),
            CompactionPolicy::Resync | CompactionPolicy::Unspecified => {
                "resyncs on compaction".to_owned()
            }
        },
    ];
    if it.max_unacked_events > 0 {
        options.push(format!("max_unacked_events {}", it.max_unacked_events));
    }
    for (name, is_set) in PairOptions::of(it).by_name() {
        if is_set {
            options.push(name.to_owned());
        }
    }
    options.join(", ")
}

fn resumable(it: &Subscription) -> String {
    match it.resumable {
        Some(true) => "yes",
        Some(false) => "no: etcd does not have what came after the checkpoint any more",
        None if it.checkpoint == 0 => "no: there is no checkpoint",
        None => "unknown: etcd could not be asked",
    }
    .to_owned()
}

fn next_stream(it: &Subscription) -> String {
    match it.pending_snapshot() {
        SnapshotReason::Unspecified if it.checkpoint == 0 => {
            "begins with a snapshot, or from now on, as it asks".to_owned()
        }
        SnapshotReason::Unspecified
            if it.resumable == Some(false) && it.assumed > it.checkpoint =>
        {
            format!("goes on after {}, or begins with a snapshot", it.assumed)
        }
        SnapshotReason::Unspecified if it.resumable == Some(false) => {
            "begins with a snapshot, or fails, as it asks".to_owned()
        }
        SnapshotReason::Unspecified => format!("goes on after {}", it.checkpoint),
        reason => format!("begins with a snapshot: {}", words::snapshot_reason(reason)),
    }
}
