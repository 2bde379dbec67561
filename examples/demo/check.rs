//! Compares what one subscriber printed with what the witness saw. Knows
//! nothing of watchmark but its promises.

use std::{collections::HashSet, fmt};

use crate::{
    report::{Change, Report},
    witness::state_at,
};

/// How many complaints are kept in words; all are counted.
const COMPLAINTS_MAX: usize = 5;

/// What one subscriber got, and what was wrong with it.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) streams: usize,
    /// Events, with those that came again.
    pub(crate) events: usize,
    /// Events that came before, on an earlier stream, but were not acknowledged.
    pub(crate) again: usize,
    pub(crate) snapshots: usize,
    pub(crate) lost: usize,
    /// Came although their ack had been answered.
    pub(crate) repeated: usize,
    pub(crate) reordered: usize,
    /// Not what etcd has: another value, a pair that should not be there.
    pub(crate) wrong: usize,
    /// The first of these faults in words.
    pub(crate) complaints: Vec<String>,
}

/// Checks `log`, all lines of one client_id, against `truth`, all events of
/// its range.
pub(crate) fn check(log: &[Report], truth: &[Change]) -> Verdict {
    let mut checker = Checker {
        truth,
        verdict: Verdict::default(),
        next: None,
        received: 0,
        received_before: 0,
        acking: 0,
        acked: 0,
        pairs: Vec::new(),
    };
    for report in log {
        checker.take(report);
    }
    checker.at_end();
    checker.verdict
}

struct Checker<'a> {
    truth: &'a [Change],
    verdict: Verdict,
    /// Of `truth`: what this stream must bring next. `None`: it must begin
    /// with a snapshot.
    next: Option<usize>,
    /// The highest revision received on any stream, and on those before this one.
    received: i64,
    received_before: i64,
    /// The highest revision that an ack was sent for, and that one was answered for.
    acking: i64,
    acked: i64,
    /// Of the snapshot that is being received.
    pairs: Vec<&'a Change>,
}

impl<'a> Checker<'a> {
    fn take(&mut self, report: &'a Report) {
        match report {
            Report::Opened { checkpoint, .. } => self.opened(*checkpoint),
            Report::Event(change) => self.event(change),
            Report::EventsEnd {
                revision,
                partial: false,
            } => self.all_received(*revision, "Events"),
            Report::Progress(revision) => self.all_received(*revision, "Progress"),
            Report::SnapshotBegin { .. } => self.pairs.clear(),
            Report::Pair(pair) => self.pairs.push(pair),
            Report::SnapshotEnd { revision, count } => self.snapshot(*revision, *count),
            Report::Acking(revision) => self.acking = self.acking.max(*revision),
            Report::Acked(checkpoint) => {
                if *checkpoint < self.acking {
                    let acking = self.acking;
                    self.wrong(1, format!("Ack({acking}) answered with {checkpoint}"));
                }
                self.acked = self.acked.max(*checkpoint);
            }
            Report::EventsEnd { partial: true, .. } | Report::State(_) | Report::Ended { .. } => {}
        }
    }

    fn opened(&mut self, checkpoint: i64) {
        self.verdict.streams += 1;
        self.received_before = self.received;
        self.next = None;
        if checkpoint == 0 {
            return;
        }
        if checkpoint < self.acked {
            let acked = self.acked;
            self.verdict.repeated += 1;
            self.complain(format!(
                "Ack({acked}) was answered, but the next stream opened at {checkpoint}"
            ));
        }
        let next = self.after(checkpoint);
        let skipped = next.saturating_sub(self.after(self.acking));
        self.lose(
            skipped,
            format!("the stream opened at {checkpoint}, past what was acknowledged"),
        );
        self.next = Some(next);
    }

