//! Whether positions are still in etcd's history: for operators. A stream asks
//! for itself, by its guard, at the moment that counts.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Overview, Registry};
use crate::{
    resume::{Guard, GuardReading, Header, KeyRange, Record, Revision},
    upstream::{Unanswered, UpstreamItem},
};

/// For all positions of a list. Nobody wants to wait for etcd to see what does
/// not depend on it.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// For what only makes an answer nicer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a stream that begins right after a position misses nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is in etcd's history, and nothing after it is compacted.
    Resumable,
    /// Something after it is compacted.
    Compacted {
        /// etcd's compact_revision, if known.
        compact_revision: Option<Revision>,
    },
    /// etcd has not reached it.
    Future {
        /// etcd's newest revision, if known.
        head: Option<Revision>,
    },
    /// It is in etcd's history, but the checkpoint is from another one.
    Replaced,
}

/// The standing of many positions.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Standings {
    resumable_by_position: BTreeMap<Revision, bool>,
    /// etcd's newest known revision.
    pub head: Option<Revision>,
}

impl Standings {
    /// Whether what comes after `position` is in etcd's history; `None`: etcd
    /// could not be asked.
    pub fn is_resumable(&self, position: Revision) -> Option<bool> {
        self.resumable_by_position.get(&position).copied()
    }
}

impl Registry {
    /// Asks etcd about one position of a range; with who answered, where it is
    /// resumable.
    pub(super) async fn standing(
        &self,
        range: &KeyRange,
        position: Revision,
    ) -> Result<(Standing, Option<Header>), Unanswered> {
        let standing = match self.read_guard(range, position).await? {
            GuardReading::Present { header, .. } => {
                return Ok((Standing::Resumable, Some(header)));
            }
            GuardReading::Compacted { compact_revision } => {
                Standing::Compacted { compact_revision }
            }
            GuardReading::Future => Standing::Future {
                head: self.read_head(range).await.or_else(|| self.newest_known()),
            },
        };
        Ok((standing, None))
    }

    /// As `standing`, for who has a record, from which it may be moved there:
    /// only within one history, or nobody would ever hear of the other one.
    pub(super) async fn standing_from(
        &self,
        record: Option<&Record>,
        range: &KeyRange,
        position: Revision,
    ) -> Result<(Standing, Option<Header>), Unanswered> {
        let answer = self.standing(range, position).await?;
        if answer.0 == Standing::Resumable
            && let Some(record) = record
            && let Some(guard) = record.guard()
        {
            let reading = self.surroundings.upstream.read_guard(guard).await?;
            if record.is_denied_by(&reading) {
                return Ok((Standing::Replaced, None));
            }
        }
        Ok(answer)
    }

    /// Asks etcd about the checkpoints of all these subscriptions. What it does
    /// not answer within two seconds stays unknown.
    pub async fn standings(&self, overviews: &[Overview]) -> Standings {
        let ranges_by_position: BTreeMap<Revision, &KeyRange> = overviews
            .iter()
            .filter_map(|overview| {
                let checkpoint = overview.record.as_ref()?.checkpoint?;
                Some((checkpoint, &overview.selection.range))
            })
            .collect();
        let positions: Vec<Revision> = ranges_by_position.keys().copied().collect();
        let mut search = Search::new(&positions);
        let asking = async {
            while let Some(position) = search.next() {
                match self
                    .read_guard(ranges_by_position[&position], position)
                    .await
                {
                    Ok(reading) => search.read(position, &reading),
                    Err(_) => return,
                }
            }
            // Only an answer about what is there says how far etcd is.
            if search.head.is_none()
                && let Some(range) = ranges_by_position.values().next()
            {
                search.head = self.read_head(range).await;
            }
        };
        // However it ended, what was found out counts.
        let _ = timeout(LIST_TIMEOUT, asking).await;
        let head = search.head.or_else(|| self.newest_known());
        Standings {
            resumable_by_position: search.found(),
            head,
        }
    }

    /// etcd's newest revision as last heard of, without asking it.
    fn newest_known(&self) -> Option<Revision> {
        let upstream = &self.surroundings.upstream;
        let sampled = upstream.probe().borrow().iter().map(|it| it.revision).max();
        sampled.max(upstream.status().revision.map(|(revision, _)| revision))
    }

    /// etcd does not tell its newest revision when it refuses another.
    async fn read_head(&self, range: &KeyRange) -> Option<Revision> {
        let mut answer = self.surroundings.upstream.head(range.clone());
        match timeout(HEAD_TIMEOUT, answer.next()).await {
            Ok(Some(UpstreamItem::Head(header))) => Some(header.revision),
            _ => None,
        }
    }

    async fn read_guard(
        &self,
        range: &KeyRange,
        revision: Revision,
    ) -> Result<GuardReading, Unanswered> {
        let guard = Guard {
            revision,
            key: range.key().clone(),
        };
        self.surroundings.upstream.read_guard(guard).await
    }
}

/// Finds out the standing of ascending positions with few questions: below the
/// lowest that is in etcd's history all are compacted, above it none is.
struct Search<'a> {
    positions: &'a [Revision],
    /// Whose standing is open, by index. Below: compacted. Above: not.
    open: Range<usize>,
    /// The first to ask about of those.
    next: usize,
    /// From this index on, positions are above etcd's newest revision.
    future: usize,
    head: Option<Revision>,
}

impl<'a> Search<'a> {
    fn new(positions: &'a [Revision]) -> Self {
        Self {
            positions,
            open: 0..positions.len(),
            // Usually it is there, and then all are.
            next: 0,
            future: positions.len(),
            head: None,
        }
    }

    /// Which position to ask about; `None`: every standing is known.
    fn next(&self) -> Option<Revision> {
        (!self.open.is_empty()).then(|| self.positions[self.next])
    }

    fn read(&mut self, position: Revision, reading: &GuardReading) {
        let index = self.positions.partition_point(|&it| it < position);
        let mut next = None;
        match *reading {
            GuardReading::Present { header, .. } => {
                self.open.end = index;
                self.head = self.head.max(Some(header.revision));
                let reached = self.positions.partition_point(|&it| it <= header.revision);
                self.future = self.future.min(reached);
            }
            GuardReading::Future => {
                self.open.end = index;
                self.future = self.future.min(index);
            }
            GuardReading::Compacted { compact_revision } => {
                self.open.start = index + 1;
                // Everything below it is compacted, itself is not: to be asked.
                next = compact_revision
                    .map(|compacted| self.positions.partition_point(|&it| it < compacted));
                if let Some(lowest) = next {
                    self.open.start = self.open.start.max(lowest.min(self.open.end));
                    next = Some(self.open.start);
                }
            }
        }
        self.next = next.unwrap_or_else(|| self.open.start + self.open.len() / 2);
    }

    fn found(self) -> BTreeMap<Revision, bool> {
        let is_present = |index: usize| index >= self.open.end && index < self.future;
        self.positions
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.open.contains(index))
            .map(|(index, &position)| (position, is_present(index)))
            .collect()
    }
}
