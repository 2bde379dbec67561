//! An operator, who moves and deletes, and what must come of it.

use std::collections::BTreeMap;

use watchmark::resume::{
    Guard, GuardReading, Input, OperationId, OperationRefusal, Record, Revision, SeekTo,
};

use crate::{
    etcd::{Entry, MEMBERS, rev},
    world::World,
};

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Operated {
    /// In the history of that number.
    To(usize, i64),
    ToSnapshot,
    Deleted,
}

/// What was asked for and is not answered.
#[derive(Default)]
pub(crate) struct Operations {
    last: u64,
    waiting: BTreeMap<u64, Operated>,
    /// What the next write must be.
    wanted: Option<Operated>,
    /// What the write under way is.
    in_flight: Option<Operated>,
    /// The checkpoint before the write that ended last.
    before: Option<i64>,
    /// What was delivered was so before the subscription was moved.
    pub(crate) sought: bool,
}

impl Operations {
    /// Where the checkpoint will be, if it is being moved.
    pub(crate) fn target(&self) -> Option<Option<i64>> {
        let target = |operated: Operated| match operated {
            Operated::To(_, at) => Some(at),
            Operated::ToSnapshot | Operated::Deleted => None,
        };
        self.wanted.or(self.in_flight).map(target)
    }

    /// Whether the record is about to be removed.
    pub(crate) fn forget(&self) -> bool {
        self.wanted.or(self.in_flight) == Some(Operated::Deleted)
    }