    fn event(&mut self, change: &Change) {
        self.verdict.events += 1;
        self.received = self.received.max(change.revision);
        if change.revision <= self.acked {
            self.verdict.repeated += 1;
            self.complain(format!("{change} came again after its ack was answered"));
        } else if change.revision <= self.received_before {
            self.verdict.again += 1;
        }
        let Some(next) = self.next else {
            return self.wrong(
                1,
                format!("{change} came where a snapshot should have begun"),
            );
        };
        match self.truth.iter().position(|known| known == change) {
            None => self.wrong(1, format!("{change} is not in etcd's history")),
            Some(at) if at < next => {
                self.verdict.reordered += 1;
                self.complain(format!(
                    "{change} came out of order, or twice on one stream"
                ));
            }
            Some(at) => {
                self.lose(at - next, format!("missing before {change}"));
                self.next = Some(at + 1);
            }
        }
    }

    /// The stream claims that everything up to `revision` was delivered.
    fn all_received(&mut self, revision: i64, claim: &str) {
        let due = self.after(revision);
        if let Some(next) = self.next {
            self.lose(
                due.saturating_sub(next),
                format!("missing at {claim}({revision})"),
            );
            self.next = Some(next.max(due));
        }
    }

    fn snapshot(&mut self, revision: i64, count: i64) {
        self.verdict.snapshots += 1;
        if revision < self.acked {
            let acked = self.acked;
            self.wrong(
                1,
                format!("a snapshot of {revision} after {acked} was acknowledged"),
            );
        }
        let truth: HashSet<&Change> = state_at(self.truth, revision).into_values().collect();
        let pairs: HashSet<&Change> = self.pairs.drain(..).collect();
        let missing = truth.difference(&pairs).count();
        let extra = pairs.difference(&truth).count();
        self.lose(
            missing,
            format!("pairs missing in the snapshot of {revision}"),
        );
        self.wrong(
            extra,
            format!("pairs in the snapshot of {revision} that etcd does not have"),
        );
        if usize::try_from(count) != Ok(pairs.len()) {
            self.wrong(
                1,
                format!("a snapshot of {} pairs says {count}", pairs.len()),
            );
        }
        self.received = self.received.max(revision);
        self.next = Some(self.after(revision));
    }

    fn at_end(&mut self) {
        let next = self.next.unwrap_or(0);
        self.lose(
            self.truth.len().saturating_sub(next),
            "never delivered".to_owned(),
        );
    }

    /// Of `truth`: the first event after `revision`.
    fn after(&self, revision: i64) -> usize {
        self.truth
            .partition_point(|change| change.revision <= revision)
    }

    fn lose(&mut self, count: usize, how: String) {
        self.verdict.lost += count;
        if count > 0 {
            self.complain(format!("{count} lost: {how}"));
        }
    }

    fn wrong(&mut self, count: usize, how: String) {
        self.verdict.wrong += count;
        if count > 0 {
            self.complain(how);
        }
    }

    fn complain(&mut self, how: String) {
        if self.verdict.complaints.len() < COMPLAINTS_MAX {
            self.verdict.complaints.push(how);
        }
    }
}

impl Verdict {
    /// The heading of the rows.
    pub(crate) const HEADING: &str =
        "  client_id  streams  events  again  snapshots   lost  repeated  reordered  wrong";

