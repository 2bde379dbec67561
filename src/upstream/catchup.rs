//! How many watches may read deep history at a time: each makes etcd read all
//! keys between its start and its newest revision every 100 ms, for every
//! client to feel. Owns the permits and the newest revision known; refuses to
//! guess a backlog from an old reading. Invariant: a permit is out exactly
//! while its `CatchUpPermit` is kept.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    error::Failure,
    live::{RangeId, id},
};
use crate::resume::{Header, KeyRange, Revision};

/// Behind etcd's newest revision, this is deep: five rounds of etcd's
/// catch-up, which sends 1,000 revisions every 100 ms.
const DEEP_REVISIONS: i64 = 5_000;
/// Older readings say nothing: a head that moved on hides a backlog.
const READING_AGE_MAX: Duration = Duration::from_secs(30);

/// One of the `--max-catchups`, if the backlog was deep enough to need one.
#[derive(Debug, Default)]
pub struct CatchUpPermit(Arc<Slot>);

type Slot = Mutex<Option<OwnedSemaphorePermit>>;

/// Where the permit goes when it is had.
#[derive(Debug)]
pub(super) struct PermitSlot(Weak<Slot>);

impl CatchUpPermit {
    /// The permit to come, and where to put it.
    pub(super) fn pending() -> (Self, PermitSlot) {
        let permit = Self::default();
        let slot = PermitSlot(Arc::downgrade(&permit.0));
        (permit, slot)
    }
}

/// The newest header of a linearizable answer.
#[derive(Debug, Default)]
pub(super) struct NewestHeader {
    reading: Mutex<Option<(Header, Instant)>>,
}

