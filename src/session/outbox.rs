//! The bounded queue between a subscription's driver and one gRPC stream.
//!
//! Bounded by bytes: there is room for another message while fewer than
//! [`OUTBOX_BYTES_MAX`] are queued, so it never holds more than that and one
//! message. Nobody waits here: the driver is told of room once it had none, the
//! transport is woken by messages.
//!
//! Invariant: once [`Outbox::end`] has returned, no message is taken out any
//! more, so that of two streams of one subscription only one ever delivers.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures_util::Stream;
use tokio::sync::Notify;

use crate::{
    metrics::Seconds,
    resume::{EndReason, OutboxRoom, Revision},
};

/// With this much queued there is no room: 32 KiB, which one batch of a
/// catch-up fills, and some 40 small messages.
const OUTBOX_BYTES_MAX: usize = 32 * 1024;

/// Why the receiving side ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The subscription ended its stream.
    By(EndReason),
    /// The subscription's task is gone. A new stream starts another one.
    Abandoned,
}

/// What a transport did since the driver last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// It took everything up to this acknowledgeable revision.
    Handed(Revision),
    /// The room changed.
    Room(OutboxRoom),
    /// It dropped the [`Receiver`]: the subscriber went away.
    Closed,
}

/// A new queue. Only with `reports_handed` is the driver told what was taken.
pub fn outbox<M>(reports_handed: bool) -> (Outbox<M>, Receiver<M>) {
    new(reports_handed, None)
}

/// As [`outbox`]; `delivery` is how long timed messages were on their way when
/// the transport took them.
pub(super) fn measured_outbox<M>(
    reports_handed: bool,
    delivery: Seconds,
) -> (Outbox<M>, Receiver<M>) {
    new(reports_handed, Some(delivery))
}

fn new<M>(reports_handed: bool, delivery: Option<Seconds>) -> (Outbox<M>, Receiver<M>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            has_filled: false,
            handed: None,
            ended: None,
            is_receiver_gone: false,
            transport: None,
        }),
        to_driver: Notify::new(),
        reports_handed,
        delivery,
    });
    let outbox = Outbox {
        shared: Arc::clone(&shared),
        reported: OutboxRoom::Free,
        has_reported_closed: false,
    };
    (outbox, Receiver { shared })
}

/// The driver's side. Dropped without [`end`](Self::end), it abandons the stream.
#[derive(Debug)]
pub struct Outbox<M> {
    shared: Arc<Shared<M>>,
    /// What the driver knows.
    reported: OutboxRoom,
    has_reported_closed: bool,
}

/// The transport's side: the messages in order, then at most one [`Ended`].
#[derive(Debug)]
pub struct Receiver<M> {
    shared: Arc<Shared<M>>,
}

#[derive(Debug)]
struct Shared<M> {
    state: Mutex<State<M>>,
    to_driver: Notify,
    reports_handed: bool,
    delivery: Option<Seconds>,
}

#[derive(Debug)]
struct State<M> {
    queue: VecDeque<Queued<M>>,
    queued_bytes: usize,
    /// There was no room since it was last empty.
    has_filled: bool,
    /// Taken by the transport, not reported yet.
    handed: Option<Revision>,
    ended: Option<End>,
    is_receiver_gone: bool,
    transport: Option<Waker>,
}

#[derive(Debug)]
struct Queued<M> {
    message: M,
    size_bytes: usize,
    acknowledgeable: Option<Revision>,
    /// Since when it is on its way, if that is to be measured.
    since: Option<Instant>,
}

#[derive(Debug)]
enum End {
    Untold(Ended),
    Told,
}

impl<M> Outbox<M> {
    /// Queues `message`. `acknowledgeable` is the revision that everything is
    /// delivered up to with it, if it completes one. Returns the room after it,
    /// which [`changed`](Self::changed) then does not report.
    pub fn put(
        &mut self,
        message: M,
        size_bytes: usize,
        acknowledgeable: Option<Revision>,
    ) -> OutboxRoom {
        self.put_timed(message, size_bytes, acknowledgeable, None)
    }

    /// As [`put`](Self::put), of a message that is on its way `since` then.
    pub(super) fn put_timed(
        &mut self,
        message: M,
        size_bytes: usize,
        acknowledgeable: Option<Revision>,
        since: Option<Instant>,
    ) -> OutboxRoom {
        let mut state = self.shared.lock();
        if state.ended.is_none() && !state.is_receiver_gone {
            state.queued_bytes += size_bytes;
            state.has_filled |= state.queued_bytes >= OUTBOX_BYTES_MAX;
            state.queue.push_back(Queued {
                message,
                size_bytes,
                acknowledgeable,
                since,
            });
        }
        self.reported = state.room();
        let transport = state.transport.take();
        drop(state);
        wake(transport);
        self.reported
    }

