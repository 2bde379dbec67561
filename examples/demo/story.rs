//! What happens, in order. Each step waits for what it shows, with a deadline.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    check::{Verdict, check},
    follower::{Follower, positions},
    processes::{House, IDLE_AFTER, IDLE_LAG, PROBE_INTERVAL, Process},
    report::{Change, Report},
    witness::{Witness, state_at},
    writer::{self, Traffic},
};

/// How long anything may take that the story waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How long all of it may take.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

const EVERYTHING: &str = "demo/";
const ORDERS: &str = "demo/orders/";
const CONFIG: &str = "demo/config/";
/// The orders that `billing` acknowledges before its work hangs.
const ACKS_BEFORE_HANGING: u64 = 60;
/// How often watchmark is killed.
const KILLS: usize = 3;
/// Traffic to wait for between two breaks.
const SOME_EVENTS: usize = 60;

/// Everything that runs. What is declared first ends first.
struct Story<'a> {
    billing: Follower,
    router: Follower,
    watchmark: Process,
    traffic: Traffic,
    witness: Witness,
    etcd_process: Process,
    etcd: String,
    house: &'a House,
    told: Told,
}

/// The lines told so far.
struct Told {
    lines: usize,
    since: Instant,
}

/// Tells the story in `house`.
///
/// # Errors
///
/// A broken promise, or something that could not be shown.
pub(crate) async fn tell(house: &House) -> anyhow::Result<()> {
    let mut story = Story::begin(house).await?;
    story.subscriber_is_killed().await?;
    story.watchmark_is_killed().await?;
    story.etcd_is_restarted().await?;
    story.quiet_prefix_is_compacted_past().await?;
    story.busy_prefix_is_compacted_past().await?;
    story.end().await
}

impl<'a> Story<'a> {
    async fn begin(house: &'a House) -> anyhow::Result<Self> {
        let mut told = Told {
            lines: 0,
            since: Instant::now(),
        };
        let etcd = house.etcd_url();
        let etcd_version = house.etcd_version()?;
        let etcd_process = house.start_etcd().await?;
        let witness = Witness::start(etcd.clone(), EVERYTHING);
        let watchmark = house.start_watchmark().await?;
        told.line(&format!(
            "etcd {etcd_version} and watchmark are running; a writer puts many orders, rarely a config."
        ));
        let config = format!("{CONFIG}timeout");
        writer::put(&etcd, &config, "30s").await?;
        let traffic = Traffic::start(etcd.clone(), ORDERS);
        told.line("A witness watches etcd directly, for the comparison at the end.");
        let story = Self {
            billing: Follower::start(house, "billing", ORDERS, ACKS_BEFORE_HANGING)?,
            router: Follower::start(house, "router", CONFIG, u64::MAX)?,
            watchmark,
            traffic,
            witness,
            etcd_process,
            etcd,
            house,
            told,
        };
        story.router.first(0, "LIVE", Report::live).await?;
        story.billing.first(0, "LIVE", Report::live).await?;
        let mut story = story;
        story.tell("Two applications subscribe: billing to orders, router to config. Each gets");
        story.more("the state first (snapshot FIRST), then events, and acknowledges them.");
        Ok(story)
    }

    async fn subscriber_is_killed(&mut self) -> anyhow::Result<()> {
        self.heading("A subscriber is killed between delivery and ack");
        self.billing
            .until(0, "orders that it does not acknowledge", |log| {
                let (received, acked) = positions(log);
                (received > acked + 20 && acked > 0).then_some(())
            })
            .await?;
        self.billing.kill()?;
        let (received, acked) = positions(&self.billing.log());
        self.tell(&format!(
            "billing has acknowledged revision {acked} and hangs; it has received up to {received}."
        ));
        self.more(
            "SIGKILL. A new billing starts and says Subscribe{client_id: \"billing\"}, no more.",
        );
        let from = self.billing.now();
        self.billing.start_again(self.house)?;
        let (checkpoint, proof) = self.billing.first(from, "opened", Report::opened).await?;
        self.billing.acked(received).await?;
        self.tell(&format!(
            "It resumes after {checkpoint} ({proof}): {} to {received} come again, then what is new.",
            checkpoint + 1
        ));
        Ok(())
    }

    async fn watchmark_is_killed(&mut self) -> anyhow::Result<()> {
        self.heading(&format!(
            "watchmark is killed with -9, {KILLS} times, in the middle of traffic"
        ));
        for _ in 0..KILLS {
            let from = self.billing.now();
            self.billing.events(from, SOME_EVENTS).await?;
            let from = self.billing.now();
            self.watchmark.kill()?;
            let (code, _) = self
                .billing
                .first(from, "the end of its stream", Report::ended)
                .await?;
            let (_, acked) = positions(&self.billing.log());
            self.watchmark = self.house.start_watchmark().await?;
            let (checkpoint, proof) = self.billing.first(from, "opened", Report::opened).await?;
            self.tell(&format!(
                "billing's stream breaks ({code}); its last answered ack was {acked}. It subscribes"
            ));
            self.more(&format!(
                "again, and is resumed after {checkpoint} ({proof})."
            ));
        }
        Ok(())
    }

