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
    /// When the server forgot its sessions: it drained, or was started again.
    pub(crate) restarts: Vec<Tick>,
    /// What operators did to it, in the order asked for.
    pub(crate) operations: Vec<Operation>,
}

/// One call of an operator that changes a subscription.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operation {
    pub(crate) what: Operated,
    pub(crate) sent_at: Tick,
    /// `None`: never.
    pub(crate) answer: Option<(Tick, Result<(), End>)>,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operated {
    /// The checkpoint becomes this revision.
    Moved(i64),
    /// A snapshot comes next.
    MovedToSnapshot,
    Deleted,
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
    /// Whether the position may have been put elsewhere between the two, backwards
    /// too: by an operator, or by a subscriber that brought its own.
    pub(crate) fn may_be_moved(&self, from: Tick, to: Tick) -> bool {
        let mut streams = self.streams.iter();
        let mut operations = self.operations.iter();
        streams.any(|s| s.request.resume_after > 0 && from < s.requested_at && s.requested_at <= to)
            || operations.any(|operation| operation.may_lie_between(from, to))
    }

    /// The last operation that had taken place for all who asked after `at`.
    pub(crate) fn operation_before(&self, at: Tick) -> Option<&Operation> {
        self.operations.iter().rfind(|it| it.is_done_by(at))
    }

    /// Acks that were answered OK: when sent, when answered, and the checkpoint.
    pub(crate) fn durable_acks(&self) -> impl Iterator<Item = (&Ack, Tick, i64)> {
        self.acks.iter().filter_map(|ack| match &ack.answer {
            Some((at, Ok(checkpoint))) => Some((ack, *at, *checkpoint)),
            _ => None,
        })
    }
}

impl Operation {
    /// Whether it had taken place, for all who asked after `at`.
    pub(crate) fn is_done_by(&self, at: Tick) -> bool {
        matches!(self.answer, Some((answered_at, Ok(()))) if answered_at < at)
    }

    /// Whether it may have taken place at some moment between the two.
    pub(crate) fn may_lie_between(&self, from: Tick, to: Tick) -> bool {
        let until = match &self.answer {
            Some((_, Err(end))) if end.is_refusal() => return false,
            // It may still be on its way, or be found on the disk later.
            None | Some((_, Err(_))) => Tick::MAX,
            Some((answered_at, Ok(()))) => *answered_at,
        };
        self.sent_at < to && from < until
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

/// Names an operation in a [`Recorder`].
#[derive(Debug, Clone)]
pub(crate) struct OperationId {
    client_id: String,
    sent_at: Tick,
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

    /// An operator is about to change the subscription.
    pub(crate) fn operation_sent(&self, client_id: &str, what: Operated) -> OperationId {
        let sent_at = tick();
        self.with(client_id, |record| {
            record.operations.push(Operation {
                what,
                sent_at,
                answer: None,
            });
        });
        OperationId {
            client_id: client_id.to_owned(),
            sent_at,
        }
    }

    /// The answer came.
    pub(crate) fn operation_answered(&self, id: &OperationId, answer: Result<(), End>) {
        self.with(&id.client_id, |record| {
            let mut operations = record.operations.iter_mut();
            if let Some(it) = operations.find(|it| it.sent_at == id.sent_at) {
                it.answer = Some((tick(), answer));
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
