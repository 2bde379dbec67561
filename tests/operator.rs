//! What an operator asks of the registry: overviews, moves, deletions, and how
//! they race with streams and acks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::sync::{Arc, atomic::Ordering};

use fake::{
    Attempt, Fixture, PEER, client_id, header, next, next_events, request, rev, selection, soon,
    until,
};
use futures_util::{FutureExt, StreamExt};
use tokio::task::JoinHandle;
use watchmark::{
    resume::{
        Activity, EndReason, Fingerprint, History, KeyRange, Proof, Record, Revision, SeekTo,
        Selection, SessionRequest, SnapshotReason, input::Upstream as Said,
    },
    session::{Ended, Message, OperationError, Overview, Receiver, Standing},
    store::CheckpointStore,
};

fn stored(checkpoint: i64) -> Record {
    Record {
        checkpoint: Some(rev(checkpoint)),
        proof: Proof::Acked,
        ..Record::new(selection())
    }
}

fn to(revision: i64) -> SeekTo {
    SeekTo::Revision(rev(revision))
}

async fn seek(fixture: &Fixture, name: &str, to: SeekTo) -> Result<Option<i64>, String> {
    let client = client_id(name);
    let sought = fixture.registry.seek(&client, to, false);
    let sought = soon("the seek is answered", sought).await;
    sought
        .map(|sought| sought.previous.map(Revision::get))
        .map_err(|error| format!("{error:?}"))
}

async fn delete(fixture: &Fixture, name: &str) -> Result<Option<i64>, String> {
    let client = client_id(name);
    let deleted = soon("the deletion is answered", fixture.registry.delete(&client)).await;
    deleted
        .map(|checkpoint| checkpoint.map(Revision::get))
        .map_err(|error| format!("{error:?}"))
}

async fn overview(fixture: &Fixture, name: &str) -> Option<Overview> {
    let client = client_id(name);
    let overview = fixture.registry.overview(&client);
    soon("an overview", overview).await.unwrap()
}

/// The end of a stream, past what was on its way.
async fn end(stream: &mut Receiver<Message>) -> Option<Result<Message, Ended>> {
    loop {
        match soon("the end", stream.next()).await {
            Some(Ok(_)) => {}
            end => return end,
        }
    }
}

/// Live, with 11 to 13 delivered.
async fn delivered_up_to_13(fixture: &mut Fixture) -> (Receiver<Message>, Attempt) {
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    *fixture.etcd.history.lock().unwrap() = Some((0, 13));
    for revision in 11..=13 {
        watch.say_put(revision, 10).await;
        assert_eq!(next_events(&mut stream).await, revision);
    }
    (stream, watch)
}

#[tokio::test]
async fn a_seek_ends_the_stream_and_the_next_begins_there() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = delivered_up_to_13(&mut fixture).await;
    assert_eq!(fixture.ack("orders", 12).await, Ok(12));
    assert_eq!(seek(&fixture, "orders", to(5)).await, Ok(Some(12)));
    assert_eq!(fixture.store.checkpoint("orders"), Some(5));
    assert_eq!(
        end(&mut stream).await,
        Some(Err(Ended::By(EndReason::Sought)))
    );
    watch.ended().await;
    let late = fixture.ack("orders", 13).await.unwrap_err();
    assert!(late.contains("Sought"), "{late}");

    let mut stream = fixture.subscribe("orders", request()).await;
    let (spec, watch) = fixture.asked_watch().await;
    assert_eq!(spec.guard.revision, rev(5));
    watch.say_opened(13).await;
    assert!(matches!(
        next(&mut stream).await,
        Message::Opened { checkpoint, resumed: true, .. } if checkpoint == Some(rev(5))
    ));
}

#[tokio::test]
async fn a_seek_to_a_snapshot_needs_no_etcd_and_the_next_stream_begins_with_it() {
    let mut fixture = Fixture::new(10);
    fixture.store.insert("orders", stored(7)).await;
    *fixture.etcd.history.lock().unwrap() = None;
    assert_eq!(
        seek(&fixture, "orders", SeekTo::Snapshot).await,
        Ok(Some(7))
    );
    let mut stream = fixture.subscribe("orders", request()).await;
    let snapshot = fixture.asked_snapshot().await;
    snapshot.say(Said::SnapshotBegun(header(10))).await;
    assert!(matches!(next(&mut stream).await, Message::Opened { .. }));
    let begin = loop {
        match next(&mut stream).await {
            Message::State(..) => {}
            other => break other,
        }
    };
    assert!(matches!(
        begin,
        Message::SnapshotBegin {
            reason: SnapshotReason::Requested,
            ..
        }
    ));
    assert_eq!(overview(&fixture, "orders").await.unwrap().resyncs, 1);
}

