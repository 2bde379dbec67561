//! A running watch. Owns what its responses mean, and the watches that run
//! ahead of it in a deep history; refuses to reopen what etcd ended, and to
//! take a position from a header. Invariant: `WatchOpened` comes first, and
//! nothing after a terminal item.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_stream::stream;
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until},
};
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::{
    UpstreamEvents, UpstreamItem, Watch, WatchSpec,
    call::judge,
    catchup::{CatchUpPermit, PermitSlot},
    connect::{Connection, WatchSlot},
    convert::{self, Malformed},
    endpoints::{CountedWatch, Endpoint},
    error::{Failure, Meaning, status_text},
    live::LiveWatch,
    opening::{self, Created, Open},
    shared::Shared,
    status::FailureKind,
};
use crate::{
    proto::{PairOptions, etcdserverpb::WatchResponse, watchmark::v1::Event},
    resume::{GuardReading, Piece, Refusal, Revision, Segments, WatchOpened},
};

/// One question in flight is all there is to ask.
const ASKS_MAX: usize = 1;
/// etcd's id for what concerns the whole stream, such as asked-for progress.
const WHOLE_STREAM: i64 = -1;
/// When nothing could be handed on for so long, the front goes on by itself.
const NOTHING_AHEAD_AFTER: Duration = Duration::from_secs(10);

/// A watch that nobody reads does nothing.
pub(super) fn watch(shared: Arc<Shared>, spec: WatchSpec) -> Watch {
    let (ask_progress, asked) = mpsc::channel(ASKS_MAX);
    let (catching_up, slot) = CatchUpPermit::pending();
    Watch {
        events: events(shared, spec, slot, asked),
        ask_progress,
        catching_up,
    }
}

fn events(
    shared: Arc<Shared>,
    spec: WatchSpec,
    slot: PermitSlot,
    mut asked: mpsc::Receiver<()>,
) -> UpstreamEvents {
    // What it takes to open a watch, 22 KiB, is given back once it is open, and
    // what is rare is boxed below.
    let opening = Box::pin(begin(shared, spec, slot));
    Box::pin(stream! {
        let mut running = match opening.await {
            Ok((opened, running)) => {
                yield UpstreamItem::WatchOpened(opened);
                running
            }
            Err(failure) => {
                yield failure.into();
                return;
            }
        };
        loop {
            match running.next(&mut asked).await {
                Ok(item) => yield item,
                Err(last) => {
                    yield last;
                    return;
                }
            }
        }
    })
}

async fn begin(
    shared: Arc<Shared>,
    spec: WatchSpec,
    slot: PermitSlot,
) -> Result<(WatchOpened, Box<Running>), Failure> {
    opening::admit(&shared, &spec, &slot).await?;
    let open = opening::open(&shared, &spec).await?;
    let opened = open.opened.clone();
    // It is live, and so probed, from here on.
    Ok((opened, Box::new(Running::new(shared, spec, open))))
}

/// A watch in use: its own stream, or those of its segments.
struct Running {
    shared: Arc<Shared>,
    spec: WatchSpec,
    /// Those that are still to say something, ascending.
    streams: Vec<Created>,
    /// Of the last of them, kept for who goes on.
    place: Option<WatchSlot>,
    segments: Segments<Event>,
    /// Held while more than one watch is used.
    ahead: Option<OwnedSemaphorePermit>,
    may_run_ahead: bool,
    /// etcd's newest revision, as last heard.
    newest: Revision,
    handed_at: Instant,
    can_ask_progress: bool,
    /// Whether anybody may still ask for progress.
    is_asked: bool,
    live: LiveWatch,
    connection: Arc<Connection>,
    endpoint: Arc<Endpoint>,
    _counted: CountedWatch,
}

/// What came of a watch: a response, its end, or an error.
type Answer = Result<Option<WatchResponse>, Status>;

/// What happened to an open watch.
enum Happened {
    Response(Revision, Answer),
    Refused(Refusal),
    Asked,
    NothingAhead,
}

impl Running {
    fn new(shared: Arc<Shared>, spec: WatchSpec, open: Open) -> Self {
        let after = open.created.after;
        let newest = match open.opened.guard {
            GuardReading::Present { header, .. } => header.revision,
            GuardReading::Compacted { .. } | GuardReading::Future => after,
        };
        Self {
            live: shared.live.register(&spec.selection.range),
            connection: Arc::clone(open.created.connection()),
            streams: vec![open.created],
            place: None,
            segments: Segments::new(after),
            ahead: None,
            may_run_ahead: true,
            newest,
            handed_at: Instant::now(),
            can_ask_progress: open.opened.can_ask_progress,
            is_asked: true,
            endpoint: open.endpoint,
            _counted: open.counted,
            shared,
            spec,
        }
    }

