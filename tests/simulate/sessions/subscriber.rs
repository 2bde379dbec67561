//! What one subscriber does, and what it must see.

use std::sync::{Arc, atomic::Ordering};

use futures_util::{FutureExt, StreamExt};
use watchmark::{
    proto::PairOptions,
    resume::{
        self, AckRefusal, ClientId, EndReason, OnCompaction, Selection, SessionId, SessionRequest,
        Start,
    },
    session::{AckError, Ended, Message, Receiver},
};

use super::{
    Shared,
    upstream::{from_wire, range_of},
    world::World,
};
use crate::{
    check::{Arrival, Stream},
    etcd::rev,
};

/// A name, and who subscribes under it.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) id: ClientId,
    pub(super) live: Option<Live>,
    /// Of this process: the numbers of earlier sessions, if a driver that has
    /// heard of them still runs.
    pub(super) superseded: Vec<SessionId>,
    /// An `Ack` was answered OK for it.
    pub(super) acked: Shared<i64>,
    /// The transport took it, of a stream that acknowledges by itself.
    pub(super) handed: i64,
}

/// A stream, and what it has received.
pub(super) struct Live {
    pub(super) session: SessionId,
    pub(super) messages: Receiver<Message>,
    pub(super) seen: Stream,
    pub(super) auto_ack: bool,
    /// The newest revision received whole.
    pub(super) received: i64,
}

impl World {
    /// A new stream; the older one, if there is one, has ended for that.
    pub(super) async fn subscribe(&mut self, number: usize) {
        let auto_ack = self.random.u8(0..4) == 0;
        let request = SessionRequest {
            selection: Selection {
                range: range_of(number),
                no_put: false,
                no_delete: false,
            },
            start: if self.random.u8(0..4) == 0 {
                Start::Latest
            } else {
                Start::Snapshot
            },
            resume_after: None,
            on_compaction: OnCompaction::Resync,
            auto_ack,
            max_unacked_events: None,
        };
        if self.random.bool() {
            // The driver hears of this and of the new stream at once.
            self.read(number, 2);
        }
        let id = self.clients[number].id.clone();
        if request.start == Start::Latest {
            self.store.may_begin_at_newest(&id);
        }
        let new =
            self.registry
                .subscribe(&id, request, PairOptions::default(), "a client".to_owned());
        let new = new.await.expect("a new stream");
        self.log.lock().push(format!("{id} subscribes"));
        self.settle_once().await;
        let client = &mut self.clients[number];
        if let Some(mut old) = client.live.take() {
            self.tally.count("takeover");
            let mut end = None;
            while let Some(Some(said)) = old.messages.next().now_or_never() {
                assert!(end.is_none(), "something after the end");
                end = Some(said);
            }
            let is_abandoned =
                self.panicked.load(Ordering::Relaxed) && end == Some(Err(Ended::Abandoned));
            let superseded = Some(Err(Ended::By(EndReason::Superseded)));
            let had_ended = matches!(end, Some(Err(_))) && end != superseded;
            assert!(
                end == superseded || is_abandoned || had_ended,
                "P10: the older stream says {end:?}"
            );
            client.superseded.push(old.session);
        }
        client.live = Some(Live {
            session: new.session,
            messages: new.messages,
            seen: Stream::new(new.session.0, None),
            auto_ack,
            received: 0,
        });
    }

