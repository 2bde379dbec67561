//! The table at the end.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use watchmark::proto::watchmark::v1::{SnapshotReason, subscribe_response::Message};

use crate::{
    plan::Kind,
    support::history::{End, Record, promises},
    verdict::Verdict,
};

/// Adds up what all histories gave.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) etcd: String,
    pub(crate) lasted: Duration,
    pub(crate) faults: BTreeMap<Kind, usize>,
    pub(crate) skipped: Vec<String>,
    pub(crate) writes: (u64, u64),
    pub(crate) histories: usize,
    pub(crate) revisions: i64,
    pub(crate) events: usize,
    pub(crate) subscribers: BTreeMap<String, Totals>,
    pub(crate) resyncs: BTreeMap<&'static str, usize>,
    pub(crate) ends: BTreeMap<String, usize>,
    pub(crate) refusals: BTreeMap<String, usize>,
    pub(crate) subscriptions: usize,
    pub(crate) told: usize,
    /// Other checks: what, how often, and what held.
    pub(crate) checks: Vec<(String, String)>,
    pub(crate) broken: Vec<String>,
}

/// What one kind of subscriber did.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    streams: usize,
    events: usize,
    pairs: usize,
    acked: usize,
    refused: usize,
    unknown: usize,
}

impl Report {
    /// Counts what was recorded over one history.
    pub(crate) fn count(&mut self, records: &[Record]) {
        for record in records {
            let name = record
                .client_id
                .trim_end_matches(|c: char| c.is_ascii_digit());
            let totals = self
                .subscribers
                .entry(name.trim_end_matches('-').to_owned())
                .or_default();
            for ack in &record.acks {
                match &ack.answer {
                    Some((_, Ok(_))) => totals.acked += 1,
                    Some((_, Err(end))) => {
                        totals.refused += 1;
                        *self.refusals.entry(said(end)).or_insert(0) += 1;
                    }
                    None => totals.unknown += 1,
                }
            }
            for stream in &record.streams {
                if stream.opened().is_some() {
                    totals.streams += 1;
                    let end = stream
                        .end
                        .as_ref()
                        .map_or("alive".to_owned(), |e| said(&e.1));
                    *self.ends.entry(end).or_insert(0) += 1;
                }
                for (_, message) in &stream.received {
                    match message {
                        Message::Events(batch) => totals.events += batch.events.len(),
                        Message::SnapshotChunk(chunk) => totals.pairs += chunk.kvs.len(),
                        Message::SnapshotBegin(begin) => {
                            *self.resyncs.entry(reason(begin.reason())).or_insert(0) += 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    pub(crate) fn add(&mut self, verdict: &Verdict) {
        self.subscriptions += verdict.subscriptions;
        self.told += verdict.told;
    }

    /// One table, as text.
    pub(crate) fn table(&self) -> String {
        let mut t = String::new();
        let seconds = self.lasted.as_secs_f64();
        let line = "-".repeat(78);
        let mut row = |text: String| writeln!(t, "{text}").unwrap();
        row(format!(
            "chaos: seed {}, {:.1} min, etcd {}, three members",
            self.seed,
            seconds / 60.0,
            self.etcd
        ));
        row(line.clone());
        row(format!("{:<50} {:>8}", "faults", "times"));
        for (kind, times) in &self.faults {
            row(format!("  {kind:<48} {times:>8}"));
        }
        for skipped in &self.skipped {
            row(format!("  *** NOT TESTED: {skipped} ***"));
        }
        row(format!(
            "  {:<48} {:>8}",
            "all",
            self.faults.values().sum::<usize>()
        ));
        row(line.clone());
        let (answered, unanswered) = self.writes;
        row(format!(
            "writes answered {answered} ({:.0}/s), failed or unknown {unanswered}; histories {}, \
             revisions {}, events {}",
            answered as f64 / seconds,
            self.histories,
            self.revisions,
            self.events
        ));
        row(line.clone());
        row(format!(
            "{:<22} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8}",
            "subscriber", "streams", "events", "snapshot", "acked", "refused", "unknown"
        ));
        let mut all = Totals::default();
        for (name, one) in &self.subscribers {
            row(one.row(name));
            all.add(one);
        }
        row(all.row("all"));
        row(line.clone());
        for (title, counts) in [
            ("streams ended by", &self.ends),
            ("acks refused with", &self.refusals),
        ] {
            row(title.to_owned());
            for (what, times) in counts {
                row(format!("  {what:<48} {times:>8}"));
            }
        }
        row("snapshots by reason".to_owned());
        for (reason, times) in &self.resyncs {
            row(format!("  {reason:<48} {times:>8}"));
        }
        row(line.clone());
        row(format!(
            "{:<50} {:>8} {:>8}",
            "promises", "checked", "broken"
        ));
        let mut others = self.broken.len();
        for promise in promises() {
            let broken = self
                .broken
                .iter()
                .filter(|b| b.starts_with(promise))
                .count();
            others -= broken;
            row(format!(
                "  {promise:<48} {:>8} {broken:>8}",
                self.subscriptions
            ));
        }
        row(format!(
            "  {:<48} {:>8}",
            "  of P9: told of a replaced history", self.told
        ));
        for (what, result) in &self.checks {
            row(format!("  {what:<48} {result:>8}"));
        }
        row(format!(
            "  {:<48} {:>8} {others:>8}",
            "everything else expected", ""
        ));
        row(format!("broken: {}", self.broken.len()));
        t
    }
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.streams += other.streams;
        self.events += other.events;
        self.pairs += other.pairs;
        self.acked += other.acked;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }

    fn row(&self, name: &str) -> String {
        format!(
            "  {name:<20} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8}",
            self.streams, self.events, self.pairs, self.acked, self.refused, self.unknown
        )
    }
}

fn said(end: &End) -> String {
    match end {
        End::Dropped => "the subscriber, without a word".to_owned(),
        End::Silent => "nobody (silent)".to_owned(),
        End::Status(code, reason) if reason.is_empty() => format!("{code:?} (connection)"),
        End::Status(code, reason) => format!("{code:?} {reason}"),
    }
}

fn reason(reason: SnapshotReason) -> &'static str {
    match reason {
        SnapshotReason::Unspecified => "UNSPECIFIED",
        SnapshotReason::First => "FIRST",
        SnapshotReason::Compacted => "COMPACTED (resync)",
        SnapshotReason::HistoryReplaced => "HISTORY_REPLACED (resync)",
        SnapshotReason::Requested => "REQUESTED",
    }
}