    /// The next that the watch says; an error: the last.
    async fn next(&mut self, asked: &mut mpsc::Receiver<()>) -> Result<UpstreamItem, UpstreamItem> {
        loop {
            if self.segments.runs_ahead() {
                // Must not wait behind all that waits here.
                if let Some(refusal) = self.live.refusal() {
                    return Err(UpstreamItem::Refused(refusal.clone()));
                }
                // Never left unread: etcd would call it slow.
                while let Some((after, said)) = self.said_ahead() {
                    self.take_in(after, said)?;
                }
            }
            if let Some(piece) = self.segments.next_piece() {
                self.handed_at = Instant::now();
                return Ok(match piece {
                    Piece::Events { events, fragment } => UpstreamItem::Events { events, fragment },
                    Piece::Bookmark(revision) => UpstreamItem::Bookmark(revision),
                });
            }
            if let Some(after) = self.segments.goes_on_after() {
                Box::pin(self.go_on(after)).await?;
            } else if self.may_run_ahead {
                let plan = self.segments.plan(self.newest);
                if !plan.is_empty() {
                    Box::pin(self.run_ahead(&plan)).await;
                }
            }
            match self.wait(asked).await {
                Happened::Response(after, said) => self.take_in(after, said)?,
                Happened::Refused(refusal) => return Err(UpstreamItem::Refused(refusal)),
                Happened::Asked => {}
                Happened::NothingAhead => {
                    self.segments.collapse();
                    self.close_unwanted();
                }
            }
        }
    }

    async fn wait(&mut self, asked: &mut mpsc::Receiver<()>) -> Happened {
        let nothing_ahead_at = self.handed_at + NOTHING_AHEAD_AFTER;
        tokio::select! {
            biased;
            // Rare, and must not wait behind a busy stream: seen here, heard of below.
            refusal = poll_fn(|_| self.live.refusal().map_or(Poll::Pending, Poll::Ready)) => {
                Happened::Refused(refusal.clone())
            }
            (after, said) = poll_fn(|cx| poll_streams(self.streams.iter_mut(), cx)) => {
                Happened::Response(after, said)
            }
            // While there is more to read, nobody needs to know how far etcd is.
            ask = asked.recv(), if self.is_asked => {
                self.is_asked = ask.is_some();
                if ask.is_some() && self.can_ask_progress {
                    self.ask_progress();
                }
                Happened::Asked
            }
            refusal = self.live.refused() => Happened::Refused(refusal),
            () = sleep_until(nothing_ahead_at), if self.segments.runs_ahead() => {
                Happened::NothingAhead
            }
        }
    }

    /// Of the front: what is ahead of it is asked when its turn has come.
    fn ask_progress(&self) {
        let front = self.segments.front();
        if let Some(front) = self.streams.iter().find(|it| Some(it.after) == front) {
            front.requests.ask_progress();
        }
    }

    /// What is there already of a watch ahead. The front's is left to be read
    /// when all of it was handed on, which bounds what waits.
    fn said_ahead(&mut self) -> Option<(Revision, Answer)> {
        let front = self.segments.front();
        let ahead = self.streams.iter_mut();
        let ahead = ahead.filter(|stream| Some(stream.after) != front);
        let mut cx = Context::from_waker(Waker::noop());
        match poll_streams(ahead, &mut cx) {
            Poll::Ready(said) => Some(said),
            Poll::Pending => None,
        }
    }

    /// Takes in what the watch that starts right after `after` says; an error:
    /// there will be nothing more.
    fn take_in(&mut self, after: Revision, said: Answer) -> Result<(), UpstreamItem> {
        let taken = match self.read(said) {
            Ok(Parsed::Nothing) => Ok(()),
            Ok(Parsed::Events { events, fragment }) => {
                self.segments.events(after, events, fragment)
            }
            Ok(Parsed::Bookmark(revision)) => self.segments.bookmark(after, revision),
            Ok(Parsed::Last(item)) => return self.end(after, None, item),
            Err(failure) => return self.end(after, Some(&failure), UpstreamItem::Lost),
        };
        if let Err(contradiction) = taken {
            warn!(endpoint = %self.endpoint.name, %contradiction, "reading the history again");
            return Err(UpstreamItem::Lost);
        }
        self.close_unwanted();
        Ok(())
    }

    fn read(&self, said: Answer) -> Result<Parsed, Failure> {
        let endpoint = &self.endpoint;
        match said {
            Ok(Some(response)) => {
                let said = read_response(response, self.can_ask_progress, self.spec.pair_options);
                said.map_err(|malformed| {
                    warn!(endpoint = %endpoint.name, %malformed, "closing a watch: etcd broke its protocol");
                    Failure::lost_as(FailureKind::Other, malformed.to_string())
                })
            }
            Ok(None) => {
                debug!(endpoint = %endpoint.name, "watch ended by etcd");
                Err(Failure::lost("it ended a watch"))
            }
            Err(status) => {
                judge(&self.connection, &status);
                debug!(endpoint = %endpoint.name, code = ?status.code(), reason = status.message(), "watch lost");
                if status.code() == Code::ResourceExhausted {
                    self.shared.oversized.insert(&self.spec.selection.range);
                }
                Err(Failure::of(Meaning::Retryable, &status_text(&status), None))
            }
        }
    }

