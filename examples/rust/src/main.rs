//! Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
//!
//!     consumer ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//!
//! Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.

mod local_copy;

use std::{env, mem::take, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{signal::unix, time::timeout};
use tonic::{Status, transport::Channel, transport::Endpoint};
use tonic_types::StatusExt as _;

tonic::include_proto!("watchmark.v1");
use {admin_service_client::AdminServiceClient, watch_service_client::WatchServiceClient};
use {local_copy::LocalCopy, seek_subscription_request::Target, subscribe_response::Message};

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);

struct Consumer {
    channel: Channel,
    request: SubscribeRequest,
    copy: LocalCopy,
    delay: Duration,
    // Of the present stream.
    ack: AckRequest,
    acked: i64,
    snapshot: Vec<KeyValue>,
    events: Vec<Event>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [address, client_id, prefix, state_file] = args.try_into().map_err(|_| anyhow!("four arguments, please"))?;
    let url = if address.starts_with("unix:") { address } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)?.http2_keep_alive_interval(Duration::from_secs(20));
    let mut consumer = Consumer {
        channel: endpoint.connect_lazy(),
        ack: AckRequest { client_id: client_id.clone(), ..Default::default() },
        request: SubscribeRequest { client_id, prefix: prefix.into(), ..Default::default() },
        copy: LocalCopy::load(state_file)?,
        delay: DELAY_MIN,
        acked: 0,
        snapshot: Vec::new(),
        events: Vec::new(),
    };
    let mut sigterm = unix::signal(unix::SignalKind::terminate())?;
    Ok(consumer.run(async move { sigterm.recv().await }.boxed().shared()).await?.into())
}

impl Consumer {
    async fn run(&mut self, stop: impl Future + Unpin + Clone) -> Result<u8> {
        loop {
            if let Err(error) = self.stream(stop.clone()).await {
                let error = error.downcast::<Status>()?;
                let details = error.get_error_details();
                let reason = details.error_info().map_or("", |info| &info.reason);
                let retry_after = details.retry_info().and_then(|info| info.retry_delay);
                eprintln!("ended: {:?} {reason} {}", error.code(), error.message());
                if !reason.is_empty() && retry_after.is_none() {
                    // Asking again would not help.
                    return Ok(if reason == "SESSION_SUPERSEDED" { 3 } else { 1 });
                }
                self.delay = self.delay.max(retry_after.unwrap_or_default());
            }
            if timeout(self.delay.mul_f64(1.0 + fastrand::f64() / 2.0), stop.clone()).await.is_ok() {
                return Ok(0);
            }
            self.delay = (self.delay * 2).min(DELAY_MAX);
        }
    }

    /// Follows one stream. What has piled up is processed, and acknowledged, together.
    async fn stream(&mut self, stop: impl Future + Unpin) -> Result<()> {
        let mut api = WatchServiceClient::new(self.channel.clone());
        let mut batches = api.subscribe(self.request.clone()).await?.into_inner().ready_chunks(1000).take_until(stop);
        (self.ack.revision, self.acked, self.events) = (0, 0, vec![]);
        while let Some(batch) = batches.next().await {
            for message in batch {
                self.receive(message?).await?;
            }
            if self.ack.revision > self.acked {
                self.commit(&mut api).await?;
            }
        }
        Ok(())
    }

    async fn receive(&mut self, message: SubscribeResponse) -> Result<()> {
        // None: what a later version sends.
        let Some(message) = message.message else { return Ok(()) };
        match message {
            Message::Opened(opened) => {
                (self.delay, self.ack.session_id, self.acked) = (DELAY_MIN, opened.session_id, opened.checkpoint);
                if opened.resumed && self.copy.revision == 0 {
                    // Our copy is lost: this stream ends, and the next has a snapshot.
                    let client_id = self.request.client_id.clone();
                    let seek =
                        SeekSubscriptionRequest { client_id, target: Some(Target::Snapshot(true)), dry_run: false };
                    AdminServiceClient::new(self.channel.clone()).seek_subscription(seek).await?;
                }
            }
            // Whatever came before it is void.
            Message::SnapshotBegin(_) => (self.acked, self.snapshot, self.events) = (0, vec![], vec![]),
            Message::SnapshotChunk(chunk) => self.snapshot.extend(chunk.kvs),
            Message::SnapshotEnd(end) => {
                self.copy.replace(end.revision, take(&mut self.snapshot));
                self.ack.revision = end.revision;
            }
            Message::Events(events) => {
                self.events.extend(events.events);
                if !events.partial {
                    // A revision is processed whole.
                    self.reached(events.revision);
                }
            }
            // Up to here nothing else happened.
            Message::Progress(progress) => self.reached(progress.revision),
            Message::State(state) => println!("{}", state.state().as_str_name()),
        }
        Ok(())
    }

    fn reached(&mut self, revision: i64) {
        // Else there is nothing yet that it could be applied to.
        if self.copy.revision != 0 {
            self.copy.apply(revision, take(&mut self.events));
            self.ack.revision = revision;
        }
    }

    /// First durable here, then acknowledged: never the other way round.
    async fn commit(&mut self, api: &mut WatchServiceClient<Channel>) -> Result<()> {
        self.copy.save()?;
        // Not acked: a later ack makes up for it, or the next stream.
        if let Ok(answer) = api.ack(self.ack.clone()).await.inspect_err(|error| eprintln!("not acked: {error}")) {
            self.acked = answer.into_inner().checkpoint;
            println!("ACKED {}", self.acked);
        }
        Ok(())
    }
}
