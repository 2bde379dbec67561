//! A whole scene: etcd, its direct watch, watchmark, a writer, and a recorder.

use std::sync::Arc;

use tonic::transport::ClientTlsConfig;
use watchmark::proto::watchmark::v1::SubscribeRequest;

use super::{
    client::{Ended, Subscriber, request},
    etcd::Etcd,
    history::{Recorder, Truth, validate_all},
    operator::Operator,
    watchmark::Watchmark,
    writer::Writer,
};

/// Ends with [`finish`](Self::finish), which validates everything recorded.
pub(crate) struct Scenario {
    pub(crate) watchmark: Watchmark,
    pub(crate) recorder: Recorder,
    pub(crate) truth: Arc<Truth>,
    pub(crate) writer: Writer,
    pub(crate) etcd: Etcd,
}

impl Scenario {
    /// One member, and watchmark with these flags.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(Etcd::single(&[]).await, flags).await
    }

    /// On a fresh etcd.
    pub(crate) async fn start_with(etcd: Etcd, flags: &[&str]) -> Self {
        Self::start_tls(etcd, flags, None).await
    }

    /// On a fresh etcd; how to connect to watchmark.
    pub(crate) async fn start_tls(
        etcd: Etcd,
        flags: &[&str],
        tls: Option<ClientTlsConfig>,
    ) -> Self {
        let truth = Arc::new(Truth::watch(etcd.client().await));
        Self {
            writer: Writer::new(etcd.client().await, Arc::clone(&truth)),
            watchmark: Watchmark::start_tls(&etcd.endpoints(), flags, tls).await,
            recorder: Recorder::default(),
            truth,
            etcd,
        }
    }

    /// Subscribes to everything below a prefix, on a connection of its own.
    pub(crate) async fn subscribe(&self, client_id: &str, prefix: &str) -> Subscriber {
        self.open(request(client_id, prefix)).await.unwrap()
    }

    /// Subscribes, on a connection of its own.
    pub(crate) async fn open(&self, request: SubscribeRequest) -> Result<Subscriber, Ended> {
        let client = self.watchmark.client().await;
        Subscriber::open(client, &self.recorder, request).await
    }

    /// An operator on this host, on a connection of their own.
    pub(crate) async fn operator(&self) -> Operator {
        Operator {
            api: self.watchmark.admin_client().await,
            recorder: self.recorder.clone(),
        }
    }

    /// Compacts everything up to now away, once the direct watch has it.
    pub(crate) async fn compact_to_head(&self) -> i64 {
        let head = self.etcd.head().await;
        self.truth.until(head).await;
        self.etcd.compact(head).await;
        head
    }

    /// Validates what was recorded so far, and forgets it: etcd's history is
    /// about to be replaced by another. Call it before that happens.
    pub(crate) async fn validate_epoch(&self) {
        let history = self.truth.until(self.etcd.head().await).await;
        validate_all(&history, &self.recorder.take());
    }

    /// Watches the new history directly, from its first revision on.
    pub(crate) async fn begin_epoch(&mut self) {
        self.truth = Arc::new(Truth::watch(self.etcd.client().await));
        self.writer = Writer::new(self.etcd.client().await, Arc::clone(&self.truth));
    }

    /// Compares everything recorded with etcd's own history.
    pub(crate) async fn finish(self) {
        let history = self.truth.until(self.etcd.head().await).await;
        validate_all(&history, &self.recorder.records());
    }
}
