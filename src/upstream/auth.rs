//! The token that every call carries. Owns authentication, shared by all calls;
//! refuses to ask etcd more often than its limits say, whatever the callers
//! do. Invariant: one authentication at a time, and none while the last
//! failure is fresh.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tonic::metadata::{Ascii, MetadataValue};
use tracing::{debug, info, warn};

use super::{
    condition::REMIND_AFTER,
    config::{EtcdConfig, read_password},
    endpoints::{Endpoint, Endpoints},
    error::{Failure, Meaning, client_text},
    maintenance,
    status::FailureKind,
};

/// etcd hashes the password and asks its quorum.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(10);
/// A token younger than this is not renewed: a denial it meets is meant. Below
/// any sensible `--auth-token-ttl`.
const FRESH: Duration = Duration::from_secs(2);
/// The pause after a failure; it doubles while the credentials are wrong.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Independent of a subscription's backoff, whatever that is: who corrected the
/// password waits this long at most.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a call carries: a token, or nothing where etcd wants nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Token {
    /// Marked sensitive: never in a log.
    value: Option<MetadataValue<Ascii>>,
    /// Which authentication it came from.
    generation: u64,
    issued_at: Option<Instant>,
}

impl Token {
    pub(super) const fn value(&self) -> Option<&MetadataValue<Ascii>> {
        self.value.as_ref()
    }

    fn is_fresh(&self) -> bool {
        self.issued_at.is_some_and(|at| at.elapsed() < FRESH)
    }
}

/// The sidecar's identity at etcd.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    endpoints: Arc<Endpoints>,
    /// The newest token; `None`: never authenticated.
    token: RwLock<Option<Token>>,
    /// The newest generation that a call carried without an answer; 0: none.
    doubted: AtomicU64,
    /// Held while authenticating.
    failures: Mutex<Failures>,
}

#[derive(Debug)]
struct Credentials {
    user: String,
    password_file: PathBuf,
}

#[derive(Debug, Default)]
struct Failures {
    /// In a row.
    count: u32,
    last: Option<(Failure, Instant)>,
    /// When it was in the log last.
    warned_at: Option<Instant>,
}

impl Failures {
    fn pause(&self) -> Duration {
        match &self.last {
            Some((Failure::Refused(_), _)) => PAUSE_MIN
                .saturating_mul(1 << self.count.min(16))
                .min(PAUSE_MAX),
            // When etcd is back it should not be waited for.
            _ => PAUSE_MIN,
        }
    }
}

