//! A driver's place among the subscriptions.
//!
//! A driver that has nothing to own any more gives its place back. Invariant:
//! what was handed to a mailbox is read by the driver it was handed to, so a
//! place is left only while nobody holds, or can come by, its sender.

use std::sync::{Mutex, Weak};

use tokio::sync::mpsc;

use super::{Drivers, lock};
use crate::{resume::ClientId, session::driver::Mail};

/// Where a driver is entered.
pub(in crate::session) struct Place {
    client_id: ClientId,
    /// Weak: the drivers' tasks are in there too.
    drivers: Weak<Mutex<Drivers>>,
}

impl Place {
    pub(super) fn new(client_id: ClientId, drivers: &std::sync::Arc<Mutex<Drivers>>) -> Self {
        Self {
            client_id,
            drivers: std::sync::Arc::downgrade(drivers),
        }
    }

    pub(in crate::session) const fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The record is about to be removed, the place is not.
    pub(in crate::session) fn outlives_its_record(&self) {
        if let Some(drivers) = self.drivers.upgrade() {
            lock(&drivers).removed.insert(self.client_id.clone());
        }
    }

    /// Gives the place back, unless mail has come or is about to: then the
    /// driver goes on. After `true` it must end.
    pub(in crate::session) fn leave(&self, mailbox: &mpsc::Receiver<Box<Mail>>) -> bool {
        let Some(drivers) = self.drivers.upgrade() else {
            return true;
        };
        let mut drivers = lock(&drivers);
        let may_leave = nothing_is_left(|| mailbox.sender_strong_count(), || mailbox.is_empty());
        if may_leave {
            drivers.by_client_id.remove(&self.client_id);
        }
        may_leave
    }
}

/// Whoever sent and is gone has sent before: so the senders are looked at
/// first. Nobody comes by a sender meanwhile, but one who has it may send and go.
fn nothing_is_left(senders: impl FnOnce() -> usize, is_empty: impl FnOnce() -> bool) -> bool {
    /// The one in `Drivers`.
    const OWN_SENDER: usize = 1;
    senders() <= OWN_SENDER && is_empty()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn who_sends_and_goes_between_two_looks_is_read() {
        let is_gone = Cell::new(false);
        let senders = || if is_gone.replace(true) { 1 } else { 2 };
        let is_empty = || !is_gone.replace(true);
        assert!(!nothing_is_left(senders, is_empty));
        assert!(!nothing_is_left(|| 1, || false));
        assert!(nothing_is_left(|| 1, || true));
    }
}