    async fn etcd_is_restarted(&mut self) -> anyhow::Result<()> {
        self.heading("etcd is restarted");
        self.billing.events(self.billing.now(), SOME_EVENTS).await?;
        self.router
            .first(self.router.now(), "a sign of life", Report::progress)
            .await?;
        let (billing, router) = (self.billing.now(), self.router.now());
        self.etcd_process.terminate().await?;
        self.billing
            .first(billing, "UPSTREAM_LOST", Report::upstream_lost)
            .await?;
        self.router
            .first(router, "UPSTREAM_LOST", Report::upstream_lost)
            .await?;
        self.tell("etcd is down. Both streams stay open and say UPSTREAM_LOST.");
        self.etcd_process = self.house.start_etcd().await?;
        self.billing.first(billing, "LIVE", Report::live).await?;
        self.router.first(router, "LIVE", Report::live).await?;
        self.billing.events(self.billing.now(), SOME_EVENTS).await?;
        for (follower, from) in [(&self.billing, billing), (&self.router, router)] {
            let closed = follower.log()[from..]
                .iter()
                .any(|(_, report)| report.ended().is_some());
            ensure!(
                !closed,
                "{}'s stream ended although only etcd was away",
                follower.client_id
            );
        }
        self.tell("etcd is back. The same streams say LIVE, and go on where they were.");
        Ok(())
    }

    async fn quiet_prefix_is_compacted_past(&mut self) -> anyhow::Result<()> {
        self.heading("A quiet prefix is compacted past");
        let from = self.router.now();
        let key = format!("{CONFIG}timeout");
        let changed = writer::put(&self.etcd, &key, "31s").await?;
        self.router.acked(changed).await?;
        self.billing.events(self.billing.now(), SOME_EVENTS).await?;
        let target = writer::head(&self.etcd).await?;
        self.tell(&format!(
            "config changed last at {changed}; orders have carried etcd to {target}. Nothing for"
        ));
        self.more("router in between, so watchmark moves its position without events.");
        let proof = self.idle_advance(from, target).await?;
        self.tell(&proof);
        let last_order = self.last_order(target).await?;
        self.billing.acked(last_order).await?;
        writer::compact(&self.etcd, target).await?;
        let (billing, router) = (self.billing.now(), self.router.now());
        let status = self.watchmark.terminate().await?;
        ensure!(status.success(), "watchmark did not drain: {status}");
        let (code, reason) = self
            .router
            .first(router, "the end of its stream", Report::ended)
            .await?;
        self.tell(&format!(
            "etcd forgets everything before {target}. watchmark is restarted ({code} {reason})."
        ));
        self.watchmark = self.house.start_watchmark().await?;
        let (checkpoint, proof) = self.router.first(router, "opened", Report::opened).await?;
        let missed = writer::put(&self.etcd, &key, "32s").await?;
        self.router.acked(missed).await?;
        self.billing
            .first(billing, "opened", Report::opened)
            .await?;
        let resynced = self.router.log()[router..]
            .iter()
            .any(|(_, report)| report.is_snapshot());
        ensure!(
            !resynced,
            "router got a snapshot, although its range was quiet"
        );
        self.tell(&format!(
            "router resumes after {checkpoint} ({proof}), without a snapshot; it gets the change at {missed}."
        ));
        Ok(())
    }

    /// Waits until the position of `router`, which hears nothing, has passed
    /// `target`: etcd certifies it, or the delay rule has had its time. Only
    /// the first is told to a subscriber.
    async fn idle_advance(&self, from: usize, target: i64) -> anyhow::Result<String> {
        let asked_at = Instant::now();
        // A sample after `target`, its age, and as much again for a busy machine.
        let rule = IDLE_AFTER.max(PROBE_INTERVAL + IDLE_LAG) * 2;
        let assumed = format!(
            "This etcd certifies nothing in time. After {IDLE_AFTER:?} of silence watchmark assumes (DELAY) \
             what\n             the same member reported {IDLE_LAG:?} before; it is used only instead of a snapshot."
        );
        self.router
            .until(from, "an idle advance", |log| {
                let mut certified = log.iter().filter(|(_, report)| {
                    matches!(report, Report::Progress(revision) if *revision >= target)
                });
                let is_silent = log.iter().any(|(at, report)| {
                    matches!(report, Report::Progress(_)) && *at >= asked_at + rule
                });
                // The second: the first is durable.
                if certified.nth(1).is_some() {
                    return Some(
                        "etcd certifies that router missed nothing (PROGRESS).".to_owned(),
                    );
                }
                is_silent.then(|| assumed.clone())
            })
            .await
    }

