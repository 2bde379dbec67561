//! `watchmark health`

use std::time::Duration;

use clap::Args;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{connect::ConnectFlags, failure::Failure, output::Output, words};

/// Below the second that Kubernetes waits for an exec probe.
const TIMEOUT: Duration = Duration::from_millis(800);

const AFTER_HELP: &str = "\
Examples:
  watchmark health
  watchmark health --address unix:///run/watchmark.sock --service watchmark.v1.WatchService

Exit code: 0 serving; 1 not serving, or not reached; 2 bad usage";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Flags {
    /// Ask for one gRPC service [default: the whole server]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    service: String,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(TIMEOUT).await?;
    let mut health = HealthClient::new(server.channel.clone());
    let request = HealthCheckRequest {
        service: flags.service.clone(),
    };
    let answer = match server.answer(health.check(request)).await {
        Err(failure) if failure.is_not_found() => Err(Failure::Failed(format!(
            "{} has no service {}",
            server.address,
            words::quoted(flags.service.as_bytes())
        ))),
        answer => answer,
    };
    match answer?.status() {
        ServingStatus::Serving => output.line("serving"),
        _ => Err(Failure::Failed(format!(
            "{} is not serving: it starts, or stops; see its log",
            server.address
        ))),
    }
}
