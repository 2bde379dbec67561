//! The state machine of one subscription.

use super::{Command, Input, Item, Record, Settings, Time};
use std::marker::PhantomData;

/// One subscription: feed it inputs, run the commands it hands out.
pub struct Subscription<E, K> {
    _payload: PhantomData<(E, K)>,
}

impl<E: Item, K: Item> Subscription<E, K> {
    /// A subscription as stored; `None`: a new one. `seed` is for jitter.
    pub fn new(_record: Option<Record>, _settings: Settings, _seed: u64) -> Self {
        Self {
            _payload: PhantomData,
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, _input: Input<E, K>, _now: Time) {}

    /// The next thing to do; call it until `None` after every `handle` and
    /// whenever `poll_timeout` has passed.
    pub fn next_command(&mut self, _now: Time) -> Option<Command<E, K>> {
        None
    }

    /// When to call `next_command` again although nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// Whether the driver should read more of what etcd says. `false` while
    /// what came before has not been delivered.
    pub fn wants_upstream(&self) -> bool {
        true
    }

    /// The durable record; `None`: nothing is stored yet.
    pub fn record(&self) -> Option<&Record> {
        None
    }

    /// Whether the session's stream is live.
    pub fn has_session(&self) -> bool {
        false
    }
}
