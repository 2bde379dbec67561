//! The ranges that are being watched. Owns their register, and the way to end
//! the watches of a range that may no longer be read; refuses to count
//! anything twice. Invariant: a range is listed while a watch of it is live.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::resume::{KeyRange, Refusal};

/// Key and range_end, as etcd orders them.
pub(super) type RangeId = (Bytes, Bytes);

/// Every range with a live watch.
#[derive(Debug, Default)]
pub(super) struct LiveRanges {
    by_id: Mutex<BTreeMap<RangeId, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    range: KeyRange,
    refusal: OnceLock<Refusal>,
    is_refused: Notify,
}

/// One live watch; drop it with the watch.
#[derive(Debug)]
pub(super) struct LiveWatch {
    ranges: Arc<LiveRanges>,
    entry: Arc<Entry>,
}

impl LiveRanges {
    pub(super) fn register(self: &Arc<Self>, range: &KeyRange) -> LiveWatch {
        let entry = Arc::clone(self.entries().entry(id(range)).or_insert_with(|| {
            Arc::new(Entry {
                range: range.clone(),
                refusal: OnceLock::new(),
                is_refused: Notify::new(),
            })
        }));
        LiveWatch {
            ranges: Arc::clone(self),
            entry,
        }
    }

    /// The range after `last`, going round.
    pub(super) fn next_after(&self, last: Option<&RangeId>) -> Option<KeyRange> {
        let entries = self.entries();
        let after = last.and_then(|last| {
            entries
                .range::<RangeId, _>((Bound::Excluded(last), Bound::Unbounded))
                .next()
        });
        after
            .or_else(|| entries.iter().next())
            .map(|(_, entry)| entry.range.clone())
    }

    /// Ends every watch of `range` that is live now.
    pub(super) fn refuse(&self, range: &KeyRange, refusal: Refusal) {
        // A watch that is opened later, when permission is back, gets a new entry.
        if let Some(entry) = self.entries().remove(&id(range)) {
            // Its first: it is out of the register now.
            let _ = entry.refusal.set(refusal);
            entry.is_refused.notify_waiters();
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<RangeId, Arc<Entry>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveWatch {
    /// Why the range may no longer be read, if so.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.entry.refusal.get()
    }

    /// Resolves once the range may no longer be read. Cancel-safe.
    pub(super) async fn refused(&self) -> Refusal {
        loop {
            // Before the look: it hears of what comes after it.
            let is_refused = self.entry.is_refused.notified();
            if let Some(refusal) = self.refusal() {
                return refusal.clone();
            }
            is_refused.await;
        }
    }
}

impl Drop for LiveWatch {
    fn drop(&mut self) {
        let mut entries = self.ranges.entries();
        let id = id(&self.entry.range);
        // The register's and this one: no other watch has it.
        let is_last = entries
            .get(&id)
            .is_some_and(|entry| Arc::ptr_eq(entry, &self.entry) && Arc::strong_count(entry) == 2);
        if is_last {
            entries.remove(&id);
        }
    }
}

pub(super) fn id(range: &KeyRange) -> RangeId {
    (range.key().clone(), range.range_end().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::RefusalKind;

    fn prefix(prefix: &'static str) -> KeyRange {
        KeyRange::prefix(prefix.into())
    }

    fn refusal() -> Refusal {
        Refusal {
            kind: RefusalKind::PermissionDenied,
            message: String::new(),
        }
    }

    #[test]
    fn goes_round_the_distinct_ranges() {
        let ranges = Arc::new(LiveRanges::default());
        let _watches = ["b", "a", "b"].map(|p| ranges.register(&prefix(p)));
        let first = ranges.next_after(None).unwrap();
        let second = ranges.next_after(Some(&id(&first))).unwrap();
        let third = ranges.next_after(Some(&id(&second))).unwrap();
        assert_eq!(
            [first, second, third],
            [prefix("a"), prefix("b"), prefix("a")]
        );
    }

    #[test]
    fn a_range_is_listed_until_its_last_watch_is_gone() {
        let ranges = Arc::new(LiveRanges::default());
        let [one, two] = ["a", "a"].map(|p| ranges.register(&prefix(p)));
        drop(one);
        assert_eq!(ranges.next_after(None), Some(prefix("a")));
        drop(two);
        assert_eq!(ranges.next_after(None), None);
    }

    #[tokio::test]
    async fn a_refusal_ends_the_watches_that_are_live_and_no_later_one() {
        let ranges = Arc::new(LiveRanges::default());
        let live = ranges.register(&prefix("a"));
        ranges.refuse(&prefix("a"), refusal());
        let later = ranges.register(&prefix("a"));
        assert_eq!(live.refused().await, refusal());
        drop(live);
        assert_eq!(ranges.next_after(None), Some(prefix("a")));
        assert!(later.entry.refusal.get().is_none());
    }
}