    /// Whether the live stream may be ended by an operator.
    pub(crate) fn are_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl World {
    pub(crate) fn operate(&mut self, operated: Operated) {
        if self.is_dying {
            return;
        }
        self.operations.last += 1;
        let id = self.operations.last;
        let operation = OperationId(id);
        let is_there = self.machine.record().is_some() || self.in_flight.is_some();
        let was_wanted = self.operations.wanted.replace(operated);
        let was_sought = self.operations.sought;
        self.operations.sought |= operated != Operated::Deleted;
        self.operations.waiting.insert(id, operated);
        self.handle(match operated {
            Operated::To(_, at) => Input::Seek {
                operation,
                to: SeekTo::Revision(rev(at)),
                header: Some(self.etcd.header(self.etcd.member(self.current_member()))),
            },
            Operated::ToSnapshot => Input::Seek {
                operation,
                to: SeekTo::Snapshot,
                header: None,
            },
            Operated::Deleted => Input::Delete { operation },
        });
        if self.is_dying {
            return;
        }
        if !self.operations.waiting.contains_key(&id) {
            // Refused: what was wanted before still is.
            self.operations.wanted = was_wanted;
            self.operations.sought = was_sought;
        } else if operated != Operated::Deleted {
            assert!(is_there, "moved, and not there");
            assert!(self.stream.is_none(), "a stream lives through a move");
            // Nothing that it was sent counts any more.
            self.ended = None;
            self.last_opened = None;
            self.accepted_own = None;
        }
    }

    /// A move to a position of the history as it is, if the registry lets it
    /// pass: it asks about the new place, and about the old one.
    pub(crate) fn seek(&mut self, back: i64) {
        let at = (self.etcd.head() - back).max(1);
        let range = self.etcd.selection.range.key().clone();
        let guards = [
            Some(Guard {
                revision: rev(at),
                key: range,
            }),
            self.durable.as_ref().and_then(Record::guard),
        ];
        let member = self.current_member();
        let [new, old] = guards.map(|guard| {
            guard.map(|guard| self.etcd.guard(member, &guard.key, guard.revision.get()))
        });
        let denied = |record: &Record| old.as_ref().is_some_and(|it| record.is_denied_by(it));
        if !matches!(new, Some(GuardReading::Present { .. })) {
            self.count("seek to what is compacted");
        } else if self.durable.as_ref().is_some_and(denied) {
            // A move that came while its first position was written may have
            // taken the record there, with what it knew of the last history.
            let is_other = self.durable_epoch != self.etcd.epoch() || self.was_unseen;
            assert!(is_other, "4.5: a false alarm for an operator");
            self.count("seek refused in a replaced history");
        } else {
            self.count("seek");
            // The old place told nothing; what it is known by may tell yet.
            self.was_unseen |= self.durable_epoch != self.etcd.epoch();
            self.operate(Operated::To(self.etcd.epoch(), at));
        }
    }

    /// One that answers linearizable reads.
    fn current_member(&self) -> usize {
        let mut members = 0..MEMBERS;
        members
            .find(|&member| self.etcd.is_current(member))
            .unwrap()
    }

    /// The next write, if it must be an operator's: says so.
    pub(crate) fn persist_operated(&mut self, record: Option<&Record>) -> bool {
        let Some(operated) = self.operations.wanted.take() else {
            return false;
        };
        self.settled_before = Some(self.settled);
        self.ok_acked = None;
        self.in_flight_epoch = self.durable_epoch;
        let checkpoint = record.and_then(|record| record.checkpoint);
        let pending = record.and_then(|record| record.pending_snapshot);
        match operated {
            Operated::To(epoch, at) => {
                let known = record.and_then(|record| record.history.fingerprint.as_ref());
                let was_there = self.durable.as_ref().map(|record| record.checkpoint);
                // It was acknowledged, and not written yet.
                let is_true = known.is_some_and(|known| {
                    let (events, last) = (self.etcd.events(epoch, 0, at), known.mod_revision.get());
                    let is_there = |it: &Entry| it.revision == last && it.key == known.key;
                    events.iter().any(is_there) && events.iter().all(|it| it.revision <= last)
                });
                let is_known = known.is_none() || was_there == Some(checkpoint) || is_true;
                assert!(is_known, "4.5: knows what was last before {at}");
                assert_eq!((checkpoint, pending), (Some(rev(at)), None), "not the move");
                self.settled = Some((epoch, at));
                self.in_flight_epoch = epoch;
            }
            Operated::ToSnapshot => {
                assert!(checkpoint.is_none() && pending.is_some(), "not the move");
                self.settled = None;
            }
            Operated::Deleted => {
                assert_eq!(record, None, "not the deletion");
                self.settled = None;
            }
        }
        self.operations.in_flight = Some(operated);
        true
    }

    /// The write under way ends; before the machine hears of it.
    pub(crate) fn operated_or_not(&mut self, ok: bool) {
        self.operations.before = self.durable_checkpoint();
        let ended = self.operations.in_flight.take();
        if !ok {
            self.operations.wanted = None;
        } else if ended == Some(Operated::Deleted) {
            self.process_session = self.stream.as_ref().map_or(0, |stream| stream.session);
            self.ended = None;
            self.last_opened = None;
            self.operations.sought = false;
        }
    }

    pub(crate) fn operation_answered(
        &mut self,
        id: OperationId,
        answer: &Result<Option<Revision>, OperationRefusal>,
    ) {
        let operated = self.operations.waiting.remove(&id.0);
        let operated = operated.expect("answered twice");
        match answer {
            Ok(before) => {
                let before = before.map(Revision::get);
                assert_eq!(before, self.operations.before, "another one was moved");
                // A later one may have taken its place in the same write.
                if self.operations.waiting.keys().all(|&other| other < id.0) {
                    let disk = self.disk.as_ref();
                    let checkpoint = disk.and_then(|record| record.checkpoint);
                    match operated {
                        Operated::To(_, at) => assert_eq!(checkpoint, Some(rev(at)), "P7"),
                        Operated::ToSnapshot => {
                            assert!(disk.is_some_and(|it| it.pending_snapshot.is_some()), "P7");
                        }
                        Operated::Deleted => assert_eq!(disk, None, "P7"),
                    }
                }
            }
            Err(OperationRefusal::NotFound) => {
                let is_deleted = self.operations.in_flight == Some(Operated::Deleted)
                    || self
                        .operations
                        .waiting
                        .values()
                        .any(|it| *it == Operated::Deleted);
                assert!(self.durable.is_none() || is_deleted, "it is there");
            }
            Err(OperationRefusal::StoreFailed(_)) => assert!(self.store_failed),
        }
    }

    pub(crate) fn unanswered_operations(&self) -> usize {
        self.operations.waiting.len()
    }
}
