//! What the tests stand on works.

use crate::support::{
    Etcd,
    history::Truth,
    wait,
    writer::{Traffic, Writer},
};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_direct_watch_goes_on_when_etcd_is_killed() {
    let mut etcd = Etcd::single(&[]).await;
    let truth = Arc::new(Truth::watch(etcd.client().await));
    let writer = Writer::new(etcd.client().await, Arc::clone(&truth));
    let running = writer.run(Traffic {
        prefixes: vec!["a/".to_owned(), "b/".to_owned()],
        keys: 300,
        txn_keys: 1..=128,
        value_bytes: 0..=200,
        delete_every: 20,
        seed: 1,
    });
    truth.until(100).await;
    etcd.kill(0);
    etcd.restart(0).await;
    let head = etcd.head().await;
    truth.until(head + 100).await;
    assert!(running.stop().await > 100);
    let head = etcd.head().await;
    let history = truth.until(head).await;
    let mut revisions: Vec<i64> = history
        .events
        .iter()
        .map(|event| event.kv.as_ref().unwrap().mod_revision)
        .collect();
    assert!(revisions.is_sorted());
    revisions.dedup();
    // Every revision has an event of its own.
    assert_eq!(revisions, (2..=head).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restores_an_older_history_under_the_same_ids() {
    let mut etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    client.put("a", "1", None).await.unwrap();
    let before = client.status().await.unwrap();
    let backup = etcd.backup(0).await;
    client.put("a", "2", None).await.unwrap();
    assert_eq!(etcd.head().await, 3);
    etcd.stop(0).await;
    etcd.restore(&backup);
    etcd.restart(0).await;
    assert_eq!(etcd.head().await, 2);
    let after = etcd.client().await.status().await.unwrap();
    let id = |status: &etcd_client::StatusResponse| {
        let header = status.header().unwrap();
        (header.cluster_id(), header.member_id())
    };
    assert_eq!(id(&before), id(&after));
    etcd.stop(0).await;
    etcd.wipe(0);
    etcd.restart(0).await;
    assert_eq!(etcd.head().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_follower_falls_behind_and_comes_back() {
    let etcd = Etcd::cluster(&[]).await;
    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    etcd.client_of(follower)
        .await
        .put("a", "1", None)
        .await
        .unwrap();
    etcd.isolate(follower);
    let mut client = etcd.client_of(leader).await;
    let written = wait::until("a write without the follower", async || {
        let put = client.put("a", "2", None).await.ok()?;
        Some(put.header()?.revision())
    })
    .await;
    // Its own clients still reach it, and it knows nothing of the write.
    let mut stale = etcd.client_of(follower).await;
    let serializable = etcd_client::GetOptions::new().with_serializable();
    let answer = stale.get("a", Some(serializable)).await.unwrap();
    assert!(answer.header().unwrap().revision() < written);
    etcd.heal();
    etcd.ready(follower).await;
    let answer = stale.get("a", None).await.unwrap();
    assert!(answer.header().unwrap().revision() >= written);
}
