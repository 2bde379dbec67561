//! What all uses of etcd share: the endpoints, the token, the permits, what is
//! known. Owns how one call goes from endpoint to endpoint, and what the log is
//! told of members; refuses to know watches and snapshots.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch as latest,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    auth::Auth,
    call::{READ_TIMEOUT, SINGLE_KEY_BYTES_MAX, range, single_key},
    catchup::{CatchUps, NewestHeader, Oversized},
    condition::Denials,
    config::EtcdConfig,
    connect::{Connection, ServerVersion},
    convert,
    endpoints::{Endpoint, Endpoints},
    error::Failure,
    live::LiveRanges,
    maintenance,
};
use crate::resume::{Header, KeyRange, ProbeSample, Proof};

/// `Status` reads no keys.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// What all uses of etcd share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<EtcdConfig>,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) auth: Auth,
    pub(super) newest: NewestHeader,
    pub(super) catch_ups: CatchUps,
    pub(super) oversized: Oversized,
    pub(super) live: Arc<LiveRanges>,
    pub(super) denials: Denials,
    pub(super) samples: latest::Sender<Vec<ProbeSample>>,
    /// What is in the log: members with their version, and versions (`None`)
    /// with their defects.
    announced: Mutex<BTreeSet<(Option<u64>, String)>>,
}

impl Shared {
    pub(super) fn new(config: Arc<EtcdConfig>, endpoints: Arc<Endpoints>) -> Self {
        Self {
            auth: Auth::new(&config, Arc::clone(&endpoints)),
            endpoints,
            newest: NewestHeader::default(),
            catch_ups: CatchUps::new(config.max_catchups),
            oversized: Oversized::default(),
            live: Arc::default(),
            denials: Denials::default(),
            samples: latest::Sender::default(),
            announced: Mutex::default(),
            config,
        }
    }

    /// Makes a call at one endpoint after the other until one does not lose it.
    /// A connection that was used before may have broken meanwhile, which shows
    /// only now: such an endpoint gets a second chance.
    pub(super) async fn unary<T, F>(
        &self,
        call: impl Fn(Arc<Endpoint>, Arc<Connection>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut last = Failure::lost("no endpoint");
        for endpoint in self.endpoints.for_unary() {
            let (connection, was_used) = endpoint.unary();
            let mut outcome = call(Arc::clone(&endpoint), Arc::clone(&connection)).await;
            if was_used && matches!(outcome, Err(Failure::Lost { .. })) && !connection.is_usable() {
                let (connection, _) = endpoint.unary();
                outcome = call(Arc::clone(&endpoint), connection).await;
            }
            match outcome {
                Err(failure @ Failure::Lost { .. }) => {
                    endpoint.failed(&failure);
                    debug!(endpoint = %endpoint.name, %failure, "no answer from etcd");
                    last = failure;
                }
                Err(failure) => {
                    endpoint.refused(&failure);
                    return Err(failure);
                }
                answer => {
                    endpoint.succeeded(None);
                    return answer;
                }
            }
        }
        Err(last)
    }

    /// Who serves a connection and in which version; asked once a connection,
    /// told once a member. `None`: not to be found out now.
    pub(super) async fn server_version(
        &self,
        connection: &Connection,
        endpoint: &str,
    ) -> Option<ServerVersion> {
        let ask = || async {
            let token = self.auth.token().await?;
            let asked = maintenance::server_version(connection, token.value());
            match timeout(STATUS_TIMEOUT, asked).await {
                Ok(Ok(version)) => Ok(version),
                Ok(Err(error)) => Err(Failure::of_client(&error, self.auth.identity())),
                Err(_) => Err(Failure::lost("no answer in time")),
            }
        };
        match connection.version.get_or_try_init(ask).await {
            Ok(server) => {
                self.announce(*server, endpoint);
                Some(*server)
            }
            Err(failure) => {
                // The log has it from the next greeting.
                debug!(endpoint, %failure, "etcd does not tell its version: not asking it for progress");
                None
            }
        }
    }

    pub(super) fn announce(&self, server: ServerVersion, endpoint: &str) {
        let version = server
            .version
            .map_or_else(|| "unknown".to_owned(), |version| version.to_string());
        let (is_new_member, is_new_version) = {
            let announced = self.announced.lock();
            let mut announced = announced.unwrap_or_else(PoisonError::into_inner);
            (
                announced.insert((Some(server.member_id), version.clone())),
                announced.insert((None, version.clone())),
            )
        };
        if !is_new_member {
            return;
        }
        let asks_progress = server
            .version
            .is_some_and(|version| version.answers_progress_soundly());
        let idle_proof = if asks_progress {
            Proof::Progress.name()
        } else {
            Proof::Delay.name()
        };
        let member_id = format!("{:x}", server.member_id);
        info!(endpoint, member_id, version, idle_proof, "etcd member");
        let version_known = server.version.filter(|_| is_new_version);
        for defect in version_known
            .into_iter()
            .flat_map(|version| version.defects())
        {
            warn!(
                version,
                defect, "this version of etcd has a defect fixed in a later one"
            );
        }
    }
}

/// Reads etcd's newest revision linearizably, by the first key of `read`.
pub(super) async fn read_head(shared: &Shared, read: &KeyRange) -> Result<Header, Failure> {
    let request = &single_key(read.key().clone(), None);
    let answer = shared.unary(|_, connection| async move {
        let asked_at = Instant::now();
        let answer = range(
            &shared.auth,
            &connection,
            READ_TIMEOUT,
            request,
            SINGLE_KEY_BYTES_MAX,
        )
        .await?;
        let header = convert::header(answer.header.as_ref())?;
        shared.newest.update(header, asked_at);
        Ok(header)
    });
    answer.await
}
