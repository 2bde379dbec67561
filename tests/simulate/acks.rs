//! Acknowledgements, and what each must be answered.

use watchmark::resume::{AckId, AckRefusal, Input, Record, Revision, SessionId};

use crate::{
    etcd::{Position, rev},
    world::World,
};

/// What an `Ack` must be answered.
pub(crate) struct Asked {
    pub(crate) revision: i64,
    /// Refused or answered at once with this; `None`: when it is durable.
    pub(crate) at_once: Option<Expect>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Expect {
    Ok,
    Superseded,
    NoSession,
    Beyond,
}

fn checkpoint(record: Option<&Record>) -> Option<i64> {
    record?.checkpoint.map(|at| at.get())
}

impl World {
    pub(crate) fn settle(&mut self, at: Position) {
        self.settled = match self.settled {
            Some((epoch, settled)) if epoch == at.0 => Some((epoch, settled.max(at.1))),
            _ => Some(at),
        };
    }

    /// An `Ack` call; what it must be answered is known beforehand.
    pub(crate) fn ack(&mut self, session: Option<u64>, revision: i64) {
        if self.is_dying {
            return;
        }
        let durable = self.durable_checkpoint();
        let last = self.stream.as_ref().or(self.ended.as_ref());
        let delivered = last.and_then(|stream| stream.position);
        let is_opened = last.is_some_and(|stream| stream.opened);
        let current = self.machine.record().and_then(|record| record.checkpoint);
        assert_eq!(current.map(|at| at.get()), durable, "not what is on disk");
        let falls_to = self.in_flight.as_ref().map(|it| checkpoint(it.as_ref()));
        // On disk, and not about to fall.
        let to_come = [falls_to, self.operations.target()].into_iter().flatten();
        let settled = to_come.fold(durable, Ord::min);
        let is_going = self.operations.forget() && self.stream.is_none();
        let at_once = if self.process_session != 0
            && session.is_some_and(|session| session != self.process_session)
        {
            self.count("late ack of a superseded session");
            Some(Expect::Superseded)
        } else if is_going {
            None
        } else if settled >= Some(revision) {
            // After a failed write it may have to be written again first.
            (!self.store_failed).then_some(Expect::Ok)
        } else if self.process_session == 0 {
            Some(Expect::NoSession)
        } else if is_opened && delivered.is_none_or(|(_, at)| at < revision) {
            Some(Expect::Beyond)
        } else {
            None
        };
        if at_once.is_none()
            && is_opened
            && !is_going
            && let Some((epoch, _)) = delivered
        {
            self.settle((epoch, revision));
        }
        self.last_ack += 1;
        let ack = self.last_ack;
        self.asked.insert(ack, Asked { revision, at_once });
        self.handle(Input::Ack {
            ack: AckId(ack),
            session: session.map(SessionId),
            revision: rev(revision),
        });
        let is_answered = self.is_dying || !self.asked.contains_key(&ack);
        assert!(is_answered || at_once.is_none(), "{at_once:?} is overdue");
    }

    pub(crate) fn answered(&mut self, ack: AckId, answer: Result<Revision, AckRefusal>) {
        let asked = self.asked.remove(&ack.0).expect("answered twice");
        if answer.is_err() {
            self.count("ack refused");
        }
        match (&answer, asked.at_once) {
            (Ok(checkpoint), None | Some(Expect::Ok)) => {
                let disk = self.disk.as_ref().and_then(|record| record.checkpoint);
                let disk = disk.map(|at| at.get());
                assert!(disk >= Some(asked.revision), "P7: before it is on disk");
                assert!(disk >= Some(checkpoint.get()), "P7: {checkpoint}");
                let at = (self.durable_epoch, asked.revision);
                self.ok_acked = self.ok_acked.filter(|ok| ok.0 == at.0).max(Some(at));
            }
            (Err(AckRefusal::Superseded), Some(Expect::Superseded))
            | (Err(AckRefusal::NoSession), Some(Expect::NoSession))
            | (Err(AckRefusal::BeyondDelivered { .. }), Some(Expect::Beyond) | None)
            | (Err(AckRefusal::StoreFailed(_)), None)
            | (Err(AckRefusal::HistoryReplaced), _) => {
                if asked.at_once.is_none()
                    && let Err(AckRefusal::BeyondDelivered { .. }) = answer
                {
                    let opened = self.stream.as_ref().is_some_and(|stream| stream.opened);
                    assert!(!opened, "delivered, and refused");
                }
            }
            (Err(AckRefusal::Sought), at_once) => {
                let of_old = !matches!(at_once, Some(Expect::Ok | Expect::Superseded));
                assert!(
                    self.operations.sought && of_old,
                    "sought instead of {at_once:?}"
                );
            }
            // It was removed while the ack waited.
            (Err(AckRefusal::NotFound), None) => assert_eq!(self.disk, None, "it is known"),
            // Nothing is stored either: it is not known at all.
            (Err(AckRefusal::NotFound), Some(Expect::NoSession)) => {
                assert_eq!(self.durable, None, "it is known");
            }
            (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
        }
    }
}
