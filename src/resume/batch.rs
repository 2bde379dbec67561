//! Joins what etcd sends into units that a subscriber can acknowledge.
//!
//! etcd packs many revisions into one response and, where fragments are asked
//! for, cuts a response anywhere, inside a revision too. A revision is whole
//! only when a later one begins or its response ended. Invariant: what comes
//! out is strictly ascending and whole, except that a revision too large for
//! one message comes in parts, of which only the last can be acknowledged.

use std::{cmp::Ordering, collections::VecDeque};

use super::{Item, Revision};

/// Where a batch of several revisions ends: large enough to amortise a
/// message's cost, small enough that the first event is not kept waiting.
const BATCH_BYTES_SOFT: usize = 128 * 1024;
/// Where a batch of several revisions ends, in events.
const BATCH_EVENTS_SOFT: u64 = 1000;
/// What one message may hold: gRPC clients receive 4 MiB by default; 4 KiB
/// are left for the message's own fields.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 - 4 * 1024;

/// One message's worth of events.
#[derive(Debug, PartialEq)]
pub(super) struct Batch<E> {
    /// The last revision in `events`.
    pub(super) revision: Revision,
    /// Ascending by revision.
    pub(super) events: Vec<E>,
    /// More of `revision` follows.
    pub(super) partial: bool,
    /// How many events of the first revision came out in earlier parts.
    pub(super) sent_before: u64,
}

/// How many events the subscriber lets us send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// How many more fit.
    pub(super) free: u64,
    /// Nothing is unacknowledged: a revision larger than `free` may go alone.
    pub(super) untouched: bool,
}

impl Window {
    /// Whether a revision of so many events may be sent.
    pub(super) const fn admits(self, events: u64) -> bool {
        events <= self.free || self.untouched
    }
}

/// Joins events into batches.
#[derive(Debug)]
pub(super) struct Assembler<E> {
    pending: VecDeque<E>,
    /// Everything at or below it came out already.
    done: Option<Revision>,
    /// The newest revision that came in; at or above `done`.
    newest: Option<Revision>,
    /// Whether all of `newest` came in.
    newest_whole: bool,
    partial: Option<Partial>,
}

/// A revision of which parts came out.
#[derive(Debug, Clone, Copy)]
struct Partial {
    revision: Revision,
    /// Events that came out.
    sent: usize,
    /// Of these, how many a reopened watch has yet to repeat.
    to_skip: usize,
}

/// The first revision that waits.
struct Front {
    revision: Revision,
    events: usize,
    bytes: usize,
    whole: bool,
}

impl<E: Item> Assembler<E> {
    /// Begins right after `done`.
    pub(super) const fn new(done: Option<Revision>) -> Self {
        Self {
            pending: VecDeque::new(),
            done,
            newest: done,
            newest_whole: true,
            partial: None,
        }
    }

    /// Forgets what did not come out: the watch begins again right after
    /// what did. Parts that came out are not repeated.
    pub(super) fn restart(&mut self) {
        self.pending = VecDeque::new();
        self.newest = self.done;
        self.newest_whole = true;
        if let Some(partial) = &mut self.partial {
            partial.to_skip = partial.sent;
        }
    }

    /// Nothing came between what came out and `revision`.
    pub(super) fn advance(&mut self, revision: Revision) {
        debug_assert!(self.is_idle(), "only what came out can be advanced");
        self.done = self.done.max(Some(revision));
        self.newest = self.done;
    }

    /// Whether what a reopened watch brings belies the parts that came out: it
    /// has a revision before theirs, or goes on without repeating them.
    pub(super) fn is_belied_by(&self, events: &[E]) -> bool {
        let Some(partial) = self.partial else {
            return false;
        };
        let is_behind = self.newest < Some(partial.revision);
        let mut to_skip = partial.to_skip;
        let new = events.iter().map(Item::mod_revision);
        for revision in new.filter(|&revision| Some(revision) > self.done) {
            match revision.cmp(&partial.revision) {
                Ordering::Less if is_behind => return true,
                Ordering::Less => {}
                Ordering::Equal => to_skip = to_skip.saturating_sub(1),
                Ordering::Greater => return to_skip > 0,
            }
        }
        false
    }

    /// Takes in the events of one response, or of one fragment of it. Members
    /// repeat old events after they installed a snapshot; these are dropped.
    pub(super) fn push(&mut self, events: Vec<E>, fragment: bool) {
        for event in events {
            let revision = event.mod_revision();
            let is_newest = Some(revision) == self.newest;
            if Some(revision) < self.newest || (is_newest && self.newest_whole) {
                continue;
            }
            self.newest = Some(revision);
            self.newest_whole = false;
            match &mut self.partial {
                Some(partial) if partial.revision == revision && partial.to_skip > 0 => {
                    partial.to_skip -= 1;
                }
                _ => self.pending.push_back(event),
            }
        }
        if !fragment {
            self.newest_whole = true;
        }
    }

