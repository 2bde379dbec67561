//! Who subscribes: every kind of application.

use std::{ops::Range, time::Duration};

use watchmark::proto::watchmark::v1::{AckMode, CompactionPolicy, Start, SubscribeRequest};

/// How one application behaves.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Its client_id begins with it.
    pub(crate) name: &'static str,
    /// `None`: every key.
    pub(crate) prefix: Option<&'static str>,
    pub(crate) change: fn(&mut SubscribeRequest),
    /// What it does with each message, in milliseconds.
    pub(crate) pace: Range<u64>,
    /// It acknowledges after so many events; `None`: never.
    pub(crate) ack_after: Option<usize>,
    /// Whether it reads on while an ack is under way.
    pub(crate) acks_aside: bool,
    /// One message in so many makes it read nothing for seconds; 0: none.
    pub(crate) sleeps: usize,
    /// How long it stays, in seconds, before it crashes; empty: for ever.
    pub(crate) life: Range<u64>,
    /// How long it stays away after a crash, in milliseconds.
    pub(crate) absence: Range<u64>,
    pub(crate) what: What,
}

/// What else is special about an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Plain,
    /// Two processes take over from each other.
    Twins,
    /// Keeps its own position and asks for what comes after it.
    OwnPosition,
    /// A new client_id in every life.
    Newcomer,
}

impl Profile {
    const PLAIN: Self = Self {
        name: "",
        prefix: None,
        change: |_| {},
        pace: 0..1,
        ack_after: Some(20),
        acks_aside: true,
        sleeps: 0,
        life: 0..0,
        absence: 50..400,
        what: What::Plain,
    };

    /// Whether the state it builds must equal etcd's: nothing is hidden from
    /// it, nothing may be lost on its way.
    pub(crate) fn sees_everything(&self) -> bool {
        let request = self.request("x");
        let auto = request.ack_mode() == AckMode::Auto;
        !(auto || request.no_put || request.no_delete || self.what == What::Newcomer)
    }

    /// Whether it acknowledges all it processed in the end.
    pub(crate) fn acknowledges(&self) -> bool {
        self.request("x").ack_mode() != AckMode::Auto && self.ack_after.is_some()
    }

    pub(crate) fn request(&self, client_id: &str) -> SubscribeRequest {
        let mut request = SubscribeRequest {
            client_id: client_id.to_owned(),
            start: Start::Snapshot.into(),
            ..SubscribeRequest::default()
        };
        match self.prefix {
            Some(prefix) => request.prefix = prefix.into(),
            None => {
                request.key = vec![0].into();
                request.range_end = vec![0].into();
            }
        }
        (self.change)(&mut request);
        request
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Profile> {
    let plain = Profile::PLAIN;
    let hot = Profile {
        prefix: Some("hot/"),
        ..plain.clone()
    };
    let warm = Profile {
        prefix: Some("warm/"),
        ..plain.clone()
    };
    let crashing = Profile {
        name: "crashing",
        life: 1..6,
        ..hot.clone()
    };
    vec![
        Profile {
            name: "fast",
            ..hot.clone()
        },
        Profile {
            name: "everything",
            ack_after: Some(100),
            ..plain.clone()
        },
        Profile {
            name: "step-by-step",
            acks_aside: false,
            ack_after: Some(1),
            ..warm.clone()
        },
        Profile {
            name: "slow",
            pace: 100..400,
            ..hot.clone()
        },
        Profile {
            name: "slow-acks",
            ack_after: Some(400),
            life: 10..30,
            ..warm.clone()
        },
        Profile {
            name: "sleeping",
            sleeps: 40,
            ..hot.clone()
        },
        crashing.clone(),
        Profile {
            name: "crashing-prev-kv",
            prefix: Some("warm/"),
            change: |request| request.prev_kv = true,
            ..crashing.clone()
        },
        Profile {
            name: "crashing-everything",
            prefix: None,
            ..crashing.clone()
        },
        Profile {
            name: "away",
            prefix: Some("warm/"),
            life: 2..8,
            absence: 4000..15_000,
            ..plain.clone()
        },
        Profile {
            name: "away-or-fail",
            prefix: Some("warm/"),
            change: |request| request.on_compaction = CompactionPolicy::Fail.into(),
            life: 2..8,
            absence: 4000..15_000,
            ..plain.clone()
        },
        Profile {
            name: "auto",
            change: |request| request.ack_mode = AckMode::Auto.into(),
            ..hot.clone()
        },
        Profile {
            name: "auto-crashing",
            change: |request| request.ack_mode = AckMode::Auto.into(),
            life: 1..8,
            ..warm.clone()
        },
        Profile {
            name: "twins",
            life: 2..6,
            absence: 1000..5000,
            what: What::Twins,
            ..hot.clone()
        },
        Profile {
            name: "twins-slow",
            pace: 20..200,
            life: 2..6,
            absence: 1000..5000,
            what: What::Twins,
            ..warm.clone()
        },
        Profile {
            name: "one-unacked",
            change: |request| request.max_unacked_events = 1,
            acks_aside: false,
            ack_after: Some(1),
            ..hot.clone()
        },
        Profile {
            name: "some-unacked",
            change: |request| request.max_unacked_events = 50,
            life: 5..20,
            ..warm.clone()
        },
        Profile {
            name: "keys-only",
            change: |request| request.keys_only = true,
            ..warm.clone()
        },
        Profile {
            name: "no-delete",
            change: |request| request.no_delete = true,
            life: 5..20,
            ..warm.clone()
        },
        Profile {
            name: "no-put",
            change: |request| request.no_put = true,
            life: 5..20,
            ..hot.clone()
        },
        Profile {
            name: "leases",
            prefix: Some("lease/"),
            life: 5..20,
            ..plain.clone()
        },
        Profile {
            name: "quiet",
            prefix: Some("quiet/"),
            ack_after: Some(1),
            ..plain.clone()
        },
        Profile {
            name: "quiet-away",
            prefix: Some("quiet/"),
            ack_after: Some(1),
            life: 2..10,
            absence: 3000..12_000,
            ..plain.clone()
        },
        Profile {
            name: "own-position",
            ack_after: None,
            life: 2..10,
            what: What::OwnPosition,
            ..warm.clone()
        },
        Profile {
            name: "never-acks",
            ack_after: None,
            life: 10..30,
            ..warm.clone()
        },
        Profile {
            name: "newcomer",
            life: 1..5,
            what: What::Newcomer,
            ..warm
        },
        Profile {
            name: "deep-away",
            prefix: Some("deep/"),
            ack_after: Some(500),
            life: 2..8,
            absence: 4000..15_000,
            ..plain
        },
    ]
}

/// Seconds of a life.
pub(crate) fn seconds(range: &Range<u64>, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(rng.u64(range.start * 1000..range.end * 1000))
}
