//! How large the next page of a snapshot is. Owns the limit that etcd is
//! given, in keys, because etcd counts no bytes; refuses pages beyond the
//! budget by how they were. Invariant: the limit stays within 1 and 50,000.

/// A page walks the whole rest of the range in etcd up to 3.6, so small pages
/// cost: 1,000,000 keys take 9 s at 10,000 a page and 2.6 s at 50,000.
const KEYS_MAX: i64 = 50_000;
const KEYS_FIRST: i64 = 1_000;
/// Pages may turn out larger than planned, but not by more than this.
const OVERSHOOT: usize = 4;
/// As gRPC's own default; a smaller budget saves nothing.
const ANSWER_BYTES_MIN: usize = 4 << 20;

/// The plan for one snapshot.
#[derive(Debug)]
pub(super) struct PagePlan {
    budget_bytes: usize,
    keys: i64,
    /// The last page was too large: grow no more.
    is_shrunk: bool,
}

impl PagePlan {
    pub(super) const fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            keys: KEYS_FIRST,
            is_shrunk: false,
        }
    }

    /// The limit of the next page, in keys.
    pub(super) const fn keys(&self) -> i64 {
        self.keys
    }

    /// An answer larger than this is refused unread, and asked for again with
    /// fewer keys. A single pair is taken whatever its size.
    pub(super) fn answer_bytes_max(&self) -> usize {
        if self.keys == 1 {
            usize::MAX
        } else {
            self.budget_bytes
                .saturating_mul(OVERSHOOT)
                .max(ANSWER_BYTES_MIN)
        }
    }

    /// A page came: the next doubles, as far as the budget reaches.
    pub(super) fn came(&mut self, keys: usize, bytes: usize) {
        let bytes_per_key = bytes.div_ceil(keys.max(1)).max(1);
        let affordable = i64::try_from(self.budget_bytes / bytes_per_key).unwrap_or(KEYS_MAX);
        let grown = if self.is_shrunk {
            self.keys
        } else {
            self.keys.saturating_mul(2)
        };
        self.is_shrunk = false;
        self.keys = grown.min(affordable).clamp(1, KEYS_MAX);
    }

    /// The page was too large. `false`: it cannot be smaller.
    pub(super) fn was_too_large(&mut self) -> bool {
        if self.keys == 1 {
            return false;
        }
        self.keys = (self.keys / 8).max(1);
        self.is_shrunk = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_double_until_the_keys_are_many_enough() {
        let mut plan = PagePlan::new(8 << 20);
        let mut limits = vec![plan.keys()];
        for _ in 0..7 {
            plan.came(1_000, 10_000);
            limits.push(plan.keys());
        }
        let expected = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 50_000, 50_000];
        assert_eq!(limits, expected);
    }

    #[test]
    fn pages_grow_no_further_than_their_bytes_allow() {
        let mut plan = PagePlan::new(8 << 20);
        plan.came(1_000, 6 << 20);
        assert_eq!(plan.keys(), 1_333);
        plan.came(1_333, 1_333 << 20);
        assert_eq!(plan.keys(), 8);
    }

    #[test]
    fn a_page_that_is_too_large_is_asked_for_in_smaller_ones_down_to_one_pair() {
        let mut plan = PagePlan::new(1);
        let mut limits = Vec::new();
        while plan.was_too_large() {
            limits.push(plan.keys());
        }
        assert_eq!(limits, [125, 15, 1]);
        assert_eq!(plan.answer_bytes_max(), usize::MAX);
    }

    #[test]
    fn after_a_page_that_was_too_large_the_next_does_not_double() {
        let mut plan = PagePlan::new(8 << 20);
        plan.was_too_large();
        plan.came(125, 125);
        assert_eq!(plan.keys(), 125);
        plan.came(125, 125);
        assert_eq!(plan.keys(), 250);
    }
}