    /// One watch ended: `last` is the last of all, unless it was ahead.
    fn end(
        &mut self,
        after: Revision,
        failure: Option<&Failure>,
        last: UpstreamItem,
    ) -> Result<(), UpstreamItem> {
        if self.segments.give_up(after) {
            debug!(after = after.get(), "a watch ahead is given up");
            self.close_unwanted();
            return Ok(());
        }
        if let Some(failure) = failure {
            self.endpoint.failed(failure);
        }
        Err(last)
    }

    fn close_unwanted(&mut self) {
        let segments = &self.segments;
        let unwanted = |stream: &mut Created| !segments.wants(stream.after);
        let closed = self.streams.extract_if(.., unwanted).last();
        if self.streams.is_empty() {
            self.place = closed.map(|stream| stream.slot).or(self.place.take());
        }
        // While none is open, it is needed to go on.
        if !segments.runs_ahead() && !self.streams.is_empty() {
            self.ahead = None;
        }
    }

    /// Opens watches ahead of the only one, right after each of `plan`.
    async fn run_ahead(&mut self, plan: &[Revision]) {
        let Some(permit) = self.shared.catch_ups.run_ahead() else {
            return;
        };
        match opening::open_more(&self.shared, &self.connection, &self.spec, None, plan).await {
            Ok((more, newest)) => {
                self.newest = newest;
                debug!(watches = more.len(), newest = newest.get(), "reading ahead");
                self.extend(more);
                self.ahead = Some(permit);
            }
            Err(failure) => {
                debug!(%failure, "not reading ahead");
                self.may_run_ahead = false;
            }
        }
    }

    /// Opens the next watches, once all that were open have said everything.
    async fn go_on(&mut self, after: Revision) -> Result<(), UpstreamItem> {
        self.segments.restart(after);
        let catch_ups = &self.shared.catch_ups;
        self.ahead = self.ahead.take().or_else(|| catch_ups.run_ahead());
        let ahead = match self.ahead {
            Some(_) => self.segments.plan(self.newest),
            None => Vec::new(),
        };
        let starts = [&[after][..], &ahead].concat();
        let place = self.place.take();
        match opening::open_more(&self.shared, &self.connection, &self.spec, place, &starts).await {
            Ok((mut more, newest)) => {
                self.newest = newest;
                debug!(watches = more.len(), newest = newest.get(), "reading on");
                let ahead = more.split_off(1);
                self.streams = more;
                self.extend(ahead);
                Ok(())
            }
            Err(failure) => {
                debug!(endpoint = %self.endpoint.name, %failure, "watch not reopened");
                Err(UpstreamItem::Lost)
            }
        }
    }

    fn extend(&mut self, more: Vec<Created>) {
        let starts: Vec<_> = more.iter().map(|it| it.after).collect();
        self.segments.extend(&starts, self.newest);
        self.streams.extend(more);
        self.handed_at = Instant::now();
        self.close_unwanted();
    }
}

/// The first that has something to say, and what.
fn poll_streams<'a>(
    streams: impl Iterator<Item = &'a mut Created>,
    cx: &mut Context<'_>,
) -> Poll<(Revision, Answer)> {
    for stream in streams {
        if let Some(first) = stream.first.take() {
            return Poll::Ready((stream.after, Ok(Some(first))));
        }
        if let Poll::Ready(said) = stream.responses.poll_next_unpin(cx) {
            return Poll::Ready((stream.after, said.transpose()));
        }
    }
    Poll::Pending
}

/// A response, parsed.
pub(super) enum Parsed {
    Nothing,
    Events { events: Vec<Event>, fragment: bool },
    Bookmark(Revision),
    Last(UpstreamItem),
}

/// Cancellation, events or bookmark.
pub(super) fn read_response(
    response: WatchResponse,
    can_ask_progress: bool,
    pair_options: PairOptions,
) -> Result<Parsed, Malformed> {
    if response.canceled {
        return Ok(Parsed::Last(
            match Revision::new(response.compact_revision) {
                Some(compact_revision) => UpstreamItem::Compacted { compact_revision },
                None => {
                    debug!(reason = response.cancel_reason, "watch cancelled by etcd");
                    UpstreamItem::Lost
                }
            },
        ));
    }
    if !response.events.is_empty() {
        return Ok(Parsed::Events {
            events: convert::events(response.events, pair_options)?,
            fragment: response.fragment,
        });
    }
    // A timed bookmark is sound from 3.4 on, an asked-for one by version only.
    let is_sound = response.watch_id != WHOLE_STREAM || can_ask_progress;
    let revision = response.header.and_then(|h| Revision::new(h.revision));
    Ok(match revision {
        Some(revision) if is_sound && !response.created && !response.fragment => {
            Parsed::Bookmark(revision)
        }
        _ => Parsed::Nothing,
    })
}