    async fn busy_prefix_is_compacted_past(&mut self) -> anyhow::Result<()> {
        self.heading("A busy prefix is compacted past an absent subscriber");
        self.billing.events(self.billing.now(), SOME_EVENTS).await?;
        self.billing.kill()?;
        let (_, acked) = positions(&self.billing.log());
        let enough = acked + 2 * i64::try_from(SOME_EVENTS)?;
        self.witness.has_seen(enough).await?;
        let target = writer::head(&self.etcd).await?;
        self.witness.has_seen(target).await?;
        writer::compact(&self.etcd, target).await?;
        self.tell(&format!(
            "billing is killed at {acked}. Orders go on; etcd forgets everything before {target}."
        ));
        let from = self.billing.now();
        self.billing.start_again(self.house)?;
        let (reason, compact_revision) = self
            .billing
            .first(from, "a snapshot", |report| match report {
                Report::SnapshotBegin {
                    reason,
                    compact_revision,
                    ..
                } => Some((reason.clone(), *compact_revision)),
                _ => None,
            })
            .await?;
        let (revision, count) = self
            .billing
            .first(from, "the end of the snapshot", |report| match report {
                Report::SnapshotEnd { revision, count } => Some((*revision, *count)),
                _ => None,
            })
            .await?;
        ensure!(
            reason == "COMPACTED" && compact_revision == target,
            "the snapshot says {reason} with compact_revision {compact_revision}"
        );
        self.billing.events(from, SOME_EVENTS).await?;
        self.tell(&format!(
            "A new billing is told so: snapshot {reason}, compact_revision {compact_revision}."
        ));
        self.more(&format!(
            "It carries the state, {count} orders at {revision}; then come the events after it."
        ));
        Ok(())
    }

    /// The last order at or below `revision`.
    async fn last_order(&mut self, revision: i64) -> anyhow::Result<i64> {
        self.witness.has_seen(revision).await?;
        let seen = self.witness.seen();
        let last = seen
            .iter()
            .rev()
            .find(|change| change.revision <= revision && change.key.starts_with(ORDERS));
        Ok(last.context("no orders")?.revision)
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.heading("The end: what they got, against what etcd's own watch said");
        self.traffic.stop().await;
        let head = writer::head(&self.etcd).await?;
        self.witness.has_seen(head).await?;
        let truth = self.witness.stop().await?;
        let mut broken = Vec::new();
        self.told.plain(Verdict::HEADING);
        for (follower, prefix) in [(&mut self.billing, ORDERS), (&mut self.router, CONFIG)] {
            let truth: Vec<Change> = truth
                .iter()
                .filter(|change| change.key.starts_with(prefix))
                .cloned()
                .collect();
            let last = truth.last().context("nothing was written")?.revision;
            follower.acked(last).await?;
            follower.kill()?;
            let log: Vec<Report> = follower
                .log()
                .into_iter()
                .map(|(_, report)| report)
                .collect();
            let verdict = check(&log, &truth);
            self.told
                .plain(&verdict.row(follower.client_id).to_string());
            if !verdict.is_clean() {
                broken.push((follower.client_id, verdict.complaints));
            }
        }
        let status = self.watchmark.terminate().await?;
        ensure!(status.success(), "watchmark did not drain: {status}");
        let keys = state_at(&truth, head).len();
        self.told.plain(&format!(
            "  (again: received, but not acknowledged when the stream broke, so sent again)\n  \
             etcd's own watch: {} events; {keys} keys are left, at revision {head}",
            truth.len()
        ));
        for (client_id, complaints) in &broken {
            for complaint in complaints {
                self.told
                    .plain(&format!("  BROKEN for {client_id}: {complaint}"));
            }
        }
        ensure!(broken.is_empty(), "a promise was broken");
        self.told.plain(&format!(
            "\nNothing lost, nothing repeated after an answered ack, nothing out of order. {:.0} s.",
            self.told.since.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn heading(&mut self, text: &str) {
        self.told.plain(&format!("\n{text}"));
    }

    fn tell(&mut self, text: &str) {
        self.told.line(text);
    }

    fn more(&mut self, text: &str) {
        self.told.plain(&format!("             {text}"));
    }
}

impl Told {
    /// A numbered line, with the time.
    fn line(&mut self, text: &str) {
        self.lines += 1;
        let seconds = self.since.elapsed().as_secs_f64();
        self.plain(&format!("{:>3}. {seconds:>4.1} s  {text}", self.lines));
    }

    #[expect(clippy::unused_self, reason = "all lines go through here")]
    fn plain(&self, text: &str) {
        // Nobody reads on: the exit code still says how it ends.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
