//! What happens to the members of etcd.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    plan::{Deck, Fault, Kind},
    stage::Stage,
    support::{
        Etcd,
        etcd::Backup,
        history::{History, Truth},
        wait,
    },
};

const MEMBERS: usize = 3;
/// A maintenance call may take this long.
const CALL_WITHIN: Duration = Duration::from_secs(15);
/// etcd's revision must stand still for so long before nobody writes.
const STILL: Duration = Duration::from_secs(1);

/// Starts three members, with users and tokens that expire soon.
pub(crate) async fn start(dir: &std::path::Path, root_password: &str) -> Etcd {
    let mut home = TempDir::new_in(dir).unwrap();
    home.disable_cleanup(true);
    let progress = Etcd::progress_notify_flag("1s");
    let mut flags = vec!["--auth-token-ttl=3", "--bcrypt-cost=4"];
    flags.extend(progress.as_deref());
    let mut etcd = Etcd::cluster_in(home, &flags).await;
    etcd.enable_auth(root_password).await;
    etcd
}

/// A direct watch on one member after the other, past all faults of ours.
pub(crate) fn truth(etcd: &Etcd, known: History, whole: i64) -> Arc<Truth> {
    let access = etcd.access();
    let member = std::sync::atomic::AtomicUsize::new(0);
    let truth = Truth::go_on(known, whole, move || {
        let at = member.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % MEMBERS;
        let access = access.only(at);
        async move { access.connect().await.ok() }
    });
    Arc::new(truth)
}

/// Faults, one after the other, until then. Everything is well afterwards.
pub(crate) async fn suffer(etcd: &mut Etcd, stage: &Stage, deck: &mut Deck, until: Instant) {
    while Instant::now() < until {
        let fault = deck.deal();
        one_fault(etcd, stage, fault).await;
        for at in 0..MEMBERS {
            etcd.ready(at).await;
        }
        sleep(fault.gap).await;
    }
}

async fn one_fault(etcd: &mut Etcd, stage: &Stage, fault: Fault) {
    let Fault {
        kind,
        choice,
        lasts,
        ..
    } = fault;
    let at = choice % MEMBERS;
    let other = (at + 1 + choice / MEMBERS % 2) % MEMBERS;
    let fired = |detail: &str| stage.journal.fired(kind, detail);
    match kind {
        Kind::KillMember => {
            fired(&format!(": m{at} ({lasts:.1?})"));
            etcd.kill(at);
            sleep(lasts).await;
            etcd.restart(at).await;
        }
        Kind::KillLeader => {
            let at = etcd.leader().await;
            fired(&format!(": m{at} ({lasts:.1?})"));
            etcd.kill(at);
            sleep(lasts).await;
            etcd.restart(at).await;
        }
        Kind::MoveLeader => {
            if move_leader(etcd, choice).await {
                fired("");
            }
        }
        Kind::PauseMember => {
            fired(&format!(": m{at} ({lasts:.1?})"));
            etcd.pause(at);
            sleep(lasts).await;
            etcd.resume(at);
        }
        Kind::IsolateFollower => {
            let leader = etcd.leader().await;
            let at = if at == leader { other } else { at };
            fired(&format!(": m{at} ({lasts:.1?})"));
            etcd.isolate(at);
            sleep(lasts).await;
            etcd.heal();
        }
        Kind::LoseQuorum => {
            fired(&format!(": m{at} and m{other} ({:.1?})", lasts / 2));
            etcd.pause(at);
            etcd.pause(other);
            sleep(lasts / 2).await;
            etcd.resume(at);
            etcd.resume(other);
        }
        Kind::Compact => {
            // Never what the direct watch has not seen.
            let seen = stage.epoch.read().await.truth.whole();
            let revision = seen - (choice % 30) as i64;
            let compacted = timeout(CALL_WITHIN, async {
                let mut client = etcd.client_of(at).await;
                let options = etcd_client::CompactionOptions::new().with_physical();
                client.compact(revision, Some(options)).await.ok()
            });
            if let Ok(Some(_)) = compacted.await {
                fired(&format!(" at {revision}"));
            }
        }
        Kind::Defragment => {
            let defragmented = timeout(CALL_WITHIN, async {
                etcd.client_of(at).await.defragment().await.ok()
            });
            if let Ok(Some(_)) = defragmented.await {
                fired(&format!(": m{at}"));
            }
        }
        Kind::RestoreBackup
        | Kind::KillWatchmark
        | Kind::PauseWatchmark
        | Kind::DrainWatchmark
        | Kind::CutEtcd
        | Kind::StallEtcd
        | Kind::SlowEtcd
        | Kind::CutSubscribers
        | Kind::StallSubscribers
        | Kind::SlowSubscribers
        | Kind::RevokeTokens
        | Kind::FillDisk => unreachable!("not of this deck"),
    }
}

async fn move_leader(etcd: &Etcd, choice: usize) -> bool {
    let leader = etcd.leader().await;
    let follower = (leader + 1 + choice % 2) % MEMBERS;
    let moved = timeout(CALL_WITHIN, async {
        let status = etcd.client_of(follower).await.status().await.ok()?;
        let id = status.header()?.member_id();
        let mut client = etcd.client_of(leader).await;
        client.move_leader(id).await.ok()
    });
    matches!(moved.await, Ok(Some(_)))
}

/// Waits until nothing changes any more, writers being still: no lease is
/// left to expire, nothing is under way. Returns etcd's last revision.
pub(crate) async fn settled(etcd: &Etcd) -> i64 {
    let mut last = (0, Instant::now());
    wait::until("etcd to come to rest", async || {
        let mut client = etcd.access().connect().await.ok()?;
        let leases = client.leases().await.ok()?;
        let head = leases.header()?.revision();
        if head != last.0 || !leases.leases().is_empty() {
            last = (head, Instant::now());
        }
        (last.1.elapsed() >= STILL).then_some(())
    })
    .await;
    etcd.head().await
}

/// Takes a backup of any member.
pub(crate) async fn backup(etcd: &Etcd, choice: usize) -> Backup {
    etcd.backup(choice % MEMBERS).await
}

/// Kills all members and starts them on the backup.
pub(crate) async fn restore(etcd: &mut Etcd, backup: &Backup) {
    for at in 0..MEMBERS {
        etcd.kill(at);
    }
    etcd.restore(backup);
    etcd.restart_all().await;
}

/// etcd's raft term, as a member says.
pub(crate) async fn term(etcd: &Etcd) -> u64 {
    wait::until("etcd to say its term", async || {
        let mut client = etcd.access().connect().await.ok()?;
        Some(client.status().await.ok()?.raft_term())
    })
    .await
}
