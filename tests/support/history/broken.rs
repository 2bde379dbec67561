//! The validators bite: one good history, and what breaks each promise.

mod operated;

use tonic::Code;
use watchmark::proto::watchmark::v1::{
    AckMode, Event, Events, KeyValue, Opened, Progress, SnapshotBegin, SnapshotChunk, SnapshotEnd,
    SnapshotReason, State, SubscribeRequest, event::EventType, subscribe_response::Message,
};

use super::{
    Ack, End, History, Operated, Operation, Record, Stream, broken_promises, truth::mod_revision,
};

/// One event: its revision, its key, and whether it is a deletion.
fn event(revision: i64, key: &str, kind: EventType) -> Event {
    Event {
        r#type: kind.into(),
        kv: Some(KeyValue {
            key: key.to_owned().into(),
            mod_revision: revision,
            value: format!("{key}@{revision}").into(),
            ..KeyValue::default()
        }),
        prev_kv: None,
    }
}

fn put(revision: i64, key: &str) -> Event {
    event(revision, key, EventType::Put)
}

/// a/ is watched; b/ is the neighbour.
fn history() -> History {
    History {
        events: vec![
            put(2, "a/1"),
            put(3, "b/1"),
            put(4, "a/2"),
            put(4, "a/3"),
            event(5, "a/1", EventType::Delete),
            put(6, "b/2"),
            put(7, "a/4"),
            put(8, "a/5"),
            put(8, "a/6"),
        ],
        // Sent right before the tick that the stream of `build` is at then.
        sent_at_by_revision: [(8, 1000)].into(),
    }
}

/// What etcd has in a/ at these revisions.
fn of(revisions: &[i64]) -> Vec<Event> {
    let mut events = history().events;
    events.retain(|e| {
        revisions.contains(&mod_revision(e)) && e.kv.as_ref().unwrap().key.starts_with(b"a/")
    });
    events
}

fn kvs(revision: i64) -> Vec<KeyValue> {
    let live: &[(i64, usize)] = match revision {
        5 | 6 => &[(4, 0), (4, 1)],
        7 => &[(4, 0), (4, 1), (7, 0)],
        _ => panic!("no state was made for {revision}"),
    };
    let kv = |(at, nth): &(i64, usize)| of(&[*at])[*nth].kv.clone().unwrap();
    live.iter().map(kv).collect()
}

/// Builds a record, one tick at a time.
struct Build {
    now: u64,
    record: Record,
}

fn build() -> Build {
    Build {
        now: 0,
        record: Record {
            client_id: "c".to_owned(),
            ..Record::default()
        },
    }
}

impl Build {
    fn tick(&mut self) -> u64 {
        self.now += 10;
        self.now
    }

    fn subscribe_with(mut self, change: impl FnOnce(&mut SubscribeRequest)) -> Self {
        let mut request = SubscribeRequest {
            client_id: "c".to_owned(),
            prefix: "a/".into(),
            ..SubscribeRequest::default()
        };
        change(&mut request);
        let requested_at = self.tick();
        self.record.streams.push(Stream {
            requested_at,
            request,
            ..Stream::default()
        });
        self
    }

    fn opened(self, session_id: u64, checkpoint: i64, resumed: bool) -> Self {
        self.subscribe_with(|_| {})
            .opens(session_id, checkpoint, resumed)
    }

    fn opens(self, session_id: u64, checkpoint: i64, resumed: bool) -> Self {
        let opened = Opened {
            session_id,
            checkpoint,
            resumed,
            ..Opened::default()
        };
        self.receives(Message::Opened(opened))
    }

    fn receives(mut self, message: Message) -> Self {
        let at = self.tick();
        let stream = self.record.streams.last_mut().unwrap();
        stream.received.push((at, message));
        self
    }

    fn batch(self, events: Vec<Event>, partial: bool) -> Self {
        let revision = events.last().map_or(0, mod_revision);
        self.receives(Message::Events(Events {
            revision,
            events,
            partial,
        }))
    }

