//! etcd behind the trait. Owns the background task; refuses to wait for etcd
//! before it is needed. Invariant: dropping the last [`Etcd`] ends the probe;
//! watches and snapshots end by themselves.

use std::{sync::Arc, time::SystemTime};

use async_stream::stream;
use tokio::{sync::watch as latest, task::AbortHandle};
use tracing::debug;

use super::{
    GuardAnswer, Unanswered, Upstream, UpstreamEvents, UpstreamItem, Watch, WatchSpec,
    config::{EtcdConfig, EtcdConfigError},
    endpoints::Endpoints,
    greet, guard, probe,
    shared::{Shared, read_head},
    snapshot,
    status::EtcdStatus,
    watch,
};
use crate::{
    proto::PairOptions,
    resume::{Guard, Header, KeyRange, ProbeSample, Revision},
};

/// etcd, connected to when it is first used.
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    probe: AbortHandle,
}

impl Etcd {
    /// Checks `config` and begins to probe; does not wait for etcd, which may
    /// come later. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Whatever can be known to be wrong without asking etcd; the message names the flag.
    pub fn connect(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let uris = config.validate()?;
        let config = Arc::new(config);
        let endpoints = Arc::new(Endpoints::new(uris, &config)?);
        let shared = Arc::new(Shared::new(config, endpoints));
        let background = Arc::clone(&shared);
        let probe = tokio::spawn(async move {
            let greetings = greet::run(Arc::clone(&background));
            tokio::join!(greetings, probe::run(background));
        })
        .abort_handle();
        Ok(Self { shared, probe })
    }

    /// The header of the newest linearizable answer to anyone, however old;
    /// `None`: there was none yet.
    pub fn newest_header(&self) -> Option<Header> {
        self.shared.newest.get()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.probe.abort();
    }
}

impl Upstream for Etcd {
    fn watch(&self, spec: WatchSpec) -> Watch {
        watch::watch(Arc::clone(&self.shared), spec)
    }

    fn head(&self, range: KeyRange) -> UpstreamEvents {
        let shared = Arc::clone(&self.shared);
        Box::pin(stream! {
            yield match read_head(&shared, &range).await {
                Ok(header) => UpstreamItem::Head(header),
                Err(failure) => {
                    shared.denials.note(&range, &failure);
                    debug!(%failure, "etcd's newest revision not read");
                    failure.into()
                }
            };
        })
    }

    fn snapshot(&self, range: KeyRange, pair_options: PairOptions) -> UpstreamEvents {
        snapshot::snapshot(Arc::clone(&self.shared), range, pair_options)
    }

    fn read_guard(&self, guard: Guard) -> GuardAnswer {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (shared, guard) = (&*shared, &guard);
            let answer = shared.unary(|_, connection| async move {
                guard::read(shared, &connection, guard).await
            });
            answer
                .await
                .map_err(|failure| Unanswered(failure.to_string()))
        })
    }

    fn probe(&self) -> latest::Receiver<Vec<ProbeSample>> {
        self.shared.samples.subscribe()
    }

    fn status(&self) -> EtcdStatus {
        let endpoints = &self.shared.endpoints;
        let denied = self.shared.denials.failure();
        let mut statuses = endpoints.statuses();
        for endpoint in &mut statuses {
            endpoint.failure = endpoint.failure.take().or_else(|| denied.clone());
        }
        let (greeted_id, greeted) = endpoints.greetings();
        let newest = self.shared.newest.get_with_time();
        let revision = newest.map(|(header, at)| (header.revision, at));
        let by_time = |it: &Option<(Revision, SystemTime)>| it.map(|(_, at)| at);
        EtcdStatus {
            endpoints: statuses,
            cluster_id: newest.map_or(greeted_id, |(header, _)| header.cluster_id),
            revision: [revision, greeted]
                .into_iter()
                .max_by_key(by_time)
                .flatten(),
        }
    }

    fn reached(&self) -> latest::Receiver<bool> {
        self.shared.endpoints.reached()
    }
}
