//! The simulated etcd behind the trait that drivers use.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use watchmark::{
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue, event::EventType},
    },
    resume::{Guard, Item, KeyRange, Message, ProbeSample},
    upstream::{GuardAnswer, Upstream, UpstreamEvents, UpstreamItem, Watch, WatchSpec},
};

use crate::{
    etcd::{Entry, Etcd, MEMBERS},
    sessions::Shared,
    upstream::{Act, Attempting, Said, Upstream as Conversation, Watch as SimWatch},
};

/// Every subscription has a range end of its own, by which its attempts are
/// known; the keys are the same.
pub(crate) fn range_of(client: usize) -> KeyRange {
    let end = ["a0", "a/~", "a/~~"][client];
    KeyRange::new("a/".into(), end.into()).unwrap()
}

/// One attempt of one subscription.
pub(crate) struct Attempt {
    pub(crate) client: usize,
    conversation: Conversation,
    say: mpsc::UnboundedSender<UpstreamItem>,
    asked: mpsc::Receiver<()>,
}

/// Every attempt that a driver holds.
#[derive(Clone)]
pub(crate) struct SimUpstream {
    pub(crate) attempts: Arc<Mutex<Vec<Attempt>>>,
    etcd: Shared<Etcd>,
    probe: watch::Sender<Vec<ProbeSample>>,
}

impl SimUpstream {
    pub(crate) fn new(etcd: Shared<Etcd>) -> Self {
        Self {
            attempts: Arc::default(),
            etcd,
            probe: watch::Sender::new(Vec::new()),
        }
    }

    /// How many attempts are held for a subscription.
    pub(crate) fn held(&self, client: usize) -> usize {
        let mut attempts = self.attempts.lock().unwrap();
        attempts.retain(|attempt| !attempt.say.is_closed());
        let its = attempts.iter().filter(|attempt| attempt.client == client);
        its.count()
    }

    /// etcd does something to a subscription's attempt, if there is one.
    pub(crate) fn acts(&self, client: usize, act: &Act) -> &'static str {
        let etcd = self.etcd.lock();
        let mut attempts = self.attempts.lock().unwrap();
        let its = attempts.iter_mut().rfind(|it| it.client == client);
        let Some(attempt) = its else {
            return "";
        };
        if attempt.asked.try_recv().is_ok()
            && let Some(Attempting::Watch(watch)) = &mut attempt.conversation.attempting
        {
            watch.asked = true;
        }
        let (said, note) = attempt.conversation.act(&etcd, act);
        if let Some(said) = said {
            // The driver may have dropped it.
            let _ = attempt.say.send(to_wire(said));
        }
        note
    }

    fn begin(
        &self,
        range: &KeyRange,
        attempting: Attempting,
    ) -> (UpstreamEvents, mpsc::Sender<()>) {
        let clients = (0..3).find(|&client| range_of(client) == *range);
        let client = clients.expect("a range that nobody asked for");
        assert_eq!(self.held(client), 0, "one attempt at a time");
        let (say, said) = mpsc::unbounded_channel();
        let (ask, asked) = mpsc::channel(1);
        let conversation = Conversation {
            attempting: Some(attempting),
            can_ask: 0b011,
            ..Conversation::default()
        };
        self.attempts.lock().unwrap().push(Attempt {
            client,
            conversation,
            say,
            asked,
        });
        let events = futures_util::stream::unfold(said, |mut said| async {
            said.recv().await.map(|it| (it, said))
        });
        (events.boxed(), ask)
    }
}

impl Upstream for SimUpstream {
    fn watch(&self, spec: WatchSpec) -> Watch {
        let member = usize::try_from(spec.guard.revision.get()).unwrap() % MEMBERS;
        let watch = Attempting::Watch(SimWatch::new(spec.guard, member));
        let (events, ask_progress) = self.begin(&spec.selection.range, watch);
        Watch {
            events,
            ask_progress,
            catching_up: Default::default(),
        }
    }

    fn head(&self, range: KeyRange) -> UpstreamEvents {
        self.begin(&range, Attempting::Head).0
    }

    fn snapshot(&self, range: KeyRange, _: PairOptions) -> UpstreamEvents {
        self.begin(&range, Attempting::Snapshot(None)).0
    }

    fn probe(&self) -> watch::Receiver<Vec<ProbeSample>> {
        self.probe.subscribe()
    }

    fn read_guard(&self, _: Guard) -> GuardAnswer {
        unreachable!("no operator asks in these worlds")
    }
}

static LARGE: [u8; 1_500_000] = [0; 1_500_000];

fn pair(entry: &Entry) -> KeyValue {
    let is_large = entry.bytes > 1000 && !entry.deleted;
    KeyValue {
        key: entry.key.clone(),
        mod_revision: entry.revision,
        value: Bytes::from_static(if is_large { &LARGE } else { b"" }),
        ..KeyValue::default()
    }
}

fn event(entry: &Entry) -> Event {
    let kind = if entry.deleted {
        EventType::Delete
    } else {
        EventType::Put
    };
    Event {
        r#type: kind.into(),
        kv: Some(pair(entry)),
        prev_kv: None,
    }
}

fn entry(key: &Bytes, item: &impl Item) -> Entry {
    Entry {
        key: key.clone(),
        revision: item.mod_revision().get(),
        bytes: if item.size_bytes() > 1000 {
            LARGE.len()
        } else {
            10
        },
        deleted: item.is_delete(),
        epoch: 0,
    }
}

fn to_wire(said: Said) -> UpstreamItem {
    match said {
        Said::Events { events, fragment } => UpstreamItem::Events {
            events: events.iter().map(event).collect(),
            fragment,
        },
        Said::SnapshotPage(pairs) => UpstreamItem::SnapshotPage(pairs.iter().map(pair).collect()),
        Said::WatchOpened(opened) => UpstreamItem::WatchOpened(opened),
        Said::Bookmark(revision) => UpstreamItem::Bookmark(revision),
        Said::Compacted { compact_revision } => UpstreamItem::Compacted { compact_revision },
        Said::Head(header) => UpstreamItem::Head(header),
        Said::SnapshotBegun(header) => UpstreamItem::SnapshotBegun(header),
        Said::SnapshotEnded => UpstreamItem::SnapshotEnded,
        Said::SnapshotCompacted { compact_revision } => {
            UpstreamItem::SnapshotCompacted { compact_revision }
        }
        Said::Lost => UpstreamItem::Lost,
        Said::Refused(refusal) => UpstreamItem::Refused(refusal),
    }
}

/// As the checks know it.
pub(crate) fn from_wire(message: Message<Event, KeyValue>) -> Message<Entry, Entry> {
    match message {
        Message::Events {
            revision,
            events,
            partial,
        } => Message::Events {
            revision,
            events: events.iter().map(|it| entry(it.key(), it)).collect(),
            partial,
        },
        Message::SnapshotChunk(pairs) => {
            Message::SnapshotChunk(pairs.iter().map(|it| entry(it.key(), it)).collect())
        }
        Message::Opened {
            checkpoint,
            resumed,
            proof,
            cluster_id,
        } => Message::Opened {
            checkpoint,
            resumed,
            proof,
            cluster_id,
        },
        Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        } => Message::SnapshotBegin {
            revision,
            reason,
            compact_revision,
        },
        Message::SnapshotEnd { revision, count } => Message::SnapshotEnd { revision, count },
        Message::Progress(revision) => Message::Progress(revision),
        Message::State(state, revision) => Message::State(state, revision),
    }
}
