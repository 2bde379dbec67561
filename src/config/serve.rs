//! The flags of `watchmark serve`.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, parser::ValueSource};

use super::{
    Config, refuse,
    transport::TransportFlags,
    values::{self, AdminListen, IdleProofFlag, Listen, LogFormat},
};
use crate::{
    resume::{IdleProof, KeyRange, Settings},
    store::{OnCorruptStore, StoreConfig},
};

#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    /// Where applications connect: an address and port, or unix:///path.sock; may be given twice. Without TLS a loopback address
    #[arg(
        long,
        env = "WATCHMARK_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7379"
    )]
    listen: Vec<Listen>,

    #[command(flatten)]
    transport: TransportFlags,

    /// Where probes, Prometheus and operators connect, or off; off loopback it serves reads only
    #[arg(
        long,
        env = "WATCHMARK_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7380"
    )]
    admin_listen: AdminListen,

    /// Where checkpoints are kept; one watchmark per directory
    #[arg(
        long,
        env = "WATCHMARK_DATA_DIR",
        value_name = "DIR",
        default_value = "./watchmark-data"
    )]
    data_dir: PathBuf,

    #[command(flatten)]
    etcd: EtcdFlags,

    /// What a new client_id watches that names no range
    #[arg(long, env = "WATCHMARK_DEFAULT_PREFIX", value_name = "PREFIX")]
    default_prefix: Option<String>,

    /// Refuse ranges outside this prefix; repeatable, or with commas between. '' (a flag only): every range, also without upper end
    #[arg(
        long,
        env = "WATCHMARK_ALLOW_PREFIX",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    allow_prefix: Vec<String>,

    /// Silence after which a position may be assumed (x)
    #[arg(
        long,
        env = "WATCHMARK_IDLE_AFTER",
        value_name = "DURATION",
        value_parser = values::interval,
        default_value = "600s"
    )]
    idle_after: Duration,

    /// How old the sample of etcd's revision must be that is assumed (y), below --idle-after
    #[arg(
        long,
        env = "WATCHMARK_IDLE_LAG",
        value_name = "DURATION",
        value_parser = values::interval,
        default_value = "60s"
    )]
    idle_lag: Duration,

    /// How often etcd's revision is sampled
    #[arg(
        long,
        env = "WATCHMARK_PROBE_INTERVAL",
        value_name = "DURATION",
        value_parser = values::interval,
        default_value = "20s"
    )]
    probe_interval: Duration,

    /// Silence after which etcd is asked for progress, and the subscriber told
    #[arg(
        long,
        env = "WATCHMARK_PROGRESS_INTERVAL",
        value_name = "DURATION",
        value_parser = values::interval,
        default_value = "10s"
    )]
    progress_interval: Duration,

    /// How long a silent watch may leave that unanswered before it is reopened
    #[arg(
        long,
        env = "WATCHMARK_STALL_TIMEOUT",
        value_name = "DURATION",
        value_parser = values::interval,
        default_value = "30s"
    )]
    stall_timeout: Duration,

    /// Which evidence may move a position without events
    #[arg(long, env = "WATCHMARK_IDLE_PROOF", value_enum, default_value = "auto")]
    idle_proof: IdleProofFlag,

    /// What the pages of a snapshot grow towards: etcd holds one whole, watchmark does not
    #[arg(
        long,
        env = "WATCHMARK_SNAPSHOT_PAGE_BYTES",
        value_name = "SIZE",
        value_parser = values::size,
        default_value = "32MiB"
    )]
    snapshot_page_bytes: NonZeroUsize,

    /// How many watches may read deep history, and how many pages of snapshots be large, at a time
    #[arg(
        long,
        env = "WATCHMARK_MAX_CATCHUPS",
        value_name = "N",
        default_value = "8"
    )]
    max_catchups: NonZeroUsize,

    /// How many subscriptions may be stored
    #[arg(
        long,
        env = "WATCHMARK_MAX_SUBSCRIPTIONS",
        value_name = "N",
        default_value = "1000"
    )]
    max_subscriptions: NonZeroUsize,

    /// What to do with a store that is corrupt
    #[arg(
        long,
        env = "WATCHMARK_ON_CORRUPT_STORE",
        value_enum,
        default_value = "fail"
    )]
    on_corrupt_store: OnCorruptStore,

    /// How long acks are taken after SIGTERM
    #[arg(
        long,
        env = "WATCHMARK_DRAIN_TIMEOUT",
        value_name = "DURATION",
        value_parser = values::duration,
        default_value = "10s"
    )]
    drain_timeout: Duration,

    /// What to log: a level, or directives like watchmark=debug,h2=warn
    #[arg(
        long,
        env = "WATCHMARK_LOG",
        value_name = "FILTER",
        value_parser = values::log_filter,
        default_value = "info"
    )]
    log: String,

    /// How log lines look
    #[arg(long, env = "WATCHMARK_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// How etcd is reached, as given; its connector judges it.
