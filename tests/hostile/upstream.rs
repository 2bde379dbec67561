//! Whatever etcd says, however absurd: nothing panics, nothing spins, and what
//! a subscriber is told still ascends. Also a fuzz target.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use watchmark::resume::{
    AckId, Attempt, Command, Fingerprint, GuardReading, Header, History, IdleProof, Input, Item,
    KeyRange, Message, OnCompaction, OutboxRoom, ProbeSample, Proof, Record, Refusal, RefusalKind,
    Revision, Selection, SessionId, SessionRequest, Settings, Start, StoreFailed, Subscription,
    Time, WatchOpened, input::Upstream,
};

/// More than any one input can ask for.
const COMMANDS_MAX: usize = 2000;

/// An event or a pair.
#[derive(Clone, Debug)]
struct Entry {
    key: Bytes,
    revision: Revision,
    bytes: usize,
}

impl Item for Entry {
    fn key(&self) -> &Bytes {
        &self.key
    }
    fn mod_revision(&self) -> Revision {
        self.revision
    }
    fn size_bytes(&self) -> usize {
        self.bytes
    }
    fn is_delete(&self) -> bool {
        self.bytes == 0
    }
}

type Said = Upstream<Entry, Entry>;

fn revision(revision: i64) -> Revision {
    Revision::new(revision).unwrap()
}

fn selection() -> Selection {
    Selection {
        range: KeyRange::prefix("a/".into()),
        no_put: false,
        no_delete: false,
    }
}

/// Acknowledged up to 100, an event of that revision.
fn record() -> Record {
    Record {
        checkpoint: Some(revision(100)),
        proof: Proof::Acked,
        history: History {
            cluster_id: 1,
            raft_term: 2,
            fingerprint: Some(Fingerprint {
                key: "a/1".into(),
                mod_revision: revision(100),
                deleted: false,
            }),
        },
        ..Record::new(selection())
    }
}

/// How a subscription begins, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    is_new: bool,
    idle_proof: IdleProof,
    first: SessionRequest,
    steps: Vec<Step>,
}

impl Story {
    /// What happened in the other one happens, too.
    #[cfg(fuzzing)]
    pub(crate) fn go_on(&mut self, other: Self) {
        self.steps.extend(other.steps);
    }
}

/// Of fewer than `steps_end` steps.
pub(crate) fn stories(steps_end: usize) -> impl Strategy<Value = Story> {
    let proofs = vec![IdleProof::Auto, IdleProof::Progress, IdleProof::Delay];
    let idle_proof = prop::sample::select(proofs);
    let story = (
        any::<bool>(),
        idle_proof,
        requests(),
        vec(steps(), 0..steps_end),
    );
    story.prop_map(|(is_new, idle_proof, first, steps)| Story {
        is_new,
        idle_proof,
        first,
        steps,
    })
}

