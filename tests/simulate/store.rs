//! The store, and what may be written into it.

use watchmark::resume::{Input, Record, StoreFailed};

use crate::world::World;

impl World {
    pub(crate) fn persist(&mut self, record: Record) {
        assert!(self.in_flight.is_none(), "one write at a time");
        if self.persist_operated(Some(&record)) {
            self.in_flight = Some(Some(record));
            return;
        }
        self.in_flight_epoch = self.durable_epoch;
        self.check_history(&record);
        let accepted_own = self.accepted_own.take();
        let stored = self.durable_checkpoint();
        match record.checkpoint.map(|at| at.get()) {
            None if record.pending_snapshot.is_some() => {
                self.settled_before = Some(self.settled);
                self.settled = None;
                self.ok_acked = None;
            }
            None => assert_eq!(stored, None, "P8: forgets"),
            Some(at) => {
                let resumes_own = accepted_own == Some(at);
                let from_head = self
                    .head_read
                    .filter(|&(_, head)| head == at && stored.is_none());
                if resumes_own {
                    let epoch = self.own.map_or(self.etcd.epoch(), |(epoch, _)| epoch);
                    self.settled_before = Some(self.settled);
                    self.settled = Some((epoch, at));
                    self.ok_acked = None;
                } else if from_head.is_some() {
                    self.settled = from_head;
                    self.head_read = None;
                } else {
                    assert!(stored <= Some(at), "P8: {stored:?} falls to {at}");
                }
                let (epoch, settled) = self.settled.expect("P8: nothing was acknowledged");
                let skipped = self.etcd.events(epoch, settled, at);
                assert!(skipped.is_empty(), "P8: {at} passes {skipped:?}");
                self.in_flight_epoch = epoch;
            }
        }
        self.check_assumed(&record);
        self.in_flight = Some(Some(record));
    }

    pub(crate) fn forget(&mut self) {
        assert!(self.in_flight.is_none(), "one write at a time");
        assert!(self.persist_operated(None), "nobody asked for it");
        self.in_flight = Some(None);
    }

    /// Only what is true may be assumed: nothing in range lies between the
    /// checkpoint and there.
    fn check_assumed(&mut self, record: &Record) {
        let known = self.durable.as_ref().and_then(|record| record.assumed);
        if let (Some(assumed), Some(checkpoint)) = (record.assumed, record.checkpoint)
            && Some(assumed) != known
        {
            self.count("a position is assumed");
            let epoch = self.in_flight_epoch;
            // What an unseen history has below where the last one was is lost.
            let settled = self.settled.filter(|&(of, _)| of == epoch);
            let from = settled.map_or(0, |(_, at)| at).max(checkpoint.get());
            let at = assumed.revision.get();
            let skipped = self.etcd.events(epoch, from, at);
            assert!(skipped.is_empty(), "4.4: {at} skips {skipped:?}");
            let is_of_another = epoch == self.etcd.epoch() && at > self.etcd.head();
            assert!(!is_of_another, "4.4: {at} is of another history");
        }
    }

    /// The write under way ends.
    pub(crate) fn store_answers(&mut self, ok: bool, is_durable: bool) {
        if self.is_dying {
            return;
        }
        let Some(record) = self.in_flight.take() else {
            return;
        };
        self.store_failed = !ok;
        self.operated_or_not(ok);
        match (ok, is_durable) {
            (true, _) => {}
            (false, true) => self.count("write reported as failed that reached the disk"),
            (false, false) => self.count("write failed"),
        }
        let before = self.settled_before.take();
        if is_durable {
            self.disk = record;
            self.disk_epoch = self.in_flight_epoch;
        }
        let answer = if ok {
            self.durable.clone_from(&self.disk);
            self.durable_epoch = self.disk_epoch;
            Ok(())
        } else {
            self.settled = before.unwrap_or(self.settled);
            self.head_read = None;
            self.accepted_own = None;
            Err(StoreFailed("full".into()))
        };
        self.handle(Input::Persisted(answer));
    }
}
