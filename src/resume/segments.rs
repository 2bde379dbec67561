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
//! ahead are dropped, and the history goes on at the end of what is left, or
//! by the watch that is left, as a plain one. The event that shows that the
//! front has said all must be the first of the watch that goes on there; if it
//! is not, one of them lost something: a [`Contradiction`].
//!
//! Invariant: segments are in order without a gap, and only the last may be
//! open-ended.

use std::collections::VecDeque;

use super::{Item, Revision};

/// How much may wait, and be expected to.
const AHEAD_BYTES_MAX: usize = 20 << 20;
/// Of larger responses one watch at a time is enough, for us and for etcd,
/// which holds each of them.
const RESPONSE_BYTES_MAX: usize = 3 << 19;
/// How many segments there may be.
const SEGMENTS_MAX: usize = 64;
/// What an event takes in memory besides its bytes on the wire; as much is
/// counted for a piece without events.
const EVENT_BYTES: usize = 256;
/// A response of fewer revisions was not cut short by etcd.
const FULL_RESPONSE: i64 = 1000;
/// How much of a response tells what a full one is like.
const TELLING_PART: i64 = FULL_RESPONSE / 10;
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
    /// Each with what it takes in memory.
    waiting: VecDeque<(Piece<E>, usize)>,
    /// All of that.
    waiting_bytes: usize,
    /// The last events came in a fragment.
    is_fragment: bool,
    /// The first event after `after`, whichever watch said it.
    first: Option<Revision>,
    /// The newest event of its own watch.
    reached: Option<Revision>,
    response: Response,
}

