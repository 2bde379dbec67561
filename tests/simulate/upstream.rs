//! etcd's side of the one attempt that is under way, and the network between:
//! faithful in what it says, adversarial in when, in how many pieces, and how
//! often.

use std::collections::VecDeque;

use watchmark::resume::{
    Attempt, Guard, Header, Refusal, RefusalKind, Revision, WatchOpened, input,
};

use crate::etcd::{Entry, Etcd, Member, rev};

pub(crate) type Said = input::Upstream<Entry, Entry>;

/// What etcd does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// What is due, as so many revisions or pairs, cut into two fragments.
    Go { many: u8, cut: Option<u8> },
    /// A timed progress notification: the newest revision that the member has
    /// applied, or an older one (etcd#20221).
    Bookmark { back: u8 },
    /// The answer to a progress request, if it is not forgotten (etcd#17507).
    Answer,
    /// Old events again (etcd#15271).
    Replay { from: u8, many: u8 },
    /// The stream breaks; whether what is on its way arrives.
    Lost { arrives: bool },
    /// etcd refuses.
    Refuse,
    /// A stale linearizable answer of an old server (etcd#20418).
    Stale { back: u8 },
}

/// An attempt.
pub(crate) enum Attempting {
    Watch(Watch),
    Head,
    Snapshot(Option<Snapshot>),
}

/// A watch: everything up to `sent` was said.
pub(crate) struct Watch {
    pub(crate) guard: Guard,
    pub(crate) member: usize,
    /// Created, and its guard read.
    pub(crate) is_open: bool,
    /// A progress request waits for its answer.
    pub(crate) asked: bool,
    sent: i64,
    /// It starts at the compact revision.
    starts_compacted: Option<i64>,
    /// The rest of a fragmented response.
    rest: VecDeque<Entry>,
    /// Its member took in a snapshot: it begins anew once `rest` is sent.
    begins_anew: bool,
}

/// A snapshot pinned to `revision`: what was not said yet.
pub(crate) struct Snapshot {
    revision: i64,
    pairs: VecDeque<Entry>,
}

/// Said by etcd, not heard yet.
pub(crate) struct OnItsWay {
    pub(crate) epoch: usize,
    pub(crate) said: Said,
}

/// The attempt under way; `None`: none, or etcd has said its last word.
#[derive(Default)]
pub(crate) struct Upstream {
    pub(crate) attempt: Attempt,
    pub(crate) attempting: Option<Attempting>,
    /// Of the attempt, if it is a watch.
    pub(crate) guard: Option<Guard>,
    pub(crate) on_its_way: VecDeque<OnItsWay>,
    /// What was on its way to attempts that are over.
    pub(crate) too_late: VecDeque<(Attempt, Said)>,
    /// The servers that it spoke to are gone: it can only break.
    pub(crate) is_broken: bool,
    /// On which members progress requests are sound, as bits.
    pub(crate) can_ask: u8,
    /// Old servers answered stale reads: false alarms are possible.
    pub(crate) was_stale: bool,
}

/// What came of an act, for the figures.
pub(crate) type Note = &'static str;

impl Watch {
    pub(crate) fn new(guard: Guard, member: usize) -> Self {
        Self {
            sent: guard.revision.get(),
            guard,
            member,
            is_open: false,
            asked: false,
            starts_compacted: None,
            rest: VecDeque::new(),
            begins_anew: false,
        }
    }

    fn open(&mut self, etcd: &Etcd, can_ask_progress: bool) -> Said {
        self.is_open = true;
        let compacted = etcd.member(self.member).compacted;
        self.starts_compacted = Some(compacted).filter(|&at| at == self.sent + 1);
        Said::WatchOpened(WatchOpened {
            member_id: etcd.member_id(self.member),
            can_ask_progress,
            guard: etcd.guard(self.member, &self.guard.key, self.guard.revision.get()),
        })
    }

    /// The member took in a snapshot of its leader, and forgot how far this
    /// watch had come.
    pub(crate) const fn member_took_a_snapshot(&mut self) {
        self.begins_anew = true;
    }

