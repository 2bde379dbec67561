//! What a watch says once it is open.

use etcd_client::DeleteOptions;
use futures_util::StreamExt;
use tokio::time::Instant;
use watchmark::upstream::Etcd;

use super::{
    harness::{Item, events, next, open, revision, spec},
    server::{Server, answers_progress_soundly, progress_notify_flag},
    snapshots::fill,
};

async fn delete_all(server: &Server) {
    let options = DeleteOptions::new().with_prefix();
    server
        .client()
        .await
        .delete("a/", Some(options))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_small_revision_of_many_keys_comes_whole() {
    let server = Server::start(&[]).await;
    let last = fill(&server, 128, "x").await;
    delete_all(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last)).await;
    let (found, fragments) = events(&mut watch, 128).await;
    assert!(found.iter().all(|(at, _)| *at == last + 1));
    assert_eq!(fragments, [false]);
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_and_only_the_last_says_whole() {
    let server = Server::start(&[]).await;
    let last = fill(&server, 5_000, &"v".repeat(1_000)).await;
    delete_all(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut spec = spec("a/", last);
    spec.pair_options.prev_kv = true;
    let (mut watch, _) = open(&etcd, spec).await;
    let (found, fragments) = events(&mut watch, 5_000).await;
    assert!(found.iter().all(|(at, _)| *at == last + 1));
    assert!(found.is_sorted_by(|a, b| a.1 < b.1));
    let (whole, parts) = fragments.split_last().unwrap();
    assert!(
        !whole && !parts.is_empty() && parts.iter().all(|&part| part),
        "{fragments:?}"
    );
}

#[tokio::test]
async fn a_revision_of_twenty_thousand_keys_is_one_revision() {
    let server = Server::start(&[]).await;
    let last = fill(&server, 20_000, "x").await;
    delete_all(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last)).await;
    let (found, fragments) = events(&mut watch, 20_000).await;
    assert_eq!(found.len(), 20_000);
    assert!(found.iter().all(|(at, _)| *at == last + 1));
    assert_eq!(fragments.last(), Some(&false));
}

/// etcd puts at most 1,000 revisions into one response, with its newest
/// revision in the header of each.
#[tokio::test]
async fn a_long_history_comes_in_several_responses_and_none_is_certified_ahead_of_itself() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let client = server.client().await;
    let puts = (0..1_500).map(|_| {
        let mut client = client.clone();
        async move { client.put("a/1", "x", None).await.unwrap() }
    });
    futures_util::stream::iter(puts)
        .buffer_unordered(64)
        .for_each(async |_| ())
        .await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", first)).await;
    let (found, fragments) = events(&mut watch, 1_500).await;
    assert!(fragments.len() > 1);
    assert!(
        found
            .iter()
            .map(|(at, _)| *at)
            .eq(first + 1..=first + 1_500)
    );
}

#[tokio::test]
async fn values_above_the_usual_message_limit_arrive() {
    let server = Server::start(&[]).await;
    let value = "v".repeat(1 << 20);
    let pairs: Vec<_> = (0..12).map(|_| ("a/big", value.as_str())).collect();
    let last = server.put(&pairs).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut spec = spec("a/", last - 11);
    spec.pair_options.prev_kv = true;
    let (mut watch, _) = open(&etcd, spec).await;
    assert_eq!(events(&mut watch, 11).await.0.len(), 11);
}

#[tokio::test]
async fn timed_bookmarks_are_passed_on() {
    let server = Server::start(&[&progress_notify_flag("200ms")]).await;
    let last = server.put(&[("a/1", "1"), ("b/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last - 1)).await;
    match next(&mut watch.events).await {
        Item::Bookmark(at) => assert_eq!(at, revision(last)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn asked_for_progress_is_answered_where_it_is_sound_and_nowhere_else() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1"), ("b/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, opened) = open(&etcd, spec("a/", last - 1)).await;
    assert_eq!(opened.can_ask_progress, answers_progress_soundly());
    let asked = Instant::now();
    loop {
        let _ = watch.ask_progress.try_send(());
        let wait = std::time::Duration::from_millis(300);
        match tokio::time::timeout(wait, next(&mut watch.events)).await {
            Ok(Item::Bookmark(at)) => {
                assert!(opened.can_ask_progress);
                assert_eq!(at, revision(last));
                return;
            }
            Ok(other) => panic!("{other:?}"),
            // A server that must not be asked stays silent for a while.
            Err(_) if !opened.can_ask_progress && asked.elapsed().as_secs() >= 2 => break,
            Err(_) => assert!(asked.elapsed().as_secs() < 30),
        }
    }
    server.put(&[("a/2", "still works")]).await;
    assert_eq!(events(&mut watch, 1).await.0.len(), 1);
}

#[tokio::test]
async fn a_live_watch_survives_compaction_behind_it() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", last)).await;
    let last = server.put(&[("b/1", "1"), ("b/1", "2")]).await;
    server.compact(last).await;
    let last = server.put(&[("a/1", "2")]).await;
    assert_eq!(events(&mut watch, 1).await.0, [(last, "a/1".into())]);
}
