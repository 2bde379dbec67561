//! Between etcd and the driver: what was said is heard later, or never; and
//! time, in which both go on.

use std::time::Duration;

use watchmark::resume::{Attempt, Input, OutboxRoom, ProbeSample, StreamState, Time, WatchOpened};

use crate::{
    etcd::{Change, MEMBERS, rev},
    upstream::{Act, Attempting, OnItsWay, Said},
    world::World,
};

/// What a member has applied is heard within this on an unbroken stream, where
/// the driver reads and runs. The delay rule (y: 60 s) rests on it.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
/// `--probe-interval`.
const PROBE_EVERY: Duration = Duration::from_secs(20);

impl World {
    /// etcd does something to the attempt under way.
    pub(crate) fn etcd_acts(&mut self, act: &Act, is_delayed: bool) {
        let (said, note) = self.upstream.act(&self.etcd, act);
        self.count(note);
        if let Some(said) = said {
            self.upstream.on_its_way.push_back(OnItsWay {
                epoch: self.etcd.epoch(),
                said,
            });
        }
        if is_delayed {
            self.count("delayed input");
        } else {
            self.hear_all();
        }
    }

    /// The driver reads what has arrived.
    fn hear_all(&mut self) {
        while !self.is_dying
            && !self.is_over
            && self.machine.wants_upstream()
            && let Some(heard) = self.upstream.on_its_way.pop_front()
        {
            self.hear(heard);
        }
    }

    fn hear(&mut self, OnItsWay { epoch, said, .. }: OnItsWay) {
        let attempt = self.upstream.attempt;
        let guard = self.upstream.guard.clone();
        let is_watch = guard.is_some();
        self.heard_epoch = epoch;
        let must_resume = match (&said, guard) {
            (Said::WatchOpened(opened), Some(guard)) => {
                Some(self.must_resume(&guard, &opened.guard, epoch))
            }
            (Said::Head(header), _) => {
                self.head_was_read(*header, epoch);
                None
            }
            _ => None,
        };
        if self.is_over {
            return;
        }
        let snapshot = match &said {
            Said::SnapshotBegun(header) => Some(*header),
            _ => None,
        };
        if let Some(header) = snapshot {
            self.snapshot_begins(header);
        }
        let is_lost = matches!(said, Said::Lost);
        let ended_before = self.ended_attempts;
        self.handle(Input::Upstream(attempt, said));
        if self.is_dying {
            return;
        }
        let goes_on = self.ended_attempts == ended_before;
        if let Some(must_resume) = must_resume {
            assert_eq!(goes_on, must_resume, "4.5: what the guard read");
        }
        if let Some(header) = snapshot.filter(|_| goes_on) {
            self.snapshot_was_begun(header);
        }
        if goes_on && (must_resume.is_some() || snapshot.is_some()) {
            self.doubts = None;
        } else if snapshot.is_some() || (must_resume.is_some() && self.is_behind) {
            self.doubts();
        }
        let is_opened = self.stream.as_ref().is_some_and(|stream| stream.opened);
        if is_lost && is_watch && is_opened && self.room() != OutboxRoom::None {
            let told = self.machine.stream_state();
            assert_eq!(told, Some(StreamState::UpstreamLost), "P12");
        }
    }

    /// An attempt that is over speaks, in words that were on their way to it
    /// or in any others: they must change nothing.
    pub(crate) fn old_attempt_speaks(&mut self, said: u8, back: u64) {
        let unheard = self.upstream.too_late.pop_front();
        let head = self.etcd.head();
        let (attempt, said) = if let Some(unheard) = unheard {
            unheard
        } else if let Some(attempt) = self.upstream.attempt.0.checked_sub(back) {
            let said = match said {
                0 => Said::Events {
                    events: self.etcd.events(self.etcd.epoch(), head - 1, head),
                    fragment: false,
                },
                1 => Said::Bookmark(rev(head)),
                2 => Said::Compacted {
                    compact_revision: rev(head),
                },
                3 => Said::Lost,
                4 => Said::SnapshotEnded,
                5 => Said::SnapshotBegun(self.etcd.header(self.etcd.member(0))),
                6 => Said::Head(self.etcd.header(self.etcd.member(0))),
                _ => Said::WatchOpened(WatchOpened {
                    member_id: 1,
                    can_ask_progress: true,
                    guard: self.etcd.guard(0, b"a/0", head),
                }),
            };
            (Attempt(attempt), said)
        } else {
            return;
        };
        self.count("stale input of an attempt that is over");
        let before = format!("{:?}", self.machine);
        self.machine
            .handle(Input::Upstream(attempt, said), self.now);
        assert_eq!(before, format!("{:?}", self.machine), "a stale input");
        self.run();
    }

