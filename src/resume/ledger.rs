//! What a session delivered, and what of it is not acknowledged yet.
//!
//! Invariant: marks ascend, lie above what is settled and at or below what is
//! delivered. Memory is bounded whatever the subscriber leaves unacknowledged:
//! when there are too many marks, neighbours are merged; what is lost is only
//! detail between them, never that something is unacknowledged.

use std::collections::VecDeque;

use super::{Fingerprint, Revision, Time};

/// How many marks are kept: about 100 KiB with short keys.
const MARKS_MAX: usize = 1024;

/// What a session delivered.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    delivered: Option<Revision>,
    /// Of the last event at or below the first mark's first revision.
    base: Option<Fingerprint>,
    marks: VecDeque<Mark>,
    unacked_events: u64,
}

/// Delivered, not acknowledged: one revision, or several merged.
#[derive(Debug)]
struct Mark {
    first: Revision,
    last: Revision,
    events: u64,
    /// When `first` was delivered.
    delivered_at: Time,
    /// Of the last event at or below `last`.
    fingerprint: Option<Fingerprint>,
}

impl Ledger {
    /// Nothing is delivered beyond `position`.
    pub(super) fn new(position: Option<Revision>, fingerprint: Option<Fingerprint>) -> Self {
        Self {
            delivered: position,
            base: fingerprint,
            ..Self::default()
        }
    }

    /// The highest revision up to which everything in range was delivered.
    pub(super) const fn delivered(&self) -> Option<Revision> {
        self.delivered
    }

    /// How many delivered events are not acknowledged; never too low.
    pub(super) const fn unacked_events(&self) -> u64 {
        self.unacked_events
    }

    /// Whether anything delivered, events or a snapshot, is not acknowledged.
    pub(super) fn has_unacked(&self) -> bool {
        !self.marks.is_empty()
    }

    /// When the oldest of what is not acknowledged was delivered; never too late.
    pub(super) fn oldest_unacked_at(&self) -> Option<Time> {
        self.marks.front().map(|mark| mark.delivered_at)
    }

    /// A whole revision, or a whole snapshot (`events` 0), was delivered.
    pub(super) fn deliver(
        &mut self,
        revision: Revision,
        events: u64,
        fingerprint: Option<Fingerprint>,
        now: Time,
    ) {
        debug_assert!(self.delivered < Some(revision), "deliveries ascend");
        if self.marks.len() == MARKS_MAX {
            self.merge_neighbours();
        }
        self.marks.push_back(Mark {
            first: revision,
            last: revision,
            events,
            delivered_at: now,
            fingerprint,
        });
        self.unacked_events += events;
        self.delivered = Some(revision);
    }

    /// A snapshot replaces all that was delivered before it.
    pub(super) fn deliver_snapshot(
        &mut self,
        revision: Revision,
        fingerprint: Option<Fingerprint>,
        now: Time,
    ) {
        let before = self.delivered.take();
        self.marks.retain(|mark| mark.last < revision);
        self.unacked_events = self.marks.iter().map(|mark| mark.events).sum();
        self.deliver(revision, 0, fingerprint, now);
        // Nobody saw what it leaps over.
        if let (Some(mark), Some(before)) = (self.marks.back_mut(), before) {
            mark.first = before.successor().min(revision);
        }
    }

    /// Nothing happened in range up to `revision`.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.delivered = self.delivered.max(Some(revision));
    }

    /// Everything at or below `revision` is acknowledged, durably.
    pub(super) fn settle(&mut self, revision: Revision) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.last <= revision) {
            self.unacked_events -= mark.events;
            self.base = mark.fingerprint;
        }
    }

    /// The last event at or below `revision`, where that is still known.
    pub(super) fn fingerprint_at(&self, revision: Revision) -> Option<Fingerprint> {
        let begun = |mark: &&Mark| mark.first <= revision;
        match self.marks.iter().take_while(begun).last() {
            Some(mark) => mark.fingerprint.clone().filter(|_| mark.last <= revision),
            None => self.base.clone(),
        }
    }

    /// Whether the invariant holds.
    pub(super) fn is_ordered(&self) -> bool {
        let ascend = self.marks.iter().is_sorted_by(|a, b| a.last < b.first);
        ascend && self.marks.back().map(|mark| mark.last) <= self.delivered
    }

    fn merge_neighbours(&mut self) {
        let mut merged = VecDeque::with_capacity(self.marks.len());
        while let Some(mut mark) = self.marks.pop_front() {
            if let Some(next) = self.marks.pop_front() {
                mark.last = next.last;
                mark.events += next.events;
                mark.fingerprint = next.fingerprint;
            }
            merged.push_back(mark);
        }
        self.marks = merged;
    }
}

#[cfg(test)]
mod tests;
