//! What subscribers did and received.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    AckMode, Opened, SubscribeRequest, subscribe_response::Message,
};

use super::super::client::Ended;

/// The order in which this process saw things.
pub(crate) type Tick = u64;

/// Now.
pub(crate) fn tick() -> Tick {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// Everything of one client_id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) client_id: String,
    /// Its streams, in the order asked for.
    pub(crate) streams: Vec<Stream>,
    /// Its acks, in the order sent.
    pub(crate) acks: Vec<Ack>,
    /// When the server was started again, where that matters.
    pub(crate) restarts: Vec<Tick>,
}

/// One call of `Subscribe`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stream {
    pub(crate) requested_at: Tick,
    pub(crate) request: SubscribeRequest,
    pub(crate) received: Vec<(Tick, Message)>,
    /// `None`: it never ended.
    pub(crate) end: Option<(Tick, End)>,
}

/// One call of `Ack`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ack {
    /// As sent; 0: the current session.
    pub(crate) session_id: u64,
    pub(crate) revision: i64,
    pub(crate) sent_at: Tick,
    /// When it was answered, with which checkpoint. `None`: never.
    pub(crate) answer: Option<(Tick, Result<i64, End>)>,
}

/// How a stream or a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The subscriber went away.
    Dropped,
    /// The server ended the stream without a status.
    Silent,
    /// With a status, and the reason in it.
    Status(Code, String),
}

impl From<&Ended> for End {
    fn from(ended: &Ended) -> Self {
        Self::Status(ended.code, ended.reason.clone())
    }
}

impl End {
    /// Whether the server refused: then nothing was changed. A store that
    /// failed, or a connection that broke, leaves that open.
    pub(crate) fn is_refusal(&self) -> bool {
        use Code::{Aborted, FailedPrecondition, InvalidArgument, NotFound, OutOfRange};
        matches!(
            self,
            Self::Status(
                Aborted | FailedPrecondition | InvalidArgument | NotFound | OutOfRange,
                _
            )
        )
    }
}

impl Record {
    /// Acks that were answered OK: when sent, when answered, and the checkpoint.
    pub(crate) fn durable_acks(&self) -> impl Iterator<Item = (&Ack, Tick, i64)> {
        self.acks.iter().filter_map(|ack| match &ack.answer {
            Some((at, Ok(checkpoint))) => Some((ack, *at, *checkpoint)),
            _ => None,
        })
    }
}

impl Stream {
    /// The first message, if it came, and when.
    pub(crate) fn opened(&self) -> Option<(Tick, &Opened)> {
        match self.received.first() {
            Some((at, Message::Opened(opened))) => Some((*at, opened)),
            _ => None,
        }
    }

    /// Whether it asked for acks by the transport.
    pub(crate) fn is_auto(&self) -> bool {
        self.request.ack_mode() == AckMode::Auto
    }
}

/// Names a stream in a [`Recorder`].
#[derive(Debug, Clone)]
pub(crate) struct StreamId {
    client_id: String,
    requested_at: Tick,
}

/// Names an ack in a [`Recorder`].
#[derive(Debug, Clone)]
pub(crate) struct AckId {
    client_id: String,
    sent_at: Tick,
}

/// Collects what all subscribers of a test do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<BTreeMap<String, Record>>>);

impl Recorder {
    /// A subscriber is about to subscribe.
    pub(crate) fn subscribing(&self, request: &SubscribeRequest) -> StreamId {
        let requested_at = tick();
        self.with(&request.client_id, |record| {
            record.streams.push(Stream {
                requested_at,
                request: request.clone(),
                ..Stream::default()
            });
        });
        StreamId {
            client_id: request.client_id.clone(),
            requested_at,
        }
    }

    /// It received a message.
    pub(crate) fn received(&self, id: &StreamId, message: Message) {
        self.with_stream(id, |stream| stream.received.push((tick(), message)));
    }

    /// Its stream ended; only the first end counts.
    pub(crate) fn ended(&self, id: &StreamId, end: End) {
        self.with_stream(id, |stream| {
            stream.end.get_or_insert((tick(), end));
        });
    }

    /// It is about to acknowledge.
    pub(crate) fn ack_sent(&self, client_id: &str, session_id: u64, revision: i64) -> AckId {
        let sent_at = tick();
        self.with(client_id, |record| {
            record.acks.push(Ack {
                session_id,
                revision,
                sent_at,
                answer: None,
            });
        });
        AckId {
            client_id: client_id.to_owned(),
            sent_at,
        }
    }

    /// The answer came.
    pub(crate) fn ack_answered(&self, id: &AckId, answer: Result<i64, End>) {
        self.with(&id.client_id, |record| {
            let mut acks = record.acks.iter_mut();
            if let Some(ack) = acks.find(|ack| ack.sent_at == id.sent_at) {
                ack.answer = Some((tick(), answer));
            }
        });
    }

    /// Everything so far, by client_id.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    /// Forgets everything: what follows is about another history of etcd.
    pub(crate) fn take(&self) -> Vec<Record> {
        let records = std::mem::take(&mut *self.0.lock().unwrap());
        records.into_values().collect()
    }

    fn with_stream(&self, id: &StreamId, change: impl FnOnce(&mut Stream)) {
        self.with(&id.client_id, |record| {
            let mut streams = record.streams.iter_mut();
            // Unknown after `take`.
            if let Some(stream) = streams.find(|s| s.requested_at == id.requested_at) {
                change(stream);
            }
        });
    }

    fn with<T>(&self, client_id: &str, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut records = self.0.lock().unwrap();
        let record = records
            .entry(client_id.to_owned())
            .or_insert_with(|| Record {
                client_id: client_id.to_owned(),
                ..Record::default()
            });
        change(record)
    }
}
