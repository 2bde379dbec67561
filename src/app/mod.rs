//! The composition root: sockets, store, etcd, subscriptions, server; and how
//! they stop.
//!
//! Order: what flags say of etcd, then sockets (a port in use is bad
//! configuration), then the store, then callers are let in. It stops in the
//! reverse order, and nothing depends on that: a kill at any moment is safe.

mod files;
mod listener;
mod tls;

use std::{
    future,
    hash::{BuildHasher, RandomState},
    io,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{info, warn};

pub use self::{
    listener::{Connection, Connections, ListenError},
    tls::{Tls, TlsError, TlsStatus},
};
use crate::{
    admin::{self, AdminPort},
    config::{AdminListen, Config, EtcdFlags},
    grpc::{Api, EdgeRules, Health, Operators},
    logging::LogFilter,
    metrics::Metrics,
    session::{Registry, RegistrySettings},
    store::{self, Opened},
    survey::{self, Certificate, Readiness, Surveyor},
    upstream::{Etcd, EtcdConfig, EtcdConfigError, Upstream},
};

/// A client that lost its stream may reconnect to acknowledge what it got: only
/// when none has been there for so long, none is waited for.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// After the drain: for the last answers to leave, and streams to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the program ends otherwise than drained.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that a flag says cannot be done.
    #[error("{0}")]
    Config(String),
    /// The store cannot be opened.
    #[error("{0}")]
    OpenStore(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl RunError {
    /// What the process ends with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Config(_) => 2,
            Self::OpenStore(_) => 3,
        }
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the sidecar until a signal.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: &Config, log: LogFilter) -> Result<(), RunError> {
    let rules = EdgeRules {
        default_range: config.default_range.clone(),
        allowed_ranges: config.allowed_ranges.clone(),
        client_id_from_cert: config.client_id_from_cert,
    };
    if let Some(range) = &rules.default_range
        && !rules.allows(range)
    {
        return Err(RunError::Config(
            "--default-prefix is in no --allow-prefix, so nobody could use it (every key needs \
             --allow-prefix '')"
                .to_owned(),
        ));
    }
    files::raise_limit(config);
    let origin = Instant::now();
    let metrics = Metrics::default();
    let etcd =
        connect(config, origin, &metrics).map_err(|error| RunError::Config(error.to_string()))?;
    let tls = config.tls.as_ref().map(tls::load).transpose();
    let (tls, reloader) = tls
        .map_err(|error| RunError::Config(error.to_string()))?
        .unzip();
    let tls_status = tls.as_ref().map(Tls::status);
    // From here on somebody may rely on us: a signal drains.
    let signals = StopSignals::new()?;
    let connections = Connections::bind(&config.listen, config.connections, tls)
        .await
        .map_err(|error| RunError::Config(error.to_string()))?;
    let admin_port = bind_admin_port(config.admin_listen).await?;
    let opened = store::open(&config.store, metrics.store.clone())
        .map_err(|error| RunError::OpenStore(error.to_string()))?;
    warn_of_open_doors(config);
    let mut background = JoinSet::new();
    if let Some(reloader) = reloader {
        background.spawn(reloader.run());
    }
    let parts = Parts {
        tls_status,
        rules,
        connections,
        admin_port,
        opened,
        upstream: Arc::new(etcd),
        signals,
        origin,
        metrics,
        log,
    };
    tokio::select! {
        served = serve(config, parts) => served,
        // They end by a panic only.
        Some(Err(error)) = background.join_next() => {
            Err(RunError::Other(anyhow::Error::from(error).context("a background task ended")))
        }
    }
}

async fn bind_admin_port(listen: AdminListen) -> Result<Option<AdminPort>, RunError> {
    let AdminListen::Tcp(address) = listen else {
        return Ok(None);
    };
    let bound = AdminPort::bind(address).await;
    bound.map(Some).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the address is in use already; give another one, or off".to_owned()
            }
            _ => error.to_string(),
        };
        RunError::Config(format!("--admin-listen {address}: {problem}"))
    })
}

/// Allowed, and worth a line.
fn warn_of_open_doors(config: &Config) {
    let asks_for_certificates = config.tls.as_ref().is_some_and(|it| it.client_ca.is_some());
    for listen in &config.listen {
        if !listen.is_local() && !asks_for_certificates {
            warn!(
                address = %listen,
                plaintext = config.tls.is_none(),
                "whoever reaches this address may subscribe and acknowledge: \
                 --tls-client-ca-file asks for certificates"
            );
        }
    }
}

/// Dials nobody yet.
fn connect(config: &Config, origin: Instant, metrics: &Metrics) -> Result<Etcd, EtcdConfigError> {
    // In full: so the compiler warns of a flag that goes nowhere.
    let EtcdFlags {
        endpoints,
        user,
        password_file,
        ca_file,
        cert_file,
        key_file,
    } = config.etcd.clone();
    Etcd::connect(EtcdConfig {
        endpoints,
        user,
        password_file,
        ca_file,
        cert_file,
        key_file,
        snapshot_page_bytes: config.snapshot_page_bytes,
        probe_interval: config.probe_interval,
        max_catchups: config.max_catchups,
        origin,
        metrics: metrics.etcd.clone(),
    })
}