    fn events(self, revisions: &[i64]) -> Self {
        self.batch(of(revisions), false)
    }

    fn progress(self, revision: i64) -> Self {
        self.receives(Message::Progress(Progress { revision }))
    }

    fn begins(self, revision: i64, reason: SnapshotReason) -> Self {
        self.receives(Message::SnapshotBegin(SnapshotBegin {
            revision,
            reason: reason.into(),
            compact_revision: 0,
        }))
    }

    fn chunk(self, kvs: Vec<KeyValue>) -> Self {
        self.receives(Message::SnapshotChunk(SnapshotChunk { kvs }))
    }

    fn ends_snapshot(self, revision: i64, count: i64) -> Self {
        self.receives(Message::SnapshotEnd(SnapshotEnd { revision, count }))
    }

    fn snapshot(self, revision: i64, reason: SnapshotReason) -> Self {
        let kvs = kvs(revision);
        let count = kvs.len() as i64;
        self.begins(revision, reason)
            .chunk(kvs)
            .ends_snapshot(revision, count)
    }

    fn acks(self, session_id: u64, revision: i64) -> Self {
        self.ack(session_id, revision, Some(Ok(revision)))
    }

    fn ack(mut self, session_id: u64, revision: i64, answer: Option<Result<i64, End>>) -> Self {
        let sent_at = self.tick();
        let answered_at = self.tick();
        self.record.acks.push(Ack {
            session_id,
            revision,
            sent_at,
            answer: answer.map(|answer| (answered_at, answer)),
        });
        self
    }

    fn operates(self, what: Operated) -> Self {
        self.operation(what, Some(Ok(())))
    }

    fn operation(mut self, what: Operated, answer: Option<Result<(), End>>) -> Self {
        let sent_at = self.tick();
        let answered_at = self.tick();
        self.record.operations.push(Operation {
            what,
            sent_at,
            answer: answer.map(|answer| (answered_at, answer)),
        });
        self
    }

    fn ends(mut self, end: End) -> Self {
        let at = self.tick();
        self.record.streams.last_mut().unwrap().end = Some((at, end));
        self
    }

    fn dropped(self) -> Self {
        self.ends(End::Dropped)
    }

    #[track_caller]
    fn keeps_all(self) {
        let broken = broken_promises(&history(), &[self.record]);
        assert_eq!(broken, [""; 0]);
    }

    /// The promises that are broken, and no others, in order.
    #[track_caller]
    fn breaks(self, promises: &[&str]) {
        let broken = broken_promises(&history(), &[self.record]);
        let found: Vec<&str> = broken
            .iter()
            .map(|text| text.split(' ').next().unwrap())
            .collect();
        assert_eq!(found, promises, "{broken:?}");
    }
}

fn superseded() -> End {
    End::Status(Code::Aborted, "SESSION_SUPERSEDED".to_owned())
}

#[test]
fn a_good_history_passes() {
    let latest = build().opened(1, 1, false).events(&[2, 4]);
    let latest = latest.events(&[5]).acks(1, 5).dropped();
    // Moved past b/2 by an idle advance.
    latest
        .opened(2, 6, true)
        .events(&[7])
        .progress(7)
        .events(&[8])
        .acks(2, 8)
        .dropped()
        .keeps_all();
    build()
        .opened(1, 0, false)
        .snapshot(5, SnapshotReason::First)
        .events(&[7])
        .dropped()
        .keeps_all();
    let parts = |b: Build| {
        b.batch(of(&[4])[..1].to_vec(), true)
            .batch(of(&[4])[1..].to_vec(), false)
    };
    parts(build().opened(1, 1, false).events(&[2])).keeps_all();
    // A revision cut short by the end of the stream.
    let cut = build().opened(1, 1, false).events(&[2]);
    cut.batch(of(&[4])[..1].to_vec(), true)
        .dropped()
        .keeps_all();
}

