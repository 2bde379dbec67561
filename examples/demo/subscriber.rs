//! The application: subscribes, processes, acknowledges, and prints what it
//! receives. It keeps no position of its own. A process of its own, so that it
//! can be killed like one.

use std::{io::Write as _, time::Duration};

use anyhow::Context as _;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use watchmark::proto::watchmark::v1::{
    AckRequest, Event, Events, KeyValue, SubscribeRequest, SubscribeResponse, event::EventType,
    subscribe_response::Message, watch_service_client::WatchServiceClient,
};

use crate::report::{Change, Report};

/// Pause before another `Subscribe`.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// An application.
struct Subscriber {
    client_id: String,
    /// What to watch; empty: watchmark knows.
    prefix: String,
    /// After this many acks its work hangs, and nothing is acknowledged any more.
    acks_left: u64,
    session_id: u64,
}

/// Subscribes again and again until killed. `args`: address, client_id, prefix
/// (may be empty), number of acks.
pub(crate) async fn run(args: &[String]) -> anyhow::Result<()> {
    let [address, client_id, prefix, acks] = args else {
        anyhow::bail!("usage: subscriber ADDRESS CLIENT_ID PREFIX ACKS");
    };
    let mut subscriber = Subscriber {
        client_id: client_id.clone(),
        prefix: prefix.clone(),
        acks_left: acks.parse().context("ACKS")?,
        session_id: 0,
    };
    let channel = Channel::from_shared(address.clone())?.connect_lazy();
    loop {
        let ended = subscriber.stream(WatchServiceClient::new(channel.clone()));
        let status = match ended.await? {
            Ok(()) => Status::ok(""),
            Err(status) => status,
        };
        // A connection that is refused is no stream that ended.
        if subscriber.session_id != 0 || status.code() != Code::Unavailable {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.as_str());
            print(&Report::Ended {
                code: format!("{:?}", status.code()),
                reason: reason.unwrap_or("-").to_owned(),
            })?;
        }
        subscriber.session_id = 0;
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

impl Subscriber {
    /// One stream. The outer error: nobody reads what is printed.
    async fn stream(
        &mut self,
        mut client: WatchServiceClient<Channel>,
    ) -> anyhow::Result<Result<(), Status>> {
        let request = SubscribeRequest {
            client_id: self.client_id.clone(),
            prefix: self.prefix.clone().into(),
            ..SubscribeRequest::default()
        };
        let mut stream = match client.subscribe(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            if let Some(revision) = self.receive(message)?
                && self.acks_left > 0
            {
                self.acks_left -= 1;
                if let Err(status) = self.ack(&mut client, revision).await? {
                    return Ok(Err(status));
                }
            }
        }
    }

    /// Prints a message, and returns what to acknowledge.
    fn receive(&mut self, message: SubscribeResponse) -> anyhow::Result<Option<i64>> {
        match message.message.context("an empty message")? {
            Message::Opened(opened) => {
                self.session_id = opened.session_id;
                // From here on the client_id alone is enough.
                self.prefix.clear();
                print(&Report::Opened {
                    checkpoint: opened.checkpoint,
                    resumed: opened.resumed,
                    proof: name(opened.proof().as_str_name(), "PROOF_"),
                })?;
            }
            Message::Events(Events {
                revision,
                events,
                partial,
            }) => {
                for event in events {
                    print(&Report::Event(change_of_event(event)?))?;
                }
                print(&Report::EventsEnd { revision, partial })?;
                return Ok((!partial).then_some(revision));
            }
            Message::SnapshotBegin(begin) => print(&Report::SnapshotBegin {
                revision: begin.revision,
                reason: name(begin.reason().as_str_name(), "SNAPSHOT_REASON_"),
                compact_revision: begin.compact_revision,
            })?,
            Message::SnapshotChunk(chunk) => {
                for kv in chunk.kvs {
                    print(&Report::Pair(change(kv, EventType::Put)?))?;
                }
            }
            Message::SnapshotEnd(end) => {
                print(&Report::SnapshotEnd {
                    revision: end.revision,
                    count: end.count,
                })?;
                return Ok(Some(end.revision));
            }
            Message::Progress(progress) => print(&Report::Progress(progress.revision))?,
            Message::State(state) => print(&Report::State(name(
                state.state().as_str_name(),
                "STREAM_STATE_",
            )))?,
        }
        Ok(None)
    }

    async fn ack(
        &self,
        client: &mut WatchServiceClient<Channel>,
        revision: i64,
    ) -> anyhow::Result<Result<(), Status>> {
        print(&Report::Acking(revision))?;
        let request = AckRequest {
            client_id: self.client_id.clone(),
            revision,
            session_id: self.session_id,
        };
        match client.ack(request).await {
            Ok(answer) => print(&Report::Acked(answer.into_inner().checkpoint)).map(Ok),
            Err(status) => Ok(Err(status)),
        }
    }
}

fn change_of_event(event: Event) -> anyhow::Result<Change> {
    let event_type = event.r#type();
    change(event.kv.context("an event without a key")?, event_type)
}

fn change(kv: KeyValue, event_type: EventType) -> anyhow::Result<Change> {
    Ok(Change {
        revision: kv.mod_revision,
        key: String::from_utf8(kv.key.into())?,
        value: match event_type {
            EventType::Put => Some(String::from_utf8(kv.value.into())?),
            EventType::Delete => None,
        },
    })
}

fn name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

/// In one piece: a line is printed whole or not at all, whenever the process
/// is killed.
fn print(report: &Report) -> anyhow::Result<()> {
    std::io::stdout().write_all(format!("{report}\n").as_bytes())?;
    Ok(())
}
