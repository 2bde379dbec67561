//! A range at one revision. Owns the pinning, the paging, and etcd 3.7's
//! `RangeStream` where there is one; refuses to end a snapshot that is not
//! whole. Invariant: every pair is as of the revision of `SnapshotBegun`, and
//! keys ascend strictly.
//!
//! A page is passed on in pieces while it arrives. So it may be large in etcd,
//! which up to 3.6 walks all that is left of the range for each page, and is
//! never whole here.

use std::{sync::Arc, time::Duration};

use async_stream::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::{Response, Streaming};
use tracing::{Instrument, Span, debug};

use super::{
    UpstreamEvents, UpstreamItem,
    call::{call, judge, with_token},
    connect::Connection,
    convert::{self, Malformed},
    endpoints::Endpoint,
    error::{Failure, Meaning},
    guard,
    pages::PagePlan,
    shared::Shared,
};
use crate::{
    proto::{
        PairOptions,
        etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse},
        watchmark::v1::KeyValue,
    },
    resume::{Header, KeyRange, Revision},
};

/// For the first byte of a page, and for the pause between two pieces. etcd
/// walks a range of a million keys in 0.3 s.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of etcd 3.7's chunks, which are whole in memory; beyond it pages serve.
const CHUNK_BYTES_MAX: usize = 8 << 20;
/// What is read of an answer that nobody takes. The rest waits in etcd's memory.
const PIECES_AHEAD: usize = 1;
/// So the rest is given up after this time, and asked for again.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Nothing is asked for before it is first read.
pub(super) fn snapshot(
    shared: Arc<Shared>,
    of: KeyRange,
    pair_options: PairOptions,
) -> UpstreamEvents {
    Box::pin(stream! {
        let (items, mut read) = mpsc::channel(PIECES_AHEAD);
        // Ends with this stream.
        let mut reading = JoinSet::new();
        reading.spawn(run(shared, of, pair_options, items).instrument(Span::current()));
        while let Some(item) = read.recv().await {
            yield item;
        }
    })
}

type Items = mpsc::Sender<UpstreamItem>;

async fn run(shared: Arc<Shared>, of: KeyRange, pair_options: PairOptions, items: Items) {
    let mut reader = Reader::new(&shared, &of, pair_options);
    let last = match reader.read(&items).await {
        Ok(()) => UpstreamItem::SnapshotEnded,
        Err(Failure::Compacted) if reader.source.is_some() => UpstreamItem::SnapshotCompacted {
            compact_revision: reader.compact_revision().await,
        },
        Err(failure) => {
            shared.denials.note(&of, &failure);
            debug!(%failure, "snapshot lost");
            failure.into()
        }
    };
    drop(reader);
    // An error: nobody wants it any more.
    let _ = items.send(last).await;
}

struct Reader<'a> {
    shared: &'a Shared,
    /// What is left of the range, from its first unread key on.
    rest: RangeRequest,
    plan: PagePlan,
    pair_options: PairOptions,
    source: Option<Source>,
    /// The server's chunks grow beyond what this side takes.
    is_paged: bool,
    /// What is being read.
    answer: Option<Answer>,
    /// How long it may still wait to be taken.
    patience: Duration,
}

/// Where the snapshot began, and so where it goes on: another server might
/// have another history.
struct Source {
    endpoint: Arc<Endpoint>,
    connection: Arc<Connection>,
}

enum Answer {
    Page(Page),
    Chunks(Streaming<RangeStreamResponse>),
}

