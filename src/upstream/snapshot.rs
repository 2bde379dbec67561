//! A range at one revision. Owns the pinning, the paging, and etcd 3.7's
//! `RangeStream` where there is one; refuses to end a snapshot that is not
//! whole. Invariant: every pair is as of the revision of `SnapshotBegun`, and
//! keys ascend strictly from page to page.

use std::{sync::Arc, time::Duration};

use async_stream::stream;
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tracing::debug;

use super::{
    UpstreamEvents, UpstreamItem,
    call::{call, judge, range, with_token},
    connect::Connection,
    convert::{self, Malformed},
    endpoints::Endpoint,
    error::{Failure, Meaning},
    etcd::Shared,
    guard,
    pages::PagePlan,
};
use crate::{
    proto::{
        etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse},
        watchmark::v1::KeyValue,
    },
    resume::{Header, KeyRange, Revision},
};

/// For the first byte of a page, and for the pause between two chunks. etcd
/// walks a range of a million keys in 0.3 s.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// A snapshot that nobody reads does nothing; a page is asked for when the one
/// before it was taken.
pub(super) fn snapshot(shared: Arc<Shared>, of: KeyRange, keys_only: bool) -> UpstreamEvents {
    Box::pin(stream! {
        let mut reader = Reader::new(&shared, of.clone(), keys_only);
        let (header, mut page) = match reader.first().await {
            Ok(first) => first,
            Err(failure) => {
                shared.denials.note(&of, &failure);
                debug!(%failure, "snapshot not begun");
                yield failure.into();
                return;
            }
        };
        yield UpstreamItem::SnapshotBegun(header);
        loop {
            if !page.pairs.is_empty() {
                yield UpstreamItem::SnapshotPage(page.pairs);
            }
            if !page.more {
                yield UpstreamItem::SnapshotEnded;
                return;
            }
            page = match reader.next().await {
                Ok(page) => page,
                Err(Failure::Compacted) => {
                    let compact_revision = reader.compact_revision().await;
                    yield UpstreamItem::SnapshotCompacted { compact_revision };
                    return;
                }
                Err(failure) => {
                    shared.denials.note(&of, &failure);
                    debug!(%failure, "snapshot lost");
                    yield failure.into();
                    return;
                }
            };
        }
    })
}

impl Source {
    fn streams(&self) -> bool {
        !self.is_paged && self.endpoint.has_range_stream()
    }
}

struct Page {
    pairs: Vec<KeyValue>,
    more: bool,
}

struct Reader<'a> {
    shared: &'a Shared,
    /// What is left of the range, from its first unread key on.
    rest: RangeRequest,
    plan: PagePlan,
    source: Option<Source>,
}