impl NewestHeader {
    /// `asked_at`: before the answer. An answer to an older question is ignored.
    pub(super) fn update(&self, header: Header, asked_at: Instant) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.is_none_or(|(_, at)| at <= asked_at) {
            *reading = Some((header, asked_at));
        }
    }

    /// The newest header, however old.
    pub(super) fn get(&self) -> Option<Header> {
        self.reading().map(|(header, _)| header)
    }

    /// The newest header, however old, and when it was asked for.
    pub(super) fn get_with_time(&self) -> Option<(Header, SystemTime)> {
        let (header, at) = self.reading()?;
        Some((header, SystemTime::now() - at.elapsed()))
    }

    fn recent(&self) -> Option<Header> {
        self.reading()
            .filter(|(_, at)| at.elapsed() <= READING_AGE_MAX)
            .map(|(header, _)| header)
    }

    fn reading(&self) -> Option<(Header, Instant)> {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ranges of which etcd had more to say at once than a gRPC message may hold
/// (2 GiB): asked to cut its answers, it takes long, and can. Never forgotten.
#[derive(Debug, Default)]
pub(super) struct Oversized(Mutex<BTreeSet<RangeId>>);

impl Oversized {
    pub(super) fn insert(&self, range: &KeyRange) {
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.insert(id(range));
    }

    pub(super) fn contains(&self, range: &KeyRange) -> bool {
        let ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.contains(&id(range))
    }
}

/// The permits.
#[derive(Debug)]
pub(super) struct CatchUps {
    permits: Arc<Semaphore>,
    /// For the watch that reads ahead.
    ahead: Arc<Semaphore>,
    /// For the large pages of snapshots: etcd holds each whole.
    large_pages: Arc<Semaphore>,
    /// One reading serves all who wait for it, a failed one too: when it
    /// ended, and how if it failed.
    reading: tokio::sync::Mutex<Option<(Instant, Option<Failure>)>>,
}

impl CatchUps {
    pub(super) fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(max)),
            ahead: Arc::new(Semaphore::new(1)),
            large_pages: Arc::new(Semaphore::new(max)),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Lets one watch at a time read ahead; keep it meanwhile. Whoever gets
    /// none reads on plainly, and may ask again.
    pub(super) fn run_ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.ahead).try_acquire_owned().ok()
    }

    /// Lets as many pages be large at a time as watches catch up; keep it while
    /// the page is read. Whoever gets none reads smaller ones.
    pub(super) fn large_page(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.large_pages).try_acquire_owned().ok()
    }

    /// Waits for a permit if a watch that starts after `position` has much to
    /// catch up with. `read_head` updates `newest`. Where it is refused, the
    /// backlog counts as deep. The wait ends only with a permit, or by being
    /// dropped.
    ///
    /// # Errors
    /// The failure of `read_head`, if etcd is not there.
    pub(super) async fn admit(
        &self,
        position: Revision,
        newest: &NewestHeader,
        read_head: impl Future<Output = Result<Header, Failure>>,
        slot: &PermitSlot,
    ) -> Result<(), Failure> {
        let head = match newest.recent() {
            Some(head) => Some(head),
            None => self.head(newest, read_head).await?,
        };
        let is_deep = head
            .is_none_or(|head| head.revision.get().saturating_sub(position.get()) > DEEP_REVISIONS);
        if !is_deep {
            return Ok(());
        }
        // Never closed, so this waits for a permit and nothing else.
        if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await
            && let Some(slot) = slot.0.upgrade()
        {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        }
        Ok(())
    }

    /// The newest header, read unless another did while this one waited.
    async fn head(
        &self,
        newest: &NewestHeader,
        read_head: impl Future<Output = Result<Header, Failure>>,
    ) -> Result<Option<Header>, Failure> {
        let asked_at = Instant::now();
        let mut reading = self.reading.lock().await;
        let outcome = match &*reading {
            Some((ended_at, outcome)) if *ended_at >= asked_at => outcome.clone(),
            _ => {
                let outcome = read_head.await.err();
                *reading = Some((Instant::now(), outcome.clone()));
                outcome
            }
        };
        match outcome {
            Some(failure @ Failure::Lost { .. }) => Err(failure),
            _ => Ok(newest.recent()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::resume::{Refusal, RefusalKind};

    fn header(revision: i64) -> Header {
        Header {
            cluster_id: 1,
            raft_term: 1,
            revision: Revision::new(revision).unwrap(),
        }
    }

    fn refused() -> Failure {
        Failure::Refused(Refusal {
            kind: RefusalKind::PermissionDenied,
            message: String::new(),
        })
    }

    async fn admit(ups: &CatchUps, newest: &NewestHeader, position: i64) -> CatchUpPermit {
        let (permit, slot) = CatchUpPermit::pending();
        let position = Revision::new(position).unwrap();
        let read = async { Err(refused()) };
        ups.admit(position, newest, read, &slot).await.unwrap();
        permit
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_deep_backlog_takes_a_permit_and_gives_it_back() {
        let (ups, newest) = (CatchUps::new(1), NewestHeader::default());
        newest.update(header(6_000), Instant::now());
        let _shallow = admit(&ups, &newest, 1_000).await;
        assert_eq!(ups.permits.available_permits(), 1);
        let deep = admit(&ups, &newest, 999).await;
        assert_eq!(ups.permits.available_permits(), 0);
        let second = admit(&ups, &newest, 1);
        let waits = tokio::time::timeout(Duration::from_secs(1), second).await;
        assert!(waits.is_err());
        drop(deep);
        assert_eq!(ups.permits.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_that_cannot_be_known_counts_as_deep() {
        let (ups, newest) = (CatchUps::new(1), NewestHeader::default());
        newest.update(header(10), Instant::now());
        tokio::time::advance(READING_AGE_MAX + Duration::from_secs(1)).await;
        let _permit = admit(&ups, &newest, 9).await;
        assert_eq!(ups.permits.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_permit_that_nobody_waits_for_any_more_is_given_back() {
        let (ups, newest) = (CatchUps::new(1), NewestHeader::default());
        let (permit, slot) = CatchUpPermit::pending();
        drop(permit);
        let position = Revision::new(1).unwrap();
        let read = async { Err(refused()) };
        ups.admit(position, &newest, read, &slot).await.unwrap();
        assert_eq!(ups.permits.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_reading_share_its_failure() {
        let (ups, newest) = (CatchUps::new(1), NewestHeader::default());
        let readings = AtomicU32::new(0);
        let admit = async || {
            let (_permit, slot) = CatchUpPermit::pending();
            let read = async {
                readings.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err(Failure::lost("away"))
            };
            let position = Revision::new(1).unwrap();
            ups.admit(position, &newest, read, &slot).await
        };
        let outcomes = futures_util::future::join_all((0..10).map(|_| admit())).await;
        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(readings.into_inner(), 1);
    }

    #[test]
    fn an_answer_to_an_older_question_is_ignored() {
        let newest = NewestHeader::default();
        let asked = Instant::now();
        newest.update(header(7), asked + Duration::from_secs(1));
        newest.update(header(5), asked);
        assert_eq!(newest.get(), Some(header(7)));
    }
}