/// Lets it happen. Fails if the subscriber is told what cannot be.
pub(crate) fn live(story: Story) -> Result<(), TestCaseError> {
    let mut absurd = Absurd::new(story.is_new, story.idle_proof);
    absurd.step(Step::Subscribe(story.first))?;
    for step in story.steps {
        absurd.step(step)?;
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(SessionRequest),
    Says(Said),
    SaysToThePast(Said),
    Ack(Revision),
    /// All that was delivered.
    Handed,
    Probe(u64, Revision),
    Persisted(bool),
    Room(OutboxRoom),
    Closes,
    Wait(Time),
}

fn revisions() -> impl Strategy<Value = Revision> {
    let few = prop::sample::select(vec![1, 2, 99, 1 << 40, i64::MAX - 1, i64::MAX]);
    prop_oneof![3 => 98..106_i64, 1 => few].prop_map(revision)
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let bytes = prop::sample::select(vec![0, 10, 10, 10, 200_000, 5_000_000]);
    let entry = (revisions(), prop::sample::select(vec!["a/1", "a/2"]), bytes);
    let entry = entry.prop_map(|(at, key, bytes)| Entry {
        key: key.into(),
        revision: at,
        bytes,
    });
    vec(entry, 0..6)
}

fn headers() -> impl Strategy<Value = Header> {
    (0..3_u64, 0..4_u64, revisions()).prop_map(|(cluster_id, raft_term, revision)| Header {
        cluster_id,
        raft_term,
        revision,
    })
}

fn readings() -> impl Strategy<Value = GuardReading> {
    let present = (headers(), prop::option::of(revisions()));
    let present = present.prop_map(|(header, mod_revision)| GuardReading::Present {
        header,
        mod_revision,
    });
    let compacted = prop::option::of(revisions())
        .prop_map(|compact_revision| GuardReading::Compacted { compact_revision });
    prop_oneof![6 => present, 1 => compacted, 1 => Just(GuardReading::Future)]
}

fn says() -> impl Strategy<Value = Said> {
    let intact = revisions().prop_map(|head| {
        Upstream::WatchOpened(WatchOpened {
            member_id: 1,
            can_ask_progress: true,
            guard: GuardReading::Present {
                header: Header {
                    cluster_id: 1,
                    raft_term: 2,
                    revision: head,
                },
                mod_revision: Some(revision(100)),
            },
        })
    });
    let opened = (0..3_u64, any::<bool>(), readings());
    let opened = opened.prop_map(|(member_id, can_ask_progress, guard)| {
        Upstream::WatchOpened(WatchOpened {
            member_id,
            can_ask_progress,
            guard,
        })
    });
    let kinds = prop::sample::select(vec![
        RefusalKind::PermissionDenied,
        RefusalKind::Unauthenticated,
        RefusalKind::InvalidArgument,
    ]);
    let refused = kinds.prop_map(|kind| {
        let message = "no".to_owned();
        Upstream::Refused(Refusal { kind, message })
    });
    prop_oneof![
        4 => intact,
        2 => opened,
        8 => (entries(), any::<bool>())
            .prop_map(|(events, fragment)| Upstream::Events { events, fragment }),
        4 => revisions().prop_map(Upstream::Bookmark),
        1 => revisions().prop_map(|compact_revision| Upstream::Compacted { compact_revision }),
        2 => headers().prop_map(Upstream::Head),
        3 => headers().prop_map(Upstream::SnapshotBegun),
        3 => entries().prop_map(Upstream::SnapshotPage),
        3 => Just(Upstream::SnapshotEnded),
        1 => prop::option::of(revisions())
            .prop_map(|compact_revision| Upstream::SnapshotCompacted { compact_revision }),
        1 => Just(Upstream::Lost),
        1 => refused,
    ]
}

fn requests() -> impl Strategy<Value = SessionRequest> {
    let resume_after = prop::option::weighted(0.3, revisions());
    let unacked = prop::option::weighted(0.3, 0..3_u32);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (resume_after, unacked, flags).prop_map(|(resume_after, max_unacked_events, flags)| {
        let (is_latest, fails, auto_ack) = flags;
        let start = [Start::Snapshot, Start::Latest][usize::from(is_latest)];
        SessionRequest {
            start,
            resume_after,
            on_compaction: [OnCompaction::Resync, OnCompaction::Fail][usize::from(fails)],
            auto_ack,
            max_unacked_events,
            selection: selection(),
        }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let rooms = vec![OutboxRoom::Free, OutboxRoom::Some, OutboxRoom::None];
    prop_oneof![
        2 => requests().prop_map(Step::Subscribe),
        20 => says().prop_map(Step::Says),
        2 => says().prop_map(Step::SaysToThePast),
        4 => revisions().prop_map(Step::Ack),
        2 => Just(Step::Handed),
        3 => (0..3_u64, revisions()).prop_map(|(member, at)| Step::Probe(member, at)),
        4 => any::<bool>().prop_map(Step::Persisted),
        1 => prop::sample::select(rooms).prop_map(Step::Room),
        1 => Just(Step::Closes),
        4 => (0..700_u64).prop_map(|seconds| Step::Wait(Time::from_secs(seconds))),
        2 => (0..3000_u64).prop_map(|ms| Step::Wait(Time::from_millis(ms))),
    ]
}

/// A machine, and what its subscriber must be able to rely on.
struct Absurd {
    machine: Subscription<Entry, Entry>,
    now: Time,
    room: OutboxRoom,
    attempt: Attempt,
    sessions: u64,
    is_writing: bool,
    /// The last whole revision delivered on this stream.
    told: Option<Revision>,
    /// Half of it was delivered.
    half: Option<Revision>,
    /// The last revision on this stream that may be acknowledged.
    acknowledgeable: Option<Revision>,
}

impl Absurd {
    fn new(is_new: bool, idle_proof: IdleProof) -> Self {
        let settings = Settings {
            idle_proof,
            ..Settings::default()
        };
        Self {
            machine: Subscription::new((!is_new).then(record), settings, 1),
            now: Time::ZERO,
            room: OutboxRoom::Free,
            attempt: Attempt::default(),
            sessions: 0,
            is_writing: false,
            told: None,
            half: None,
            acknowledgeable: None,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let session = SessionId(self.sessions);
        let input = match step {
            Step::Subscribe(request) => {
                self.sessions += 1;
                (self.told, self.half, self.acknowledgeable) = (None, None, None);
                Input::Subscribe {
                    session: SessionId(self.sessions),
                    request,
                }
            }
            Step::Says(said) => Input::Upstream(self.attempt, said),
            Step::SaysToThePast(said) => {
                Input::Upstream(Attempt(self.attempt.0.saturating_sub(1)), said)
            }
            Step::Ack(revision) => Input::Ack {
                ack: AckId(1),
                session: None,
                revision,
            },
            Step::Handed => match self.acknowledgeable {
                Some(revision) => Input::Handed(session, revision),
                None => return Ok(()),
            },
            Step::Probe(member_id, revision) => Input::Probe(ProbeSample {
                member_id,
                asked_at: self.now,
                revision,
            }),
            // The store answers what it was asked, and nothing else.
            Step::Persisted(_) if !self.is_writing => return Ok(()),
            Step::Persisted(is_ok) => {
                self.is_writing = false;
                Input::Persisted(is_ok.then_some(()).ok_or(StoreFailed("full".into())))
            }
            Step::Room(room) => {
                self.room = room;
                Input::Outbox(session, room)
            }
            Step::Closes => Input::SessionClosed(session),
            Step::Wait(time) => {
                self.now += time;
                return self.obey();
            }
        };
        self.machine.handle(input, self.now);
        self.obey()
    }

    fn obey(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..COMMANDS_MAX {
            let Some(command) = self.machine.next_command(self.now) else {
                return Ok(());
            };
            match command {
                Command::OpenWatch { attempt, .. }
                | Command::ReadHead(attempt)
                | Command::ReadSnapshot(attempt) => self.attempt = attempt,
                Command::Persist(_) | Command::Forget => self.is_writing = true,
                Command::Deliver(session, message) => {
                    self.hear(&message)?;
                    let room = Input::Outbox(session, self.room);
                    self.machine.handle(room, self.now);
                }
                Command::AskProgress
                | Command::CaughtUp
                | Command::CloseUpstream
                | Command::EndSession(..)
                | Command::ReplyAck(..)
                | Command::ReplyOperation(..) => {}
            }
        }
        Err(TestCaseError::fail("it never comes to rest"))
    }

    /// P1, P2, P4 and P6 in small.
    fn hear(&mut self, message: &Message<Entry, Entry>) -> Result<(), TestCaseError> {
        match message {
            Message::Events {
                revision,
                events,
                partial,
            } => {
                prop_assert!(
                    Some(*revision) > self.told,
                    "{revision} after {:?}",
                    self.told
                );
                prop_assert!(
                    self.half.is_none_or(|half| half == *revision),
                    "half a revision"
                );
                let revisions = || events.iter().map(|it| it.revision);
                prop_assert!(revisions().is_sorted());
                prop_assert!(revisions().all(|it| Some(it) > self.told && it <= *revision));
                self.half = partial.then_some(*revision);
                if !partial {
                    self.told = Some(*revision);
                    self.acknowledgeable = self.told;
                }
            }
            Message::Progress(revision) => {
                prop_assert!(Some(*revision) >= self.told);
                self.told = Some(*revision);
            }
            Message::SnapshotEnd { revision, .. } => {
                self.told = Some(*revision);
                self.acknowledgeable = self.told;
                self.half = None;
            }
            Message::Opened { checkpoint, .. } => self.told = *checkpoint,
            Message::SnapshotBegin { .. } | Message::SnapshotChunk(_) | Message::State(..) => {}
        }
        Ok(())
    }
}
