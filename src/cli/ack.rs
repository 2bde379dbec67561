//! `watchmark ack`

use clap::{Args, value_parser};
use serde_json::json;

use super::{
    EXIT_CODES, connect,
    connect::ConnectFlags,
    failure::Failure,
    output::{Format, Output, OutputFlags},
};
use crate::proto::watchmark::v1::AckRequest;

const AFTER_HELP: &str = "\
Only what was delivered to CLIENT_ID since watchmark started can be acknowledged; to skip what
was not, use seek.

Example:
  watchmark ack orders 1042";

#[derive(Debug, Args)]
#[command(after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Flags {
    /// The subscriber
    #[arg(value_parser = super::client_id)]
    client_id: String,
    /// Everything at or below it is processed
    #[arg(value_parser = value_parser!(i64).range(1..))]
    revision: i64,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let client_id = flags.client_id;
    let request = AckRequest {
        client_id: client_id.clone(),
        revision: flags.revision,
        session_id: 0,
    };
    let answer = server.answer(server.watch().ack(request)).await?;
    let checkpoint = answer.checkpoint;
    match flags.output.output {
        Format::Json => output.json(&json!({ "client_id": client_id, "checkpoint": checkpoint })),
        Format::Text => output.line(&format!("{client_id}: checkpoint {checkpoint}")),
    }
}