/// What is there before anybody is let in.
struct Parts {
    tls_status: Option<watch::Receiver<TlsStatus>>,
    rules: EdgeRules,
    connections: Connections,
    admin_port: Option<AdminPort>,
    opened: Opened,
    upstream: Arc<dyn Upstream>,
    signals: StopSignals,
    origin: Instant,
    metrics: Metrics,
    log: LogFilter,
}

/// Serves until a signal, then drains.
async fn serve(config: &Config, mut parts: Parts) -> Result<(), RunError> {
    let Opened { store, quarantined } = parts.opened;
    let registry = Arc::new(Registry::measured(
        Arc::clone(&parts.upstream),
        Arc::clone(&store),
        registry_settings(config, parts.origin),
        parts.metrics.sessions.clone(),
    ));
    let surveyor = Arc::new(Surveyor::new(survey::Sources {
        registry: Arc::clone(&registry),
        upstream: parts.upstream,
        store,
        certificates: Arc::new(move || certificates(parts.tls_status.as_ref())),
        quarantined: quarantined.map(|path| path.display().to_string()),
        subscriptions_max: config.max_subscriptions,
    }));
    let operators = Operators {
        on_every_port: !parts.rules.client_id_from_cert,
        surveyor: Some(Arc::clone(&surveyor)),
    };
    let (api, health) = Api::new(Arc::clone(&registry), parts.rules, operators)
        .await
        .map_err(anyhow::Error::from)?;
    let api = api.counted(parts.metrics.calls.clone());
    let sources = admin::Sources {
        surveyor: Arc::clone(&surveyor),
        metrics: parts.metrics,
        log: parts.log,
        grpc: api.admin_router(),
    };
    let mut admin = pin!(serve_admin(parts.admin_port, sources));
    let addresses = parts.connections.addresses();
    let mut open_connections = parts.connections.open();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut server = pin!(api.serve(parts.connections, async {
        let _ = stopped.await;
    }));

    let follow = surveyor.follow_readiness(async |readiness| tell(readiness, &health).await);
    for address in addresses {
        info!(%address, "serving");
    }
    tokio::select! {
        () = registry.supervise() => {}
        () = follow => {}
        () = &mut admin => {}
        () = &mut server => return Err(server_ended()),
        () = parts.signals.next() => {}
    }

    info!(timeout = ?config.drain_timeout, "draining");
    surveyor.drain();
    health.set_serving(false).await;
    tokio::select! {
        () = registry.supervise() => {}
        () = &mut admin => {}
        () = &mut server => return Err(server_ended()),
        () = drained(config, &registry, &mut open_connections, &mut parts.signals) => {}
    }
    drop(stop);
    // Clients that do not hang up are cut off.
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, server).await;
    Ok(())
}

/// Until everything is acknowledged, or nobody is there or willing to wait.
async fn drained(
    config: &Config,
    registry: &Registry,
    open_connections: &mut watch::Receiver<usize>,
    signals: &mut StopSignals,
) {
    tokio::select! {
        () = registry.drain() => info!("drained"),
        () = no_client_is_left(open_connections) => info!("drained: no client is left"),
        () = tokio::time::sleep(config.drain_timeout) => {
            warn!(subscriptions = registry.running(), "drain timeout: not everything is acknowledged");
        }
        () = signals.next() => warn!("second signal: not waiting for acknowledgements"),
    }
}

fn registry_settings(config: &Config, origin: Instant) -> RegistrySettings {
    RegistrySettings {
        resume: config.resume.clone(),
        subscriptions_max: config.max_subscriptions,
        origin,
        seed: RandomState::new().hash_one(0),
    }
}

async fn no_client_is_left(open: &mut watch::Receiver<usize>) {
    // The sender lives as long as the server, which outlives this: no errors.
    while open.wait_for(|&open| open == 0).await.is_ok() {
        let returned = open.wait_for(|&open| open > 0);
        if tokio::time::timeout(RECONNECT_TIMEOUT, returned)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Callers should come once etcd was reached, and while the store takes changes.
async fn tell(readiness: Readiness, health: &Health) {
    let Readiness {
        is_store_ready,
        is_etcd_reached,
        ..
    } = readiness;
    if readiness.is_ready() {
        info!("ready");
    } else {
        info!(is_store_ready, is_etcd_reached, "not ready");
    }
    health.set_serving(readiness.is_ready()).await;
}

fn certificates(tls: Option<&watch::Receiver<TlsStatus>>) -> Vec<Certificate> {
    let server = tls.map(|status| {
        let status = status.borrow();
        Certificate {
            flag: "--tls-cert-file",
            not_after: status.not_after,
            problem: status.problem.clone(),
        }
    });
    server.into_iter().collect()
}

/// Never returns.
async fn serve_admin(port: Option<AdminPort>, sources: admin::Sources) {
    if let Some(port) = port {
        info!(address = %port.address(), "serving operators");
        port.serve(sources).await;
    }
    future::pending().await
}

fn server_ended() -> RunError {
    RunError::Other(anyhow::anyhow!(
        "the gRPC server stopped accepting connections"
    ))
}