    /// Whether every promise was kept.
    pub(crate) const fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.reordered + self.wrong == 0
    }

    /// One row of the table.
    pub(crate) fn row(&self, client_id: &str) -> impl fmt::Display {
        let Self {
            streams,
            events,
            again,
            snapshots,
            lost,
            repeated,
            reordered,
            wrong,
            complaints: _,
        } = self;
        format!(
            "  {client_id:<9}  {streams:>7}  {events:>6}  {again:>5}  {snapshots:>9}  \
             {lost:>5}  {repeated:>8}  {reordered:>9}  {wrong:>5}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three revisions, the second with two events, then a deletion.
    const TRUTH: &str = "event 2 a 1\nevent 3 b 2\nevent 3 c 2\nevent 4 a 3\nevent 5 b";

    fn log(lines: &str) -> Vec<Report> {
        lines
            .lines()
            .map(|line| line.trim().parse().unwrap())
            .collect()
    }

    fn truth() -> Vec<Change> {
        let change = |report| match report {
            Report::Event(change) => change,
            other => panic!("{other}"),
        };
        log(TRUTH).into_iter().map(change).collect()
    }

    fn verdict(lines: &str) -> Verdict {
        let mut verdict = check(&log(lines), &truth());
        verdict.complaints.clear();
        verdict
    }

    /// Opened at 1, killed with 3 and 4 delivered and 2 acknowledged, resumed.
    const GOOD: &str = "opened 1 false UNSPECIFIED
        event 2 a 1
        events-end 2 false
        acking 2
        acked 2
        event 3 b 2
        event 3 c 2
        event 4 a 3
        events-end 4 false
        opened 2 true ACKED
        event 3 b 2
        event 3 c 2
        event 4 a 3
        events-end 4 false
        acking 4
        acked 4
        event 5 b
        events-end 5 false
        acking 5
        acked 5
        progress 9";

    fn good() -> Verdict {
        Verdict {
            streams: 2,
            events: 8,
            again: 3,
            ..Verdict::default()
        }
    }

    #[test]
    fn a_good_history_is_clean() {
        assert_eq!(verdict(GOOD), good());
        assert!(good().is_clean());
    }

    #[test]
    fn a_lost_event_shows() {
        let half = GOOD.replacen("        event 3 c 2\n", "", 1);
        assert_eq!(verdict(&half).lost, 1);
        let last = GOOD.replacen("        event 5 b\n", "", 1);
        assert_eq!(verdict(&last).lost, 1);
        let skipping = GOOD.replacen("opened 2 true ACKED\n", "opened 3 true ACKED\n", 1);
        assert_eq!(verdict(&skipping).lost, 2);
        let tail = GOOD.split_once("        acking 4").unwrap().0;
        assert_eq!(verdict(tail).lost, 1);
    }

    #[test]
    fn an_event_repeated_after_its_ack_shows() {
        let back = GOOD.replacen(
            "opened 2 true ACKED\n",
            "opened 1 true ACKED\nevent 2 a 1\n",
            1,
        );
        assert_eq!(verdict(&back).repeated, 2);
    }

    #[test]
    fn an_event_out_of_order_or_twice_shows() {
        let twice = GOOD.replacen("event 4 a 3\n", "event 4 a 3\nevent 4 a 3\n", 1);
        assert_eq!(verdict(&twice).reordered, 1);
        let swapped = GOOD.replacen(
            "event 3 b 2\n        event 3 c 2",
            "event 3 c 2\n        event 3 b 2",
            1,
        );
        assert_eq!(
            (verdict(&swapped).reordered, verdict(&swapped).lost),
            (1, 1)
        );
    }

    #[test]
    fn an_altered_event_shows() {
        let altered = GOOD.replacen("event 2 a 1", "event 2 a 7", 1);
        assert_eq!(verdict(&altered).wrong, 1);
    }

    #[test]
    fn a_snapshot_is_compared_with_the_state_of_its_revision() {
        let with = |pairs: &str, count| {
            format!(
                "opened 0 false UNSPECIFIED\nsnapshot-begin 4 COMPACTED 4\n{pairs}\n\
                 snapshot-end 4 {count}\nevent 5 b\nevents-end 5 false\nacking 5\nacked 5"
            )
        };
        let good = verdict(&with("pair 4 a 3\npair 3 b 2\npair 3 c 2", 3));
        assert!(good.is_clean(), "{good:?}");
        let missing = verdict(&with("pair 4 a 3\npair 3 b 2", 2));
        assert_eq!((missing.lost, missing.wrong), (1, 0));
        let stale = verdict(&with("pair 2 a 1\npair 3 b 2\npair 3 c 2", 3));
        assert_eq!((stale.lost, stale.wrong), (1, 1));
        let miscounted = verdict(&with("pair 4 a 3\npair 3 b 2\npair 3 c 2", 4));
        assert_eq!(miscounted.wrong, 1);
        let none = verdict("opened 0 false UNSPECIFIED\nevent 2 a 1");
        assert_eq!(none.wrong, 1);
    }
}
