//! Deep history through several watches at once.
//!
//! etcd sends a watch that starts in the past 1,000 revisions every 100 ms,
//! and reads everything from there to its newest revision each time. Watches
//! that start at spaced revisions are served by one such pass together. Here
//! is how their events become those of one watch.
//!
//! The history after a position is cut into segments, `(after, until]`, one
//! watch each. The **front** is the oldest. What is handed out is the front's,
//! until the front itself, or any other watch, shows that the front has said
//! all: by an event after `until`, as a watch is ordered and leaves nothing
//! out, or by etcd's word for a revision at or after it. Then the next segment
//! is the front, and begins right there.
//!
//! Why nothing is lost, repeated or out of order: a segment's watch alone,
//! left open-ended, says everything after its `after`; so what was handed out
//! at any moment is what one plain watch from the first `after` would have
//! said up to then. Whatever is doubtful is given up without harm: the segments
//! ahead are dropped, and the history goes on at the end of what is left. An
//! event where another watch has shown that there is none is a [`Contradiction`].
//!
//! Invariant: segments are in order without a gap, and only the last may be
//! open-ended.

use std::collections::VecDeque;

use super::{Item, Revision};

/// How much may wait in segments that are not the front.
const AHEAD_BYTES_MAX: usize = 20 << 20;
/// How many segments there may be.
const SEGMENTS_MAX: usize = 64;
/// What an event takes in memory besides its bytes on the wire.
const EVENT_BYTES: usize = 256;
/// A response of fewer revisions was not cut short by etcd.
const FULL_RESPONSE: u64 = 1000;
/// A backlog of fewer responses is not worth it.
const RESPONSES_MIN: i64 = 5;

/// What the watches say, in the order of one.
#[derive(Debug)]
pub struct Segments<E> {
    queue: VecDeque<Segment<E>>,
    density: Option<Density>,
}

/// What is to be handed on.
#[derive(Debug, PartialEq)]
pub enum Piece<E> {
    /// As of a response, or a fragment of one.
    Events {
        /// Ascending by revision.
        events: Vec<E>,
        /// More of the last revision may follow.
        fragment: bool,
    },
    /// Everything up to here was said.
    Bookmark(Revision),
}

/// Watches of one history and one range say different things of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two watches of one range contradict each other")]
pub struct Contradiction;

#[derive(Debug)]
struct Segment<E> {
    after: Revision,
    until: Option<Revision>,
    /// Its watch has said everything.
    is_said: bool,
    waiting: VecDeque<Piece<E>>,
    waiting_bytes: usize,
    /// The last events came in a fragment.
    is_fragment: bool,
    /// The newest revision that came.
    reached: Option<Revision>,
    response: Response,
}

/// A response, as far as it came.
#[derive(Debug, Clone, Copy, Default)]
struct Response {
    first: Option<Revision>,
    last: Option<Revision>,
    revisions: u64,
    bytes: usize,
}

/// What one full response covers.
#[derive(Debug, Clone, Copy)]
struct Density {
    revisions: i64,
    bytes: usize,
}

impl<E> Segment<E> {
    fn new(after: Revision, until: Option<Revision>) -> Self {
        Self {
            after,
            until,
            is_said: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            is_fragment: false,
            reached: None,
            response: Response::default(),
        }
    }
}

impl<E: Item> Segments<E> {
    /// One open-ended watch that starts right after `after`.
    pub fn new(after: Revision) -> Self {
        Self {
            queue: VecDeque::from([Segment::new(after, None)]),
            density: None,
        }
    }

    /// Begins again with one open-ended watch that starts right after `after`.
    pub fn restart(&mut self, after: Revision) {
        self.queue = VecDeque::from([Segment::new(after, None)]);
    }

    /// Takes in events of the watch that starts right after `after`. Those of
    /// a watch that was given up are ignored.
    ///
    /// # Errors
    /// A [`Contradiction`]: the history must be read again by a plain watch.
    pub fn events(
        &mut self,
        after: Revision,
        mut events: Vec<E>,
        fragment: bool,
    ) -> Result<(), Contradiction> {
        let Some(at) = self.find(after) else {
            return Ok(());
        };
        let Some(segment) = self.queue.get_mut(at) else {
            return Ok(());
        };
        if let Some(density) = segment.response.came(&events, fragment) {
            self.density = Some(density);
        }
        let until = segment.until;
        let newest = events.iter().map(Item::mod_revision).max();
        segment.reached = segment.reached.max(newest);
        let beyond = events
            .iter()
            .map(Item::mod_revision)
            .find(|&revision| until.is_some_and(|until| revision > until));
        events.retain(|event| {
            let revision = event.mod_revision();
            revision > after && until.is_none_or(|until| revision <= until)
        });
        let fragment = fragment && beyond.is_none();
        if !events.is_empty() || segment.is_fragment {
            segment.waiting_bytes += events.iter().map(in_memory).sum::<usize>();
            segment.is_fragment = fragment;
            segment
                .waiting
                .push_back(Piece::Events { events, fragment });
        }
        if let Some(beyond) = beyond {
            self.said(at, beyond.get() - 1)?;
        }
        self.shed();
        Ok(())
    }

