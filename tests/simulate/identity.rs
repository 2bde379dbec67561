//! Which history is it? What the subscription can know of the one that its
//! position belongs to, and whether an answer of etcd's must make it doubt.

use std::time::Duration;

use watchmark::resume::{
    Fingerprint, Guard, GuardReading, Header, Record, Selection, SnapshotReason,
};

use crate::{
    etcd::{Position, range},
    upstream::Attempting,
    world::World,
};

/// Of the cluster that a session's position belongs to, as far as answers and
/// the store have told. 0: nothing yet.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Known {
    cluster_id: u64,
    raft_term: u64,
}

impl Known {
    pub(crate) fn stored(record: Option<&Record>) -> Self {
        record.map_or(Self::default(), |record| Self {
            cluster_id: record.history.cluster_id,
            raft_term: record.history.raft_term,
        })
    }

    fn see(&mut self, header: Header) {
        if header.cluster_id != 0 {
            self.cluster_id = header.cluster_id;
        }
        self.raft_term = self.raft_term.max(header.raft_term);
    }
}

impl World {
    /// The last event before the position that an attempt resumes from.
    fn fingerprint_of(&self, revision: i64) -> Option<Fingerprint> {
        let stream = self.stream.as_ref()?;
        if stream.opened {
            return stream.fingerprint_at(revision);
        }
        let stored = self.durable.as_ref()?;
        let checkpoint = stored.checkpoint.map(|at| at.get());
        let own = self.own_position().map(|(_, at)| at);
        let is_known = own.is_none() || checkpoint == Some(revision);
        stored.history.fingerprint.clone().filter(|_| is_known)
    }

    /// As `fingerprint_of`, for a stream that opens at `checkpoint`.
    pub(crate) fn fingerprint_before(&self, checkpoint: i64) -> Option<Fingerprint> {
        let stored = self.durable.as_ref()?;
        let is_there = stored.checkpoint.map(|at| at.get()) == Some(checkpoint);
        stored.history.fingerprint.clone().filter(|_| is_there)
    }

    /// The position that the subscriber brought, until its stream is opened.
    pub(crate) fn own_position(&self) -> Option<Position> {
        let stream = self.stream.as_ref().filter(|stream| !stream.opened)?;
        let brought = self.subscriber.as_ref()?.request.resume_after?.get();
        let epoch = self.own.map_or(self.etcd.epoch(), |(epoch, _)| epoch);
        (stream.session == self.last_session).then_some((epoch, brought))
    }

    pub(crate) fn check_guard(&self, guard: &Guard) {
        let known = self.fingerprint_of(guard.revision.get());
        let expected = known.map_or_else(|| range().key().clone(), |known| known.key);
        assert_eq!(guard.key, expected, "4.5: the guard reads the last event");
    }

    /// What is written of the history must be what is known of it.
    pub(crate) fn check_history(&mut self, record: &Record) {
        let known_before = self.known_before.take();
        let Some(checkpoint) = record.checkpoint else {
            return assert_eq!(record.history.fingerprint, None);
        };
        let before = self.durable.as_ref();
        if before.is_some_and(|before| before.checkpoint == record.checkpoint) {
            return;
        }
        let stored = Known::stored(Some(record));
        if known_before != Some(stored) {
            assert_eq!(stored, self.known, "4.5: which cluster");
        }
        let last = self.stream.as_ref().or(self.ended.as_ref());
        let speaker = match last {
            Some(stream) if stream.opened => last,
            // It writes what only it knows.
            Some(stream) if stream.has_attempted => None,
            // It waits, or waited, for the writes of the one before it.
            _ => self.last_opened.as_ref(),
        };
        if let Some(stream) = speaker {
            let expected = stream.fingerprint_at(checkpoint.get());
            assert_eq!(record.history.fingerprint, expected, "4.5: the last event");
        }
    }

