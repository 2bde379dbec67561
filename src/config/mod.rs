//! What an operator may set: flags and environment variables, checked.
//!
//! A wrong value is refused here, before anything is bound, opened or dialled,
//! with a message that names its flag. What only etcd's connector can judge
//! (endpoints, its files) is passed on as given. No secret is ever a value:
//! the password comes from a file.

mod serve;
mod transport;
mod values;

use std::{ffi::OsString, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use self::serve::ServeFlags;
pub use self::{
    serve::EtcdFlags,
    transport::{ConnectionLimits, TlsFiles},
    values::{AdminListen, Listen, LogFormat, parse_log_filter},
};
use crate::{
    cli,
    resume::{KeyRange, Settings},
    store::StoreConfig,
};

/// What the program was asked to do.
#[derive(Debug)]
pub enum Task {
    /// `watchmark serve`.
    Serve(Box<Config>),
    /// Any other command.
    Operate(Box<cli::Operation>),
}

/// Everything that `serve` may be told, valid. Not public but for what `main`
/// needs: so the compiler warns of a flag that nobody reads.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--listen`.
    pub(crate) listen: Vec<Listen>,
    /// `--tls-cert-file`, `--tls-key-file`, `--tls-client-ca-file`. `None`: plaintext.
    pub(crate) tls: Option<TlsFiles>,
    /// `--client-id-from-cert`.
    pub(crate) client_id_from_cert: bool,
    /// `--max-connections`, `--max-connections-per-peer`.
    pub(crate) connections: ConnectionLimits,
    /// `--admin-listen`.
    pub(crate) admin_listen: AdminListen,
    /// Where checkpoints are kept.
    pub(crate) store: StoreConfig,
    /// How etcd is reached.
    pub(crate) etcd: EtcdFlags,
    /// `--default-prefix`.
    pub(crate) default_range: Option<KeyRange>,
    /// `--allow-prefix`.
    pub(crate) allowed_ranges: Vec<KeyRange>,
    /// How a subscription behaves.
    pub(crate) resume: Settings,
    /// `--probe-interval`.
    pub(crate) probe_interval: Duration,
    /// `--snapshot-page-bytes`.
    pub(crate) snapshot_page_bytes: usize,
    /// `--max-catchups`.
    pub(crate) max_catchups: usize,
    /// `--max-subscriptions`.
    pub(crate) max_subscriptions: usize,
    /// `--drain-timeout`.
    pub(crate) drain_timeout: Duration,
    /// `--log`.
    pub log: String,
    /// `--log-format`.
    pub log_format: LogFormat,
}

const AFTER_HELP: &str = "\
Every flag of serve has an environment variable WATCHMARK_<FLAG>, and so has every flag of the
other commands that says how to connect or to print; flags win.

Exit code: 0 done; 1 failed, or refused by the server; 2 bad usage; of serve: 3 the store cannot
be used; of the other commands: 4 no such client_id.

Example:
  watchmark ls --address 127.0.0.1:7379";

#[derive(Debug, Parser)]
#[command(
    name = "watchmark",
    version,
    about,
    // A deployment appends to what a template gives: the last one wins.
    args_override_self = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar
    Serve(Box<ServeFlags>),
    #[command(flatten)]
    Operate(Box<cli::Command>),
}

impl Task {
    /// Reads flags and environment. `args` begins with the program's name.
    ///
    /// # Errors
    /// What to print, and whether it is a failure (2) or asked-for help (0).
    pub fn parse<A: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self, clap::Error> {
        let matches = grammar().try_get_matches_from(args)?;
        match Cli::from_arg_matches(&matches)?.command {
            Command::Serve(mut flags) => {
                if let Some(serve) = matches.subcommand_matches("serve") {
                    flags.drop_empty_environment(serve);
                }
                Ok(Self::Serve(Box::new(flags.check()?)))
            }
            Command::Operate(command) => {
                let operation = cli::Operation::new(*command, grammar());
                Ok(Self::Operate(Box::new(operation)))
            }
        }
    }
}

/// What the whole program may be told: commands, flags, their variables and
/// defaults.
pub fn grammar() -> clap::Command {
    Cli::command()
}

fn refuse(message: String) -> clap::Error {
    grammar().error(ErrorKind::ValueValidation, message)
}