    fn is_compacted(&self, member: Member) -> bool {
        member.compacted > self.sent + 1
    }

    fn go(&mut self, etcd: &Etcd, many: u8, cut: Option<u8>) -> Option<Said> {
        if !self.rest.is_empty() {
            let take = cut.map_or(self.rest.len(), |cut| {
                usize::from(cut) % self.rest.len() + 1
            });
            let events = self.rest.drain(..take).collect();
            let fragment = !self.rest.is_empty();
            return Some(Said::Events { events, fragment });
        }
        if std::mem::take(&mut self.begins_anew) {
            self.sent = self.guard.revision.get();
        }
        let member = etcd.member(self.member);
        if self.is_compacted(member) {
            return Some(Said::Compacted {
                compact_revision: rev(member.compacted),
            });
        }
        let from = self.sent;
        self.sent = member
            .applied
            .min(self.sent.saturating_add(i64::from(many) + 1))
            .max(from);
        let mut events = etcd.events(etcd.epoch(), from, self.sent);
        // A watch that starts at the compact revision misses its deletions
        // (etcd#18089).
        if let Some(start) = self.starts_compacted {
            events.retain(|event| !(event.deleted && event.revision == start));
        }
        if events.is_empty() {
            return None;
        }
        self.rest = events.into();
        self.go(etcd, 0, cut)
    }

    fn bookmark(&mut self, etcd: &Etcd, back: i64) -> Option<Said> {
        let member = etcd.member(self.member);
        let missing = etcd.events(etcd.epoch(), self.sent, member.applied);
        let is_synced = self.rest.is_empty()
            && !self.begins_anew
            && missing.is_empty()
            && !self.is_compacted(member);
        if !is_synced {
            return None;
        }
        self.sent = self.sent.max(member.applied);
        Revision::new(member.applied - back).map(Said::Bookmark)
    }
}

impl Upstream {
    /// The driver drops the attempt, or the process dies.
    pub(crate) fn end(&mut self) {
        let attempt = self.attempt;
        let unheard = self.on_its_way.drain(..);
        self.too_late.extend(unheard.map(|it| (attempt, it.said)));
        while self.too_late.len() > 8 {
            self.too_late.pop_front();
        }
        self.attempting = None;
        self.guard = None;
        self.is_broken = false;
    }

    pub(crate) fn can_ask(&self, etcd: &Etcd, member: usize) -> bool {
        self.can_ask & (1 << member) != 0 && !etcd.is_proxied
    }

