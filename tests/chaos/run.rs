//! The run: everybody enters, faults come, histories are replaced, and in the
//! end everything must be well.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_client::GetOptions;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use watchmark::proto::watchmark::v1::SubscribeRequest;

use crate::{
    app::App,
    cluster, files,
    load::{KEY_MARK, Load, VALUE_MARK},
    plan::{self, Deck, Journal, Kind},
    profile::{self, Profile, What},
    report::Report,
    sidecar::Sidecar,
    stage::{Call, Epoch, Stage},
    subscriber::Process,
    support::{
        Etcd,
        etcd::Access,
        history::{History, Record, Recorder},
        process::peak_resident_bytes,
        wait,
    },
    verdict::{Case, Checkpoints, Verdict},
};

/// One history lasts about so long.
const EPOCH: Duration = Duration::from_secs(150);
/// A backup is this old when it is restored.
const BACKUP_AGE: Duration = Duration::from_secs(10);
/// From this length on every kind of fault must have come.
const WHOLE_RUN: Duration = Duration::from_secs(120);
/// Everybody must have caught up by then, faults being over.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(150);
/// A stream must not outlive its history for longer.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);
/// watchmark must not have more memory resident, whatever happens.
const RESIDENT_BYTES_MAX: u64 = 400 << 20;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
}

/// The whole play.
pub(crate) struct Run {
    plan: Plan,
    dir: PathBuf,
    stage: Arc<Stage>,
    etcd: Etcd,
    sidecar: Sidecar,
    load: Load,
    root_password: String,
    processes: JoinSet<()>,
    apps: Vec<(Profile, Arc<Mutex<App>>)>,
    /// Histories that are over, being judged.
    judged: Option<JoinHandle<Judged>>,
    report: Report,
    peak: Arc<AtomicU64>,
    _watcher: JoinSet<()>,
}

/// A history that is over, with what came of it.
struct Judged {
    case: Case,
    verdict: Verdict,
}

impl Run {
    pub(crate) async fn start(plan: Plan, dir: PathBuf) -> Self {
        let Plan { seed, .. } = plan;
        let root_password = format!("root-password-{seed:x}-90ac");
        let etcd = cluster::start(&dir, &root_password).await;
        let mut sidecar = Sidecar::start(&etcd, &dir, seed).await;
        let truth = cluster::truth(&etcd, History::default(), 1);
        let stage = Arc::new(Stage::new(
            truth,
            etcd.access(),
            sidecar.doors(),
            Journal::new(&dir),
        ));
        sidecar.enter(&stage);
        let peak = Arc::<AtomicU64>::default();
        let mut watcher = JoinSet::new();
        watcher.spawn(watch_memory(Arc::clone(&stage), Arc::clone(&peak)));
        let mut run = Self {
            load: Load::start(&stage, seed ^ 0x10ad),
            processes: JoinSet::new(),
            apps: Vec::new(),
            judged: None,
            report: Report {
                seed,
                etcd: version(),
                ..Report::default()
            },
            peak,
            _watcher: watcher,
            plan,
            dir,
            stage,
            etcd,
            sidecar,
            root_password,
        };
        for (at, profile) in profile::all().into_iter().enumerate() {
            let app = Arc::<Mutex<App>>::default();
            let twins = usize::from(profile.what == What::Twins);
            for twin in 0..=twins {
                let seed = seed.wrapping_mul(1000) + (2 * at + twin) as u64;
                let process = Process::new(&run.stage, &profile, &app, seed, twin > 0);
                run.processes.spawn(process.live());
            }
            run.apps.push((profile, app));
        }
        run
    }

