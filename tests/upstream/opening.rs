//! How a watch opens: creation, guard, then events.

use etcd_client::PutOptions;
use watchmark::{
    resume::GuardReading,
    upstream::{Etcd, Upstream},
};

use super::{
    harness::{Item, ended, events, next, open, prefix, revision, spec},
    server::{Server, answers_progress_soundly},
};

#[tokio::test]
async fn opened_with_its_guard_comes_before_the_history() {
    let server = Server::start(&[]).await;
    let first = server
        .put(&[("a/1", "x"), ("a/2", "y"), ("b/1", "z"), ("a/1", "w")])
        .await
        - 3;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut spec = spec("a/", first);
    spec.guard.key = "a/1".into();
    let (mut watch, opened) = open(&etcd, spec).await;
    let GuardReading::Present {
        header,
        mod_revision,
    } = opened.guard
    else {
        panic!("{opened:?}");
    };
    assert_eq!(mod_revision, Some(revision(first)));
    assert_eq!(header.revision, revision(first + 3));
    assert!(header.cluster_id != 0 && header.raft_term != 0 && opened.member_id != 0);
    assert_eq!(opened.can_ask_progress, answers_progress_soundly());
    let (found, _) = events(&mut watch, 2).await;
    assert_eq!(
        found,
        [(first + 1, "a/2".into()), (first + 3, "a/1".into())]
    );
    server.put(&[("a/3", "live")]).await;
    assert_eq!(events(&mut watch, 1).await.0, [(first + 4, "a/3".into())]);
    assert_eq!(etcd.newest_header(), Some(header));
}

#[tokio::test]
async fn a_compacted_start_is_told_by_guard_and_watch() {
    let server = Server::start(&[]).await;
    let last = server
        .put(&[("a/1", "1"), ("a/1", "2"), ("a/1", "3"), ("a/1", "4")])
        .await;
    server.compact(last - 1).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, opened) = open(&etcd, spec("a/", last - 3)).await;
    let compact_revision = Some(revision(last - 1));
    assert_eq!(opened.guard, GuardReading::Compacted { compact_revision });
    match next(&mut watch.events).await {
        Item::Compacted { compact_revision } => assert_eq!(compact_revision, revision(last - 1)),
        other => panic!("{other:?}"),
    }
    ended(&mut watch.events).await;
}

#[tokio::test]
async fn a_start_at_the_compact_revision_is_told_by_the_guard_alone() {
    let server = Server::start(&[]).await;
    let last = server
        .put(&[("a/1", "1"), ("a/1", "2"), ("a/1", "3")])
        .await;
    server.compact(last).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (_watch, opened) = open(&etcd, spec("a/", last - 1)).await;
    let compact_revision = Some(revision(last));
    assert_eq!(opened.guard, GuardReading::Compacted { compact_revision });
    // The compact revision itself can still be read.
    let (_watch, opened) = open(&etcd, spec("a/", last)).await;
    assert!(matches!(opened.guard, GuardReading::Present { .. }));
}

#[tokio::test]
async fn a_revision_that_etcd_has_not_reached_is_future() {
    let server = Server::start(&[]).await;
    let last = server.put(&[("a/1", "1")]).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (_watch, opened) = open(&etcd, spec("a/", last + 100)).await;
    assert_eq!(opened.guard, GuardReading::Future);
}

#[tokio::test]
async fn filters_prev_kv_and_keys_only_reach_etcd() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/1", "old"), ("a/1", "new")]).await - 1;
    let mut client = server.client().await;
    client.delete("a/1", None).await.unwrap();
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut spec = spec("a/", first);
    spec.selection.no_put = true;
    spec.pair_options.prev_kv = true;
    let read = async |spec| {
        let (mut watch, _) = open(&etcd, spec).await;
        match next(&mut watch.events).await {
            Item::Events { mut events, .. } => events.remove(0),
            other => panic!("{other:?}"),
        }
    };
    let event = read(spec.clone()).await;
    assert_eq!(event.r#type, 1);
    assert_eq!(event.prev_kv.unwrap().value, "new");
    spec.pair_options.keys_only = true;
    assert_eq!(read(spec).await.prev_kv.unwrap().value, "");
}

#[tokio::test]
async fn head_reads_the_newest_revision() {
    let server = Server::start(&[]).await;
    let mut client = server.client().await;
    let options = PutOptions::new().with_prev_key();
    let answer = client.put("k", "v", Some(options)).await.unwrap();
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut head = etcd.head(prefix("other/"));
    match next(&mut head).await {
        Item::Head(header) => {
            let written = answer.header().unwrap();
            assert_eq!(header.revision.get(), written.revision());
            assert_eq!(header.cluster_id, written.cluster_id());
            assert_eq!(header.raft_term, written.raft_term());
        }
        other => panic!("{other:?}"),
    }
    ended(&mut head).await;
}
