//! Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
//!
//!     consumer ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//!
//! Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.

use std::{collections::BTreeMap, env, fs, mem, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{signal::unix, time::timeout};
use tonic::{Status, transport::Channel, transport::Endpoint};
use tonic_types::StatusExt as _;

tonic::include_proto!("watchmark.v1");
use {admin_service_client::AdminServiceClient, watch_service_client::WatchServiceClient};
use {event::EventType, seek_subscription_request::Target, subscribe_response::Message};

const DELAY_MIN: Duration = Duration::from_millis(100);

/// The work: the range's pairs as of that revision.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Work {
    revision: i64,
    pairs: BTreeMap<String, String>,
}

struct Consumer {
    channel: Channel,
    request: SubscribeRequest,
    state_file: String,
    work: Work,
    delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let [address, client_id, prefix, state_file] = env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .context("four arguments, please")?;
    let url = if address.starts_with("unix:") { address } else { format!("http://{address}") };
    let channel = Endpoint::from_shared(url)?
        .http2_keep_alive_interval(Duration::from_secs(20))
        .connect_lazy();
    let request = SubscribeRequest { client_id, prefix: prefix.into(), ..Default::default() };
    let work =
        fs::read(&state_file).map_or(Ok(Work::default()), |file| serde_json::from_slice(&file))?;
    let mut consumer = Consumer { channel, request, state_file, work, delay: DELAY_MIN };
    let mut sigterm = unix::signal(unix::SignalKind::terminate())?;
    let stop = async move { sigterm.recv().await }.boxed().shared();
    loop {
        if let Err(error) = consumer.stream(stop.clone()).await {
            let error = error.downcast::<Status>()?;
            let details = error.get_error_details();
            let reason = details.error_info().map_or("", |info| &info.reason);
            let retry_after = details.retry_info().and_then(|info| info.retry_delay);
            eprintln!("ended: {:?} {reason} {}", error.code(), error.message());
            if !reason.is_empty() && retry_after.is_none() {
                // Asking again would not help.
                return Ok(if reason == "SESSION_SUPERSEDED" { 3 } else { 1 }.into());
            }
            consumer.delay = consumer.delay.max(retry_after.unwrap_or_default());
        }
        if timeout(consumer.delay.mul_f64(1.0 + fastrand::f64() / 2.0), stop.clone()).await.is_ok()
        {
            return Ok(ExitCode::SUCCESS);
        }
        consumer.delay = (consumer.delay * 2).min(Duration::from_secs(5));
    }
}

impl Consumer {
    /// Follows one stream. What has piled up is processed, and acknowledged, together.
    async fn stream(&mut self, stop: impl Future + Unpin) -> Result<()> {
        let mut api = WatchServiceClient::new(self.channel.clone());
        let stream = api.subscribe(self.request.clone()).await?.into_inner();
        let mut batches = stream.ready_chunks(1000).take_until(stop);
        let mut ack =
            AckRequest { client_id: self.request.client_id.clone(), ..Default::default() };
        let (mut acked, mut snapshot, mut parts) = (0, BTreeMap::new(), Vec::new());
        while let Some(batch) = batches.next().await {
            for message in batch {
                // None: what a later version sends.
                let Some(message) = message?.message else { continue };
                match message {
                    Message::Opened(opened) => {
                        self.delay = DELAY_MIN;
                        (ack.session_id, acked) = (opened.session_id, opened.checkpoint);
                        if opened.resumed && self.work.revision == 0 {
                            // Our file is lost: this stream ends, and the next has a snapshot.
                            let (client_id, target) =
                                (ack.client_id.clone(), Some(Target::Snapshot(true)));
                            let seek =
                                SeekSubscriptionRequest { client_id, target, dry_run: false };
                            AdminServiceClient::new(self.channel.clone())
                                .seek_subscription(seek)
                                .await?;
                        }
                    }
                    Message::SnapshotBegin(_) => snapshot.clear(),
                    Message::SnapshotChunk(chunk) => {
                        for kv in chunk.kvs {
                            snapshot
                                .insert(String::from_utf8(kv.key)?, String::from_utf8(kv.value)?);
                        }
                    }
                    Message::SnapshotEnd(end) => {
                        // What is not in it no longer exists.
                        self.work =
                            Work { revision: end.revision, pairs: mem::take(&mut snapshot) };
                        ack.revision = end.revision;
                        println!("SNAPSHOT {}", end.count);
                    }
                    Message::Events(events) => {
                        parts.extend(events.events);
                        if !events.partial {
                            ack.revision = self.apply(events.revision, mem::take(&mut parts))?;
                        }
                    }
                    // Up to here nothing else happened.
                    Message::Progress(it) => ack.revision = self.apply(it.revision, Vec::new())?,
                    Message::State(state) => println!("{}", state.state().as_str_name()),
                }
            }
            if ack.revision > acked {
                // First durable here, then acknowledged: never the other way round.
                let new = format!("{}.new", self.state_file);
                fs::write(&new, serde_json::to_vec(&self.work)?)?;
                fs::File::open(&new)?.sync_all()?;
                fs::rename(new, &self.state_file)?;
                match api.ack(ack.clone()).await {
                    Ok(answer) => acked = answer.into_inner().checkpoint,
                    // A later ack makes up for it, or the next stream.
                    Err(error) => eprintln!("not acked: {}", error.message()),
                }
                println!("ACKED {acked}");
            }
        }
        Ok(())
    }

    /// Processes whole revisions. What is here already comes again when its ack was lost.
    fn apply(&mut self, revision: i64, events: Vec<Event>) -> Result<i64> {
        if self.work.revision == 0 {
            // There is nothing yet that it could be applied to.
            return Ok(0);
        }
        for event in events {
            let (kind, kv) = (event.r#type(), event.kv.context("an event without a key")?);
            let key = String::from_utf8(kv.key)?;
            if kv.mod_revision > self.work.revision {
                println!("{} {key}", kind.as_str_name());
                match kind {
                    EventType::Put => self.work.pairs.insert(key, String::from_utf8(kv.value)?),
                    EventType::Delete => self.work.pairs.remove(&key),
                };
            }
        }
        self.work.revision = self.work.revision.max(revision);
        Ok(revision)
    }
}