    /// Plays it to the end. Returns the table and what was broken.
    pub(crate) async fn play(mut self) -> (String, Vec<String>) {
        let started = Instant::now();
        let seed = self.plan.seed;
        let mut decks = [
            Deck::new(plan::CLUSTER, seed ^ 0xc1),
            Deck::new(plan::SIDECAR, seed ^ 0x51),
        ];
        let mut choices = fastrand::Rng::with_seed(seed ^ 0xba);
        let epochs = self.epochs();
        for number in 1..=epochs {
            let until = started + self.plan.lasts * number / epochs;
            if number == epochs {
                self.suffer(&mut decks, until).await;
            } else {
                self.suffer(&mut decks, until - BACKUP_AGE).await;
                let backup = cluster::backup(&self.etcd, choices.usize(..)).await;
                self.suffer(&mut decks, until).await;
                self.replace_history(&backup, choices.bool()).await;
            }
            self.nobody_failed();
        }
        self.end(started).await
    }

    /// How many histories fit. Short runs have no time to replace one.
    fn epochs(&self) -> u32 {
        if self.plan.lasts < WHOLE_RUN {
            return 1;
        }
        (self.plan.lasts.as_secs_f64() / EPOCH.as_secs_f64())
            .round()
            .max(2.0) as u32
    }

    async fn suffer(&mut self, [cluster, sidecar]: &mut [Deck; 2], until: Instant) {
        tokio::join!(
            cluster::suffer(&mut self.etcd, &self.stage, cluster, until),
            self.sidecar.suffer(&self.stage, sidecar, until),
        );
    }

    /// The cluster is restored from a backup under everybody.
    async fn replace_history(&mut self, backup: &crate::support::etcd::Backup, kills: bool) {
        let stage = Arc::clone(&self.stage);
        let common = backup.revision();
        stage.writing.send_replace(false);
        // Nobody opens a stream or writes while this is held.
        let mut gate = stage.epoch.write().await;
        let last = cluster::settled(&self.etcd).await;
        let old_history = gate.truth.until(last).await;
        let term = cluster::term(&self.etcd).await;
        stage.calls.send_replace(Call::Replace { common });
        let staying = stage.all_answered().await;
        let killed = if kills { ", watchmark killed" } else { "" };
        stage.journal.fired(
            Kind::RestoreBackup,
            &format!(
                ": of {common}, etcd being at {last} in term {term}; {staying} streams live on{killed}"
            ),
        );
        if kills {
            self.sidecar.kill();
        }
        cluster::restore(&mut self.etcd, backup).await;
        if kills {
            self.sidecar.restart().await;
        }
        let known = old_history.clone().up_to(common);
        let epoch = Epoch {
            number: gate.number + 1,
            common,
            recorder: Recorder::default(),
            truth: cluster::truth(&self.etcd, known, common),
        };
        let old = std::mem::replace(&mut *gate, epoch);
        drop(gate);
        stage.calls.send_replace(Call::Play);
        stage.writing.send_replace(true);
        self.judge(old, old_history).await;
    }

    /// Judges a history in the background, once nobody watches it any more.
    async fn judge(&mut self, old: Epoch, history: History) {
        let before = self.last_verdict().await;
        let stage = Arc::clone(&self.stage);
        self.judged = Some(tokio::spawn(async move {
            let over = timeout(REPLACED_WITHIN, async {
                while !stage.live_until(old.number).is_empty() {
                    sleep(Duration::from_millis(100)).await;
                }
            });
            if over.await.is_err() {
                let live = stage.live_until(old.number).join(", ");
                stage.broken(format!(
                    "P9 never silent: {live}: a stream outlived its history by {REPLACED_WITHIN:?}"
                ));
            }
            let case = Case {
                number: old.number,
                history,
                records: old.recorder.take(),
                restarts: stage.restarts(),
                common: old.common,
                before,
            };
            let judged = tokio::task::spawn_blocking(move || {
                let verdict = case.judge();
                Judged { case, verdict }
            });
            judged.await.unwrap()
        }));
    }

