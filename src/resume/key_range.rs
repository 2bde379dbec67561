//! Ranges of keys, as etcd compares them.

use bytes::Bytes;

/// etcd's marker: as `range_end` it means "no upper end", as `key` the lowest key.
const NUL: &[u8] = b"\0";

/// A non-empty range of keys in etcd's own terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    key: Bytes,
    range_end: Bytes,
}

/// Why a key and range_end make no range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidKeyRange {
    /// A range needs a first key.
    #[error("key is empty: give prefix, or key with an optional range_end")]
    EmptyKey,
    /// etcd refuses such a watch.
    #[error("range_end must be greater than key (or empty for one key, or \\0 for no end)")]
    EndNotAboveKey,
}

impl KeyRange {
    /// Every key that begins with `prefix`; the empty prefix is every key.
    pub fn prefix(prefix: Bytes) -> Self {
        let range_end = match prefix.iter().rposition(|&byte| byte != u8::MAX) {
            Some(last) => {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                end.into()
            }
            None => NUL.into(),
        };
        let key = if prefix.is_empty() {
            NUL.into()
        } else {
            prefix
        };
        Self { key, range_end }
    }

    /// `key` alone when `range_end` is empty, `[key, ∞)` when it is `\0`, else
    /// `[key, range_end)`.
    ///
    /// # Errors
    /// An empty `key`, or a `range_end` that is not above it.
    pub fn new(key: Bytes, range_end: Bytes) -> Result<Self, InvalidKeyRange> {
        if key.is_empty() {
            return Err(InvalidKeyRange::EmptyKey);
        }
        if !range_end.is_empty() && range_end != NUL && range_end <= key {
            return Err(InvalidKeyRange::EndNotAboveKey);
        }
        Ok(Self { key, range_end })
    }

    /// The first key, inclusive.
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// As in etcd: empty for one key, `\0` for no upper end, else exclusive.
    pub const fn range_end(&self) -> &Bytes {
        &self.range_end
    }

    /// Whether the range has no upper end. etcd checks no more than the first
    /// key of such a watch on many versions (GHSA-xg4h-6gfc-h4m8).
    pub fn is_open_ended(&self) -> bool {
        self.range_end == NUL
    }

    /// Whether every key of `other` is in this range.
    pub fn contains(&self, other: &Self) -> bool {
        if other.key < self.key {
            return false;
        }
        match (self.end_exclusive(), other.end_exclusive()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(other_end)) => other_end <= end,
        }
    }

    /// The first key after the range; `None`: there is no upper end.
    fn end_exclusive(&self) -> Option<Bytes> {
        if self.is_open_ended() {
            None
        } else if self.range_end.is_empty() {
            Some([&self.key[..], NUL].concat().into())
        } else {
            Some(self.range_end.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(key: &'static [u8], range_end: &'static [u8]) -> KeyRange {
        KeyRange::new(key.into(), range_end.into()).unwrap()
    }

    fn prefix(prefix: &'static [u8]) -> KeyRange {
        KeyRange::prefix(prefix.into())
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_is_one_higher() {
        assert_eq!(prefix(b"a/"), range(b"a/", b"a0"));
        assert_eq!(prefix(b"a\xff"), range(b"a\xff", b"b"));
        assert_eq!(prefix(b"\xff"), range(b"\xff", b"\0"));
        assert_eq!(prefix(b""), range(b"\0", b"\0"));
    }

    #[test]
    fn refuses_what_etcd_refuses() {
        let new = |key: &'static [u8], end: &'static [u8]| KeyRange::new(key.into(), end.into());
        assert_eq!(new(b"", b"a"), Err(InvalidKeyRange::EmptyKey));
        assert_eq!(new(b"b", b"b"), Err(InvalidKeyRange::EndNotAboveKey));
        assert_eq!(new(b"b", b"a"), Err(InvalidKeyRange::EndNotAboveKey));
    }

    #[test]
    fn contains_exactly_what_lies_inside() {
        assert!(prefix(b"a/").contains(&prefix(b"a/b")));
        assert!(prefix(b"a/").contains(&range(b"a/", b"")));
        assert!(prefix(b"").contains(&range(b"a", b"\0")));
        assert!(range(b"k", b"").contains(&range(b"k", b"")));
        assert!(!prefix(b"a/").contains(&prefix(b"a")));
        assert!(!prefix(b"a/").contains(&range(b"a/", b"\0")));
        assert!(!range(b"k", b"").contains(&range(b"k", b"k\0\0")));
    }

    /// As etcd decides it.
    fn has(range: &KeyRange, key: &[u8]) -> bool {
        let is_below_end = match &range.range_end[..] {
            b"" => key == range.key,
            b"\0" => true,
            end => key < end,
        };
        key >= &range.key[..] && is_below_end
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::sample::select(vec![0, 1, b'a', b'b', 254, 255]);
        prop::collection::vec(bytes, 0..4)
    }

    proptest! {
        #[test]
        fn a_prefix_has_exactly_the_keys_that_begin_with_it(prefix in keys(), key in keys()) {
            prop_assume!(!key.is_empty());
            let range = KeyRange::prefix(prefix.clone().into());
            prop_assert_eq!(has(&range, &key), key.starts_with(&prefix));
        }

        #[test]
        fn a_range_has_its_own_first_key_or_is_refused(key in keys(), range_end in keys()) {
            if let Ok(range) = KeyRange::new(key.clone().into(), range_end.into()) {
                prop_assert!(has(&range, &key));
            }
        }

        #[test]
        fn one_range_contains_another_exactly_if_it_has_all_its_keys(
            ends in (keys(), keys(), keys(), keys()), key in keys()
        ) {
            let new = |key: Vec<u8>, end: Vec<u8>| KeyRange::new(key.into(), end.into());
            if let (Ok(a), Ok(b)) = (new(ends.0, ends.1), new(ends.2, ends.3)) {
                if a.contains(&b) {
                    prop_assert!(!has(&b, &key) || has(&a, &key));
                } else {
                    // Its first key, or the first one after the other range.
                    let after = a.end_exclusive().map(|end| end.max(b.key.clone()));
                    let missing = [Some(b.key.clone()), after].into_iter().flatten();
                    prop_assert!(missing.into_iter().any(|key| has(&b, &key) && !has(&a, &key)));
                }
            }
        }
    }
}