#[test]
fn ordered_bites() {
    let open = || build().opened(1, 1, false);
    open().events(&[4]).events(&[2]).breaks(&["P1", "P3"]);
    let mut swapped = of(&[2, 4]);
    swapped.swap(0, 1);
    open().batch(swapped, false).breaks(&["P1", "P3"]);
    let wrong_end = Events {
        revision: 5,
        events: of(&[2, 4]),
        partial: false,
    };
    open()
        .receives(Message::Events(wrong_end))
        .breaks(&["P1", "P3"]);
    open().events(&[2]).progress(1).breaks(&["P1"]);
    open()
        .events(&[2, 4, 5])
        .events(&[7])
        .snapshot(6, SnapshotReason::Compacted)
        .breaks(&["P1"]);
}

#[test]
fn unique_bites() {
    let open = || build().opened(1, 1, false);
    open().events(&[2]).events(&[2]).breaks(&["P1", "P2", "P3"]);
    let twice = [of(&[2]), of(&[4]), of(&[4])].concat();
    open().batch(twice, false).breaks(&["P2", "P3", "P4"]);
    build()
        .opened(1, 0, false)
        .begins(6, SnapshotReason::First)
        .chunk([kvs(6), kvs(6)].concat())
        .ends_snapshot(6, 4)
        .breaks(&["P2", "P3"]);
}

#[test]
fn reliable_bites() {
    let open = || build().opened(1, 1, false);
    // A gap inside a batch, between batches, and before the first.
    open().batch(of(&[2, 5]), false).breaks(&["P3"]);
    open().events(&[2]).events(&[5]).breaks(&["P3"]);
    open().events(&[4]).breaks(&["P3"]);
    // An event of another range, one that never was, and another value.
    open()
        .batch(vec![put(2, "a/1"), put(3, "b/1")], false)
        .breaks(&["P3", "P4"]);
    open().batch(vec![put(2, "a/9")], false).breaks(&["P3"]);
    let mut forged = of(&[2]);
    forged[0].kv.as_mut().unwrap().value = "forged".into();
    open().batch(forged, false).breaks(&["P3"]);
    // A snapshot that keeps what was deleted, or lacks a pair.
    let keeps_deleted = [kvs(6), vec![of(&[2])[0].kv.clone().unwrap()]].concat();
    let fresh = || build().opened(1, 0, false).begins(6, SnapshotReason::First);
    fresh()
        .chunk(keeps_deleted)
        .ends_snapshot(6, 3)
        .breaks(&["P3"]);
    fresh()
        .chunk(kvs(6)[..1].to_vec())
        .ends_snapshot(6, 1)
        .breaks(&["P3"]);
    // A gap right after a snapshot.
    let after = build().opened(1, 0, false);
    after
        .snapshot(6, SnapshotReason::First)
        .events(&[8])
        .breaks(&["P3"]);
}

#[test]
fn atomic_bites() {
    let half = |at: usize| of(&[4])[at..=at].to_vec();
    let open = || build().opened(1, 1, false).events(&[2]);
    // Half a revision as if it were whole, in one message or two.
    open().batch(half(0), false).breaks(&["P3", "P4"]);
    open()
        .batch(half(0), false)
        .batch(half(1), false)
        .breaks(&["P1", "P3", "P4"]);
    // A part together with another revision.
    let mixed = [half(1), of(&[5])].concat();
    open()
        .batch(half(0), true)
        .batch(mixed, false)
        .breaks(&["P1", "P4"]);
    let mut huge = of(&[4]);
    for event in &mut huge {
        event.kv.as_mut().unwrap().value = vec![0; 3 << 20].into();
    }
    open().batch(huge, false).breaks(&["P3", "P4"]);
}

