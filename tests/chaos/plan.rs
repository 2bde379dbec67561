//! Which faults come, how long and how often: drawn from the seed alone.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Write as _,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use fastrand::Rng;

/// What can be done to the cluster, watchmark and the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    KillMember,
    KillLeader,
    MoveLeader,
    PauseMember,
    IsolateFollower,
    LoseQuorum,
    Compact,
    Defragment,
    RestoreBackup,
    KillWatchmark,
    PauseWatchmark,
    DrainWatchmark,
    CutEtcd,
    StallEtcd,
    SlowEtcd,
    CutSubscribers,
    StallSubscribers,
    SlowSubscribers,
    RevokeTokens,
    FillDisk,
}

/// To the cluster, one after the other.
pub(crate) const CLUSTER: &[Kind] = &[
    Kind::KillMember,
    Kind::KillLeader,
    Kind::MoveLeader,
    Kind::PauseMember,
    Kind::IsolateFollower,
    Kind::LoseQuorum,
    Kind::Compact,
    Kind::Compact,
    Kind::Compact,
    Kind::Compact,
    Kind::Defragment,
];

/// To watchmark and its connections, one after the other, at the same time.
pub(crate) const SIDECAR: &[Kind] = &[
    Kind::KillWatchmark,
    Kind::KillWatchmark,
    Kind::PauseWatchmark,
    Kind::DrainWatchmark,
    Kind::CutEtcd,
    Kind::StallEtcd,
    Kind::SlowEtcd,
    Kind::CutSubscribers,
    Kind::StallSubscribers,
    Kind::SlowSubscribers,
    Kind::RevokeTokens,
    Kind::FillDisk,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillMember => "etcd member: kill -9",
            Self::KillLeader => "etcd leader: kill -9",
            Self::MoveLeader => "etcd leader moved",
            Self::PauseMember => "etcd member: SIGSTOP",
            Self::IsolateFollower => "etcd follower isolated",
            Self::LoseQuorum => "etcd quorum lost (two SIGSTOP)",
            Self::Compact => "compaction",
            Self::Defragment => "defragmentation",
            Self::RestoreBackup => "cluster restored from a backup",
            Self::KillWatchmark => "watchmark: kill -9",
            Self::PauseWatchmark => "watchmark: SIGSTOP",
            Self::DrainWatchmark => "watchmark: SIGTERM",
            Self::CutEtcd => "connections to etcd cut",
            Self::StallEtcd => "connections to etcd stalled one way",
            Self::SlowEtcd => "connections to etcd slow one way",
            Self::CutSubscribers => "subscribers' connections cut",
            Self::StallSubscribers => "subscribers' stalled one way",
            Self::SlowSubscribers => "subscribers' slow one way",
            Self::RevokeTokens => "auth tokens revoked",
            Self::FillDisk => "disk full",
        })
    }
}

/// One fault to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Decides whatever there is to decide.
    pub(crate) choice: usize,
    pub(crate) lasts: Duration,
    /// Peace after it.
    pub(crate) gap: Duration,
}

/// Deals every kind once, in an order of its own, and begins again.
#[derive(Debug)]
pub(crate) struct Deck {
    rng: Rng,
    kinds: &'static [Kind],
    left: Vec<Kind>,
}

impl Deck {
    pub(crate) fn new(kinds: &'static [Kind], seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            kinds,
            left: Vec::new(),
        }
    }

    pub(crate) fn deal(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = self.kinds.to_vec();
            self.rng.shuffle(&mut self.left);
        }
        let kind = self.left.pop().unwrap();
        let millis = |rng: &mut Rng, range| Duration::from_millis(rng.u64(range));
        Fault {
            kind,
            choice: self.rng.usize(..),
            lasts: millis(&mut self.rng, 300..6000),
            gap: millis(&mut self.rng, 200..1500),
        }
    }
}

/// What was done, and when.
#[derive(Debug)]
pub(crate) struct Journal {
    started: Instant,
    file: Mutex<File>,
    counts: Mutex<BTreeMap<Kind, usize>>,
}

impl Journal {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            started: Instant::now(),
            file: Mutex::new(File::create(dir.join("faults.log")).unwrap()),
            counts: Mutex::default(),
        }
    }

    /// Says something, with the seconds since the start.
    pub(crate) fn say(&self, what: &str) {
        let line = format!("{:8.3} {what}", self.started.elapsed().as_secs_f64());
        println!("{line}");
        writeln!(self.file.lock().unwrap(), "{line}").unwrap();
    }

    /// A fault was injected.
    pub(crate) fn fired(&self, kind: Kind, detail: &str) {
        *self.counts.lock().unwrap().entry(kind).or_insert(0) += 1;
        self.say(&format!("{kind}{detail}"));
    }

    pub(crate) fn counts(&self) -> BTreeMap<Kind, usize> {
        self.counts.lock().unwrap().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_deals_the_same_faults_again_and_every_kind_in_each_round() {
        let deal = || {
            let mut deck = Deck::new(SIDECAR, 7);
            (0..3 * SIDECAR.len())
                .map(|_| deck.deal())
                .collect::<Vec<_>>()
        };
        let (first, second) = (deal(), deal());
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
        for round in first.chunks(SIDECAR.len()) {
            let mut kinds: Vec<_> = round.iter().map(|fault| fault.kind).collect();
            kinds.sort();
            let mut all = SIDECAR.to_vec();
            all.sort();
            assert_eq!(kinds, all);
        }
    }
}