#[derive(Clone, Debug, Args)]
pub struct EtcdFlags {
    /// etcd's endpoints, comma separated
    #[arg(
        long = "etcd-endpoints",
        env = "WATCHMARK_ETCD_ENDPOINTS",
        value_name = "URLS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub endpoints: Vec<String>,

    /// The etcd user; its password is in --etcd-password-file
    #[arg(long = "etcd-user", env = "WATCHMARK_ETCD_USER", value_name = "NAME")]
    pub user: Option<String>,

    /// A file that holds nothing but the password of --etcd-user
    #[arg(
        long = "etcd-password-file",
        env = "WATCHMARK_ETCD_PASSWORD_FILE",
        value_name = "FILE"
    )]
    pub password_file: Option<PathBuf>,

    /// The authorities that sign etcd's certificates, PEM
    #[arg(
        long = "etcd-ca-file",
        env = "WATCHMARK_ETCD_CA_FILE",
        value_name = "FILE"
    )]
    pub ca_file: Option<PathBuf>,

    /// Our certificate for etcd, PEM
    #[arg(
        long = "etcd-cert-file",
        env = "WATCHMARK_ETCD_CERT_FILE",
        value_name = "FILE"
    )]
    pub cert_file: Option<PathBuf>,

    /// The key of --etcd-cert-file, PEM
    #[arg(
        long = "etcd-key-file",
        env = "WATCHMARK_ETCD_KEY_FILE",
        value_name = "FILE"
    )]
    pub key_file: Option<PathBuf>,
}

impl ServeFlags {
    /// An empty variable, as deployment templates leave behind, is no
    /// permission to watch everything.
    pub(super) fn drop_empty_environment(&mut self, matches: &ArgMatches) {
        let is_from_environment =
            |flag| matches.value_source(flag) == Some(ValueSource::EnvVariable);
        if is_from_environment("allow_prefix") {
            self.allow_prefix.retain(|prefix| !prefix.is_empty());
        }
        if is_from_environment("default_prefix") {
            self.default_prefix = self.default_prefix.take().filter(|it| !it.is_empty());
        }
    }

    pub(super) fn check(self) -> Result<Config, clap::Error> {
        if self.idle_lag >= self.idle_after {
            return Err(refuse(format!(
                "--idle-lag ({}) must be below --idle-after ({})",
                humantime::format_duration(self.idle_lag),
                humantime::format_duration(self.idle_after)
            )));
        }
        if self
            .etcd
            .user
            .as_ref()
            .is_some_and(|user| user.contains(':'))
        {
            return Err(refuse(
                "--etcd-user takes the name only: put the password into a file and give \
                 --etcd-password-file"
                    .to_owned(),
            ));
        }
        let transport = self.transport.check(&self.listen)?;
        let prefix = |prefix: String| KeyRange::prefix(prefix.into());
        Ok(Config {
            listen: self.listen,
            tls: transport.tls,
            client_id_from_cert: transport.client_id_from_cert,
            connections: transport.connections,
            admin_listen: self.admin_listen,
            store: StoreConfig {
                data_dir: self.data_dir,
                on_corrupt: self.on_corrupt_store,
            },
            etcd: self.etcd,
            default_range: self.default_prefix.map(prefix),
            allowed_ranges: self.allow_prefix.into_iter().map(prefix).collect(),
            resume: Settings {
                idle_after: self.idle_after,
                idle_lag: self.idle_lag,
                idle_proof: match self.idle_proof {
                    IdleProofFlag::Auto => IdleProof::Auto,
                    IdleProofFlag::Progress => IdleProof::Progress,
                    IdleProofFlag::Delay => IdleProof::Delay,
                },
                progress_interval: self.progress_interval,
                stall_timeout: self.stall_timeout,
                ..Settings::default()
            },
            probe_interval: self.probe_interval,
            snapshot_page_bytes: self.snapshot_page_bytes.get(),
            max_catchups: self.max_catchups.get(),
            max_subscriptions: self.max_subscriptions.get(),
            drain_timeout: self.drain_timeout,
            log: self.log,
            log_format: self.log_format,
        })
    }
}
