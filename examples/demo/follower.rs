//! The story's view of one subscriber: its process, and everything that all
//! processes of this client_id have printed so far.

use std::{
    io::{BufRead as _, BufReader},
    process::ChildStdout,
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::{
    processes::{House, Process},
    report::Report,
    story::DEADLINE,
};

/// All lines of one client_id, in order, each with the time it was read.
pub(crate) type Log = Vec<(Instant, Report)>;

/// One application, over all its processes.
pub(crate) struct Follower {
    pub(crate) client_id: &'static str,
    process: Option<(Process, JoinHandle<anyhow::Result<()>>)>,
    log: watch::Sender<Log>,
}

impl Follower {
    /// Starts the first process, which says what it wants to watch.
    /// It hangs after `acks` acknowledgements.
    pub(crate) fn start(
        house: &House,
        client_id: &'static str,
        prefix: &str,
        acks: u64,
    ) -> anyhow::Result<Self> {
        let mut follower = Self {
            client_id,
            process: None,
            log: watch::channel(Log::new()).0,
        };
        follower.start_process(house, prefix, acks)?;
        Ok(follower)
    }

    /// Starts another process, which knows nothing but its client_id.
    pub(crate) fn start_again(&mut self, house: &House) -> anyhow::Result<()> {
        self.start_process(house, "", u64::MAX)
    }

    fn start_process(&mut self, house: &House, prefix: &str, acks: u64) -> anyhow::Result<()> {
        let mut process = house.start_subscriber(self.client_id, prefix, acks)?;
        let stdout = process.stdout.take().context("its stdout is not piped")?;
        let log = self.log.clone();
        let reader = std::thread::spawn(move || read(stdout, &log));
        self.process = Some((process, reader));
        Ok(())
    }

    /// Kills the process with SIGKILL. What it printed counts.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some((mut process, reader)) = self.process.take() {
            process.kill()?;
            let read = reader.join();
            read.map_err(|_| anyhow::anyhow!("the reader of {} panicked", self.client_id))??;
        }
        Ok(())
    }

    /// Where the log ends now.
    pub(crate) fn now(&self) -> usize {
        self.log.borrow().len()
    }

    /// A copy of the log.
    pub(crate) fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    /// What `look` finds in the log from `from` on, as soon as it does. `what`
    /// it looks for goes into the error.
    pub(crate) async fn until<T>(
        &self,
        from: usize,
        what: &str,
        mut look: impl FnMut(&[(Instant, Report)]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut log = self.log.subscribe();
        let mut found = None;
        let looking = log.wait_for(|log| {
            found = look(&log[from..]);
            found.is_some()
        });
        let waited = tokio::time::timeout(DEADLINE, looking).await.is_ok();
        found
            .filter(|_| waited)
            .with_context(|| format!("{} did not see {what} within {DEADLINE:?}", self.client_id))
    }

    /// Waits for the first report from `from` on of which `pick` makes something.
    pub(crate) async fn first<T>(
        &self,
        from: usize,
        what: &str,
        mut pick: impl FnMut(&Report) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.until(from, what, |log| {
            log.iter().find_map(|(_, report)| pick(report))
        })
        .await
    }

    /// Waits for `count` events from `from` on.
    pub(crate) async fn events(&self, from: usize, count: usize) -> anyhow::Result<()> {
        let is_event = |(_, report): &&(Instant, Report)| matches!(report, Report::Event(_));
        let what = format!("{count} more events");
        self.until(from, &what, |log| {
            (log.iter().filter(is_event).count() >= count).then_some(())
        })
        .await
    }

    /// Waits until everything up to `revision` is acknowledged.
    pub(crate) async fn acked(&self, revision: i64) -> anyhow::Result<()> {
        let what = format!("its ack of {revision} answered");
        self.first(0, &what, |report| match report {
            Report::Acked(checkpoint) if *checkpoint >= revision => Some(()),
            _ => None,
        })
        .await
    }
}

/// Reads what a process prints until it ends.
fn read(stdout: ChildStdout, log: &watch::Sender<Log>) -> anyhow::Result<()> {
    for line in BufReader::new(stdout).lines() {
        let report = line?.parse()?;
        log.send_modify(|log| log.push((Instant::now(), report)));
    }
    Ok(())
}

/// The last event and the last answered ack in `log`.
pub(crate) fn positions(log: &[(Instant, Report)]) -> (i64, i64) {
    let last = |pick: fn(&Report) -> Option<i64>| {
        let found = log.iter().rev().find_map(|(_, report)| pick(report));
        found.unwrap_or(0)
    };
    let received = last(|report| match report {
        Report::EventsEnd { revision, .. } | Report::SnapshotEnd { revision, .. } => {
            Some(*revision)
        }
        _ => None,
    });
    let acked = last(|report| match report {
        Report::Acked(checkpoint) => Some(*checkpoint),
        _ => None,
    });
    (received, acked)
}
