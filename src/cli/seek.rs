//! `watchmark seek`

use clap::{ArgGroup, Args, value_parser};
use serde_json::json;

use super::{
    EXIT_CODES, connect,
    connect::ConnectFlags,
    failure::Failure,
    output::{Format, Output, OutputFlags},
    words,
};
use crate::proto::watchmark::v1::{
    SeekSubscriptionRequest, SeekSubscriptionResponse, seek_subscription_request::Target,
};

const AFTER_HELP: &str = "\
The next stream of CLIENT_ID begins there: right after REVISION, or with the whole state of its
range. A live stream ends with SUBSCRIPTION_SOUGHT, and its subscriber has to subscribe again.
With --dry-run nothing changes, and the exit code is 1 where REVISION would be refused.

Examples:
  watchmark seek orders 900 --dry-run
  watchmark seek orders --snapshot";

#[derive(Debug, Args)]
#[command(
    override_usage = "watchmark seek [OPTIONS] <CLIENT_ID> <REVISION|--snapshot>",
    after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"),
    group = ArgGroup::new("target").required(true)
)]
pub(crate) struct Flags {
    /// The subscriber
    #[arg(value_parser = super::client_id)]
    client_id: String,
    /// What becomes the checkpoint, backwards too
    #[arg(group = "target", value_parser = value_parser!(i64).range(1..))]
    revision: Option<i64>,
    /// Drop the checkpoint, so that a snapshot comes first
    #[arg(long, group = "target")]
    snapshot: bool,
    /// Change nothing; say what would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let client_id = flags.client_id;
    let request = SeekSubscriptionRequest {
        client_id: client_id.clone(),
        target: Some(
            flags
                .revision
                .map_or(Target::Snapshot(true), Target::Revision),
        ),
        dry_run: flags.dry_run,
    };
    let mut admin = server.admin();
    let sought = server.answer(admin.seek_subscription(request)).await?;
    match flags.output.output {
        Format::Json => output.json(&json!({
            "client_id": client_id,
            "previous_checkpoint": sought.previous_checkpoint,
            "checkpoint": sought.checkpoint,
            "resumable": sought.resumable,
            "compact_revision": sought.compact_revision,
            "dry_run": flags.dry_run,
        }))?,
        Format::Text => output.line(&told(&client_id, flags.revision, flags.dry_run, &sought))?,
    }
    // Only a revision can be refused.
    match flags.revision {
        Some(revision) if !sought.resumable => Err(Failure::Failed(format!(
            "{client_id} could not resume after {revision}: {}",
            match sought.compact_revision {
                0 => "it is not in etcd's history".to_owned(),
                compacted => format!("etcd has compacted its history up to {compacted}"),
            }
        ))),
        _ => Ok(()),
    }
}

fn told(
    client_id: &str,
    revision: Option<i64>,
    is_dry_run: bool,
    sought: &SeekSubscriptionResponse,
) -> String {
    let from = words::revision(sought.previous_checkpoint);
    let to = words::revision(sought.checkpoint);
    let verb = if is_dry_run { "would move " } else { "" };
    let then = match (revision, sought.resumable) {
        (None, _) => "the next stream begins with a snapshot",
        (Some(_), true) => "resumable",
        (Some(_), false) => "not resumable",
    };
    format!("{client_id}: checkpoint {verb}{from} -> {to}, {then}")
}
