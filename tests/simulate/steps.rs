//! What may happen in a world, and how likely it is.

use proptest::prelude::*;

use crate::{
    etcd::{Change, Identity},
    upstream::Act,
};

/// What does not change in a world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    /// On which members progress requests are sound, as bits.
    pub(crate) can_ask: u8,
    /// Behind etcd's grpc-proxy.
    pub(crate) is_proxied: bool,
    /// 0: auto, 1: progress, 2: delay.
    pub(crate) idle_proof: u8,
    /// Which disturbances do not occur, as bits (see [`Step::disturbance`]):
    /// where all of them do, nothing ever gets far.
    pub(crate) spared: u32,
    /// After every step, of their own accord: 1: the store answers, 2: etcd
    /// speaks too, 3: the subscriber reads too, 4: it acknowledges too.
    pub(crate) eager: u8,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Commit(Vec<Change>),
    /// Up to so many revisions below the newest.
    Compact(u8),
    /// Keeps all but so many revisions.
    Replace(u8, Identity),
    Elect,
    /// A member stands still.
    Lag(u8),
    /// It catches up; with a snapshot of the leader or without.
    CatchUp(bool),
    Etcd(Act),
    /// The same, heard with what comes next.
    Delayed(Act),
    /// An input of an older attempt.
    Old(u8, u8),
    /// A member's answer, and how many seconds it took.
    Probe(u8, u8),
    Stored,
    /// Reported as failed; whether it reached the disk all the same.
    NotStored(bool),
    Crash(bool),
    Subscribe(Ask),
    Close,
    Read(u8),
    Ack(Which, u8),
    Wait(Pause),
    /// An operator's move, up to so many revisions below the newest; `None`:
    /// to a snapshot.
    Seek(Option<u8>),
    Delete,
    /// Seconds in which nothing, or so many changes, happen; whether they
    /// are kept from the watch.
    QuietSpell(u16, u8, bool),
    /// The process stands still for so many seconds.
    Leap(u16),
    Drain,
}

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) latest: bool,
    pub(crate) fail: bool,
    pub(crate) auto: bool,
    pub(crate) window: Option<u8>,
    pub(crate) resume: Resume,
}

impl Ask {
    /// Whatever is next, at its own speed.
    pub(crate) const PLAIN: Self = Self {
        latest: false,
        fail: false,
        auto: false,
        window: None,
        resume: Resume::None,
    };
}

/// The position that it brings.
#[derive(Clone, Debug)]
pub(crate) enum Resume {
    None,
    Own,
    Back(u8),
    Above,
}

/// What it acknowledges, at or near this.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Current,
    Named,
    Older,
}

/// How long nothing happens.
#[derive(Clone, Debug)]
pub(crate) enum Pause {
    Timer,
    Millis(u16),
    Seconds(u16),
}

impl Step {
    /// Which kind of disturbance it is, if any: a number below 32.
    pub(crate) const fn disturbance(&self) -> Option<u8> {
        match self {
            Self::Compact(_) => Some(0),
            Self::Replace(..) => Some(1),
            Self::Elect => Some(2),
            Self::Lag(_) | Self::CatchUp(_) => Some(3),
            Self::Etcd(act) | Self::Delayed(act) => match act {
                Act::Lost { .. } => Some(4),
                Act::Refuse => Some(5),
                Act::Stale { .. } => Some(6),
                Act::Replay { .. } => Some(7),
                Act::Go { .. } | Act::Bookmark { .. } | Act::Answer => {
                    if matches!(self, Self::Delayed(_)) {
                        Some(8)
                    } else {
                        None
                    }
                }
            },
            Self::Old(..) => Some(9),
            Self::NotStored(_) => Some(10),
            Self::Crash(_) => Some(11),
            Self::Close => Some(12),
            Self::Leap(_) => Some(13),
            Self::Drain => Some(14),
            // Where there is a stream already.
            Self::Subscribe(_) => Some(15),
            Self::Seek(_) => Some(16),
            Self::Delete => Some(17),
            Self::Commit(_)
            | Self::Probe(..)
            | Self::Stored
            | Self::Read(_)
            | Self::Ack(..)
            | Self::Wait(_)
            | Self::QuietSpell(..) => None,
        }
    }
}

