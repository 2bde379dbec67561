//! `watchmark tail`: a subscriber that prints.
//!
//! It subscribes as the client_id it was given, so whoever runs it could take
//! a stream away from the application that lives on it, and move the position
//! that this application resumes from. Invariant: it does neither unless asked
//! to by name (`--take-over`, `--ack`).

mod print;
mod request;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, ValueEnum};
use tonic::Streaming;

use self::{print::Printer, request::Found};
use super::{
    EXIT_CODES, connect,
    connect::{ConnectFlags, Server},
    failure::Failure,
    note::note,
    output::{Output, OutputFlags},
    words,
};
use crate::{
    proto::watchmark::v1::{
        AckRequest, SubscribeRequest, SubscribeResponse, subscribe_response::Message,
    },
    resume::Backoff,
};

/// The longest pause between two streams: somebody is looking on.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

const AFTER_HELP: &str = "\
Nothing is acknowledged without --ack: the checkpoint stays, and the next stream of CLIENT_ID
brings the same again. To look at what another subscriber receives, choose a CLIENT_ID of your
own and give the range; `watchmark rm` forgets it afterwards.

Keys are printed as text, what is no text escaped as \\xNN. With --output json each line is an
object with a `type`; a key or value that is no UTF-8 is in base64, and `key_encoding` or
`value_encoding` says so.

Examples:
  watchmark tail jane-debug --prefix /config/
  watchmark tail jane-debug --prefix /config/ --start snapshot --values
  watchmark tail jane-debug --output json | jq -r 'select(.type == \"delete\") | .key'";

#[derive(Debug, Args)]
#[command(
    after_help = format!("{AFTER_HELP}\n\n{EXIT_CODES}"),
    group = ArgGroup::new("range")
)]
pub(crate) struct Flags {
    /// The subscriber to be
    #[arg(value_parser = super::client_id)]
    client_id: String,
    /// Every key that begins with this [default: what CLIENT_ID watches already]
    #[arg(long, group = "range")]
    prefix: Option<String>,
    /// This key; with --range-end every key from here on
    #[arg(long, group = "range")]
    key: Option<String>,
    /// The first key that does not belong to the range
    #[arg(long, value_name = "KEY", requires = "key")]
    range_end: Option<String>,
    /// Where a CLIENT_ID without a checkpoint begins: with what comes next, or with the state [default: latest if it is new, else snapshot]
    #[arg(long, value_enum, value_name = "WHERE")]
    start: Option<Start>,
    /// Take the stream from the subscriber that has it
    #[arg(long)]
    take_over: bool,
    /// Acknowledge what was printed, which moves the checkpoint
    #[arg(long)]
    ack: bool,
    /// Print values too
    #[arg(long)]
    values: bool,
    /// Print progress too
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    connect: ConnectFlags,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Start {
    Latest,
    Snapshot,
}

/// Why a stream ended, and whether another may be asked for.
enum End {
    Passing(Failure, Duration),
    ForGood(Failure),
}

pub(super) async fn run(flags: Flags, output: &mut Output) -> Result<(), Failure> {
    let server = flags.connect.connect(connect::TIMEOUT).await?;
    let found = Found::ask(&server, &flags.client_id).await?;
    found.permits(&flags, SystemTime::now())?;
    found.announce(&flags);
    let request = found.request(&flags);
    let mut tail = Tail {
        printer: Printer::new(flags.output.output, flags.values, flags.verbose),
        server,
        request,
        acks: flags.ack,
        session_id: 0,
        backoff: Backoff::new(BACKOFF_MAX, seed()),
        output,
    };
    loop {
        let (failure, retry_after) = match tail.stream().await {
            End::ForGood(failure) => return Err(failure),
            End::Passing(failure, retry_after) => (failure, retry_after),
        };
        // Before the first message it is a call like any other.
        if tail.session_id == 0 {
            return Err(failure);
        }
        note(&format!("{failure}; trying again"));
        tokio::time::sleep(retry_after.max(tail.backoff.next_delay())).await;
        tail.check_nobody_else_came().await?;
    }
}

struct Tail<'a> {
    server: Server,
    request: SubscribeRequest,
    acks: bool,
    /// Of the stream that was opened last; 0: none was.
    session_id: u64,
    backoff: Backoff,
    printer: Printer,
    output: &'a mut Output,
}