    /// `member` is asked for its revision and answers `age` later. The driver
    /// is shown the newest sample of every member, old ones too.
    pub(crate) fn probe(&mut self, member: usize, age: Duration) {
        if !self.etcd.is_current(member) {
            self.count("probe that a lagging member leaves unanswered");
            return;
        }
        let sample = ProbeSample {
            member_id: self.etcd.member_id(member),
            asked_at: self.now.saturating_sub(age),
            revision: rev(self.etcd.head()),
        };
        self.samples.insert(sample.member_id, sample);
        for sample in self.samples.values() {
            self.machine.handle(Input::Probe(*sample), self.now);
        }
        if !self.is_dying {
            self.run();
        }
    }

    /// Time passes as it does where everything runs: timers fire, probes are
    /// made, and what etcd owes arrives in time.
    pub(crate) fn walk(&mut self, wait: Duration) {
        let end = self.now + wait;
        for _ in 0..300 {
            if self.now >= end || self.is_dying || self.is_over {
                return;
            }
            let timer = self.machine.poll_timeout();
            let stops = [timer, Some(self.next_probe), Some(self.next_service)];
            let now = self.now;
            let next = stops.into_iter().flatten().filter(|&at| at > now).min();
            self.now = next.map_or(end, |at| at.min(end));
            self.log.push(format!("{:?}", self.now));
            self.run();
            if self.next_service <= self.now {
                self.next_service = self.now + HEARD_WITHIN / 2;
                self.has_leapt = false;
                self.serve();
            }
            if self.next_probe <= self.now {
                self.next_probe = self.now + PROBE_EVERY;
                for member in 0..MEMBERS {
                    self.probe(member, Duration::from_millis(5));
                }
            }
        }
    }

    /// Everything that etcd can say now is said and heard.
    fn serve(&mut self) {
        for _ in 0..20 {
            let act = Act::Go {
                many: 200,
                cut: None,
            };
            let (said, _) = self.upstream.act(&self.etcd, &act);
            let is_done = said.is_none();
            if let Some(said) = said {
                self.upstream.on_its_way.push_back(OnItsWay {
                    epoch: self.etcd.epoch(),
                    said,
                });
            }
            self.hear_all();
            if is_done || self.is_dying {
                return;
            }
        }
    }

    /// A long while in which little happens: some other keys change, or one
    /// of ours where the watch's member does not see it.
    pub(crate) fn quiet_spell(&mut self, seconds: u16, changes: u8, lags: bool) {
        if let Some(Attempting::Watch(watch)) = &self.upstream.attempting
            && lags
        {
            self.etcd.lag(watch.member);
            self.count("watched member lags for long");
        }
        for number in 0..changes {
            self.etcd.commit(&[Change {
                key: if lags { number % 6 } else { 4 },
                delete: false,
                large: false,
            }]);
        }
        self.walk(Duration::from_secs(u64::from(seconds)));
    }

    /// The process, or the machine that it runs on, was stopped for a while:
    /// nothing was heard, and now it is late. Between two such stops it reads:
    /// the delay rule rests on that.
    pub(crate) fn leap(&mut self, wait: Time) {
        if std::mem::replace(&mut self.has_leapt, true) {
            self.serve();
        }
        if self.is_dying || self.is_over {
            return;
        }
        self.count("clock leaps");
        self.now += wait;
        self.run();
    }
}
