//! What is asked on the stream of one watch: its creation, then progress. Owns
//! the stream's outgoing half; refuses to queue questions.

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Notify, oneshot};

use crate::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, watch_request::RequestUnion,
};

/// Dropped, it ends the stream.
pub(super) struct Requests {
    progress: Arc<Notify>,
    _open: oneshot::Sender<()>,
}

impl Requests {
    /// `create`, then a progress request for each time it was asked.
    pub(super) fn new(
        create: WatchCreateRequest,
    ) -> (Self, impl Stream<Item = WatchRequest> + Send + 'static) {
        let progress = Arc::new(Notify::new());
        let (open, ended) = oneshot::channel();
        let create = Some(Box::new(create));
        let to_say = (create, Arc::clone(&progress));
        let said = stream::unfold(to_say, |(create, progress)| async move {
            let request = match create {
                Some(create) => RequestUnion::CreateRequest(*create),
                None => {
                    progress.notified().await;
                    RequestUnion::ProgressRequest(WatchProgressRequest {})
                }
            };
            let request = WatchRequest {
                request_union: Some(request),
            };
            Some((request, (None, progress)))
        });
        let requests = Self {
            progress,
            _open: open,
        };
        (requests, said.take_until(ended))
    }

    /// Never waits: asked again before it was sent, it is sent once.
    pub(super) fn ask_progress(&self) {
        self.progress.notify_one();
    }
}
