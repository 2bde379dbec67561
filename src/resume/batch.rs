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
    /// Everything at or below it came out already.
    done: Option<Revision>,
    /// What waits, ascending.
    events: VecDeque<E>,
    /// The revisions of `events`; parts of the first one may have come out.
    waiting: VecDeque<Waiting>,
    /// Whether all of the last revision came in.
    last_is_whole: bool,
}

/// A revision that did not come out, or not whole.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    revision: Revision,
    /// How many events of it wait.
    events: usize,
    /// Their size.
    bytes: usize,
    /// Events that came out.
    sent: usize,
    /// Of these, how many a reopened watch has yet to repeat.
    to_skip: usize,
}

impl Waiting {
    /// Whether a reopened watch has brought nothing of it yet.
    const fn is_awaited(&self) -> bool {
        self.sent > 0 && self.to_skip == self.sent
    }
}

impl<E: Item> Assembler<E> {
    /// Begins right after `done`.
    pub(super) const fn new(done: Option<Revision>) -> Self {
        Self {
            done,
            events: VecDeque::new(),
            waiting: VecDeque::new(),
            last_is_whole: true,
        }
    }

    /// Forgets what did not come out: the watch begins again right after
    /// what did. Parts that came out are not repeated.
    pub(super) fn restart(&mut self) {
        let partial = self.waiting.front().filter(|front| front.sent > 0).copied();
        *self = Self::new(self.done);
        if let Some(partial) = partial {
            self.waiting.push_back(Waiting {
                events: 0,
                bytes: 0,
                to_skip: partial.sent,
                ..partial
            });
            self.last_is_whole = false;
        }
    }

    /// Nothing came between what came out and `revision`.
    pub(super) fn advance(&mut self, revision: Revision) {
        debug_assert!(self.is_idle(), "only what came out can be advanced");
        self.done = self.done.max(Some(revision));
    }

    /// Whether what a reopened watch brings belies the parts that came out: it
    /// has a revision before theirs, or goes on without repeating them.
    pub(super) fn is_belied_by(&self, events: &[E]) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        let mut to_skip = front.to_skip;
        let new = events.iter().map(Item::mod_revision);
        for revision in new.filter(|&revision| Some(revision) > self.done) {
            match revision.cmp(&front.revision) {
                Ordering::Less if front.is_awaited() => return true,
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
            let newest = self.waiting.back().map(|last| last.revision).or(self.done);
            let is_newest = Some(revision) == newest;
            if Some(revision) < newest || (is_newest && self.last_is_whole) {
                continue;
            }
            if !is_newest {
                self.waiting.push_back(Waiting {
                    revision,
                    events: 0,
                    bytes: 0,
                    sent: 0,
                    to_skip: 0,
                });
            }
            self.last_is_whole = false;
            match self.waiting.back_mut() {
                Some(last) if last.to_skip > 0 => last.to_skip -= 1,
                Some(last) => {
                    last.events += 1;
                    last.bytes += event.size_bytes();
                    self.events.push_back(event);
                }
                None => {}
            }
        }
        if !fragment {
            self.last_is_whole = !self.waiting.back().is_some_and(Waiting::is_awaited);
        }
    }

    /// Whether nothing waits and nothing is half sent: what came out is all
    /// that etcd has sent.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many events must be free in the window for the next batch; `None`:
    /// there is none before more comes in.
    pub(super) fn next_needs(&self) -> Option<u64> {
        let front = self.waiting.front()?;
        if !self.is_whole(0) && front.bytes <= MESSAGE_BYTES_MAX {
            None
        } else if front.sent > 0 {
            // Half sent, it can't be acknowledged: it goes on.
            Some(0)
        } else if self.is_whole(0) {
            Some(front.events as u64)
        } else {
            // Nobody knows yet: it goes alone.
            Some(u64::MAX)
        }
    }

    /// The next message's worth, if it is complete and `window` admits it.
    pub(super) fn next_batch(&mut self, window: Option<Window>) -> Option<Batch<E>> {
        let needs = self.next_needs()?;
        if window.is_some_and(|window| !window.admits(needs)) {
            return None;
        }
        let front = *self.waiting.front()?;
        if front.sent > 0 || front.bytes > MESSAGE_BYTES_MAX {
            return Some(self.take_part(front));
        }
        let (mut revision, mut count, mut whole) = (front.revision, 0, 0);
        let (mut events, mut bytes) = (0, 0);
        for next in &self.waiting {
            events += next.events;
            bytes += next.bytes;
            let fits = bytes <= BATCH_BYTES_SOFT
                && events as u64 <= BATCH_EVENTS_SOFT
                && window.is_none_or(|window| events as u64 <= window.free);
            if !self.is_whole(whole) || (whole > 0 && !fits) {
                break;
            }
            (revision, count) = (next.revision, events);
            whole += 1;
        }
        self.waiting.drain(..whole);
        self.done = Some(revision);
        Some(Batch {
            revision,
            events: self.events.drain(..count).collect(),
            partial: false,
            sent_before: 0,
        })
    }

    /// Whether all of that one of the waiting revisions came in.
    fn is_whole(&self, index: usize) -> bool {
        index + 1 < self.waiting.len() || self.last_is_whole
    }

    /// As many events of the front revision as one message may hold.
    fn take_part(&mut self, mut front: Waiting) -> Batch<E> {
        let sent_before = front.sent as u64;
        let mut bytes = 0;
        let fitting = self.events.iter().take(front.events).take_while(|event| {
            bytes += event.size_bytes();
            bytes <= MESSAGE_BYTES_MAX
        });
        let count = fitting.count().max(1).min(front.events);
        let events: Vec<E> = self.events.drain(..count).collect();
        front.sent += count;
        front.events -= count;
        front.bytes -= events.iter().map(Item::size_bytes).sum::<usize>();
        let is_last = self.is_whole(0) && front.events == 0;
        self.waiting.pop_front();
        if is_last {
            self.done = Some(front.revision);
        } else {
            self.waiting.push_front(front);
        }
        Batch {
            revision: front.revision,
            events,
            partial: !is_last,
            sent_before,
        }
    }
}

#[cfg(test)]
mod tests;
