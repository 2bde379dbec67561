//! watchmark between two sets of bad connections, on a small disk.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    link::{Direction, Link, Weather},
    plan::{Deck, Fault, Kind},
    stage::Stage,
    support::{
        Etcd, Watchmark,
        etcd::Access,
        mount::{Mount, fill, small_disk_of},
        wait,
    },
};

/// The user that watchmark is.
const USER: &str = "sidecar";
/// Longer than `--drain-timeout`.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
/// What `watchmark serve` exits with when its store can't be used.
const STORE_UNUSABLE: i32 = 3;
/// How often a running watchmark is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// watchmark and everything around it.
pub(crate) struct Sidecar {
    pub(crate) watchmark: Watchmark,
    pub(crate) password: String,
    etcd_links: Vec<Link>,
    doors: Vec<Link>,
    stage: Option<Arc<Stage>>,
    // Last: the process goes before its disk.
    disk: Option<Mount>,
}

impl Sidecar {
    /// Starts it as a user of its own, in `dir`.
    pub(crate) async fn start(etcd: &Etcd, dir: &Path, seed: u64) -> Self {
        let password = format!("password-{seed:x}-b41f");
        add_user(&etcd.access(), &password).await;
        let password_file = dir.join("password");
        fs::write(&password_file, &password).unwrap();
        let disk = small_disk_of("64m");
        let data_dir = disk.as_ref().map_or(dir, Mount::path).join("data");
        let mut etcd_links = Vec::new();
        for endpoint in etcd.endpoints() {
            etcd_links.push(Link::to(endpoint.trim_start_matches("http://")).await);
        }
        let endpoints: Vec<_> = etcd_links.iter().map(Link::url).collect();
        let mut home = TempDir::new_in(dir).unwrap();
        home.disable_cleanup(true);
        let flags = [
            &format!("--data-dir={}", data_dir.display()),
            &format!("--etcd-user={USER}"),
            &format!("--etcd-password-file={}", password_file.display()),
            "--allow-prefix=",
            "--probe-interval=5s",
            "--progress-interval=1s",
            "--stall-timeout=5s",
            "--idle-after=60s",
            "--idle-lag=30s",
            "--snapshot-page-bytes=64KiB",
            "--drain-timeout=3s",
        ];
        let watchmark = Watchmark::start_in(home, &endpoints, &flags, None).await;
        let mut doors = Vec::new();
        for _ in 0..2 {
            doors.push(Link::to(&watchmark.address()).await);
        }
        Self {
            watchmark,
            password,
            etcd_links,
            doors,
            stage: None,
            disk,
        }
    }

    /// Where subscribers connect.
    pub(crate) fn doors(&self) -> Vec<String> {
        self.doors.iter().map(Link::url).collect()
    }

    /// Whether its disk can be filled.
    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// From here on `stage` knows the process.
    pub(crate) fn enter(&mut self, stage: &Arc<Stage>) {
        self.stage = Some(Arc::clone(stage));
        self.tell_pid();
    }

    /// Faults, one after the other, until then. Everything is well afterwards.
    pub(crate) async fn suffer(&mut self, stage: &Stage, deck: &mut Deck, until: Instant) {
        while Instant::now() < until {
            let fault = deck.deal();
            self.one_fault(stage, fault).await;
            self.stay_up(fault.gap).await;
        }
    }

