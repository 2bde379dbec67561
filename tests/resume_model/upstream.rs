//! etcd's side of the one attempt that is under way: faithful in what it says,
//! adversarial in when, in how many pieces, and how often.

use std::collections::VecDeque;

use watchmark::resume::{
    Attempt, Guard, Header, Refusal, RefusalKind, Revision, WatchOpened, input,
};

use crate::etcd::{Entry, Etcd, rev};

pub(crate) type Said = input::Upstream<Entry, Entry>;

/// What etcd does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// What is due, as so many revisions or pairs, cut into two fragments.
    Go { many: u8, cut: Option<u8> },
    /// A certified revision: the newest, or an older one.
    Bookmark { back: u8 },
    /// Old events again.
    Replay { from: u8, many: u8 },
    /// The stream breaks.
    Lost,
    /// etcd refuses.
    Refuse,
    /// A stale linearizable answer of an old server.
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
    pub(crate) member_id: u64,
    /// etcd's newest revision when the guard was read; `None`: not read yet.
    pub(crate) target: Option<i64>,
    sent: i64,
    /// It starts at the compact revision.
    starts_compacted: Option<i64>,
    /// The rest of a fragmented response.
    rest: VecDeque<Entry>,
}

/// A snapshot pinned to `revision`: what was not said yet.
pub(crate) struct Snapshot {
    revision: i64,
    pairs: VecDeque<Entry>,
}

/// The attempt under way; `None`: none, or it is over.
pub(crate) struct Upstream {
    pub(crate) attempt: Attempt,
    pub(crate) attempting: Option<Attempting>,
    /// The servers went away under it: it can only break.
    pub(crate) broken: bool,
    pub(crate) can_ask_progress: bool,
    /// Old servers answered stale reads: false alarms are possible.
    pub(crate) was_stale: bool,
}

impl Watch {
    pub(crate) fn new(guard: Guard, member_id: u64) -> Self {
        Self {
            sent: guard.revision.get(),
            guard,
            member_id,
            target: None,
            starts_compacted: None,
            rest: VecDeque::new(),
        }
    }

    fn open(&mut self, etcd: &Etcd, can_ask_progress: bool) -> Said {
        self.target = Some(etcd.head());
        self.starts_compacted = Some(etcd.compacted).filter(|&at| at == self.sent + 1);
        Said::WatchOpened(WatchOpened {
            member_id: self.member_id,
            can_ask_progress,
            guard: etcd.guard(&self.guard.key, self.guard.revision.get()),
        })
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
        if etcd.compacted > self.sent + 1 {
            return Some(Said::Compacted {
                compact_revision: rev(etcd.compacted),
            });
        }
        let from = self.sent;
        self.sent = etcd
            .head()
            .min(self.sent.saturating_add(i64::from(many) + 1))
            .max(from);
        let mut events = etcd.events(etcd.epoch(), from, self.sent);
        // A watch that starts at the compact revision misses its deletions.
        if let Some(start) = self.starts_compacted {
            events.retain(|event| !(event.deleted && event.revision == start));
        }
        if events.is_empty() {
            return None;
        }
        self.rest = events.into();
        match cut {
            Some(_) => self.go(etcd, 0, cut),
            None => self.go(etcd, 0, None),
        }
    }

    fn bookmark(&mut self, etcd: &Etcd, back: i64) -> Option<Said> {
        let is_synced = self.rest.is_empty()
            && etcd.events(etcd.epoch(), self.sent, etcd.head()).is_empty()
            && etcd.compacted <= self.sent + 1;
        if !is_synced {
            return None;
        }
        self.sent = self.sent.max(etcd.head());
        Revision::new(etcd.head() - back).map(Said::Bookmark)
    }
}

impl Upstream {
    pub(crate) fn end(&mut self) {
        self.attempting = None;
        self.broken = false;
    }

    /// What etcd says to the attempt under way, if `act` is possible now.
    pub(crate) fn act(&mut self, etcd: &Etcd, act: &Act) -> Option<Said> {
        let attempting = self.attempting.as_mut()?;
        if self.broken {
            self.end();
            return Some(Said::Lost);
        }
        let said = match (attempting, act) {
            (_, Act::Lost) => Some(Said::Lost),
            (_, Act::Refuse) => Some(Said::Refused(Refusal {
                kind: RefusalKind::PermissionDenied,
                message: "denied".into(),
            })),
            (Attempting::Watch(watch), Act::Stale { .. }) if watch.target.is_none() => {
                self.was_stale = true;
                let opened = watch.open(etcd, self.can_ask_progress);
                Some(match opened {
                    Said::WatchOpened(opened) => Said::WatchOpened(WatchOpened {
                        guard: watchmark::resume::GuardReading::Future,
                        ..opened
                    }),
                    said => said,
                })
            }
            (Attempting::Watch(watch), _) if watch.target.is_none() => {
                Some(watch.open(etcd, self.can_ask_progress))
            }
            (Attempting::Watch(watch), &Act::Go { many, cut }) => watch.go(etcd, many, cut),
            (Attempting::Watch(watch), &Act::Bookmark { back }) => {
                watch.bookmark(etcd, i64::from(back))
            }
            (Attempting::Watch(watch), &Act::Replay { from, many }) => {
                let from = i64::from(from);
                let to = (from + i64::from(many)).min(watch.sent);
                let events = etcd.events(etcd.epoch(), from, to);
                // A replay is a response of its own: not inside another.
                (watch.rest.is_empty() && !events.is_empty()).then_some(Said::Events {
                    events,
                    fragment: false,
                })
            }
            (Attempting::Watch(_), Act::Stale { .. }) => None,
            (Attempting::Head, _) => Some(Said::Head(etcd.header())),
            (Attempting::Snapshot(snapshot @ None), act) => {
                let back = if let Act::Stale { back } = act {
                    self.was_stale = true;
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
                    ..etcd.header()
                }))
            }
            (Attempting::Snapshot(Some(snapshot)), Act::Go { many, .. }) => {
                if etcd.compacted > snapshot.revision {
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
        if let Some(
            Said::Lost
            | Said::Refused(_)
            | Said::Compacted { .. }
            | Said::SnapshotEnded
            | Said::SnapshotCompacted { .. }
            | Said::Head(_),
        ) = said
        {
            self.end();
        }
        said
    }
}
