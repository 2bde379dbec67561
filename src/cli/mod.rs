//! What a person on call asks a running watchmark: `ls`, `show`, `tail`,
//! `ack`, `seek`, `rm`, `health`. Owns the grammar of these commands and all
//! that is printed on stdout; knows a server by its API alone, and so works
//! on any that can be reached.
//!
//! What was asked for goes to stdout, everything else to stderr. Whatever
//! came over the network is written so that no terminal takes it for a command.

mod ack;
mod completions;
mod connect;
mod failure;
mod health;
mod json;
mod ls;
mod note;
mod output;
mod rm;
mod seek;
mod show;
mod table;
mod tail;
mod unreachable;
mod words;

use std::process::ExitCode;

use clap::Subcommand;

use self::{failure::Failure, output::Output};
use crate::resume::ClientId;

/// What is known of a command's exit codes.
const EXIT_CODES: &str = "\
Exit code: 0 done; 1 failed, or refused by the server; 2 bad usage; 4 no such client_id";

/// One command, ready to run.
#[derive(Debug)]
pub struct Operation {
    command: Command,
    /// The whole program's.
    grammar: clap::Command,
}

/// One command, as given.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the subscriptions, and what is wrong with the sidecar
    Ls(ls::Flags),
    /// Show all that is known of one subscription
    Show(show::Flags),
    /// Subscribe as CLIENT_ID and print what comes, without acknowledging it
    Tail(tail::Flags),
    /// Acknowledge everything at or below a revision
    Ack(ack::Flags),
    /// Move a checkpoint, to a revision or to a snapshot
    Seek(seek::Flags),
    /// Forget a subscription and its checkpoint
    Rm(rm::Flags),
    /// Say whether watchmark serves, for probes: exit code 0, else 1
    Health(health::Flags),
    /// Print what makes a shell complete these commands
    Completions(completions::Flags),
}

impl Operation {
    /// `grammar` is the whole program's.
    pub(crate) const fn new(command: Command, grammar: clap::Command) -> Self {
        Self { command, grammar }
    }

    /// Runs it to its end.
    pub fn run(self) -> ExitCode {
        let mut output = Output::stdout();
        let outcome = if let Command::Completions(flags) = self.command {
            completions::run(&flags, self.grammar, &mut output)
        } else {
            // One call after the other: a thread pool would only start later.
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
                .and_then(|runtime| runtime.block_on(self.command.ask(&mut output)))
        };
        match outcome.and_then(|()| output.flush()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(),
        }
    }
}

impl Command {
    async fn ask(self, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Ls(flags) => ls::run(flags, output).await,
            Self::Show(flags) => show::run(flags, output).await,
            Self::Tail(flags) => tail::run(flags, output).await,
            Self::Ack(flags) => ack::run(flags, output).await,
            Self::Seek(flags) => seek::run(flags, output).await,
            Self::Rm(flags) => rm::run(flags, output).await,
            Self::Health(flags) => health::run(flags, output).await,
            Self::Completions(_) => Ok(()),
        }
    }
}

/// A CLIENT_ID on the command line.
fn client_id(text: &str) -> Result<String, String> {
    match ClientId::parse(text) {
        Ok(client_id) => Ok(client_id.as_str().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