impl Auth {
    pub(super) fn new(config: &EtcdConfig, endpoints: Arc<Endpoints>) -> Self {
        let credentials = match (&config.user, &config.password_file) {
            (Some(user), Some(password_file)) => Some(Credentials {
                user: user.clone(),
                password_file: password_file.clone(),
            }),
            _ => None,
        };
        Self {
            credentials,
            endpoints,
            token: RwLock::default(),
            doubted: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    /// `--etcd-user`, if given.
    pub(super) fn identity(&self) -> Option<&str> {
        self.credentials.as_ref().map(|c| c.user.as_str())
    }

    /// The current token; authenticates if there was none yet, or none that
    /// is beyond doubt.
    pub(super) async fn token(&self) -> Result<Token, Failure> {
        if self.credentials.is_none() {
            return Ok(Token::default());
        }
        let doubted = self.doubted.load(Ordering::Relaxed);
        match self.current() {
            Some(token) if token.generation > doubted => Ok(token),
            current => self.authenticate(current.map(|it| it.generation)).await,
        }
    }

    /// A call with this token was not answered in time. The token may be why:
    /// it names the log entry that issued it, and a member that has not come
    /// so far waits for it. One of a cluster restored from a backup waits, with
    /// every call, until as much was written as before.
    pub(super) fn doubt(&self, token: &Token) {
        self.doubted.fetch_max(token.generation, Ordering::Relaxed);
    }

    /// A newer token than `stale`, which met `meaning`; `None`: there is
    /// nothing newer to be had, and the answer stands.
    pub(super) async fn renew(
        &self,
        stale: &Token,
        meaning: Meaning,
    ) -> Result<Option<Token>, Failure> {
        if self.credentials.is_none() || !meaning.may_be_the_token() {
            return Ok(None);
        }
        if let Some(current) = self.current() {
            if current.generation != stale.generation {
                return Ok(Some(current));
            }
            if current.is_fresh() && meaning == Meaning::Denied {
                return Ok(None);
            }
        }
        self.authenticate(Some(stale.generation)).await.map(Some)
    }

    /// Authenticates, unless another caller just did.
    async fn authenticate(&self, stale_generation: Option<u64>) -> Result<Token, Failure> {
        let Some(credentials) = &self.credentials else {
            return Ok(Token::default());
        };
        let mut failures = self.failures.lock().await;
        let current = self.current();
        if let Some(current) = &current {
            if Some(current.generation) != stale_generation {
                return Ok(current.clone());
            }
            if current.is_fresh() {
                // Bounds what callers can cause: one authentication per FRESH.
                tokio::time::sleep(FRESH / 2).await;
            }
        }
        if let Some((failure, at)) = &failures.last
            && at.elapsed() < failures.pause()
        {
            return Err(failure.clone());
        }
        let generation = current.map_or(1, |token| token.generation + 1);
        match self.ask(credentials, generation).await {
            Ok(token) => {
                *failures = Failures::default();
                let mut shared = self.token.write().unwrap_or_else(PoisonError::into_inner);
                *shared = Some(token.clone());
                Ok(token)
            }
            Err(failure) => {
                failures.count = failures
                    .last
                    .as_ref()
                    .map_or(0, |_| failures.count.saturating_add(1));
                failures.last = Some((failure.clone(), Instant::now()));
                let pause_ms = failures.pause().as_millis();
                let is_news = failures
                    .warned_at
                    .is_none_or(|at| at.elapsed() >= REMIND_AFTER);
                if is_news {
                    failures.warned_at = Some(Instant::now());
                    warn!(%failure, pause_ms, "cannot authenticate to etcd");
                } else {
                    debug!(%failure, pause_ms, "cannot authenticate to etcd");
                }
                Err(failure)
            }
        }
    }

    async fn ask(&self, credentials: &Credentials, generation: u64) -> Result<Token, Failure> {
        let file = credentials.password_file.clone();
        let password = spawn_blocking(move || read_password(&file))
            .await
            .map_err(|error| Failure::lost_as(FailureKind::Other, error.to_string()))?
            .map_err(|error| Failure::lost_as(FailureKind::Unauthenticated, error.to_string()))?;
        let mut failure = Failure::lost("no endpoint");
        for endpoint in self.endpoints.for_unary() {
            match self.ask_at(&endpoint, credentials, &password).await {
                Ok(value) => {
                    return Ok(Token {
                        value,
                        generation,
                        issued_at: Some(Instant::now()),
                    });
                }
                Err(refused @ Failure::Refused(_)) => return Err(refused),
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }

    async fn ask_at(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        password: &str,
    ) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        loop {
            let (connection, was_used) = endpoint.unary();
            let asked = maintenance::authenticate(&connection, &credentials.user, password);
            let error = match timeout(AUTHENTICATE_TIMEOUT, asked).await {
                Ok(Ok(token)) => {
                    info!(user = %credentials.user, endpoint = %endpoint.name, "authenticated to etcd");
                    endpoint.succeeded(None);
                    let mut token = token
                        .parse::<MetadataValue<Ascii>>()
                        .map_err(|_| Failure::lost("etcd's token is no header value"))?;
                    token.set_sensitive(true);
                    return Ok(Some(token));
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    connection.retire();
                    let failure = Failure::lost("authentication timed out");
                    endpoint.failed(&failure);
                    return Err(failure);
                }
            };
            let meaning = Meaning::of_client(&error);
            if meaning == Meaning::AuthenticationOff {
                info!(endpoint = %endpoint.name, "etcd runs without authentication: --etcd-user is not needed");
                return Ok(None);
            }
            if meaning == Meaning::Retryable {
                connection.retire();
                if was_used {
                    debug!(
                        why = client_text(&error),
                        "authenticating again on a new connection"
                    );
                    continue;
                }
            }
            let failure = Failure::of_client(&error, Some(&credentials.user));
            if meaning == Meaning::Retryable {
                endpoint.failed(&failure);
            } else {
                endpoint.note(&failure);
            }
            return Err(failure);
        }
    }

    fn current(&self) -> Option<Token> {
        self.token
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