#[tokio::test]
async fn a_seek_to_what_etcd_does_not_have_changes_nothing() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    *fixture.etcd.history.lock().unwrap() = Some((6, 10));
    let registry = Arc::clone(&fixture.registry);
    let client = client_id("orders");
    let refused = registry.seek(&client, to(5), false).await.unwrap_err();
    assert!(
        matches!(refused, OperationError::Compacted { compact_revision } if compact_revision == Some(rev(6)))
    );
    let refused = registry.seek(&client, to(11), false).await.unwrap_err();
    assert!(
        matches!(refused, OperationError::Future { .. }),
        "{refused:?}"
    );
    let dry = registry.seek(&client, to(5), true).await.unwrap();
    let compact_revision = Some(rev(6));
    assert_eq!(dry.standing, Standing::Compacted { compact_revision });
    assert_eq!(
        (dry.previous, dry.checkpoint),
        (Some(rev(10)), Some(rev(5)))
    );
    let dry = registry.seek(&client, to(6), true).await.unwrap();
    assert_eq!(dry.standing, Standing::Resumable);

    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
    assert_eq!(fixture.ack("orders", 11).await, Ok(11));
}

#[tokio::test(start_paused = true)]
async fn a_seek_that_etcd_does_not_answer_ends_and_changes_nothing() {
    let fixture = Fixture::new(10);
    fixture.store.insert("orders", stored(7)).await;
    *fixture.etcd.history.lock().unwrap() = None;
    let refused = seek(&fixture, "orders", to(5)).await.unwrap_err();
    assert!(refused.contains("UpstreamUnavailable"), "{refused}");
    assert_eq!(fixture.store.checkpoint("orders"), Some(7));
}

#[tokio::test]
async fn what_nobody_knows_can_be_neither_moved_nor_deleted_and_starts_no_task() {
    let fixture = Fixture::new(10);
    let not_found = Err("NotFound".to_owned());
    assert_eq!(seek(&fixture, "orders", to(5)).await, not_found);
    assert_eq!(delete(&fixture, "orders").await, not_found);
    assert!(overview(&fixture, "orders").await.is_none());
    assert_eq!(fixture.registry.running(), 0);
}

#[tokio::test]
async fn a_seek_that_the_store_refuses_is_told_so() {
    let fixture = Fixture::new(10);
    fixture.store.insert("orders", stored(7)).await;
    fixture.store.memory.fail("no space left on device");
    let refused = seek(&fixture, "orders", to(5)).await.unwrap_err();
    assert!(refused.contains("no space left"), "{refused}");
    let refused = delete(&fixture, "orders").await.unwrap_err();
    assert!(refused.contains("no space left"), "{refused}");
    assert_eq!(fixture.store.checkpoint("orders"), Some(7));
    fixture.store.memory.recover();
    assert_eq!(seek(&fixture, "orders", to(5)).await, Ok(Some(7)));
    assert_eq!(delete(&fixture, "orders").await, Ok(Some(5)));
}

