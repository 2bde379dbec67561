//! How large the next page of a snapshot is. Owns the limit that etcd is
//! given, in keys, because etcd counts no bytes: by how the page before was,
//! which says nothing of values that come later. Invariant: the limit stays
//! within 1 and 1,000,000.

const KEYS_FIRST: i64 = 1_000;
/// Each page may be so many times larger than the one before. Up to 3.6 each
/// costs a walk over the whole rest of the range, so small ones are to be few.
const GROWTH: i64 = 16;
/// Beyond it pages double: the values of so many keys may turn out large. Up
/// to 3.6 etcd reads them even where only keys are wanted, of which there are
/// no more at once.
const KEYS_BLIND: i64 = 50_000;
/// Each also costs etcd some 300 bytes of memory besides key and value.
const KEYS_MAX: i64 = 1_000_000;
/// Beside others' large pages, one is so many times smaller.
const SHARE: i64 = 8;

/// The plan for one snapshot.
#[derive(Debug)]
pub(super) struct PagePlan {
    budget_bytes: usize,
    keys_max: i64,
    keys: i64,
}

impl PagePlan {
    pub(super) const fn new(budget_bytes: usize, keys_only: bool) -> Self {
        Self {
            budget_bytes,
            keys_max: if keys_only { KEYS_BLIND } else { KEYS_MAX },
            keys: KEYS_FIRST,
        }
    }

    /// The limit of the next page, in keys; whether it may be a large one.
    pub(super) fn keys(&self, is_large: bool) -> i64 {
        let share = if is_large { 1 } else { SHARE };
        (self.keys / share).max(self.keys.min(KEYS_FIRST))
    }

    /// A page came: the next grows, as far as the budget reaches.
    pub(super) fn came(&mut self, keys: usize, bytes: usize) {
        let blind = self.keys.saturating_mul(GROWTH).min(KEYS_BLIND);
        let grown = blind.max(self.keys.saturating_mul(2));
        let limit = grown.min(self.affordable(keys, bytes));
        self.keys = limit.clamp(1, self.keys_max);
    }

    /// So much of a page came, and the rest was given up: the next is small.
    pub(super) fn gave_up(&mut self, keys: usize, bytes: usize) {
        self.keys = self.affordable(keys, bytes).clamp(1, KEYS_FIRST);
    }

    fn affordable(&self, keys: usize, bytes: usize) -> i64 {
        let bytes_per_key = bytes.div_ceil(keys.max(1)).max(1);
        i64::try_from(self.budget_bytes / bytes_per_key).unwrap_or(KEYS_MAX)
    }

    /// The page was too large for a gRPC message. `false`: it cannot be smaller.
    pub(super) const fn was_too_large(&mut self) -> bool {
        let could_be_smaller = self.keys > 1;
        self.keys = if self.keys < 8 { 1 } else { self.keys / 8 };
        could_be_smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_until_the_keys_are_many_enough() {
        let limits = |keys_only| {
            let mut plan = PagePlan::new(32 << 20, keys_only);
            let mut limits = vec![plan.keys(true)];
            for _ in 0..8 {
                plan.came(1_000, 10_000);
                limits.push(plan.keys(true));
            }
            limits
        };
        let whole = limits(false);
        assert_eq!(whole[..5], [1_000, 16_000, 50_000, 100_000, 200_000]);
        assert_eq!(whole[7..], [1_000_000, 1_000_000]);
        assert_eq!(limits(true)[2..], [50_000; 7]);
    }

    #[test]
    fn pages_grow_no_further_than_their_bytes_allow() {
        let mut plan = PagePlan::new(8 << 20, false);
        plan.came(1_000, 6 << 20);
        assert_eq!(plan.keys(true), 1_333);
        plan.came(1_333, 1_333 << 20);
        assert_eq!(plan.keys(true), 8);
        plan.came(8, 8 << 24);
        assert_eq!(plan.keys(true), 1);
    }

    #[test]
    fn after_a_page_that_was_given_up_comes_a_small_one() {
        let mut plan = PagePlan::new(32 << 20, false);
        plan.came(1_000, 10_000);
        plan.gave_up(2_000, 20_000);
        assert_eq!(plan.keys(true), 1_000);
        plan.gave_up(10, 10 << 20);
        assert_eq!(plan.keys(true), 32);
    }

    #[test]
    fn beside_large_pages_others_have_a_share_of_the_budget() {
        let mut plan = PagePlan::new(32 << 20, false);
        assert_eq!(plan.keys(false), 1_000);
        plan.came(1_000, 1 << 20);
        assert_eq!((plan.keys(true), plan.keys(false)), (16_000, 2_000));
        plan.came(16_000, 16_000 << 20);
        assert_eq!((plan.keys(true), plan.keys(false)), (32, 32));
    }

    #[test]
    fn a_page_that_is_too_large_is_asked_for_in_smaller_ones_down_to_one_pair() {
        let mut plan = PagePlan::new(1, false);
        let mut limits = Vec::new();
        while plan.was_too_large() {
            limits.push(plan.keys(true));
        }
        assert_eq!(limits, [125, 15, 1]);
    }
}
