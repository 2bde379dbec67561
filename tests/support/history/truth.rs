//! etcd's own history, from a watch that has nothing to do with watchmark.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client::{Client, WatchOptions};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use watchmark::proto::watchmark::v1::{Event, KeyValue, event::EventType};

use super::{super::wait::DEADLINE, record::Tick};

/// What etcd says happened, in order, from its first revision on.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
    /// When the write that made a revision was sent, where a writer of ours did it.
    pub(crate) sent_at_by_revision: BTreeMap<i64, Tick>,
}

impl History {
    /// The part up to `revision`, which a backup of that revision keeps.
    pub(crate) fn up_to(mut self, revision: i64) -> Self {
        self.events.retain(|event| mod_revision(event) <= revision);
        self.sent_at_by_revision.split_off(&(revision + 1));
        self
    }
}

/// Watches everything in etcd from the first revision on, and goes on where it
/// was when etcd restarts.
#[derive(Debug)]
pub(crate) struct Truth {
    seen: Arc<Mutex<History>>,
    /// The last revision seen whole.
    whole: watch::Receiver<i64>,
    _task: JoinSet<()>,
}

impl Truth {
    /// Begins at once. `client` must be the watch's own.
    pub(crate) fn watch(client: Client) -> Self {
        Self::go_on(History::default(), 1, move || {
            std::future::ready(Some(client.clone()))
        })
    }

    /// Goes on after `whole`, up to which `known` says all. Every watch is on
    /// a connection of its own from `connect`; `None`: it is asked again.
    pub(crate) fn go_on<F>(
        known: History,
        whole: i64,
        connect: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Client>> + Send,
    {
        let seen = Arc::new(Mutex::new(known));
        let (reached, whole) = watch::channel(whole);
        let mut task = JoinSet::new();
        let following = Arc::clone(&seen);
        task.spawn(async move { follow(connect, following, reached).await });
        Self {
            seen,
            whole,
            _task: task,
        }
    }

    /// Waits until everything up to `revision` was seen, and returns all that was.
    pub(crate) async fn until(&self, revision: i64) -> History {
        let mut whole = self.whole.clone();
        let reached = timeout(DEADLINE, whole.wait_for(|whole| *whole >= revision)).await;
        assert!(
            matches!(reached, Ok(Ok(_))),
            "the direct watch did not reach revision {revision}"
        );
        self.seen.lock().unwrap().clone()
    }

    /// The last revision up to which everything was seen.
    pub(crate) fn whole(&self) -> i64 {
        *self.whole.borrow()
    }

    /// Notes when the write that made `revision` was sent.
    pub(crate) fn sent(&self, revision: i64, at: Tick) {
        let mut seen = self.seen.lock().unwrap();
        seen.sent_at_by_revision.insert(revision, at);
    }
}

async fn follow<F: Future<Output = Option<Client>>>(
    connect: impl Fn() -> F,
    seen: Arc<Mutex<History>>,
    reached: watch::Sender<i64>,
) {
    loop {
        let whole = *reached.borrow();
        // What came of a revision that was cut short comes again.
        forget_after(whole, &seen);
        if let Some(client) = connect().await
            && let Err(error) = follow_once(&client, whole, &seen, &reached).await
        {
            eprintln!("the direct watch goes on after {whole}: {error}");
        }
        if reached.is_closed() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn forget_after(whole: i64, seen: &Mutex<History>) {
    let mut history = seen.lock().unwrap();
    history.events.retain(|event| mod_revision(event) <= whole);
}

/// Returns the last revision of all.
fn add(events: impl Iterator<Item = Event>, seen: &Mutex<History>) -> i64 {
    let mut history = seen.lock().unwrap();
    history.events.extend(events);
    history.events.last().map_or(0, mod_revision)
}

async fn follow_once(
    client: &Client,
    whole: i64,
    seen: &Mutex<History>,
    reached: &watch::Sender<i64>,
) -> Result<(), etcd_client::Error> {
    let options = WatchOptions::new()
        .with_all_keys()
        .with_start_revision(whole + 1)
        .with_fragment();
    let mut watch = client.watch_client().max_decoding_message_size(usize::MAX);
    let mut stream = watch.watch("", Some(options)).await?;
    while let Some(response) = stream.message().await? {
        assert!(
            response.compact_revision() == 0,
            "the direct watch was overtaken by a compaction"
        );
        if response.canceled() {
            return Ok(());
        }
        let whole = *reached.borrow();
        let events = response.events().iter().map(convert);
        // Members of old versions replay what they sent before.
        let last = add(events.filter(|event| mod_revision(event) > whole), seen);
        // A fragment may end inside a revision.
        let now_whole = if response.0.fragment { last - 1 } else { last };
        if now_whole > whole {
            reached.send_replace(now_whole);
        }
    }
    Ok(())
}

/// The revision that made an event.
pub(crate) fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn convert(event: &etcd_client::Event) -> Event {
    let kind = match event.event_type() {
        etcd_client::EventType::Put => EventType::Put,
        etcd_client::EventType::Delete => EventType::Delete,
    };
    Event {
        r#type: kind.into(),
        kv: event.kv().map(|kv| KeyValue {
            key: kv.key().to_vec().into(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
            version: kv.version(),
            value: kv.value().to_vec().into(),
            lease: kv.lease(),
        }),
        prev_kv: None,
    }
}