#[test]
fn resumable_bites() {
    let first = || build().opened(1, 1, false).events(&[2]);
    // The next stream begins after what was never received.
    let skipped = first().ack(1, 5, None).dropped().opened(2, 5, true);
    skipped.breaks(&["P5"]);
    // Also when a stream in between received nothing.
    let twice = first().acks(1, 2).dropped();
    let twice = twice.opened(2, 2, true).dropped();
    let twice = twice.ack(2, 7, None).opened(3, 7, true);
    twice.breaks(&["P5"]);
    // Requests that overlap may be answered in the other order.
    let asked = build().opened(1, 1, false).dropped().subscribe_with(|_| {});
    let mut b = asked.opened(2, 1, true).events(&[2]).acks(2, 2);
    b = b.ends(superseded());
    b.record.streams.swap(1, 2);
    let mut b = b.opens(3, 2, true).dropped();
    b.record.streams.swap(1, 2);
    b.keeps_all();
    // Its own position is its own affair; AUTO may lose what was on its way.
    first()
        .dropped()
        .subscribe_with(|r| r.resume_after = 5)
        .opens(2, 5, true)
        .events(&[7])
        .keeps_all();
    build()
        .subscribe_with(|r| r.set_ack_mode(AckMode::Auto))
        .opens(1, 1, false)
        .events(&[2])
        .dropped()
        .opened(2, 5, true)
        .keeps_all();
}

#[test]
fn bookmarkable_bites() {
    let open = || build().opened(1, 1, false);
    open().progress(3).breaks(&["P6"]);
    open().progress(3).events(&[2]).breaks(&["P1", "P6"]);
    let half = of(&[4])[..1].to_vec();
    let part = open().events(&[2]).batch(half, true);
    part.progress(4).breaks(&["P6"]);
    let state = State {
        state: 2,
        revision: 4,
    };
    let live = |b: Build| b.receives(Message::State(state));
    live(open().events(&[2])).breaks(&["P6"]);
    live(open().events(&[2, 4])).keeps_all();
    // Before the snapshot is whole, nothing is delivered.
    let early = live(build().opened(1, 0, false));
    early.breaks(&["P6"]);
}

#[test]
fn durable_bites() {
    let acked = || build().opened(1, 1, false).events(&[2, 4, 5]).acks(1, 5);
    // Taken back by a restart; forgotten; a first snapshot; an older one.
    acked().dropped().opened(2, 4, true).breaks(&["P7"]);
    acked().dropped().opened(2, 6, false).breaks(&["P7"]);
    let fresh = |reason| acked().dropped().opened(2, 0, false).snapshot(6, reason);
    fresh(SnapshotReason::First).breaks(&["P7"]);
    fresh(SnapshotReason::Compacted).keeps_all();
    acked()
        .events(&[7])
        .acks(1, 7)
        .dropped()
        .opened(2, 0, false)
        .snapshot(6, SnapshotReason::Compacted)
        .breaks(&["P7"]);
    // An answer below what was asked, and one below an earlier answer.
    acked().events(&[7]).ack(1, 7, Some(Ok(5))).breaks(&["P7"]);
    acked().ack(1, 4, Some(Ok(4))).breaks(&["P7"]);
    // An ack without an answer promises nothing; a seek back is asked for.
    let unanswered = build().opened(1, 1, false).events(&[2, 4]);
    let unanswered = unanswered.ack(1, 4, None).dropped();
    unanswered.opened(2, 1, true).keeps_all();
    let back = acked().dropped().subscribe_with(|r| r.resume_after = 2);
    back.opens(2, 2, true).events(&[4]).keeps_all();
}

