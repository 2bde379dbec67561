//! A subscriber, as an application would write it, that records all it does.

use std::{collections::HashMap, future::Future, time::Duration};

use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use watchmark::proto::watchmark::v1::{
    AckRequest, Event, KeyValue, Opened, SnapshotReason, StreamState, SubscribeRequest,
    SubscribeResponse, subscribe_response::Message, watch_service_client::WatchServiceClient,
};

use super::{
    history::{End, Recorder, StreamId},
    wait::DEADLINE,
};

/// How a stream or a call ended: the status with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Code,
    /// `ErrorInfo.reason`; empty when there is none.
    pub(crate) reason: String,
    /// `ErrorInfo.metadata`.
    pub(crate) metadata: HashMap<String, String>,
    /// `RetryInfo`.
    pub(crate) retry_delay: Option<Duration>,
    pub(crate) message: String,
}

impl Ended {
    /// Code and reason, for a comparison in one line.
    pub(crate) fn cause(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned();
        if let Some(info) = &info {
            assert_eq!(info.domain, "watchmark");
        }
        let (reason, metadata) = info.map_or_else(Default::default, |i| (i.reason, i.metadata));
        Self {
            code: status.code(),
            reason,
            metadata,
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
            message: status.message().to_owned(),
        }
    }
}

/// The whole state of a range, between the brackets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) revision: i64,
    pub(crate) reason: SnapshotReason,
    pub(crate) compact_revision: i64,
    pub(crate) kvs: Vec<KeyValue>,
}

/// A request for everything below `prefix`.
pub(crate) fn request(client_id: &str, prefix: &str) -> SubscribeRequest {
    SubscribeRequest {
        client_id: client_id.to_owned(),
        prefix: prefix.to_owned().into(),
        ..SubscribeRequest::default()
    }
}

/// One live stream.
pub(crate) struct Subscriber {
    client_id: String,
    api: WatchServiceClient<Channel>,
    recorder: Recorder,
    id: StreamId,
    stream: Streaming<SubscribeResponse>,
    opened: Opened,
    state: StreamState,
}