impl Tail<'_> {
    /// Prints one stream to its end.
    async fn stream(&mut self) -> End {
        let call = self.server.watch();
        let opened = async {
            let mut call = call;
            let mut stream = self
                .server
                .answer(call.subscribe(self.request.clone()))
                .await?;
            let opened = self
                .server
                .in_time(next(&self.server, &mut stream))
                .await??;
            Ok((stream, opened))
        };
        let (mut stream, mut message) = match opened.await {
            Ok(opened) => opened,
            Err(failure) => return self.end(failure),
        };
        loop {
            if let Err(failure) = self.take(message).await {
                return self.end(failure);
            }
            message = match next(&self.server, &mut stream).await {
                Ok(message) => message,
                Err(failure) => return self.end(failure),
            };
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Failure> {
        let ackable = match &message {
            Message::Opened(opened) => {
                self.session_id = opened.session_id;
                None
            }
            Message::Events(events) if !events.partial => Some(events.revision),
            Message::SnapshotEnd(end) => Some(end.revision),
            _ => None,
        };
        self.printer.print(message, self.output)?;
        // Also: whoever looks at a pipe sees it now.
        self.output.flush()?;
        if let Some(revision) = ackable {
            self.backoff.reset();
            if self.acks {
                return self.ack(revision).await;
            }
        }
        Ok(())
    }

    async fn ack(&self, revision: i64) -> Result<(), Failure> {
        let request = AckRequest {
            client_id: self.request.client_id.clone(),
            revision,
            session_id: self.session_id,
        };
        match self.server.answer(self.server.watch().ack(request)).await {
            // The next ack covers this one.
            Err(Failure::Refused(refusal)) if refusal.is_passing => {
                note(&format!("{revision} is not acknowledged: {refusal}"));
                Ok(())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(()),
        }
    }

    fn end(&self, failure: Failure) -> End {
        match failure {
            Failure::Refused(refusal) if refusal.is_passing => {
                let retry_after = refusal.retry_after;
                End::Passing(Failure::Refused(refusal), retry_after)
            }
            Failure::Failed(_) => End::Passing(failure, Duration::ZERO),
            failure => End::ForGood(failure),
        }
    }

    /// While the stream was away another subscriber may have come, whose
    /// stream a new one of ours would end.
    async fn check_nobody_else_came(&self) -> Result<(), Failure> {
        let client_id = &self.request.client_id;
        let other = match self.server.subscription(client_id).await {
            Ok(subscription) => subscription
                .session
                .filter(|it| it.session_id != self.session_id),
            // Asking for the stream will tell.
            Err(_) => None,
        };
        match other {
            Some(session) => Err(Failure::Failed(format!(
                "{client_id} has another subscriber by now, {}",
                words::one_line(&session.peer)
            ))),
            None => Ok(()),
        }
    }
}

async fn next(
    server: &Server,
    stream: &mut Streaming<SubscribeResponse>,
) -> Result<Message, Failure> {
    loop {
        return match stream.message().await {
            Ok(Some(SubscribeResponse {
                message: Some(message),
            })) => Ok(message),
            // Of a newer version.
            Ok(Some(SubscribeResponse { message: None })) => continue,
            Ok(None) => Err(Failure::Failed(format!(
                "{} ended the stream without a reason",
                server.address
            ))),
            Err(status) => Err(Failure::of_stream(&server.address, &status)),
        };
    }
}

/// Two of these do not march in step.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos())) ^ u64::from(std::process::id()) << 32
}
