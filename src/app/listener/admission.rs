//! How many connections there are, from whom, and which are too many.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{config::ConnectionLimits, grpc::ConnectionLimit};

/// So many connections above a limit are taken at a time, to answer their calls
/// with what is wrong; further ones are closed at once.
const EXCESS_MAX: usize = 32;

/// Counts connections.
#[derive(Debug)]
pub(super) struct Admission {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
    open: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    excess: usize,
    open_by_ip: HashMap<IpAddr, usize>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    ip: Option<IpAddr>,
    excess: Option<ConnectionLimit>,
}

impl Admission {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            counts: Mutex::default(),
            open: watch::Sender::new(0),
        })
    }

    /// How many connections are open, as it changes; without those too many.
    pub(super) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// A place for a connection from `ip` (`None`: a Unix socket), perhaps only
    /// to be told that it is one too many.
    ///
    /// # Errors
    /// The limit, when there is not even place for that.
    pub(super) fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<Place, ConnectionLimit> {
        let ip = ip.map(|ip| ip.to_canonical());
        let mut counts = self.lock();
        let excess = self.excess(&counts, ip);
        if let Some(limit) = excess {
            if counts.excess >= EXCESS_MAX {
                return Err(limit);
            }
            counts.excess += 1;
        } else {
            counts.open += 1;
            if let Some(ip) = ip {
                *counts.open_by_ip.entry(ip).or_default() += 1;
            }
            self.open.send_replace(counts.open);
        }
        drop(counts);
        Ok(Place {
            admission: Arc::clone(self),
            ip,
            excess,
        })
    }

    fn excess(&self, counts: &Counts, ip: Option<IpAddr>) -> Option<ConnectionLimit> {
        let ConnectionLimits { total, per_peer } = self.limits;
        let from_there = ip.and_then(|ip| counts.open_by_ip.get(&ip)).copied();
        if counts.open >= total {
            Some(ConnectionLimit::Total(total))
        } else if from_there.is_some_and(|open| open >= per_peer) {
            Some(ConnectionLimit::PerPeer(per_peer))
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Every change under it is a few numbers.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The limit that this connection exceeds.
    pub(super) const fn excess(&self) -> Option<ConnectionLimit> {
        self.excess
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        if self.excess.is_some() {
            counts.excess -= 1;
            return;
        }
        counts.open -= 1;
        if let Some(Entry::Occupied(mut open)) = self.ip.map(|ip| counts.open_by_ip.entry(ip)) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        self.admission.open.send_replace(counts.open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(total: usize, per_peer: usize) -> Arc<Admission> {
        Admission::new(ConnectionLimits { total, per_peer })
    }

    fn ip(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let admission = admission(3, 2);
        let first = [admission.admit(ip(1)), admission.admit(ip(1))].map(Result::unwrap);
        assert!(first.iter().all(|place| place.excess().is_none()));
        let mapped = Some("::ffff:10.0.0.1".parse().unwrap());
        let third = admission.admit(mapped).unwrap();
        assert_eq!(third.excess(), Some(ConnectionLimit::PerPeer(2)));
        let other = admission.admit(ip(2)).unwrap();
        assert_eq!(other.excess(), None);
        let fourth = admission.admit(None).unwrap();
        assert_eq!(fourth.excess(), Some(ConnectionLimit::Total(3)));
        assert_eq!(*admission.open().borrow(), 3);
        drop((first, third, fourth));
        assert_eq!(*admission.open().borrow(), 1);
        assert_eq!(admission.admit(ip(1)).unwrap().excess(), None);
        drop(other);
        assert!(admission.lock().open_by_ip.is_empty());
    }

    #[test]
    fn those_too_many_are_bounded_too_and_take_nobodys_place() {
        let admission = admission(1, 1);
        let place = admission.admit(ip(1)).unwrap();
        let crowd: Vec<_> = (0..EXCESS_MAX)
            .map(|_| admission.admit(ip(1)).unwrap())
            .collect();
        assert_eq!(
            admission.admit(ip(2)).unwrap_err(),
            ConnectionLimit::Total(1)
        );
        drop(place);
        assert_eq!(admission.admit(ip(2)).unwrap().excess(), None);
        drop(crowd);
    }
}
