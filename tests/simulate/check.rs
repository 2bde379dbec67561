//! What a stream receives, held against the history: the promises.

use watchmark::resume::{Fingerprint, Item, Message, Proof, SnapshotReason, StreamState};

use crate::etcd::{Entry, Etcd, Position, rev};

/// What one message may hold.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What one session's stream received.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) session: u64,
    pub(crate) opened: bool,
    /// etcd was asked for it.
    pub(crate) has_attempted: bool,
    /// Everything in range up to here arrived.
    pub(crate) position: Option<Position>,
    /// The parts of a revision that is not whole yet.
    parts: Vec<Entry>,
    snapshot: Option<SnapshotSeen>,
    window: Option<u64>,
    /// Events at or below it were not sent as such on this stream.
    events_from: i64,
    /// Whether any event or snapshot arrived whole.
    pub(crate) began_whole: bool,
    /// By revision, ascending: the last event at or below it, as far as it can
    /// be known. The first is what was known before.
    fingerprints: Vec<(i64, Option<Fingerprint>)>,
}

/// What surrounds a message that arrives.
pub(crate) struct Arrival<'a> {
    pub(crate) etcd: &'a Etcd,
    /// Durably acknowledged.
    pub(crate) acked: i64,
    /// Where a stream that opens now must begin, and the event before it.
    pub(crate) resumed_at: Option<Position>,
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The history that the attempt under way speaks of.
    pub(crate) epoch: usize,
    /// etcd does not say when a watch has caught up.
    pub(crate) mute: bool,
}

#[derive(Clone)]
struct SnapshotSeen {
    at: Position,
    pairs: Vec<Entry>,
}

impl Stream {
    pub(crate) fn new(session: u64, window: Option<u32>) -> Self {
        Self {
            session,
            opened: false,
            has_attempted: false,
            position: None,
            parts: Vec::new(),
            snapshot: None,
            window: window.map(u64::from),
            events_from: 0,
            began_whole: false,
            fingerprints: Vec::new(),
        }
    }

    /// The last event at or below `revision`, as far as this stream can know.
    pub(crate) fn fingerprint_at(&self, revision: i64) -> Option<Fingerprint> {
        let known = self.fingerprints.iter().rev();
        let (_, last) = known.skip_while(|(at, _)| *at > revision).nth(0)?;
        last.clone()
    }

    /// Nobody could tell that the history was replaced: what is to come
    /// belongs to the new one. `false`: half a revision of the old one was sent.
    pub(crate) fn adopt(&mut self, epoch: usize) -> bool {
        if let Some(position) = &mut self.position {
            position.0 = epoch;
        }
        self.parts.is_empty()
    }

    pub(crate) fn receive(&mut self, message: &Message<Entry, Entry>, arrival: &Arrival<'_>) {
        let etcd = arrival.etcd;
        assert_eq!(
            self.opened,
            !matches!(message, Message::Opened { .. }),
            "opened comes first and once: {message:?}"
        );
        match message {
            Message::Opened {
                checkpoint, proof, ..
            } => self.opens(checkpoint.map(|at| at.get()), *proof, arrival),
            Message::Events {
                revision,
                events,
                partial,
            } => {
                self.fits(events, "events");
                self.in_window(revision.get(), etcd, arrival.acked);
                self.events(revision.get(), events, *partial, etcd);
            }
            Message::SnapshotBegin {
                revision, reason, ..
            } => self.snapshot_begins(revision.get(), *reason, arrival.epoch),
            Message::SnapshotChunk(pairs) => {
                self.fits(pairs, "a chunk");
                let seen = self.snapshot.as_mut().expect("a chunk without a begin");
                seen.pairs.extend(pairs.iter().cloned());
            }
            Message::SnapshotEnd { revision, count } => {
                let seen = self.snapshot.take().expect("an end without a begin");
                assert_eq!(seen.at.1, revision.get(), "another snapshot's end");
                assert_eq!(seen.pairs.len() as u64, *count);
                let state = etcd.state(seen.at.0, seen.at.1);
                assert_eq!(seen.pairs, state, "P9: the snapshot is not the state");
                let mut newest: Option<&Entry> = None;
                for pair in &seen.pairs {
                    newest = newest
                        .filter(|it| it.revision >= pair.revision)
                        .or(Some(pair));
                }
                // Nobody saw what it leaps over.
                let leapt = self.position.map(|(_, at)| at + 1);
                let leapt = leapt.filter(|at| *at < revision.get());
                self.fingerprints.extend(leapt.map(|at| (at, None)));
                self.fingerprints
                    .push((revision.get(), newest.map(fingerprint)));
                self.position = Some(seen.at);
                self.events_from = seen.at.1;
                self.parts.clear();
                self.began_whole = true;
            }
            Message::Progress(revision) => {
                let (epoch, from) = self.position.expect("P6: progress before a position");
                // A heartbeat, while etcd is away, may come inside a snapshot.
                let moves = revision.get() > from;
                assert!(self.snapshot.is_none() || !moves, "P6: inside a snapshot");
                let missing = etcd.events(epoch, from, revision.get());
                assert!(missing.is_empty(), "P6: {revision} passes {missing:?}");
                self.position = Some((epoch, from.max(revision.get())));
            }
            Message::State(state, revision) => {
                let claimed = revision.map_or(0, |at| at.get());
                let position = self.position.map_or(0, |(_, at)| at);
                assert!(claimed <= position, "P12: claims {claimed} at {position}");
                if *state == StreamState::Live && !arrival.mute {
                    assert!(self.parts.is_empty(), "P12: live within a revision");
                }
            }
        }
    }