pub(crate) fn any_setup() -> impl Strategy<Value = Setup> {
    let filters = prop_oneof![
        4 => Just((false, false)),
        1 => Just((true, false)),
        1 => Just((false, true)),
    ];
    let can_ask = prop_oneof![2 => Just(0_u8), 2 => Just(0b111), 1 => 0..8_u8];
    let is_proxied = prop::bool::weighted(0.1);
    let others = (0..3_u8, is_proxied, any::<u32>(), 0..5_u8);
    (filters, can_ask, others).prop_map(|((no_put, no_delete), can_ask, others)| {
        let (idle_proof, is_proxied, spared, eager) = others;
        Setup {
            no_put,
            no_delete,
            can_ask,
            is_proxied,
            idle_proof,
            spared,
            eager,
        }
    })
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let change = (
        0..6_u8,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(key, delete, large)| Change { key, delete, large });
    let huge = Just(
        (0..4)
            .map(|key| Change {
                key,
                delete: false,
                large: true,
            })
            .collect::<Vec<_>>(),
    );
    let changes = prop_oneof![
        9 => prop::collection::vec(change, 1..4),
        1 => huge,
    ];
    prop_oneof![
        14 => changes.prop_map(Step::Commit),
        4 => prop_oneof![Just(0), 0..12_u8].prop_map(Step::Compact),
        1 => (0..12_u8, any_identity()).prop_map(|(lost, like)| Step::Replace(lost, like)),
        1 => Just(Step::Elect),
        2 => (0..3_u8).prop_map(Step::Lag),
        2 => any::<bool>().prop_map(Step::CatchUp),
        26 => any_act().prop_map(Step::Etcd),
        5 => any_act().prop_map(Step::Delayed),
        2 => (0..8_u8, 1..4_u8).prop_map(|(said, back)| Step::Old(said, back)),
        3 => (0..3_u8, 0..5_u8).prop_map(|(member, age)| Step::Probe(member, age)),
        14 => Just(Step::Stored),
        1 => any::<bool>().prop_map(Step::NotStored),
        1 => any::<bool>().prop_map(Step::Crash),
        5 => any_ask().prop_map(Step::Subscribe),
        1 => Just(Step::Close),
        16 => (1..5_u8).prop_map(Step::Read),
        10 => (any_which(), prop_oneof![3 => Just(1), 1 => 0..6_u8]).prop_map(|(which, near)| Step::Ack(which, near)),
        8 => any_pause().prop_map(Step::Wait),
        2 => prop::option::weighted(0.8, 0..8_u8).prop_map(Step::Seek),
        1 => Just(Step::Delete),
        3 => (600..1500_u16, 0..7_u8, prop::bool::weighted(0.2))
            .prop_map(|(seconds, changes, lags)| Step::QuietSpell(seconds, changes, lags)),
        1 => (1..2000_u16).prop_map(Step::Leap),
        1 => prop::bool::weighted(0.3).prop_map(|drain| if drain {
            Step::Drain
        } else {
            Step::Stored
        }),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (0..6_u8, prop::option::weighted(0.3, 0..4_u8))
            .prop_map(|(many, cut)| Act::Go { many, cut }),
        6 => prop_oneof![3 => Just(0), 1 => 0..5_u8].prop_map(|back| Act::Bookmark { back }),
        2 => (0..20_u8, 0..6_u8).prop_map(|(from, many)| Act::Replay { from, many }),
        3 => Just(Act::Answer),
        2 => any::<bool>().prop_map(|arrives| Act::Lost { arrives }),
        1 => prop::bool::weighted(0.1).prop_map(|refuse| if refuse {
            Act::Refuse
        } else {
            Act::Lost { arrives: true }
        }),
        1 => (0..4_u8).prop_map(|back| Act::Stale { back }),
    ]
}

fn any_identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        Just(Identity::New),
        Just(Identity::SameFlags),
        Just(Identity::SameTerm),
    ]
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let resume = prop_oneof![
        10 => Just(Resume::None),
        2 => Just(Resume::Own),
        2 => (0..8_u8).prop_map(Resume::Back),
        1 => Just(Resume::Above),
    ];
    let window = prop::option::weighted(0.3, 1..6_u8);
    let flag = || prop::bool::weighted(0.2);
    (flag(), flag(), flag(), window, resume).prop_map(|(latest, fail, auto, window, resume)| Ask {
        latest,
        fail,
        auto,
        window,
        resume,
    })
}

fn any_which() -> impl Strategy<Value = Which> {
    prop_oneof![
        5 => Just(Which::Current),
        4 => Just(Which::Named),
        1 => Just(Which::Older),
    ]
}

fn any_pause() -> impl Strategy<Value = Pause> {
    prop_oneof![
        6 => Just(Pause::Timer),
        2 => (1..2000_u16).prop_map(Pause::Millis),
        2 => (1..2000_u16).prop_map(Pause::Seconds),
    ]
}
