//! `watchmark ls`

use std::time::SystemTime;

use clap::Args;
use prost_types::Timestamp;

use super::{
    EXIT_CODES, connect,
    connect::{ConnectFlags, Server},
    failure::Failure,
    json,
    note::note,
    output::{Format, Output, OutputFlags},
    table::{self, Column},
    words,
};
use crate::proto::watchmark::v1::{
    EtcdEndpoint, GetStatusRequest, GetStatusResponse, ListSubscriptionsRequest, Subscription,
};

const COLUMNS: [Column; 7] = [
    Column::Left("CLIENT_ID"),
    Column::Left("STATE"),
    Column::Right("CHECKPOINT"),
    Column::Right("LAG"),
    Column::Right("UNACKED"),
    Column::Right("LAST EVENT"),
    Column::Left("PROOF"),
];

const AFTER_HELP: &str = "\
LAG: revisions of etcd after the checkpoint / time since the subscription was up to date.
PROOF: what moved the checkpoint last: acked, or progress (certified by etcd).
What is wrong with the sidecar itself is printed first, to stderr.

Examples:
  watchmark ls
  watchmark ls --address unix:///run/watchmark.sock
  watchmark ls --output json | jq -r 'select(.unacked_events > 1000) | .client_id'";

#[derive(Debug, Args)]
#[command(after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Flags {
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let now = SystemTime::now();
    let status = server.admin();
    let (status, subscriptions) = tokio::join!(
        server.answer({
            let mut status = status;
            async move { status.get_status(GetStatusRequest {}).await }
        }),
        subscriptions(&server)
    );
    let subscriptions = subscriptions?;
    match status {
        Ok(status) => {
            for problem in problems(&status, now) {
                note(&problem);
            }
        }
        Err(failure) => note(&format!("the sidecar's own status is not known: {failure}")),
    }
    match flags.output.output {
        Format::Json => {
            for subscription in &subscriptions {
                output.json(&json::subscription(subscription))?;
            }
        }
        Format::Text if subscriptions.is_empty() => {
            note("no subscriptions: a client_id has one from its first Subscribe on");
        }
        Format::Text => {
            let rows: Vec<_> = subscriptions.iter().map(|it| row(it, now)).collect();
            for line in table::lines(COLUMNS, &rows) {
                output.line(&line)?;
            }
        }
    }
    Ok(())
}

/// All of them, page by page.
async fn subscriptions(server: &Server) -> Result<Vec<Subscription>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSubscriptionsRequest {
            page_size: 0,
            page_token: page_token.clone(),
        };
        let mut admin = server.admin();
        let page = server.answer(admin.list_subscriptions(request)).await?;
        let is_empty = page.subscriptions.is_empty();
        found.extend(page.subscriptions);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        if is_empty || page.next_page_token == page_token {
            return Err(Failure::Failed(format!(
                "{} gives pages without an end",
                server.address
            )));
        }
        page_token = page.next_page_token;
    }
}

/// What is wrong, a line each: what the sidecar says of itself, then of the
/// endpoints that this did not name.
fn problems(status: &GetStatusResponse, now: SystemTime) -> Vec<String> {
    let told = |what: &str, since: Option<&Timestamp>, message: &str| {
        let since = since.map_or_else(String::new, |since| {
            format!(" for {}", words::age(Some(since), now))
        });
        let [what, message] = [what, message].map(words::one_line);
        format!("problem: {what}{since}: {message}")
    };
    let of_the_sidecar = status
        .problems
        .iter()
        .map(|it| told(&it.reason, it.since.as_ref(), &it.message));
    let endpoints = status.etcd.iter().flat_map(|etcd| &etcd.endpoints);
    let is_named = |endpoint: &&EtcdEndpoint| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.message.contains(&endpoint.url))
    };
    let of_etcd = endpoints
        .filter(|it| !it.error.is_empty() && !is_named(it))
        .map(|it| {
            let what = format!("etcd {}", it.url);
            told(&what, it.error_time.as_ref(), &it.error)
        });
    of_the_sidecar.chain(of_etcd).collect()
}

fn row(it: &Subscription, now: SystemTime) -> [String; 7] {
    let proof = it.last_advance.as_ref().map(|advance| advance.proof());
    [
        words::readable(it.client_id.as_bytes()),
        words::state(it.state()).to_owned(),
        words::revision(it.checkpoint),
        words::lag(it.lag_revisions, it.lag_seconds),
        words::count(it.unacked_events),
        words::age(it.last_event_time.as_ref(), now),
        words::proof(proof.unwrap_or_default()).to_owned(),
    ]
}