    /// The transport takes up to so many messages.
    pub(super) fn read(&mut self, number: usize, many: usize) {
        /// What an outbox holds at most, and one message more.
        const QUEUED_BYTES_MAX: usize = 256 * 1024 + 4 * 1024 * 1024;
        let mut bytes = 0;
        for _ in 0..many {
            let client = &mut self.clients[number];
            let Some(live) = &mut client.live else {
                return;
            };
            let message = match live.messages.next().now_or_never() {
                None => return,
                Some(Some(Ok(message))) => message,
                Some(Some(Err(Ended::Abandoned))) => {
                    assert!(self.panicked.load(Ordering::Relaxed), "a driver is gone");
                    client.live = None;
                    client.superseded.clear();
                    return;
                }
                Some(Some(Err(Ended::By(reason)))) => {
                    let is_expected = matches!(
                        reason,
                        EndReason::StoreFailed(_) | EndReason::UpstreamUnavailable
                    );
                    assert!(is_expected, "ended with {reason:?}");
                    let session = client.live.take().map(|live| live.session);
                    client.superseded.extend(session);
                    return;
                }
                Some(None) => panic!("no word at the end"),
            };
            self.tally.count("messages");
            let message = from_wire(message);
            // The driver has not run since: this was queued.
            if let resume::Message::Events { events, .. } = &message {
                bytes += events.iter().map(|event| event.bytes).sum::<usize>();
            }
            assert!(bytes <= QUEUED_BYTES_MAX, "P11: {bytes} bytes were queued");
            self.log.lock().push(format!("{} < {message:?}", client.id));
            let mut resumed_at = None;
            if let resume::Message::Opened {
                checkpoint: Some(at),
                ..
            } = &message
            {
                let acked = *client.acked.lock();
                assert!(at.get() >= acked, "P7: begins at {at} again");
                assert!(at.get() >= client.handed, "delivered twice, after {at}");
                let durable = self.store.checkpoint(&client.id);
                assert!(Some(at.get()) <= durable, "P5: {at} is not on disk");
                live.received = at.get();
                resumed_at = Some((0, at.get()));
            }
            let etcd = self.etcd.lock();
            live.seen.receive(
                &message,
                &Arrival {
                    etcd: &etcd,
                    acked: 0,
                    resumed_at,
                    fingerprint: None,
                    epoch: 0,
                    mute: true,
                },
            );
            drop(etcd);
            if let resume::Message::Events {
                revision,
                partial: false,
                ..
            }
            | resume::Message::SnapshotEnd { revision, .. } = message
            {
                live.received = revision.get();
                if live.auto_ack {
                    client.handed = revision.get();
                    self.store.settle(&client.id, revision.get());
                }
            }
        }
    }

    /// An `Ack` call that runs beside everything else.
    pub(super) fn ack(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(live) = &client.live else {
            return;
        };
        if live.received == 0 {
            return;
        }
        let kind = self.random.u8(0..8);
        let (session, revision, refused) = match kind {
            0 => {
                self.tally.count("ack beyond what was delivered");
                (None, self.etcd.lock().head() + 1, "BeyondDelivered")
            }
            1 if !client.superseded.is_empty() => {
                self.tally.count("ack of an older session");
                let older = self.random.choice(&client.superseded).copied();
                (older, live.received, "Superseded")
            }
            2 => (Some(live.session), live.received, ""),
            _ => (None, live.received, ""),
        };
        if refused.is_empty() {
            self.store.settle(&client.id, revision);
        }
        let (registry, store) = (Arc::clone(&self.registry), Arc::clone(&self.store));
        let (id, panicked) = (client.id.clone(), Arc::clone(&self.panicked));
        let what = format!("{id} acks {revision} of {session:?}");
        self.log.lock().push(what.clone());
        let (log, acked) = (self.log.clone(), client.acked.clone());
        let answered = async move {
            let answer = registry.ack(&id, session, rev(revision)).await;
            let panicked = panicked.load(Ordering::Relaxed);
            log.lock()
                .push(format!("{id} acked {revision}: {answer:?}"));
            match &answer {
                Ok(_) if refused.is_empty() => {
                    let durable = store.checkpoint(&id);
                    assert!(durable >= Some(revision), "P7: {revision} is not on disk");
                    let mut acked = acked.lock();
                    *acked = revision.max(*acked);
                }
                Err(AckError::DriverStopped | AckError::Refused(AckRefusal::NoSession)) => {
                    assert!(panicked, "nobody panicked: {answer:?}");
                }
                Err(AckError::Refused(refusal)) => {
                    let said = format!("{refusal:?}");
                    let is_expected = !refused.is_empty() && said.starts_with(refused);
                    let is_store = matches!(refusal, AckRefusal::StoreFailed(_));
                    // A stream that took over meanwhile has delivered nothing yet.
                    let is_late = said.starts_with("Superseded") || said.starts_with("Beyond");
                    let may_be_late = refused.is_empty() && is_late;
                    assert!(is_expected || is_store || may_be_late, "{answer:?}");
                }
                // The driver that knew of it is gone.
                Ok(_) if panicked && refused == "Superseded" => {}
                _ => panic!("P10: {answer:?} instead of {refused}"),
            }
        };
        self.acks.push((what, tokio::spawn(answered)));
    }
}
