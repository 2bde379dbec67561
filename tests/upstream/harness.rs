//! Reading what etcd says, with a deadline on everything.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;
use watchmark::{
    proto::{
        PairOptions,
        watchmark::v1::{Event, KeyValue},
    },
    resume::{Guard, KeyRange, Refusal, Revision, Selection, WatchOpened, input},
    upstream::{Etcd, Upstream, UpstreamEvents, Watch, WatchSpec},
};

use super::server::DEADLINE;

pub(crate) type Item = input::Upstream<Event, KeyValue>;

pub(crate) fn revision(revision: i64) -> Revision {
    Revision::new(revision).unwrap()
}

pub(crate) fn prefix(prefix: &'static str) -> KeyRange {
    KeyRange::prefix(prefix.into())
}

pub(crate) fn keys_only() -> PairOptions {
    PairOptions {
        keys_only: true,
        ..PairOptions::default()
    }
}

/// A watch of a prefix that continues after `after`.
pub(crate) fn spec(range: &'static str, after: i64) -> WatchSpec {
    WatchSpec {
        selection: Selection {
            range: prefix(range),
            no_put: false,
            no_delete: false,
        },
        guard: Guard {
            revision: revision(after),
            key: Bytes::from_static(range.as_bytes()),
        },
        pair_options: PairOptions::default(),
        avoid_member: None,
    }
}

pub(crate) async fn next(events: &mut UpstreamEvents) -> Item {
    let next = timeout(DEADLINE, events.next()).await;
    next.expect("nothing in time").expect("the stream ended")
}

/// Nothing comes after a terminal item.
pub(crate) async fn ended(events: &mut UpstreamEvents) {
    let next = timeout(DEADLINE, events.next()).await;
    let next = next.expect("the stream did not end");
    assert!(next.is_none(), "{next:?}");
}

/// Opens a watch.
pub(crate) async fn open(etcd: &Etcd, spec: WatchSpec) -> (Watch, WatchOpened) {
    let mut watch = etcd.watch(spec);
    let opened = opened(&mut watch).await;
    (watch, opened)
}

pub(crate) async fn opened(watch: &mut Watch) -> WatchOpened {
    match next(&mut watch.events).await {
        Item::WatchOpened(opened) => opened,
        other => panic!("{other:?}"),
    }
}

/// Events up to `count` of them, as (mod_revision, key); with each response
/// whether more of it follows. No bookmark may be ahead of an event.
pub(crate) async fn events(watch: &mut Watch, count: usize) -> (Vec<(i64, Bytes)>, Vec<bool>) {
    let (mut found, mut fragments) = (Vec::new(), Vec::new());
    let mut certified = 0;
    while found.len() < count {
        match next(&mut watch.events).await {
            Item::Events { events, fragment } => {
                fragments.push(fragment);
                found.extend(events.into_iter().map(|event| {
                    let kv = event.kv.unwrap();
                    assert!(kv.mod_revision > certified, "certified: {certified}");
                    (kv.mod_revision, kv.key)
                }));
            }
            Item::Bookmark(at) => certified = at.get(),
            other => panic!("{other:?}"),
        }
    }
    (found, fragments)
}

/// A watch that is refused.
pub(crate) async fn refused(etcd: &Etcd, spec: WatchSpec) -> Refusal {
    let mut watch = etcd.watch(spec);
    match next(&mut watch.events).await {
        Item::Refused(refusal) => {
            ended(&mut watch.events).await;
            refusal
        }
        other => panic!("{other:?}"),
    }
}