#[test]
fn never_skip_bites() {
    let delivered = || build().opened(1, 1, false).events(&[2, 4, 5]);
    // Past what was delivered but not acknowledged, seen at the next stream.
    let past = delivered().acks(1, 2).dropped();
    past.opened(2, 5, true).breaks(&["P8"]);
    // Past it, seen in the answer to an ack.
    delivered().ack(1, 2, Some(Ok(6))).breaks(&["P8"]);
    // A refused ack moves nothing.
    let refused = End::Status(Code::OutOfRange, "ACK_BEYOND_DELIVERED".to_owned());
    let refused = delivered().ack(1, 5, Some(Err(refused))).dropped();
    refused.opened(2, 5, true).breaks(&["P8"]);
    // One whose answer was lost may have been taken.
    let lost = End::Status(Code::Unavailable, String::new());
    let lost = delivered().ack(1, 5, Some(Err(lost))).dropped();
    lost.opened(2, 5, true).keeps_all();
    // Idle past another range's events is no skipping.
    let idle = delivered().acks(1, 5).dropped();
    idle.opened(2, 6, true).keeps_all();
}

#[test]
fn never_silent_bites() {
    // A first stream without a snapshot, and one without `opened`.
    build()
        .opened(1, 0, false)
        .events(&[2])
        .breaks(&["P3", "P9"]);
    let unopened = build().subscribe_with(|_| {}).events(&[2]);
    unopened.breaks(&["P9"]);
    let fresh = || build().opened(1, 0, false);
    fresh()
        .snapshot(6, SnapshotReason::Unspecified)
        .breaks(&["P9"]);
    // Not as many pairs as it says, left open, and no begin.
    fresh()
        .begins(6, SnapshotReason::First)
        .chunk(kvs(6))
        .ends_snapshot(6, 3)
        .breaks(&["P9"]);
    let open_end = build().opened(1, 1, false).events(&[2, 4, 5]);
    open_end
        .begins(6, SnapshotReason::Compacted)
        .events(&[7])
        .breaks(&["P9"]);
    fresh().chunk(kvs(6)).breaks(&["P9"]);
    // An end that says nothing.
    let open = || build().opened(1, 1, false).events(&[2]);
    open().ends(End::Silent).breaks(&["P9"]);
    let bare = End::Status(Code::OutOfRange, String::new());
    open().ends(bare).breaks(&["P9"]);
    let broken = End::Status(Code::Unavailable, String::new());
    open().ends(broken).keeps_all();
}

#[test]
fn one_owner_bites() {
    /// The old stream is asked for first, so it is streams[0].
    fn on_old(mut b: Build, change: impl FnOnce(Build) -> Build) -> Build {
        b.record.streams.rotate_left(1);
        let mut b = change(b);
        b.record.streams.rotate_right(1);
        b
    }
    let both = || build().opened(1, 1, false).events(&[2]).opened(2, 1, true);
    // The older one is told, and its acks are refused.
    let told = || on_old(both(), |b| b.ends(superseded()));
    told().keeps_all();
    told().ack(1, 2, Some(Err(superseded()))).keeps_all();
    told().acks(1, 2).breaks(&["P10"]);
    // A server that was started again may repeat what is stored, and no more.
    let restarted = |mut b: Build| {
        let at = b.tick();
        b.record.restarts.push(at);
        b
    };
    restarted(told()).acks(1, 2).breaks(&["P10"]);
    restarted(told().acks(2, 2)).acks(1, 2).keeps_all();
    told().acks(2, 2).acks(1, 2).breaks(&["P10"]);
    // It is never told, or told something else.
    both().breaks(&["P10"]);
    let other = End::Status(Code::OutOfRange, "COMPACTED".to_owned());
    on_old(both(), |b| b.ends(other)).breaks(&["P10"]);
    // A number twice.
    let again = build().opened(1, 1, false).dropped().opened(1, 1, true);
    again.breaks(&["P10"]);
    // It delivers what happened after the newer one opened.
    let late = |mut b: Build| {
        b.now = 2000;
        b.events(&[4, 5, 7, 8]).ends(superseded())
    };
    on_old(both(), late).breaks(&["P10"]);
    // What was on its way may still come.
    let on_its_way = |b: Build| b.events(&[4, 5]).ends(superseded());
    on_old(both(), on_its_way).keeps_all();
}