    /// Whether nothing waits and nothing is half sent: what came out is all
    /// that etcd has sent.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.partial.is_none() && self.newest_whole
    }

    /// How many events must be free in the window for the next batch; `None`:
    /// there is none before more comes in.
    pub(super) fn next_needs(&self) -> Option<u64> {
        self.front_if_ready().map(|front| self.needs(&front))
    }

    /// The next message's worth, if it is complete and `window` admits it.
    pub(super) fn next_batch(&mut self, window: Option<Window>) -> Option<Batch<E>> {
        let front = self.front_if_ready()?;
        let needs = self.needs(&front);
        if window.is_some_and(|window| !window.admits(needs)) {
            return None;
        }
        if self.partial.is_some() || front.bytes > MESSAGE_BYTES_MAX {
            return Some(self.take_part(&front));
        }
        let (revision, count) = self.whole_revisions(front.revision, window);
        self.done = Some(revision);
        Some(Batch {
            revision,
            events: self.pending.drain(..count).collect(),
            partial: false,
            sent_before: 0,
        })
    }

    /// How many events must be free in the window for the front revision.
    const fn needs(&self, front: &Front) -> u64 {
        if self.partial.is_some() {
            // Half sent, it can't be acknowledged: it goes on.
            0
        } else if front.whole {
            front.events as u64
        } else {
            // Nobody knows yet: it goes alone.
            u64::MAX
        }
    }

    /// Whether all of a revision came in that has begun to.
    fn is_whole(&self, revision: Revision) -> bool {
        Some(revision) < self.newest || (Some(revision) == self.newest && self.newest_whole)
    }

    fn front_if_ready(&self) -> Option<Front> {
        self.front()
            .filter(|front| front.whole || front.bytes > MESSAGE_BYTES_MAX)
    }

    fn front(&self) -> Option<Front> {
        let first = self.pending.front().map(Item::mod_revision);
        let revision = match (self.partial, first) {
            // Every event of it was sent before it was known to be whole.
            (Some(partial), first) if first != Some(partial.revision) => {
                let whole = self.is_whole(partial.revision);
                return Some(Front {
                    revision: partial.revision,
                    events: 0,
                    bytes: 0,
                    whole,
                });
            }
            (_, first) => first?,
        };
        let mut front = Front {
            revision,
            events: 0,
            bytes: 0,
            whole: self.is_whole(revision),
        };
        for event in &self.pending {
            if event.mod_revision() != revision {
                break;
            }
            front.events += 1;
            front.bytes += event.size_bytes();
            if front.bytes > MESSAGE_BYTES_MAX && !front.whole {
                break;
            }
        }
        Some(front)
    }

    /// As many events of the front revision as one message may hold.
    fn take_part(&mut self, front: &Front) -> Batch<E> {
        let mut count = 0;
        let mut bytes = 0;
        for event in self.pending.iter().take(front.events) {
            bytes += event.size_bytes();
            if count > 0 && bytes > MESSAGE_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let is_last = front.whole && count == front.events;
        let sent_before = self.partial.map_or(0, |partial| partial.sent as u64);
        if is_last {
            self.partial = None;
            self.done = Some(front.revision);
        } else {
            let partial = self.partial.get_or_insert(Partial {
                revision: front.revision,
                sent: 0,
                to_skip: 0,
            });
            partial.sent += count;
        }
        Batch {
            revision: front.revision,
            events: self.pending.drain(..count).collect(),
            partial: !is_last,
            sent_before,
        }
    }

    /// The last revision, and the number of events, of the next batch; the
    /// front revision is known to fit.
    fn whole_revisions(&self, front: Revision, window: Option<Window>) -> (Revision, usize) {
        let mut last = (front, 0);
        let (mut events, mut bytes) = (0_u64, 0_usize);
        let mut pending = self.pending.iter().peekable();
        while let Some(event) = pending.next() {
            let revision = event.mod_revision();
            events += 1;
            bytes += event.size_bytes();
            let is_first = last.1 == 0;
            let fits = bytes <= BATCH_BYTES_SOFT
                && events <= BATCH_EVENTS_SOFT
                && window.is_none_or(|window| events <= window.free);
            if !is_first && !fits {
                break;
            }
            let ends_revision = pending
                .peek()
                .map_or(self.newest_whole, |next| next.mod_revision() != revision);
            if ends_revision {
                last = (revision, usize::try_from(events).unwrap_or(usize::MAX));
            }
        }
        last
    }
}

#[cfg(test)]
mod tests;