    /// Ends the stream with `reason`. What is queued is dropped, and nothing is
    /// taken out after this returns. Only the first end counts.
    pub fn end(&mut self, reason: EndReason) {
        self.shared.end(Ended::By(reason));
    }

    /// Waits for the transport. Each signal is given once; the order is
    /// handed, room, closed. Cancel-safe.
    pub async fn changed(&mut self) -> Signal {
        loop {
            if let Some(signal) = self.take_signal() {
                return signal;
            }
            self.shared.to_driver.notified().await;
        }
    }

    /// What the transport took since this was last asked or reported.
    pub fn take_handed(&mut self) -> Option<Revision> {
        self.shared.lock().handed.take()
    }

    fn take_signal(&mut self) -> Option<Signal> {
        let mut state = self.shared.lock();
        if let Some(revision) = state.handed.take() {
            return Some(Signal::Handed(revision));
        }
        let room = state.room();
        if state.is_receiver_gone {
            let is_news = !self.has_reported_closed;
            self.has_reported_closed = true;
            return is_news.then_some(Signal::Closed);
        }
        if room != self.reported {
            self.reported = room;
            return Some(Signal::Room(room));
        }
        None
    }
}

impl<M> Drop for Outbox<M> {
    fn drop(&mut self) {
        self.shared.end(Ended::Abandoned);
    }
}

impl<M> Stream for Receiver<M> {
    type Item = Result<M, Ended>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        match &state.ended {
            Some(End::Told) => return Poll::Ready(None),
            Some(End::Untold(_)) => {
                let Some(End::Untold(ended)) = state.ended.replace(End::Told) else {
                    return Poll::Ready(None);
                };
                return Poll::Ready(Some(Err(ended)));
            }
            None => {}
        }
        let room_before = state.room();
        let Some(queued) = state.queue.pop_front() else {
            state.transport = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.queued_bytes -= queued.size_bytes;
        state.has_filled &= !state.queue.is_empty();
        let is_handed = self.shared.reports_handed && queued.acknowledgeable.is_some();
        if is_handed {
            state.handed = state.handed.max(queued.acknowledgeable);
        }
        let is_news = is_handed || state.room() != room_before;
        drop(state);
        if is_news {
            self.shared.to_driver.notify_one();
        }
        if let (Some(delivery), Some(since)) = (&self.shared.delivery, queued.since) {
            delivery.observe(since.elapsed());
        }
        Poll::Ready(Some(Ok(queued.message)))
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_receiver_gone = true;
        state.transport = None;
        let dropped = state.clear();
        drop(state);
        drop(dropped);
        self.shared.to_driver.notify_one();
    }
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Nothing in here panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, ended: Ended) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(End::Untold(ended));
        let dropped = state.clear();
        let transport = state.transport.take();
        drop(state);
        drop(dropped);
        wake(transport);
    }
}

impl<M> State<M> {
    fn room(&self) -> OutboxRoom {
        if !self.has_filled {
            OutboxRoom::Free
        } else if self.queued_bytes < OUTBOX_BYTES_MAX {
            OutboxRoom::Some
        } else {
            OutboxRoom::None
        }
    }

    /// Empties the queue; the caller drops what was in it outside the lock.
    fn clear(&mut self) -> VecDeque<Queued<M>> {
        self.queued_bytes = 0;
        self.has_filled = false;
        std::mem::take(&mut self.queue)
    }
}