impl Subscriber {
    /// Subscribes, and waits for `opened`.
    pub(crate) async fn open(
        mut api: WatchServiceClient<Channel>,
        recorder: &Recorder,
        request: SubscribeRequest,
    ) -> Result<Self, Ended> {
        let id = recorder.subscribing(&request);
        let client_id = request.client_id.clone();
        let stream = match in_time("Subscribe", api.subscribe(request)).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                let ended = Ended::from(status);
                recorder.ended(&id, End::from(&ended));
                return Err(ended);
            }
        };
        let mut subscriber = Self {
            client_id,
            api,
            recorder: recorder.clone(),
            id,
            stream,
            opened: Opened::default(),
            state: StreamState::Unspecified,
        };
        match subscriber.next().await? {
            Message::Opened(opened) => subscriber.opened = opened,
            other => panic!("the first message is not opened: {other:?}"),
        }
        Ok(subscriber)
    }

    /// What the stream opened with.
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The last state heard.
    pub(crate) fn state(&self) -> StreamState {
        self.state
    }

    /// The next message, of whatever kind.
    pub(crate) async fn next(&mut self) -> Result<Message, Ended> {
        in_time("the next message", self.next_unbounded()).await
    }

    /// The next message, however long it takes. Cancel-safe.
    pub(crate) async fn next_unbounded(&mut self) -> Result<Message, Ended> {
        match self.stream.message().await {
            Ok(Some(response)) => {
                let message = response.message.expect("a message without content");
                self.recorder.received(&self.id, message.clone());
                if let Message::State(state) = &message {
                    self.state = state.state();
                }
                Ok(message)
            }
            Ok(None) => {
                self.recorder.ended(&self.id, End::Silent);
                Err(Ended {
                    code: Code::Ok,
                    reason: String::new(),
                    metadata: HashMap::new(),
                    retry_delay: None,
                    message: String::new(),
                })
            }
            Err(status) => {
                let ended = Ended::from(status);
                self.recorder.ended(&self.id, End::from(&ended));
                Err(ended)
            }
        }
    }

    /// The next message that the filter takes; others are passed over.
    pub(crate) async fn next_of<T>(
        &mut self,
        what: &str,
        mut take: impl FnMut(Message) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                match self.next_unbounded().await {
                    Ok(message) => {
                        if let Some(found) = take(message) {
                            return found;
                        }
                    }
                    Err(ended) => panic!("the stream ended before {what}: {ended:?}"),
                }
            }
        };
        in_time(what, found).await
    }

    /// The next whole batch: its last revision and its events, parts joined.
    pub(crate) async fn next_events(&mut self) -> (i64, Vec<Event>) {
        let mut events = Vec::new();
        let revision = self.next_of("events", |message| {
            let Message::Events(batch) = message else {
                return None;
            };
            events.extend(batch.events);
            (!batch.partial).then_some(batch.revision)
        });
        (revision.await, events)
    }

    /// Reads events until `revision` is reached, by events or by progress.
    pub(crate) async fn events_until(&mut self, revision: i64) -> Vec<Event> {
        let mut events = Vec::new();
        let what = format!("everything up to {revision}");
        self.next_of(&what, |message| match message {
            Message::Events(batch) => {
                events.extend(batch.events);
                (batch.revision >= revision && !batch.partial).then_some(())
            }
            Message::Progress(progress) => (progress.revision >= revision).then_some(()),
            _ => None,
        })
        .await;
        events
    }

    /// The next whole snapshot.
    pub(crate) async fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = None;
        self.next_of("a whole snapshot", |message| {
            match message {
                Message::SnapshotBegin(begin) => {
                    snapshot = Some(Snapshot {
                        revision: begin.revision,
                        reason: begin.reason(),
                        compact_revision: begin.compact_revision,
                        kvs: Vec::new(),
                    });
                }
                Message::SnapshotChunk(chunk) => {
                    snapshot
                        .as_mut()
                        .expect("a begin before")
                        .kvs
                        .extend(chunk.kvs);
                }
                Message::SnapshotEnd(end) => {
                    let snapshot = snapshot.take().expect("a begin before");
                    assert_eq!(end.revision, snapshot.revision);
                    assert_eq!(end.count, snapshot.kvs.len() as i64);
                    return Some(snapshot);
                }
                _ => {}
            }
            None
        })
        .await
    }

    /// Reads until the stream says it is in `state`.
    pub(crate) async fn until_state(&mut self, state: StreamState) {
        if self.state != state {
            self.next_of(&format!("{state:?}"), |message| {
                matches!(message, Message::State(s) if s.state() == state).then_some(())
            })
            .await;
        }
    }

    /// Reads until the stream ends.
    pub(crate) async fn end(&mut self) -> Ended {
        let ended = async {
            loop {
                if let Err(ended) = self.next_unbounded().await {
                    return ended;
                }
            }
        };
        in_time("the stream to end", ended).await
    }

    /// Acknowledges on this session, and waits for the answer.
    pub(crate) async fn ack(&self, revision: i64) -> Result<i64, Ended> {
        self.acker().ack(revision).await
    }

    /// What acknowledges on this session, apart from the stream.
    pub(crate) fn acker(&self) -> Acker {
        Acker {
            client_id: self.client_id.clone(),
            session_id: self.opened.session_id,
            api: self.api.clone(),
            recorder: self.recorder.clone(),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.recorder.ended(&self.id, End::Dropped);
    }
}

/// Acknowledges for one session.
#[derive(Clone)]
pub(crate) struct Acker {
    pub(crate) client_id: String,
    /// 0: the current session.
    pub(crate) session_id: u64,
    pub(crate) api: WatchServiceClient<Channel>,
    pub(crate) recorder: Recorder,
}

impl Acker {
    /// Acknowledges, and waits for the answer: the durable checkpoint.
    pub(crate) async fn ack(&self, revision: i64) -> Result<i64, Ended> {
        let sent = self
            .recorder
            .ack_sent(&self.client_id, self.session_id, revision);
        let request = AckRequest {
            client_id: self.client_id.clone(),
            revision,
            session_id: self.session_id,
        };
        let mut api = self.api.clone();
        let answer = match in_time("the answer to Ack", api.ack(request)).await {
            Ok(response) => Ok(response.into_inner().checkpoint),
            Err(status) => Err(Ended::from(status)),
        };
        let recorded = answer.clone().map_err(|ended| End::from(&ended));
        self.recorder.ack_answered(&sent, recorded);
        answer
    }
}

/// Waits for it, not for ever.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}