/// A response, as far as it came.
#[derive(Debug, Clone, Copy, Default)]
struct Response {
    first: Option<Revision>,
    last: Option<Revision>,
    revisions: i64,
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
            first: None,
            reached: None,
            response: Response::default(),
        }
    }

    fn wait(&mut self, piece: Piece<E>, bytes: usize) {
        let bytes = bytes.max(EVENT_BYTES);
        self.waiting.push_back((piece, bytes));
        self.waiting_bytes += bytes;
    }

    /// Somebody said that its first event is `first`.
    fn begins_with(&mut self, first: Revision) -> Result<(), Contradiction> {
        let denies = |piece: &Piece<E>| matches!(piece, Piece::Bookmark(at) if *at >= first);
        let is_denied =
            self.reached.is_none() && self.waiting.iter().any(|(piece, _)| denies(piece));
        if *self.first.get_or_insert(first) == first && !is_denied {
            Ok(())
        } else {
            Err(Contradiction)
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
    /// A [`Contradiction`]: the history must be read again.
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
        let (until, mut bytes, count) = (segment.until, in_memory(&events), events.len());
        let mut revisions = events.iter().map(Item::mod_revision);
        let is_beyond = |it: &Revision| until.is_some_and(|until| *it > until);
        let beyond = revisions.clone().find(is_beyond);
        if segment.reached.is_none()
            && let Some(first) = revisions.find(|&it| it > after)
        {
            segment.begins_with(first)?;
        }
        segment.response.came(&events, bytes);
        events.retain(|event| {
            let revision = event.mod_revision();
            revision > after && !is_beyond(&revision)
        });
        if events.len() < count {
            bytes = in_memory(&events);
        }
        segment.reached = segment.reached.max(events.last().map(Item::mod_revision));
        // Nothing of its last revision comes after that of the next.
        let is_part = fragment && beyond.is_none();
        if !events.is_empty() || segment.is_fragment {
            let fragment = is_part;
            let piece = Piece::Events { events, fragment };
            segment.wait(piece, bytes);
        }
        segment.is_fragment = is_part;
        let density = match beyond {
            Some(_) => segment.response.density(TELLING_PART),
            None if fragment => None,
            None => std::mem::take(&mut segment.response).density(FULL_RESPONSE),
        };
        self.density = density.or(self.density);
        match beyond {
            Some(beyond) => self.said(at, beyond)?,
            None if at == 0 && density.is_some() => self.collapse_if_far(),
            None => {}
        }
        self.shed();
        Ok(())
    }

    /// Takes in etcd's word that the watch that starts right after `after` said
    /// everything up to `revision`: it is at etcd's newest revision, and nobody
    /// needs to be ahead of it.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub fn bookmark(&mut self, after: Revision, revision: Revision) -> Result<(), Contradiction> {
        let Some(at) = self.find(after) else {
            return Ok(());
        };
        let has_event = |it: &Segment<E>| it.first.is_some_and(|first| first <= revision);
        let is_belied = self.queue.drain(at + 1..).any(|ahead| has_event(&ahead));
        self.density = None;
        if let Some(segment) = self.queue.get_mut(at) {
            if is_belied || (segment.reached.is_none() && has_event(segment)) {
                return Err(Contradiction);
            }
            segment.until = None;
            // The end of a response that was cut is no bookmark.
            let piece = if std::mem::take(&mut segment.is_fragment) {
                let (events, fragment) = (Vec::new(), false);
                Piece::Events { events, fragment }
            } else {
                Piece::Bookmark(revision)
            };
            segment.wait(piece, 0);
        }
        self.shed();
        Ok(())
    }

    /// The next to hand on.
    pub fn next_piece(&mut self) -> Option<Piece<E>> {
        loop {
            let front = self.queue.front_mut()?;
            if let Some((piece, bytes)) = front.waiting.pop_front() {
                front.waiting_bytes -= bytes;
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
        if self.queue.len() > 1 || behind < density.far() || density.bytes > RESPONSE_BYTES_MAX {
            return Vec::new();
        }
        // A little less than a response, so that each needs one only.
        let step = (density.revisions - density.revisions / 16).max(1);
        let by_bytes = AHEAD_BYTES_MAX / density.bytes.max(1);
        let by_revisions = usize::try_from(behind / step).unwrap_or(usize::MAX);
        let count = SEGMENTS_MAX.min(by_bytes).min(by_revisions);
        let starts = (1..).map_while(|n: i64| Revision::new(from.get() + n * step));
        starts.take(count).collect()
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
            && !starts.is_empty()
            && step < newest.get() - last.after.get()
        {
            last.until = Revision::new(last.after.get() + step);
        }
    }

    /// Drops all but the front, which goes on by itself until another full
    /// response shows what that is worth.
    pub fn collapse(&mut self) {
        self.density = None;
        self.drop_ahead();
    }

    fn drop_ahead(&mut self) {
        if let Some(front) = self.queue.front_mut()
            && !front.is_said
        {
            front.until = None;
            self.queue.truncate(1);
        }
    }

    /// The watch that starts right after `after` ends. Whether the history goes
    /// on without it.
    pub fn give_up(&mut self, after: Revision) -> bool {
        match self.find(after) {
            None => true,
            Some(0) => false,
            Some(at) => {
                self.queue.truncate(at);
                if let Some(last) = self.queue.back_mut()
                    && !last.is_said
                {
                    last.until = None;
                }
                true
            }
        }
    }

    /// The watch of `at` said everything before `beyond`, which is after its
    /// end: so there is nothing in the segments between.
    fn said(&mut self, at: usize, beyond: Revision) -> Result<(), Contradiction> {
        let mut said_until = None;
        while let Some(next) = self.queue.get_mut(at + 1) {
            next.begins_with(beyond)?;
            if next.until.is_none_or(|until| until >= beyond) {
                break;
            }
            said_until = next.until;
            self.queue.remove(at + 1);
        }
        let is_last = at + 1 == self.queue.len();
        if let Some(segment) = self.queue.get_mut(at) {
            segment.is_said = true;
            segment.until = if is_last {
                Revision::new(beyond.get() - 1)
            } else {
                said_until.or(segment.until)
            };
        }
        Ok(())
    }

    /// The front's end was planned for a history that is less dense.
    fn collapse_if_far(&mut self) {
        if let (Some(density), Some(front)) = (self.density, self.queue.front())
            && let (Some(until), Some(reached)) = (front.until, front.reached)
            && until.get() - reached.get() > density.far()
        {
            self.drop_ahead();
        }
    }

    /// Gives up what is furthest ahead, where too much waits.
    fn shed(&mut self) {
        let mut all: usize = self.queue.iter().map(|it| it.waiting_bytes).sum();
        while self.queue.len() > 1 && all > AHEAD_BYTES_MAX {
            all -= self.queue.pop_back().map_or(0, |last| last.waiting_bytes);
        }
    }

    fn find(&self, after: Revision) -> Option<usize> {
        let mut segments = self.queue.iter();
        segments.position(|it| it.after == after && !it.is_said)
    }
}

impl Response {
    /// Enters a part of it.
    fn came<E: Item>(&mut self, events: &[E], bytes: usize) {
        for revision in events.iter().map(Item::mod_revision) {
            if Some(revision) > self.last {
                self.first.get_or_insert(revision);
                self.last = Some(revision);
                self.revisions += 1;
            }
        }
        self.bytes += bytes;
    }

    /// What a full one is like, if at least so many revisions came.
    fn density(&self, revisions_min: i64) -> Option<Density> {
        let (first, last) = self.first.zip(self.last)?;
        let full = |part: i64| part.saturating_mul(FULL_RESPONSE) / self.revisions.max(1);
        let bytes = full(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        (self.revisions >= revisions_min).then(|| Density {
            revisions: full(last.get() - first.get() + 1).max(1),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        })
    }
}

impl Density {
    /// What is so many revisions away is worth watches ahead.
    const fn far(&self) -> i64 {
        RESPONSES_MIN.saturating_mul(self.revisions)
    }
}

fn in_memory<E: Item>(events: &[E]) -> usize {
    let each = |event: &E| event.size_bytes() + EVENT_BYTES;
    events.iter().map(each).sum()
}

#[cfg(test)]
mod tests;