fn wake(transport: Option<Waker>) {
    if let Some(waker) = transport {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn revision(revision: i64) -> Revision {
        Revision::new(revision).unwrap()
    }

    #[tokio::test]
    async fn messages_come_in_order_and_the_room_follows_the_bytes() {
        let (mut outbox, mut receiver) = outbox(false);
        assert_eq!(outbox.put(1, OUTBOX_BYTES_MAX - 1, None), OutboxRoom::Free);
        assert_eq!(outbox.put(2, 10_000_000, None), OutboxRoom::None);
        assert_eq!(outbox.changed().now_or_never(), None);

        assert_eq!(receiver.next().await, Some(Ok(1)));
        assert_eq!(outbox.changed().now_or_never(), None, "2 alone fills it");
        assert_eq!(receiver.next().await, Some(Ok(2)));
        assert_eq!(outbox.changed().await, Signal::Room(OutboxRoom::Free));
        assert_eq!(receiver.next().now_or_never(), None);
        assert_eq!(outbox.changed().now_or_never(), None);
    }

    #[tokio::test]
    async fn an_end_pre_empts_what_is_queued_and_is_told_once() {
        let (mut outbox, mut receiver) = outbox(true);
        outbox.put(1, 1, Some(revision(1)));
        outbox.put(2, 1, Some(revision(2)));
        assert_eq!(receiver.next().await, Some(Ok(1)));

        outbox.end(EndReason::Superseded);
        outbox.end(EndReason::Draining);
        outbox.put(3, 1, None);

        let superseded = Ended::By(EndReason::Superseded);
        assert_eq!(receiver.next().await, Some(Err(superseded)));
        assert_eq!(receiver.next().await, None);
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn an_end_wakes_a_waiting_transport() {
        let (mut outbox, mut receiver) = outbox::<u8>(false);
        let waiting = tokio::spawn(async move { receiver.next().await });
        tokio::task::yield_now().await;
        outbox.end(EndReason::Draining);
        let draining = Ended::By(EndReason::Draining);
        assert_eq!(waiting.await.unwrap(), Some(Err(draining)));
    }

    #[tokio::test]
    async fn a_dropped_outbox_abandons_the_stream() {
        let (mut outbox, mut receiver) = outbox(false);
        outbox.put(1, 1, None);
        drop(outbox);
        assert_eq!(receiver.next().await, Some(Err(Ended::Abandoned)));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn handed_is_the_last_acknowledgeable_revision_taken() {
        let (mut outbox, mut receiver) = outbox(true);
        outbox.put("partial", 1, None);
        outbox.put("whole", 1, Some(revision(7)));
        outbox.put("progress", 1, None);

        receiver.next().await;
        assert_eq!(outbox.changed().now_or_never(), None);
        receiver.next().await;
        assert_eq!(outbox.changed().await, Signal::Handed(revision(7)));
        receiver.next().await;
        assert_eq!(outbox.changed().now_or_never(), None);
    }

    /// Else every message would wake the driver once more.
    #[tokio::test]
    async fn room_is_news_only_from_when_there_was_none_until_nothing_waits() {
        let (mut outbox, mut receiver) = outbox(false);
        for _ in 0..2 {
            assert_eq!(outbox.put(1, 1, None), OutboxRoom::Free);
            receiver.next().await;
            assert_eq!(outbox.changed().now_or_never(), None);

            assert_eq!(outbox.put(1, OUTBOX_BYTES_MAX, None), OutboxRoom::None);
            outbox.put(2, 1, None);
            receiver.next().await;
            assert_eq!(outbox.changed().await, Signal::Room(OutboxRoom::Some));
            assert_eq!(outbox.put(3, 1, None), OutboxRoom::Some);
            receiver.next().await;
            assert_eq!(outbox.changed().now_or_never(), None);
            receiver.next().await;
            assert_eq!(outbox.changed().await, Signal::Room(OutboxRoom::Free));
        }
    }

    #[tokio::test]
    async fn a_driver_that_waits_for_room_is_woken() {
        let (mut outbox, mut receiver) = outbox(false);
        outbox.put(1, OUTBOX_BYTES_MAX, None);
        let waiting = tokio::spawn(async move { outbox.changed().await });
        tokio::task::yield_now().await;
        assert_eq!(receiver.next().await, Some(Ok(1)));
        let woken = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert_eq!(woken.unwrap().unwrap(), Signal::Room(OutboxRoom::Free));
    }

    #[tokio::test]
    async fn what_was_handed_is_reported_before_the_subscriber_is_gone() {
        let (mut outbox, mut receiver) = outbox(true);
        outbox.put(1, 1, Some(revision(3)));
        receiver.next().await;
        drop(receiver);
        assert_eq!(outbox.changed().await, Signal::Handed(revision(3)));
        assert_eq!(outbox.changed().await, Signal::Closed);
        assert_eq!(outbox.changed().now_or_never(), None);
    }

    /// A driver that fills, a transport that takes, and a takeover at a random
    /// moment: in order, without a gap, and nothing after the end.
    #[test]
    fn concurrent_use_loses_nothing_and_sends_nothing_after_the_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            for round in 0..300u64 {
                let (mut outbox, mut receiver) = outbox(true);
                let taken = Arc::new(Mutex::new(Vec::new()));
                let transport = tokio::spawn({
                    let taken = Arc::clone(&taken);
                    async move {
                        while let Some(Ok(number)) = receiver.next().await {
                            taken.lock().unwrap().push(number);
                        }
                    }
                });
                let (messages, mut put) = (round % 97, 0);
                let mut room = OutboxRoom::Free;
                while put < messages {
                    if room == OutboxRoom::None {
                        if let Signal::Room(now) = outbox.changed().await {
                            room = now;
                        }
                    } else {
                        put += 1;
                        let position = Revision::new(i64::try_from(put).unwrap());
                        room = outbox.put(put, OUTBOX_BYTES_MAX / 3, position);
                    }
                }
                outbox.end(EndReason::Superseded);
                let at_end = taken.lock().unwrap().len();
                tokio::time::timeout(Duration::from_secs(10), transport)
                    .await
                    .expect("the transport hears of the end")
                    .unwrap();
                let taken = taken.lock().unwrap().clone();
                // One may have been popped just before the end, and noted just after.
                assert!(taken.len() <= at_end + 1, "round {round}");
                let in_order: Vec<u64> = (1..=taken.len() as u64).collect();
                assert_eq!(taken, in_order, "round {round}");
            }
        });
    }
}