    async fn one_fault(&mut self, stage: &Stage, fault: Fault) {
        let Fault {
            kind,
            lasts,
            choice,
            ..
        } = fault;
        let direction = [Direction::ToServer, Direction::ToClient][choice % 2];
        let fired = |detail: &str| {
            stage
                .journal
                .fired(kind, &format!("{detail} ({lasts:.1?})"))
        };
        match kind {
            Kind::KillWatchmark => {
                fired("");
                self.watchmark.kill();
                sleep(lasts / 3).await;
                self.restart().await;
            }
            Kind::PauseWatchmark => {
                fired("");
                self.watchmark.process().pause();
                sleep(lasts).await;
                self.watchmark.process().resume();
            }
            Kind::DrainWatchmark => {
                fired("");
                stage.restarting();
                self.watchmark.terminate();
                let code = self.watchmark.exit_code(DRAINED_WITHIN).await;
                if code != Some(0) {
                    stage.broken(format!("watchmark drained and exited with {code:?}"));
                }
                self.restart().await;
            }
            Kind::CutEtcd | Kind::StallEtcd | Kind::SlowEtcd => {
                let weather = weather(kind, direction);
                // One connection, or all.
                let at = (choice / 2) % (2 * self.etcd_links.len());
                fired(&format!(
                    ": {weather:?}, {}",
                    name(at, self.etcd_links.len())
                ));
                let hit = pick(&self.etcd_links, at);
                hit.iter().for_each(|link| link.set(weather));
                self.stay_up(lasts).await;
                self.etcd_links
                    .iter()
                    .for_each(|link| link.set(Weather::Fair));
            }
            Kind::CutSubscribers | Kind::StallSubscribers | Kind::SlowSubscribers => {
                let weather = weather(kind, direction);
                let at = (choice / 2) % (2 * self.doors.len());
                fired(&format!(": {weather:?}, {}", name(at, self.doors.len())));
                let hit = pick(&self.doors, at);
                hit.iter().for_each(|link| link.set(weather));
                self.stay_up(lasts).await;
                self.doors.iter().for_each(|link| link.set(Weather::Fair));
            }
            Kind::RevokeTokens => {
                // A new password, though the same, ends all tokens of a user.
                let changed = async {
                    let mut client = stage.etcd.connect().await.ok()?;
                    client.user_change_password(USER, &self.password).await.ok()
                };
                if changed.await.is_some() {
                    fired("");
                }
            }
            Kind::FillDisk => {
                let Some(disk) = &self.disk else { return };
                let is_killed = choice % 2 == 0;
                fired(if is_killed { ", and kill -9" } else { "" });
                let filler = fill(disk.path());
                if is_killed {
                    sleep(lasts / 3).await;
                    self.watchmark.kill();
                    self.launch();
                }
                self.stay_up_or_fail(lasts, Some(STORE_UNUSABLE)).await;
                fs::remove_file(filler).unwrap();
                self.stay_up_or_fail(LOOK, Some(STORE_UNUSABLE)).await;
                self.until_it_listens().await;
            }
            Kind::KillMember
            | Kind::KillLeader
            | Kind::MoveLeader
            | Kind::PauseMember
            | Kind::IsolateFollower
            | Kind::LoseQuorum
            | Kind::Compact
            | Kind::Defragment
            | Kind::RestoreBackup => unreachable!("not of this deck"),
        }
    }

    /// SIGKILL; it comes back with [`restart`](Self::restart).
    pub(crate) fn kill(&mut self) {
        self.watchmark.kill();
    }

    pub(crate) async fn restart(&mut self) {
        self.launch();
        self.until_it_listens().await;
    }

    fn launch(&mut self) {
        if let Some(stage) = &self.stage {
            stage.restarting();
        }
        self.watchmark.launch();
        self.tell_pid();
    }

    /// Waits; watchmark must not end by itself.
    pub(crate) async fn stay_up(&mut self, lasts: Duration) {
        self.stay_up_or_fail(lasts, None).await;
    }

    /// As an init system would: it is started again, but only `allowed` is no
    /// failure.
    async fn stay_up_or_fail(&mut self, lasts: Duration, allowed: Option<i32>) {
        let until = Instant::now() + lasts;
        loop {
            if !self.watchmark.is_running() {
                let code = self.watchmark.exit_code(wait::DEADLINE).await;
                if (code.is_none() || code != allowed)
                    && let Some(stage) = &self.stage
                {
                    stage.broken(format!("watchmark ended by itself, with {code:?}"));
                }
                sleep(LOOK * 3).await;
                self.launch();
            }
            if Instant::now() >= until {
                return;
            }
            sleep(LOOK.min(until - Instant::now())).await;
        }
    }

    async fn until_it_listens(&self) {
        let endpoint = self.watchmark.endpoint();
        wait::until("watchmark to listen again", async || {
            endpoint.connect().await.ok()
        })
        .await;
    }

    fn tell_pid(&self) {
        if let Some(stage) = &self.stage {
            let pid = self.watchmark.process().pid();
            stage.pid.store(pid, Ordering::SeqCst);
        }
    }
}

async fn add_user(etcd: &Access, password: &str) {
    let mut client = etcd.connect().await.unwrap();
    client.role_add(USER).await.unwrap();
    let everything = etcd_client::Permission::read(vec![0]).with_all_keys();
    client
        .role_grant_permission(USER, everything)
        .await
        .unwrap();
    client.user_add(USER, password, None).await.unwrap();
    client.user_grant_role(USER, USER).await.unwrap();
}

fn weather(kind: Kind, direction: Direction) -> Weather {
    match kind {
        Kind::CutEtcd | Kind::CutSubscribers => Weather::Cut,
        Kind::StallEtcd | Kind::StallSubscribers => Weather::Stalled(direction),
        _ => Weather::Slow(direction),
    }
}

/// One of the links, or all.
fn pick(links: &[Link], at: usize) -> &[Link] {
    links.get(at..=at).unwrap_or(links)
}

fn name(at: usize, links: usize) -> String {
    if at < links {
        format!("connection {at}")
    } else {
        "all".to_owned()
    }
}