    /// What etcd says to the attempt under way, if `act` is possible now, and
    /// what kind of fault that is.
    pub(crate) fn act(&mut self, etcd: &Etcd, act: &Act) -> (Option<Said>, Note) {
        if std::mem::take(&mut self.is_broken) {
            self.attempting = None;
            return (Some(Said::Lost), "disconnect");
        }
        if let Act::Lost { arrives: false } = act {
            let go = Act::Go { many: 1, cut: None };
            let (swallowed, _) = self.act(etcd, &go);
            if swallowed.is_some() || !self.on_its_way.is_empty() {
                self.on_its_way.clear();
                self.attempting = None;
                return (Some(Said::Lost), "disconnect that swallows what was said");
            }
        }
        let mut note = "";
        let can_ask = self.can_ask;
        let Some(attempting) = &mut self.attempting else {
            return (None, "");
        };
        let said = match (attempting, act) {
            (_, Act::Lost { .. }) => {
                note = "disconnect";
                Some(Said::Lost)
            }
            (_, Act::Refuse) => {
                note = "refusal";
                Some(Said::Refused(Refusal {
                    kind: RefusalKind::PermissionDenied,
                    message: "denied".into(),
                }))
            }
            (Attempting::Watch(watch), act) if !watch.is_open => {
                let may_ask = can_ask & (1 << watch.member) != 0 && !etcd.is_proxied;
                let is_current = etcd.is_current(watch.member);
                let member = etcd.member(watch.member);
                match act {
                    Act::Stale { .. } if !is_current => {
                        self.was_stale = true;
                        note = "stale linearizable answer";
                        Some(watch.open(etcd, may_ask))
                    }
                    Act::Go { cut: Some(_), .. } if watch.is_compacted(member) => {
                        note = "compaction cancels a watch before its guard is read";
                        Some(Said::Compacted {
                            compact_revision: rev(member.compacted),
                        })
                    }
                    // It waits for its member to catch up.
                    _ => is_current.then(|| watch.open(etcd, may_ask)),
                }
            }
            (Attempting::Watch(watch), &Act::Go { many, cut }) => {
                let said = watch.go(etcd, many, cut);
                match said {
                    Some(Said::Compacted { .. }) => note = "compaction cancels a watch",
                    Some(Said::Events { fragment: true, .. }) => note = "response in fragments",
                    _ => {}
                }
                said
            }
            (Attempting::Watch(watch), &Act::Bookmark { back }) => {
                let said = watch.bookmark(etcd, i64::from(back));
                if let Some(Said::Bookmark(at)) = said
                    && at.get() < watch.sent
                {
                    note = "bookmark below what was sent";
                }
                said
            }
            (Attempting::Watch(watch), Act::Answer) => {
                if std::mem::take(&mut watch.asked) {
                    let answer = watch.bookmark(etcd, 0);
                    if answer.is_none() {
                        note = "progress request without an answer";
                    }
                    answer
                } else {
                    None
                }
            }
            (Attempting::Watch(watch), &Act::Replay { from, many }) => {
                let from = i64::from(from);
                let to = (from + i64::from(many)).min(watch.sent);
                let events = etcd.events(etcd.epoch(), from, to);
                // A replay is a response of its own: not inside another.
                let is_one = watch.rest.is_empty() && !events.is_empty();
                note = if is_one { "events repeated" } else { "" };
                is_one.then_some(Said::Events {
                    events,
                    fragment: false,
                })
            }
            (Attempting::Watch(_), Act::Stale { .. }) => None,
            (Attempting::Head, _) => Some(Said::Head(etcd.header(current(etcd)))),
            (Attempting::Snapshot(snapshot @ None), act) => {
                let back = if let Act::Stale { back } = act {
                    self.was_stale = true;
                    note = "stale linearizable answer";
                    i64::from(*back)
                } else {
                    0
                };
                let revision = (etcd.head() - back).max(1).max(etcd.compacted);
                *snapshot = Some(Snapshot {
                    revision,
                    pairs: etcd.state(etcd.epoch(), revision).into(),
                });
                Some(Said::SnapshotBegun(Header {
                    revision: rev(revision),
                    ..etcd.header(current(etcd))
                }))
            }
            (Attempting::Snapshot(Some(snapshot)), Act::Go { many, .. }) => {
                if etcd.compacted > snapshot.revision {
                    note = "compaction overtakes a snapshot";
                    Some(Said::SnapshotCompacted {
                        compact_revision: Revision::new(etcd.compacted),
                    })
                } else if snapshot.pairs.is_empty() {
                    Some(Said::SnapshotEnded)
                } else {
                    let many = usize::from(*many % 4 + 1).min(snapshot.pairs.len());
                    Some(Said::SnapshotPage(snapshot.pairs.drain(..many).collect()))
                }
            }
            (Attempting::Snapshot(Some(_)), _) => None,
        };
        if said.as_ref().is_some_and(is_last_word) {
            self.attempting = None;
        }
        (said, note)
    }
}

/// A member that does not lag.
fn current(etcd: &Etcd) -> Member {
    let members = (0..crate::etcd::MEMBERS).map(|member| etcd.member(member));
    members.max_by_key(|member| !member.lags).unwrap()
}

/// Whether nothing can follow.
fn is_last_word(said: &Said) -> bool {
    match said {
        Said::Lost
        | Said::Refused(_)
        | Said::Compacted { .. }
        | Said::SnapshotEnded
        | Said::SnapshotCompacted { .. }
        | Said::Head(_) => true,
        Said::WatchOpened(_)
        | Said::Events { .. }
        | Said::Bookmark(_)
        | Said::SnapshotBegun(_)
        | Said::SnapshotPage(_) => false,
    }
}