/// Where the snapshot began, and so where it goes on: another server might
/// have another history.
struct Source {
    endpoint: Arc<Endpoint>,
    connection: Arc<Connection>,
    chunks: Option<Streaming<RangeStreamResponse>>,
    /// The server's chunks grow beyond what this side takes.
    is_paged: bool,
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Shared, of: KeyRange, keys_only: bool) -> Self {
        Self {
            shared,
            rest: RangeRequest {
                key: of.key().clone(),
                range_end: of.range_end().clone(),
                keys_only,
                ..RangeRequest::default()
            },
            plan: PagePlan::new(shared.config.snapshot_page_bytes),
            source: None,
        }
    }

    /// Reads the newest state, and pins its revision.
    async fn first(&mut self) -> Result<(Header, Page), Failure> {
        let shared = self.shared;
        let asked_at = Instant::now();
        let (answer, endpoint, connection) = loop {
            let request = &self.request();
            let answer_bytes_max = self.plan.answer_bytes_max();
            let answer = shared.unary(|endpoint, connection| async move {
                range(
                    &shared.auth,
                    &connection,
                    PAGE_TIMEOUT,
                    request,
                    answer_bytes_max,
                )
                .await
                .map(|answer| (answer, endpoint, connection))
            });
            match answer.await {
                Err(Failure::TooLarge) if self.plan.was_too_large() => {}
                other => break other?,
            }
        };
        let header = convert::header(answer.header.as_ref())?;
        shared.newest.update(header, asked_at);
        self.rest.revision = header.revision.get();
        self.source = Some(Source {
            endpoint,
            connection,
            chunks: None,
            is_paged: false,
        });
        let page = self.page(answer)?;
        Ok((header, page))
    }

    /// Goes on after the last page.
    async fn next(&mut self) -> Result<Page, Failure> {
        if self.source.as_ref().is_some_and(Source::streams) {
            let chunk = self.next_chunk().await;
            match (&chunk, &mut self.source) {
                (Err(Failure::Unimplemented), Some(source)) => {
                    source.endpoint.set_no_range_stream();
                }
                (Err(Failure::TooLarge), Some(source)) => source.is_paged = true,
                _ => return chunk,
            }
        }
        let source = self.source.as_ref().ok_or(Malformed::Page)?;
        let answer = loop {
            let request = self.request();
            let answer = range(
                &self.shared.auth,
                &source.connection,
                PAGE_TIMEOUT,
                &request,
                self.plan.answer_bytes_max(),
            );
            match answer.await {
                Err(Failure::TooLarge) if self.plan.was_too_large() => {}
                other => break other?,
            }
        };
        self.page(answer)
    }

    /// The rest in one stream, which the server cuts into chunks: by the keys
    /// of the chunk before, so that 3.7.3 sends 40 MiB where values grow.
    async fn next_chunk(&mut self) -> Result<Page, Failure> {
        let answer_bytes_max = self.plan.answer_bytes_max();
        let auth = &self.shared.auth;
        let source = self.source.as_mut().ok_or(Malformed::Page)?;
        let connection = &source.connection;
        let mut chunks = match source.chunks.take() {
            Some(chunks) => chunks,
            None => {
                call(auth, connection, PAGE_TIMEOUT, |token| {
                    let mut kv = connection.kv().max_decoding_message_size(answer_bytes_max);
                    let request = with_token(self.rest.clone(), &token);
                    async move { kv.range_stream(request).await }
                })
                .await?
            }
        };
        let chunk = match timeout(PAGE_TIMEOUT, chunks.message()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(status)) => {
                judge(connection, &status);
                let meaning = Meaning::of_status(&status);
                return Err(Failure::of(meaning, status.message(), auth.identity()));
            }
            Err(_) => {
                connection.retire();
                return Err(Failure::lost("no chunk in time"));
            }
        };
        let Some(chunk) = chunk else {
            return Ok(Page {
                pairs: Vec::new(),
                more: false,
            });
        };
        source.chunks = Some(chunks);
        // `more` speaks of the limit; only the end of the stream is the end.
        let pairs = chunk.range_response.unwrap_or_default().kvs;
        self.advance(&pairs)?;
        Ok(Page { pairs, more: true })
    }

    fn request(&self) -> RangeRequest {
        RangeRequest {
            limit: self.plan.keys(),
            ..self.rest.clone()
        }
    }

    fn page(&mut self, answer: RangeResponse) -> Result<Page, Failure> {
        if answer.more && answer.kvs.is_empty() {
            return Err(Malformed::Page.into());
        }
        let bytes = answer.kvs.iter().map(Message::encoded_len).sum();
        self.plan.came(answer.kvs.len(), bytes);
        self.advance(&answer.kvs)?;
        Ok(Page {
            pairs: answer.kvs,
            more: answer.more,
        })
    }

    /// Checks the order, and goes on after the last key.
    fn advance(&mut self, pairs: &[KeyValue]) -> Result<(), Failure> {
        if let Some(next) = convert::key_after_page(&self.rest.key, pairs)? {
            self.rest.key = next;
        }
        Ok(())
    }

    async fn compact_revision(&self) -> Option<Revision> {
        let connection = &self.source.as_ref()?.connection;
        guard::compact_revision(self.shared, connection, &self.rest.key).await
    }
}