    /// Before the machine hears of it: `true` if it must go on with what the
    /// guard read, `false` if it must not.
    pub(crate) fn must_resume(&mut self, guard: &Guard, read: &GuardReading, epoch: usize) -> bool {
        let known = self.known;
        self.is_behind = *read == GuardReading::Future;
        let GuardReading::Present {
            header,
            mod_revision,
        } = read
        else {
            return false;
        };
        let is_other_cluster = known.cluster_id != 0
            && header.cluster_id != 0
            && known.cluster_id != header.cluster_id;
        let fingerprint = self.fingerprint_of(guard.revision.get());
        let is_other_event = fingerprint.is_some_and(|last| {
            let found = mod_revision.filter(|_| last.key == guard.key);
            let is_same = found == Some(last.mod_revision).filter(|_| !last.deleted);
            let Selection {
                no_put, no_delete, ..
            } = self.etcd.selection;
            let is_hidden = match found {
                Some(found) => no_put && found > last.mod_revision,
                None => no_delete,
            };
            !is_same && !is_hidden
        });
        if is_other_cluster || is_other_event {
            return false;
        }
        if header.raft_term < known.raft_term {
            self.is_behind = true;
            return false;
        }
        self.known.see(*header);
        self.accepted_own = self.own_position().map(|(_, at)| at);
        self.adopt(guard, epoch);
        true
    }

    /// The guard held. Nobody can tell a history that has the same ids, term
    /// and last event: from here on the position belongs to it.
    fn adopt(&mut self, guard: &Guard, epoch: usize) {
        let checkpoint = self.durable_checkpoint();
        if let Some((of, at)) = self.own_position() {
            if of != epoch {
                let pending = self.durable.as_ref().and_then(|it| it.pending_snapshot);
                assert_ne!(
                    pending,
                    Some(SnapshotReason::HistoryReplaced),
                    "4.5: a position from before what nobody was told of"
                );
                self.own = self.own.map(|(_, at)| (epoch, at));
                self.was_unseen = true;
            }
            if checkpoint != Some(at) {
                return;
            }
        }
        let opened = self.stream.as_ref().filter(|stream| stream.opened);
        let of = match opened.and_then(|stream| stream.position) {
            Some((of, _)) => of,
            None if self.in_flight.is_some() => self.in_flight_epoch,
            None => self.durable_epoch,
        };
        if of == epoch {
            return;
        }
        // What was nothing in the old history is settled in the new one.
        let at = guard.revision.get();
        if let Some((_, settled)) = self.settled
            && self.etcd.events(of, settled, at).is_empty()
        {
            self.settled = Some((of, settled.max(at)));
        }
        self.log
            .push(format!("unseen: {guard:?} holds in history {epoch}"));
        self.count("replaced history that nobody can tell");
        self.was_unseen = true;
        if let Some(stream) = &mut self.stream {
            self.is_over |= !stream.adopt(epoch);
        }
        for position in [
            &mut self.settled,
            &mut self.ok_acked,
            &mut self.own,
            &mut self.head_read,
        ] {
            *position = position.map(|(_, at)| (epoch, at));
        }
        if let Some(before) = &mut self.settled_before {
            *before = before.map(|(_, at)| (epoch, at));
        }
        self.durable_epoch = epoch;
        self.in_flight_epoch = epoch;
        self.disk_epoch = epoch;
    }

    /// etcd was found behind the position: one reading may be a stale one.
    pub(crate) fn doubts(&mut self) {
        let now = self.now;
        let (times, since) = self.doubts.get_or_insert((0, now));
        *times += 1;
        let (times, lasted) = (*times, now.saturating_sub(*since));
        let reads_snapshot = matches!(self.upstream.attempting, Some(Attempting::Snapshot(_)));
        if reads_snapshot || self.stream.is_none() {
            let is_confirmed = times >= 3 && lasted >= Duration::from_secs(3);
            assert!(is_confirmed, "4.5: believed after {times} in {lasted:?}");
        }
    }

    pub(crate) fn head_was_read(&mut self, header: Header, epoch: usize) {
        self.known.see(header);
        self.head_read = Some((epoch, header.revision.get()));
    }

    /// Before the snapshot is used.
    pub(crate) fn snapshot_begins(&mut self, header: Header) {
        let is_other = ![0, header.cluster_id].contains(&self.known.cluster_id);
        self.is_snapshot_of_another = is_other || header.raft_term < self.known.raft_term;
    }

    /// The snapshot is used: its cluster is the one from here on.
    pub(crate) fn snapshot_was_begun(&mut self, header: Header) {
        // What waits behind a write speaks of what was delivered before.
        if self.in_flight.is_some() {
            self.known_before.get_or_insert(self.known);
        }
        self.known = Known {
            cluster_id: header.cluster_id,
            raft_term: header.raft_term,
        };
    }
}