#[tokio::test]
async fn an_ack_that_is_being_written_holds_before_a_seek_and_a_later_one_is_refused() {
    let mut fixture = Fixture::new(10);
    let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
    fixture.store.memory.hold();
    let client = client_id("orders");
    let mut before = Box::pin(fixture.registry.ack(&client, None, rev(11)));
    assert!((&mut before).now_or_never().is_none());
    until("the write is held", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    let mut between = Box::pin(fixture.registry.ack(&client, None, rev(13)));
    assert!((&mut between).now_or_never().is_none());
    let registry = Arc::clone(&fixture.registry);
    let sought =
        tokio::spawn(async move { registry.seek(&client_id("orders"), to(5), false).await });
    // The seek ends what could not be written yet, at once.
    let refused = soon("a refusal", between).await.unwrap_err();
    assert!(format!("{refused:?}").contains("Sought"), "{refused:?}");
    fixture.store.memory.release();
    assert_eq!(soon("the ack", before).await.unwrap(), rev(11));
    let sought = soon("the seek", sought).await.unwrap().unwrap();
    assert_eq!(sought.previous, Some(rev(11)));
    assert_eq!(fixture.store.checkpoint("orders"), Some(5));
}

#[tokio::test]
async fn a_stream_that_comes_while_a_seek_is_written_begins_there() {
    let mut fixture = Fixture::new(10);
    let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
    fixture.store.memory.hold();
    let registry = Arc::clone(&fixture.registry);
    let sought =
        tokio::spawn(async move { registry.seek(&client_id("orders"), to(5), false).await });
    until("the write is held", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    let mut stream = fixture.subscribe("orders", request()).await;
    assert!(stream.next().now_or_never().is_none());
    fixture.store.memory.release();
    soon("the seek", sought).await.unwrap().unwrap();
    let (spec, _watch) = fixture.asked_watch().await;
    assert_eq!(spec.guard.revision, rev(5));
}

#[tokio::test]
async fn after_a_deletion_the_client_id_is_new_and_its_place_is_free() {
    let mut fixture = Fixture::new(1);
    let (mut stream, _watch) = fixture.subscribe_at_10("orders").await;
    assert_eq!(delete(&fixture, "orders").await, Ok(Some(10)));
    assert_eq!(
        end(&mut stream).await,
        Some(Err(Ended::By(EndReason::Deleted)))
    );
    let late = fixture.ack("orders", 10).await;
    assert_eq!(late.unwrap_err(), "SubscriptionNotFound");
    assert!(fixture.store.memory.client_ids().is_empty());
    until("its task ends", || fixture.registry.running() == 0).await;
    assert!(fixture.registry.client_ids().is_empty());

    // Another one fits in, and then this one does not any more.
    let (_stream, _watch) = fixture.subscribe_at_10("invoices").await;
    let client = client_id("orders");
    let full = fixture
        .registry
        .subscribe(&client, request(), Default::default(), PEER.to_owned());
    assert!(format!("{:?}", full.await.unwrap_err()).contains("TooMany"));
    assert_eq!(delete(&fixture, "invoices").await, Ok(Some(10)));
    let other = SessionRequest {
        selection: Selection {
            range: KeyRange::prefix("b/".into()),
            ..selection()
        },
        ..request()
    };
    let _stream = fixture.subscribe("orders", other).await;
    fixture.asked_head().await;
}

#[tokio::test]
async fn a_stored_subscription_is_deleted_without_ever_being_live() {
    let fixture = Fixture::new(10);
    fixture.store.insert("orders", stored(7)).await;
    assert_eq!(delete(&fixture, "orders").await, Ok(Some(7)));
    assert_eq!(delete(&fixture, "orders").await, Err("NotFound".to_owned()));
    until("its task ends", || fixture.registry.running() == 0).await;
}

/// Deletions and streams of one name at once: none is lost, none is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_on_its_way_when_the_task_ends_is_served_all_the_same() {
    let mut fixture = Fixture::new(10);
    for round in 0..300 {
        fixture.forget_asked();
        let registry = Arc::clone(&fixture.registry);
        let deleting = tokio::spawn(async move {
            match registry.delete(&client_id("orders")).await {
                Ok(_) | Err(OperationError::NotFound) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let mut stream = fixture.subscribe("orders", request()).await;
        soon("the deletion", deleting).await.unwrap();
        // It lives, or was told that it was deleted.
        match tokio::time::timeout(std::time::Duration::from_millis(1), stream.next()).await {
            Err(_) => {}
            Ok(end) => assert_eq!(
                end,
                Some(Err(Ended::By(EndReason::Deleted))),
                "round {round}"
            ),
        }
        drop(stream);
        let _ = delete(&fixture, "orders").await;
    }
    until("every task ends", || fixture.registry.running() == 0).await;
    assert!(fixture.registry.client_ids().is_empty());
}

/// Acks and seeks at once: an ack that was answered OK was durable, and what
/// is durable at last is what the last seek said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_that_race_with_a_seek_are_answered_and_do_not_outlive_it() {
    let mut fixture = Fixture::new(10);
    for round in 0..50 {
        let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
        let acking = tokio::spawn({
            let registry = Arc::clone(&fixture.registry);
            async move {
                let client = client_id("orders");
                for revision in 11..=13 {
                    let ack = registry.ack(&client, None, rev(revision));
                    let answer = soon("an ack is answered", ack).await;
                    if let Err(refused) = answer {
                        let refused = format!("{refused:?}");
                        assert!(refused.contains("Sought"), "round {round}: {refused}");
                    }
                }
            }
        });
        assert!(seek(&fixture, "orders", to(5)).await.is_ok());
        acking.await.unwrap();
        assert_eq!(fixture.store.checkpoint("orders"), Some(5), "round {round}");
        assert_eq!(delete(&fixture, "orders").await, Ok(Some(5)));
    }
}

#[tokio::test]
async fn a_live_subscription_is_described_by_its_task() {
    let mut fixture = Fixture::new(10);
    let before = std::time::SystemTime::now();
    let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
    assert_eq!(fixture.ack("orders", 11).await, Ok(11));
    let seen = overview(&fixture, "orders").await.unwrap();
    assert_eq!(seen.activity, Activity::Live);
    assert_eq!(seen.delivered, Some(rev(13)));
    assert_eq!(seen.unacked_events, 2);
    assert_eq!(seen.record.unwrap().checkpoint, Some(rev(11)));
    let (proof, advanced_at) = seen.last_advance.unwrap();
    assert_eq!(proof, Proof::Acked);
    let session = seen.session.unwrap();
    assert_eq!(session.peer, PEER);
    let oldest = seen.oldest_unacked_at.unwrap();
    let last_event = seen.last_event_at.unwrap();
    let slack = std::time::Duration::from_millis(50);
    assert!(before <= session.since + slack && session.since <= oldest + slack);
    assert!(oldest <= last_event + slack && last_event <= advanced_at + slack);
    let behind_since = seen.behind_since.unwrap();
    assert!(behind_since <= oldest + slack && oldest <= behind_since + slack);

    assert_eq!(fixture.ack("orders", 13).await, Ok(13));
    let seen = overview(&fixture, "orders").await.unwrap();
    assert_eq!((seen.unacked_events, seen.oldest_unacked_at), (0, None));
    assert_eq!(seen.behind_since, None);
}

#[tokio::test]
async fn what_is_only_stored_is_listed_beside_what_is_live_in_order() {
    let mut fixture = Fixture::new(10);
    for name in ["a", "c"] {
        fixture.store.insert(name, stored(7)).await;
    }
    let (_stream, _watch) = fixture.subscribe_at_10("b").await;
    let overviews = fixture.registry.overviews().await.unwrap();
    let seen: Vec<_> = overviews
        .iter()
        .map(|it| (it.client_id.as_str(), it.activity, it.session.is_some()))
        .collect();
    let idle = Activity::Disconnected;
    assert_eq!(
        seen,
        [
            ("a", idle, false),
            ("b", Activity::Live, true),
            ("c", idle, false)
        ]
    );
    assert_eq!(fixture.registry.running(), 1, "looking starts no task");
}

#[tokio::test]
async fn one_position_that_is_there_says_so_of_all_above_it_with_one_question() {
    let fixture = Fixture::new(100);
    for name in 0..50 {
        let record = stored(100 + name);
        fixture.store.insert(&format!("s{name:02}"), record).await;
    }
    let asked = |(compacted, head): (i64, i64)| {
        *fixture.etcd.history.lock().unwrap() = Some((compacted, head));
        fixture.etcd.guards_read.store(0, Ordering::Relaxed);
        async {
            let overviews = fixture.registry.overviews().await.unwrap();
            let standings = fixture.registry.standings(&overviews).await;
            let resumable: Vec<bool> = (100..150)
                .map(|at| standings.is_resumable(rev(at)).unwrap())
                .collect();
            let first = resumable.iter().position(|&it| it).unwrap_or(50);
            let until = resumable
                .iter()
                .rposition(|&it| it)
                .map_or(first, |at| at + 1);
            assert!(resumable[first..until].iter().all(|&it| it));
            (
                first,
                until,
                fixture.etcd.guards_read.load(Ordering::Relaxed),
            )
        }
    };
    assert_eq!(asked((0, 500)).await, (0, 50, 1));
    assert_eq!(asked((120, 500)).await, (20, 50, 2));
    assert_eq!(asked((400, 500)).await, (50, 50, 1));
    assert_eq!(asked((0, 129)).await, (0, 30, 1));
    assert_eq!(asked((120, 129)).await, (20, 30, 2));
    assert_eq!(asked((0, 50)).await, (50, 50, 1));
}

#[tokio::test(start_paused = true)]
async fn a_list_does_not_wait_for_an_etcd_that_is_away() {
    let fixture = Fixture::new(100);
    fixture.store.insert("orders", stored(7)).await;
    *fixture.etcd.history.lock().unwrap() = None;
    let overviews = fixture.registry.overviews().await.unwrap();
    let asked_at = tokio::time::Instant::now();
    let standings = fixture.registry.standings(&overviews).await;
    assert!(asked_at.elapsed() <= std::time::Duration::from_secs(2));
    assert_eq!(
        (standings.is_resumable(rev(7)), standings.head),
        (None, None)
    );
}

/// The deletion of orders, under way for as long as the store is held.
async fn held_deletion(fixture: &Fixture) -> JoinHandle<Result<Option<Revision>, OperationError>> {
    fixture.store.memory.hold();
    let registry = Arc::clone(&fixture.registry);
    let deleting = tokio::spawn(async move { registry.delete(&client_id("orders")).await });
    until("the deletion is held", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    deleting
}

/// Nobody sends it anything any more: it must notice by itself.
#[tokio::test]
async fn a_place_is_free_although_acks_waited_for_the_deletion() {
    let mut fixture = Fixture::new(1);
    let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
    let deleting = held_deletion(&fixture).await;
    let mut late = Box::pin(fixture.ack("orders", 13));
    assert!((&mut late).now_or_never().is_none());
    fixture.store.memory.release();
    soon("the deletion", deleting).await.unwrap().unwrap();
    assert!(late.await.unwrap_err().contains("NotFound"));
    until("its task ends", || fixture.registry.running() == 0).await;
    assert!(fixture.registry.client_ids().is_empty());
    let (_stream, _watch) = fixture.subscribe_at_10("invoices").await;
}

/// It holds the mailbox while the task finds that it is not needed any more.
#[tokio::test]
async fn a_place_is_free_although_somebody_looked_during_the_deletion() {
    let mut fixture = Fixture::new(1);
    let (_stream, _watch) = fixture.subscribe_at_10("orders").await;
    let client = client_id("orders");
    let mut deleting = Box::pin(fixture.registry.delete(&client));
    assert!((&mut deleting).now_or_never().is_none());
    let mut looking = Box::pin(fixture.registry.overviews());
    assert!((&mut looking).now_or_never().is_none());
    soon("the deletion", deleting).await.unwrap();
    soon("the list", looking).await.unwrap();
    until("its task ends", || fixture.registry.running() == 0).await;
    assert!(fixture.registry.client_ids().is_empty());
}

#[tokio::test]
async fn a_stream_that_waited_for_a_deletion_is_shown_without_what_was_before() {
    let mut fixture = Fixture::new(10);
    let (_stream, _watch) = delivered_up_to_13(&mut fixture).await;
    assert_eq!(fixture.ack("orders", 12).await, Ok(12));
    let deleting = held_deletion(&fixture).await;
    let _stream = fixture.subscribe("orders", request()).await;
    fixture.store.memory.release();
    soon("the deletion", deleting).await.unwrap().unwrap();
    fixture.asked_head().await;
    let seen = overview(&fixture, "orders").await.unwrap();
    assert_eq!((seen.last_event_at, seen.last_advance), (None, None));
}

/// After a restore with the same flags that no stream has noticed, only the
/// last event of the old checkpoint tells.
#[tokio::test]
async fn a_seek_within_another_history_than_the_checkpoints_is_refused() {
    let fixture = Fixture::new(10);
    let known = |mod_revision| Record {
        history: History {
            cluster_id: 77,
            raft_term: 2,
            fingerprint: Some(Fingerprint {
                key: "a/x".into(),
                mod_revision: rev(mod_revision),
                deleted: false,
            }),
        },
        ..stored(8)
    };
    fixture.store.insert("orders", known(7)).await;
    let client = client_id("orders");
    let refused = fixture.registry.seek(&client, to(5), false).await;
    assert!(
        matches!(refused, Err(OperationError::Replaced)),
        "{refused:?}"
    );
    assert_eq!(fixture.store.checkpoint("orders"), Some(8));
    let dry = fixture.registry.seek(&client, to(5), true).await.unwrap();
    assert_eq!(dry.standing, Standing::Replaced);
    seek(&fixture, "orders", SeekTo::Snapshot).await.unwrap();

    // At 8, where this one was changed last, it is.
    fixture.store.insert("others", known(8)).await;
    assert_eq!(seek(&fixture, "others", to(5)).await, Ok(Some(8)));
}