    fn opens(&mut self, checkpoint: Option<i64>, proof: Proof, arrival: &Arrival<'_>) {
        let etcd = arrival.etcd;
        self.opened = true;
        self.fingerprints.push((0, arrival.fingerprint.clone()));
        self.position = match (checkpoint, arrival.resumed_at) {
            (None, _) => None,
            // It may only ever replace a snapshot.
            (Some(at), Some((epoch, stored))) if proof.can_be_wrong() => {
                assert!(stored < etcd.compacted, "P9: assumed without need");
                assert!(at > stored, "P8: assumed backwards");
                self.fingerprints.clear();
                Some((epoch, at))
            }
            (Some(at), Some((epoch, stored))) => {
                assert_eq!(at, stored, "P5: not right after the checkpoint");
                Some((epoch, at))
            }
            (Some(at), None) => panic!("P5: opened at {at} without a checkpoint"),
        };
        self.events_from = checkpoint.unwrap_or(0);
    }

    fn events(&mut self, revision: i64, events: &[Entry], partial: bool, etcd: &Etcd) {
        assert!(self.snapshot.is_none(), "events inside a snapshot");
        let (epoch, from) = self.position.expect("P5: events before a position");
        self.parts.extend(events.iter().cloned());
        let expected = etcd.events(epoch, from, revision);
        if partial {
            assert!(expected.iter().all(|event| event.revision == revision));
            assert!(
                expected.starts_with(&self.parts),
                "P1-P4, P9: {:?} is no beginning of {expected:?}",
                self.parts
            );
        } else {
            assert_eq!(self.parts, expected, "P1-P4, P9: after {from}");
            for revision in self.parts.chunk_by(|a, b| a.revision == b.revision) {
                // Of a revision whose end alone came last, nothing is known.
                let last = revision.last().filter(|_| !events.is_empty());
                self.fingerprints
                    .push((revision[0].revision, last.map(fingerprint)));
            }
            self.parts.clear();
            self.position = Some((epoch, revision));
            self.began_whole = true;
        }
    }

    fn snapshot_begins(&mut self, revision: i64, reason: SnapshotReason, of_epoch: usize) {
        if let Some((epoch, at)) = self.position
            && epoch == of_epoch
        {
            assert!(revision >= at, "P1: the snapshot goes back");
        }
        assert!(
            !(self.began_whole && reason == SnapshotReason::HistoryReplaced),
            "4.5: a live stream ends when its history is replaced"
        );
        self.snapshot = Some(SnapshotSeen {
            at: (of_epoch, revision),
            pairs: Vec::new(),
        });
    }

    /// Events of the session that are delivered and not acknowledged.
    fn in_window(&self, revision: i64, etcd: &Etcd, acked: i64) {
        let (Some(window), Some((epoch, from))) = (self.window, self.position) else {
            return;
        };
        let acked = acked.max(self.events_from).min(from);
        let unacked = etcd.events(epoch, acked, from).len() as u64;
        let sent = etcd.events(epoch, from, revision);
        let is_alone = sent.iter().all(|event| event.revision == revision);
        assert!(
            unacked + sent.len() as u64 <= window || (unacked == 0 && is_alone),
            "P11: {unacked} + {} events in a window of {window}",
            sent.len()
        );
    }

    fn fits(&self, items: &[Entry], what: &str) {
        let bytes: usize = items.iter().map(Item::size_bytes).sum();
        assert!(
            items.len() <= 1 || bytes <= MESSAGE_BYTES_MAX,
            "P11: {what} of {bytes} bytes"
        );
    }
}

fn fingerprint(entry: &Entry) -> Fingerprint {
    Fingerprint {
        key: entry.key.clone(),
        mod_revision: rev(entry.revision),
        deleted: entry.deleted,
    }
}
