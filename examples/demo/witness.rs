//! What etcd itself says: a direct watch of everything, from before the first
//! write to after the last, by another client than watchmark's.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use etcd_client::{Client, EventType, WatchOptions, WatchResponse};
use tokio::sync::watch;

use crate::{report::Change, story::DEADLINE};

/// Pause before another connection.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The watch, while it runs.
pub(crate) struct Witness {
    seen: watch::Receiver<Vec<Change>>,
    task: tokio::task::JoinHandle<anyhow::Error>,
}

impl Witness {
    /// Watches `prefix` from etcd's first revision on.
    pub(crate) fn start(etcd: String, prefix: &'static str) -> Self {
        let (sender, seen) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = follow(&etcd, prefix, &sender).await
                    && error.is::<Broken>()
                {
                    return error;
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        });
        Self { seen, task }
    }

    /// Waits until it has seen `revision`, which must be one of an event.
    pub(crate) async fn has_seen(&mut self, revision: i64) -> anyhow::Result<()> {
        let seen = self
            .seen
            .wait_for(|seen| seen.last().map(|change| change.revision) >= Some(revision));
        tokio::time::timeout(DEADLINE, seen)
            .await
            .with_context(|| format!("the witness did not see revision {revision}"))?
            .context("the witness broke off")?;
        Ok(())
    }

    /// Everything seen so far.
    pub(crate) fn seen(&self) -> Vec<Change> {
        self.seen.borrow().clone()
    }

    /// Ends, with everything seen: every revision from the first to the last.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Change>> {
        self.task.abort();
        if let Ok(error) = self.task.await {
            return Err(error);
        }
        let seen = self.seen.borrow().clone();
        // Nobody else writes to this etcd: a gap would be the witness's own.
        for pair in seen.windows(2) {
            let step = pair[1].revision - pair[0].revision;
            ensure!(
                step == 0 || step == 1,
                "the witness itself missed something between {} and {}",
                pair[0].revision,
                pair[1].revision
            );
        }
        Ok(seen)
    }
}

/// The watch cannot go on without a gap.
#[derive(Debug, thiserror::Error)]
#[error("the witness's watch was cancelled at compact revision {0}")]
struct Broken(i64);

/// One connection, from right after what was seen.
async fn follow(etcd: &str, prefix: &str, seen: &watch::Sender<Vec<Change>>) -> anyhow::Result<()> {
    let mut client = Client::connect([etcd], None).await?;
    let next = seen.borrow().last().map_or(1, |change| change.revision + 1);
    let options = WatchOptions::new().with_prefix().with_start_revision(next);
    let mut watch = client.watch(prefix, Some(options)).await?;
    while let Some(response) = watch.message().await? {
        if response.canceled() {
            return Err(Broken(response.compact_revision()).into());
        }
        let changes = changes(&response)?;
        seen.send_modify(|seen| seen.extend(changes));
    }
    Ok(())
}

fn changes(response: &WatchResponse) -> anyhow::Result<Vec<Change>> {
    let change = |event: &etcd_client::Event| {
        let kv = event.kv().context("an event without a key")?;
        Ok(Change {
            revision: kv.mod_revision(),
            key: kv.key_str()?.to_owned(),
            value: match event.event_type() {
                EventType::Put => Some(kv.value_str()?.to_owned()),
                EventType::Delete => None,
            },
        })
    };
    response.events().iter().map(change).collect()
}

/// The state that `changes` up to `revision` leave behind: the last change of
/// every key that exists.
pub(crate) fn state_at(changes: &[Change], revision: i64) -> BTreeMap<&str, &Change> {
    let mut state = BTreeMap::new();
    for change in changes.iter().filter(|change| change.revision <= revision) {
        if change.value.is_some() {
            state.insert(change.key.as_str(), change);
        } else {
            state.remove(change.key.as_str());
        }
    }
    state
}
