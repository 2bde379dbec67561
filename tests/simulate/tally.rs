//! How often each thing happened: the figures, and the proof that the
//! simulator still injects what it says.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tally {
    times: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.times.entry(what).or_default() += times;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (what, times) in &other.times {
            self.add(what, *times);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.times.iter().map(|(what, times)| (*what, *times))
    }

    pub(crate) fn times(&self, what: &'static str) -> u64 {
        self.times.get(what).copied().unwrap_or(0)
    }
}