    /// Takes in etcd's word that the watch that starts right after `after` said
    /// everything up to `revision`.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub fn bookmark(&mut self, after: Revision, revision: Revision) -> Result<(), Contradiction> {
        let Some(at) = self.find(after) else {
            return Ok(());
        };
        let Some(segment) = self.queue.get_mut(at) else {
            return Ok(());
        };
        match segment.until {
            None => segment.waiting.push_back(Piece::Bookmark(revision)),
            Some(until) if revision >= until => {
                if std::mem::take(&mut segment.is_fragment) {
                    segment.waiting.push_back(Piece::Events {
                        events: Vec::new(),
                        fragment: false,
                    });
                }
                self.said(at, revision.get())?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The next to hand on.
    pub fn next(&mut self) -> Option<Piece<E>> {
        loop {
            let front = self.queue.front_mut()?;
            if let Some(piece) = front.waiting.pop_front() {
                if let Piece::Events { events, .. } = &piece {
                    front.waiting_bytes -= events.iter().map(in_memory).sum::<usize>();
                }
                return Some(piece);
            }
            if !front.is_said || self.queue.len() == 1 {
                return None;
            }
            self.queue.pop_front();
        }
    }

    /// Whether the watch that starts right after `after` is still wanted.
    pub fn wants(&self, after: Revision) -> bool {
        self.queue.iter().any(|it| it.after == after && !it.is_said)
    }

    /// The watch whose silence is to be asked about: the front's.
    pub fn front(&self) -> Option<Revision> {
        self.queue.front().map(|front| front.after)
    }

    /// Where it goes on, once nothing is open any more and all was handed out:
    /// the next watch starts right after it.
    pub fn goes_on_after(&self) -> Option<Revision> {
        match self.queue.front() {
            Some(last) if last.is_said && last.waiting.is_empty() && self.queue.len() == 1 => {
                last.until
            }
            _ => None,
        }
    }

    /// Whether there is more than the front.
    pub fn runs_ahead(&self) -> bool {
        self.queue.len() > 1
    }

    /// Where the watches ahead of a single one should start, each right after
    /// it, where etcd's newest revision is `newest`; empty: a plain watch is best.
    pub fn plan(&self, newest: Revision) -> Vec<Revision> {
        let (Some(density), Some(last)) = (self.density, self.queue.back()) else {
            return Vec::new();
        };
        let from = last.reached.unwrap_or(last.after);
        let behind = newest.get() - from.get();
        if self.queue.len() > 1 || behind < RESPONSES_MIN * density.revisions {
            return Vec::new();
        }
        // A little less than a response, so that each needs one only.
        let step = (density.revisions - density.revisions / 16).max(1);
        let by_bytes = AHEAD_BYTES_MAX / density.bytes.max(1);
        let by_revisions = usize::try_from(behind / step).unwrap_or(usize::MAX);
        let count = SEGMENTS_MAX.min(by_bytes).min(by_revisions);
        (1..)
            .map_while(|n: i64| Revision::new(from.get() + n * step))
            .take(count)
            .collect()
    }

    /// Cuts the open end: watches start right after each of `starts`, ascending.
    /// The last is open-ended only if it reaches `newest` with one response.
    pub fn extend(&mut self, starts: &[Revision], newest: Revision) {
        let step = self.density.map_or(0, |density| density.revisions);
        for &start in starts {
            match self.queue.back_mut() {
                Some(last) if last.after < start && last.until.is_none_or(|it| it == start) => {
                    last.until = Some(start);
                }
                _ => return,
            }
            self.queue.push_back(Segment::new(start, None));
        }
        if let Some(last) = self.queue.back_mut()
            && last.after.get() + step < newest.get()
        {
            last.until = Revision::new(last.after.get() + step);
        }
    }

    /// Drops all but the front, which goes on by itself.
    pub fn collapse(&mut self) {
        if let Some(front) = self.queue.front_mut()
            && !front.is_said
        {
            front.until = None;
            self.queue.truncate(1);
        }
    }

    /// The watch of `at` said everything up to `revision`, at or after its end:
    /// so there is nothing in the segments that end before.
    fn said(&mut self, at: usize, revision: i64) -> Result<(), Contradiction> {
        let passed = |it: &Segment<E>| it.until.is_some_and(|until| until.get() <= revision);
        while let Some(next) = self.queue.get(at + 1).filter(|next| passed(next)) {
            if !next.waiting.is_empty() {
                return Err(Contradiction);
            }
            let until = next.until;
            self.queue.remove(at + 1);
            if let Some(segment) = self.queue.get_mut(at) {
                segment.until = until;
            }
        }
        let is_last = at + 1 == self.queue.len();
        if let Some(segment) = self.queue.get_mut(at) {
            segment.is_said = true;
            if is_last {
                segment.until = segment.until.max(Revision::new(revision));
            }
        }
        Ok(())
    }

    /// Gives up what is furthest ahead, where too much waits.
    fn shed(&mut self) {
        let ahead = |queue: &VecDeque<Segment<E>>| {
            queue
                .iter()
                .skip(1)
                .map(|it| it.waiting_bytes)
                .sum::<usize>()
        };
        while self.queue.len() > 1 && ahead(&self.queue) > AHEAD_BYTES_MAX {
            self.queue.pop_back();
        }
    }

    fn find(&self, after: Revision) -> Option<usize> {
        self.queue
            .iter()
            .position(|it| it.after == after && !it.is_said)
    }
}

impl Response {
    /// Enters a part of it. What it covered, once it is whole, if it was full.
    fn came<E: Item>(&mut self, events: &[E], fragment: bool) -> Option<Density> {
        for event in events {
            let revision = event.mod_revision();
            if Some(revision) > self.last {
                self.first.get_or_insert(revision);
                self.last = Some(revision);
                self.revisions += 1;
            }
            self.bytes += in_memory(event);
        }
        if fragment {
            return None;
        }
        let whole = std::mem::take(self);
        let (first, last) = whole.first.zip(whole.last)?;
        (whole.revisions >= FULL_RESPONSE).then_some(Density {
            revisions: last.get() - first.get() + 1,
            bytes: whole.bytes,
        })
    }
}

fn in_memory<E: Item>(event: &E) -> usize {
    event.size_bytes() + EVENT_BYTES
}

#[cfg(test)]
mod tests;