    /// Takes in what became of the history before.
    async fn last_verdict(&mut self) -> Checkpoints {
        let Some(judged) = self.judged.take() else {
            return Checkpoints::default();
        };
        let Judged { case, verdict } = judged.await.unwrap();
        self.report.count(&case.records);
        self.report.add(&verdict);
        self.report.histories += 1;
        self.report.revisions += last_revision(&case.history) - case.common;
        self.report.events += case.history.events.len();
        for broken in verdict.broken {
            self.stage.broken(broken);
        }
        let broken = self.stage.all_broken().join("\n");
        if !broken.is_empty() {
            let is_named = |r: &&Record| broken.contains(&r.client_id);
            let records: Vec<_> = case.records.iter().filter(is_named).cloned().collect();
            files::write(&self.dir, case.number, &case.history, &records);
        }
        verdict.checkpoints
    }

    fn nobody_failed(&mut self) {
        while let Some(ended) = self.processes.try_join_next() {
            match ended {
                Ok(()) => self.stage.broken("a subscriber left early".to_owned()),
                Err(error) => self.stage.broken(format!("a subscriber failed: {error}")),
            }
        }
    }

    /// Everything is well again: everybody catches up, all is compared.
    async fn end(mut self, started: Instant) -> (String, Vec<String>) {
        let stage = Arc::clone(&self.stage);
        let lasted = started.elapsed();
        stage.journal.say("faults are over");
        stage.writing.send_replace(false);
        drop(stage.epoch.write().await);
        let head = cluster::settled(&self.etcd).await;
        let epoch = stage.epoch.read().await.clone();
        let history = epoch.truth.until(head).await;
        stage.calls.send_replace(Call::CatchUp { to: head });
        let caught_up = self.catch_up(head).await;
        let equal = self.compare_states(head).await;
        self.judge(epoch, history).await;
        self.last_verdict().await;

        self.read_log();
        let peak = self.peak.load(Ordering::Relaxed);
        if peak > RESIDENT_BYTES_MAX {
            stage.broken(format!("watchmark had {} MiB resident", peak >> 20));
        }
        let mut report = self.report;
        report.lasted = lasted;
        report.faults = stage.journal.counts();
        report.writes = self.load.counts();
        for kind in [plan::CLUSTER, plan::SIDECAR, &[Kind::RestoreBackup]].concat() {
            let fired = report.faults.contains_key(&kind);
            if kind == Kind::FillDisk && !self.sidecar.has_disk() {
                report
                    .skipped
                    .push("disk full: mounting is not permitted".to_owned());
            } else if !fired && self.plan.lasts >= WHOLE_RUN {
                stage.broken(format!("never happened: {kind}"));
            }
        }
        report.skipped.dedup();
        report.checks.extend([
            ("subscribers caught up at the end".to_owned(), caught_up),
            ("states equal to etcd's own range".to_owned(), equal),
            (
                "watchmark: most memory resident (MiB)".to_owned(),
                (peak >> 20).to_string(),
            ),
        ]);
        report.broken = stage.all_broken();
        (report.table(), report.broken)
    }

    async fn catch_up(&mut self, head: i64) -> String {
        let all = self.processes.len();
        let done = timeout(CAUGHT_UP_WITHIN, async {
            while let Some(ended) = self.processes.join_next().await {
                if let Err(error) = ended {
                    self.stage.broken(format!("a subscriber failed: {error}"));
                }
            }
        });
        if done.await.is_err() {
            let live = self.stage.live_until(usize::MAX).join(", ");
            self.stage.broken(format!(
                "{} subscribers did not catch up to {head} within {CAUGHT_UP_WITHIN:?}; live: {live}",
                self.processes.len()
            ));
            let left = self.processes.len();
            self.processes.shutdown().await;
            return format!("{} of {all}", all - left);
        }
        all.to_string()
    }