struct Page {
    /// Taken off the stream already.
    first: Option<RangeResponse>,
    pieces: Streaming<RangeResponse>,
    /// Held while etcd may hold the page.
    large: Option<OwnedSemaphorePermit>,
    keys: usize,
    bytes: usize,
    more: bool,
    /// The last piece came.
    is_whole: bool,
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Shared, of: &KeyRange, pair_options: PairOptions) -> Self {
        Self {
            shared,
            rest: RangeRequest {
                key: of.key().clone(),
                range_end: of.range_end().clone(),
                keys_only: pair_options.keys_only,
                ..RangeRequest::default()
            },
            plan: PagePlan::new(shared.config.snapshot_page_bytes, pair_options.keys_only),
            pair_options,
            source: None,
            is_paged: false,
            answer: None,
            patience: TAKEN_WITHIN,
        }
    }

    async fn read(&mut self, items: &Items) -> Result<(), Failure> {
        let header = self.begin().await?;
        let begun = UpstreamItem::SnapshotBegun(header);
        // Errors: nobody wants it any more.
        let _ = items.send(begun).await;
        while let Some(mut pairs) = self.next().await? {
            if pairs.is_empty() {
                continue;
            }
            self.advance(&pairs)?;
            for pair in &mut pairs {
                self.pair_options.apply(pair);
            }
            let since = Instant::now();
            let place = match timeout(self.patience, items.reserve()).await {
                Ok(place) => place,
                Err(_) => {
                    self.give_up_page();
                    items.reserve().await
                }
            };
            self.patience = self.patience.saturating_sub(since.elapsed());
            let _ = place.map(|place| place.send(UpstreamItem::SnapshotPage(pairs)));
        }
        Ok(())
    }

    /// Reads the newest state, and pins its revision.
    async fn begin(&mut self) -> Result<Header, Failure> {
        let shared = self.shared;
        let asked_at = Instant::now();
        let (header, page, endpoint, connection) = loop {
            let request = &self.request(false);
            let page = shared.unary(|endpoint, connection| async move {
                let (header, page) = ask_page(shared, &connection, request, None).await?;
                Ok((header, page, endpoint, connection))
            });
            match page.await {
                Err(Failure::TooLarge) if self.plan.was_too_large() => {}
                other => break other?,
            }
        };
        shared.newest.update(header, asked_at);
        self.rest.revision = header.revision.get();
        self.source = Some(Source {
            endpoint,
            connection,
        });
        self.answer = Some(Answer::Page(page));
        Ok(header)
    }

    /// The next pairs; `None`: these were all.
    async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, Failure> {
        loop {
            let source = self.source.as_ref().ok_or(Malformed::Page)?;
            let connection = &source.connection;
            if self.answer.is_none() {
                if self.is_all_read() {
                    return Ok(None);
                }
                self.patience = TAKEN_WITHIN;
            }
            match &mut self.answer {
                Some(Answer::Page(page)) => {
                    if let Some(pairs) = page.next(self.shared, connection).await? {
                        return Ok(Some(pairs));
                    }
                    if !page.more {
                        return Ok(None);
                    }
                    self.plan.came(page.keys, page.bytes);
                    self.answer = None;
                }
                Some(Answer::Chunks(chunks)) => {
                    match next_message(self.shared, connection, chunks).await {
                        // `more` speaks of the limit; only the end of the stream is the end.
                        Ok(chunk) => return Ok(chunk.map(pairs_of)),
                        Err(Failure::TooLarge) => self.is_paged = true,
                        Err(Failure::Unimplemented) => source.endpoint.set_no_range_stream(),
                        Err(failure) => return Err(failure),
                    }
                    self.answer = None;
                }
                None if source.endpoint.has_range_stream() && !self.is_paged => {
                    match ask_chunks(self.shared, connection, &self.rest).await {
                        Ok(chunks) => self.answer = Some(Answer::Chunks(chunks)),
                        Err(Failure::Unimplemented) => source.endpoint.set_no_range_stream(),
                        Err(failure) => return Err(failure),
                    }
                }
                None => {
                    let large = self.shared.catch_ups.large_page();
                    let request = self.request(large.is_some());
                    match ask_page(self.shared, connection, &request, large).await {
                        Ok((_, page)) => self.answer = Some(Answer::Page(page)),
                        Err(Failure::TooLarge) if self.plan.was_too_large() => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
    }

    /// Nobody takes it, and what is left of it lies in etcd's memory. Whoever
    /// does not take it at once gets small pages first.
    fn give_up_page(&mut self) {
        if let Some(Answer::Page(page)) = &self.answer
            && !page.is_whole
        {
            self.plan.gave_up(page.keys, page.bytes);
            self.answer = None;
        }
    }

    /// No key can be left: etcd would take what is for no range of ours.
    fn is_all_read(&self) -> bool {
        let RangeRequest { key, range_end, .. } = &self.rest;
        !range_end.is_empty() && range_end[..] != [0] && key >= range_end
    }

    fn request(&self, is_large: bool) -> RangeRequest {
        RangeRequest {
            limit: self.plan.keys(is_large),
            ..self.rest.clone()
        }
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

impl Page {
    /// The pairs of the next piece; `None`: these were all.
    async fn next(
        &mut self,
        shared: &Shared,
        connection: &Connection,
    ) -> Result<Option<Vec<KeyValue>>, Failure> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => next_message(shared, connection, &mut self.pieces).await?,
        };
        let is_empty = self.keys == 0;
        match piece {
            Some(piece) if !self.is_whole => {
                self.keys += piece.kvs.len();
                self.bytes += piece.kvs.iter().map(bytes).sum::<usize>();
                self.more |= piece.more;
                self.is_whole = !piece.fragment;
                if self.is_whole {
                    self.large = None;
                }
                Ok(Some(piece.kvs))
            }
            None if self.is_whole && !(self.more && is_empty) => Ok(None),
            // Two answers, half a one, or one that leads nowhere.
            Some(_) | None => Err(Malformed::Page.into()),
        }
    }
}

/// As many bytes as matter.
fn bytes(pair: &KeyValue) -> usize {
    pair.key.len() + pair.value.len()
}

fn pairs_of(chunk: RangeStreamResponse) -> Vec<KeyValue> {
    chunk.range_response.unwrap_or_default().kvs
}

async fn ask_page(
    shared: &Shared,
    connection: &Connection,
    request: &RangeRequest,
    large: Option<OwnedSemaphorePermit>,
) -> Result<(Header, Page), Failure> {
    let asked = call(&shared.auth, connection, PAGE_TIMEOUT, |token| {
        let request = with_token(request.clone(), &token);
        async move {
            let mut pieces = connection.range_in_pieces(request).await?.into_inner();
            let first = pieces.message().await?;
            Ok(Response::new((first, pieces)))
        }
    });
    let (first, pieces) = asked.await?;
    let header = first.as_ref().and_then(|first| first.header.as_ref());
    let header = convert::header(header)?;
    let page = Page {
        first,
        pieces,
        large,
        keys: 0,
        bytes: 0,
        more: false,
        is_whole: false,
    };
    Ok((header, page))
}

/// `rest` in one stream, which the server cuts into chunks: by the keys of the
/// chunk before, so that 3.7.3 sends 40 MiB where values grow.
async fn ask_chunks(
    shared: &Shared,
    connection: &Connection,
    rest: &RangeRequest,
) -> Result<Streaming<RangeStreamResponse>, Failure> {
    call(&shared.auth, connection, PAGE_TIMEOUT, |token| {
        let mut kv = connection.kv().max_decoding_message_size(CHUNK_BYTES_MAX);
        let request = with_token(rest.clone(), &token);
        async move { kv.range_stream(request).await }
    })
    .await
}

async fn next_message<T>(
    shared: &Shared,
    connection: &Connection,
    messages: &mut Streaming<T>,
) -> Result<Option<T>, Failure> {
    match timeout(PAGE_TIMEOUT, messages.message()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(status)) => {
            judge(connection, &status);
            let meaning = Meaning::of_status(&status);
            let identity = shared.auth.identity();
            Err(Failure::of(meaning, status.message(), identity))
        }
        Err(_) => {
            connection.retire();
            Err(Failure::lost("nothing in time"))
        }
    }
}
