//! What a stream sees of each event and pair: one struct on the whole way, from
//! the request through etcd to what is delivered and what operators are shown.

use bytes::Bytes;

use super::watchmark::v1::{KeyValue, Subscription};

/// The options of one stream that change what each event or pair holds, and
/// neither which of them come nor when: `resume` knows nothing of them. They
/// are not stored, and may differ from stream to stream. Which events come is
/// `resume::Selection`; what the machine does with them is
/// `resume::SessionRequest`.
///
/// Operators are shown all of them, as `Subscription` in admin.proto; the status
/// page names only what a stream lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PairOptions {
    /// With the pair as it was before each event. Only etcd has it.
    pub prev_kv: bool,
    /// Without values.
    pub keys_only: bool,
}

impl PairOptions {
    /// Leaves in `pair` what is wanted of it. Every pair passes here that comes
    /// from etcd for a stream, of an event or of a snapshot, whatever etcd
    /// itself has left out already.
    pub fn apply(self, pair: &mut KeyValue) {
        let Self {
            prev_kv: _,
            keys_only,
        } = self;
        if keys_only {
            pair.value = Bytes::new();
            // It would keep the whole message, with the value, in memory.
            pair.key = Bytes::copy_from_slice(&pair.key);
        }
    }

    /// Of the live stream of `subscription`, as operators are shown them.
    pub const fn of(subscription: &Subscription) -> Self {
        Self {
            prev_kv: subscription.prev_kv,
            keys_only: subscription.keys_only,
        }
    }

    /// Each by its name in the API.
    pub const fn by_name(self) -> [(&'static str, bool); 2] {
        let Self { prev_kv, keys_only } = self;
        [("prev_kv", prev_kv), ("keys_only", keys_only)]
    }

    /// What a stream lacks, in the status page's words.
    pub const fn lacks(self) -> [(bool, &'static str); 1] {
        let Self {
            prev_kv: _,
            keys_only,
        } = self;
        [(keys_only, "keys only")]
    }
}