    /// What each subscriber made of its events must be what etcd has.
    async fn compare_states(&self, head: i64) -> String {
        let mut compared = 0;
        for (profile, app) in &self.apps {
            if !profile.sees_everything() {
                continue;
            }
            compared += 1;
            let request = profile.request(profile.name);
            let expected = etcd_state(&self.stage.etcd, &request, head).await;
            let state = app.lock().unwrap().state();
            if state == expected {
                continue;
            }
            let differs = expected
                .iter()
                .find(|(key, pair)| state.get(*key) != Some(pair))
                .or_else(|| state.iter().find(|(key, _)| !expected.contains_key(*key)));
            let key = differs.map(|(key, _)| String::from_utf8_lossy(key));
            let revision = |state: &BTreeMap<Bytes, (i64, Bytes)>| {
                differs.and_then(|(key, _)| state.get(key).map(|(revision, _)| *revision))
            };
            self.stage.broken(format!(
                "{}: its state has {} keys, etcd's {}, and they differ in {key:?}: of revision \
                 {:?}, etcd's of {:?}",
                profile.name,
                state.len(),
                expected.len(),
                revision(&state),
                revision(&expected)
            ));
        }
        compared.to_string()
    }

    /// Nothing secret, nothing of the subscribers' data, no panic.
    fn read_log(&mut self) {
        let log = self.sidecar.watchmark.log();
        for (what, text) in [
            ("a value", VALUE_MARK),
            ("a key", KEY_MARK),
            ("the password", &self.sidecar.password),
            ("root's password", &self.root_password),
            ("a panic", "panicked"),
        ] {
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                self.stage
                    .broken(format!("{what} is in watchmark's log: {line}"));
            }
        }
        let count = |text| log.matches(text).count();
        self.report.checks.extend([
            (
                "log lines without key, value, password, panic".to_owned(),
                log.lines().count().to_string(),
            ),
            (
                "watchmark began to serve".to_owned(),
                count("serving address").to_string(),
            ),
            (
                "histories read by several watches".to_owned(),
                count("reading ahead watches=").to_string(),
            ),
            (
                "watchmark authenticated".to_owned(),
                count("authenticated to etcd").to_string(),
            ),
        ]);
        let revoked = self.stage.journal.counts();
        let revoked = revoked.get(&Kind::RevokeTokens).copied().unwrap_or(0);
        if self.plan.lasts >= WHOLE_RUN
            && count("authenticated to etcd") <= count("serving address") + revoked
        {
            self.stage.broken("no token ever expired".to_owned());
        }
    }
}

async fn watch_memory(stage: Arc<Stage>, peak: Arc<AtomicU64>) {
    loop {
        let pid = stage.pid.load(Ordering::SeqCst);
        if let Some(bytes) = peak_resident_bytes(pid) {
            peak.fetch_max(bytes, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// The range as etcd has it.
async fn etcd_state(
    etcd: &Access,
    request: &SubscribeRequest,
    head: i64,
) -> BTreeMap<Bytes, (i64, Bytes)> {
    let mut options = GetOptions::new().with_revision(head);
    if request.keys_only {
        options = options.with_keys_only();
    }
    let key = if request.prefix.is_empty() {
        options = options.with_range(request.range_end.to_vec());
        request.key.to_vec()
    } else {
        options = options.with_prefix();
        request.prefix.to_vec()
    };
    let answer = wait::until("etcd's own range", async || {
        let client = etcd.connect().await.ok()?;
        let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
        kv.get(key.clone(), Some(options.clone())).await.ok()
    });
    let pairs = answer.await;
    let pairs = pairs.kvs().iter().map(|kv| {
        let pair = (kv.mod_revision(), kv.value().to_vec().into());
        (kv.key().to_vec().into(), pair)
    });
    pairs.collect()
}

fn last_revision(history: &History) -> i64 {
    let last = history.events.last();
    last.map_or(0, crate::support::history::mod_revision)
}

fn version() -> String {
    let (major, minor, patch) = Etcd::version();
    format!("{major}.{minor}.{patch}")
}
