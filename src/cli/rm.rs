//! `watchmark rm`

use clap::Args;
use serde_json::{Map, Value};

use super::{
    EXIT_CODES, connect,
    connect::ConnectFlags,
    failure::Failure,
    json,
    output::{Format, Output, OutputFlags},
    words,
};
use crate::proto::watchmark::v1::DeleteSubscriptionRequest;

const AFTER_HELP: &str = "\
The client_id is as good as new afterwards: its next Subscribe has to name a range, and begins
with a snapshot. Refused while it has a live stream, which --force ends.

Example:
  watchmark rm orders";

#[derive(Debug, Args)]
#[command(after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Flags {
    /// The subscriber
    #[arg(value_parser = super::client_id)]
    client_id: String,
    /// Even if it has a live stream
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let client_id = flags.client_id;
    let subscription = server.subscription(&client_id).await?;
    if let (Some(session), false) = (&subscription.session, flags.force) {
        return Err(Failure::Failed(format!(
            "{client_id} has a live stream, from {}: stop that subscriber first, or give --force",
            words::one_line(&session.peer)
        )));
    }
    let request = DeleteSubscriptionRequest {
        client_id: client_id.clone(),
    };
    let mut admin = server.admin();
    let forgotten = server.answer(admin.delete_subscription(request)).await?;
    let checkpoint = forgotten.checkpoint;
    match flags.output.output {
        Format::Json => {
            let mut object = Map::new();
            object.insert("client_id".to_owned(), client_id.into());
            json::put_bytes(&mut object, "key", &subscription.key);
            json::put_bytes(&mut object, "range_end", &subscription.range_end);
            object.insert("checkpoint".to_owned(), checkpoint.into());
            output.json(&Value::Object(object))
        }
        Format::Text => output.line(&format!(
            "forgot {client_id}: {}, checkpoint {}",
            words::range(&subscription),
            words::revision(checkpoint)
        )),
    }
}
