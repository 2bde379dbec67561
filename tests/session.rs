//! One task per subscription: takeover, durable acks, panics, limits, drain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::sync::atomic::Ordering;

use fake::{
    Fixture, PEER, client_id, header, next, next_events, request, rev, selection, soon, until,
};
use futures_util::{FutureExt, StreamExt};
use watchmark::{
    proto::{PairOptions, watchmark::v1::Event},
    resume::{EndReason, KeyRange, Record, Selection, SessionRequest, input::Upstream as Said},
    session::{Ended, Message, SubscribeError},
};

#[tokio::test]
async fn events_arrive_and_an_ack_is_answered_only_when_it_is_stored() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);

    fixture.store.memory.hold();
    let client = client_id("orders");
    let mut ack = Box::pin(fixture.registry.ack(&client, None, rev(11)));
    assert!((&mut ack).now_or_never().is_none());
    until("the write is held", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    assert!((&mut ack).now_or_never().is_none());
    assert_eq!(fixture.store.checkpoint("orders"), Some(10));

    fixture.store.memory.release();
    assert_eq!(soon("the answer", ack).await.unwrap(), rev(11));
    assert_eq!(fixture.store.checkpoint("orders"), Some(11));
}

#[tokio::test]
async fn a_failed_write_fails_the_ack_and_it_can_be_repeated() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);

    fixture.store.memory.fail("no space left on device");
    let refused = fixture.ack("orders", 11).await.unwrap_err();
    assert!(refused.contains("no space left"), "{refused}");
    fixture.store.memory.recover();
    assert_eq!(fixture.ack("orders", 11).await, Ok(11));
}

#[tokio::test]
async fn a_newer_stream_ends_the_older_one_before_its_own_first_message() {
    let mut fixture = Fixture::new(10);
    let (mut first, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut first).await, 11);
    // Queued, but not taken.
    watch.say_put(12, 10).await;
    until("the driver has read", || watch.is_read()).await;

    let mut second = fixture.subscribe("orders", request()).await;
    watch.ended().await;
    let (spec, watch) = fixture.asked_watch().await;
    assert_eq!(spec.guard.revision, rev(10), "from the checkpoint");
    watch.say_opened(12).await;
    assert!(matches!(
        next(&mut second).await,
        Message::Opened { resumed: true, .. }
    ));

    let superseded = Ended::By(EndReason::Superseded);
    assert_eq!(first.next().await, Some(Err(superseded)));
    assert_eq!(first.next().await, None);
    let client = client_id("orders");
    let late = fixture
        .registry
        .ack(&client, Some(watchmark::resume::SessionId(1)), rev(11));
    let refused = format!("{:?}", late.await.unwrap_err());
    assert!(refused.contains("Superseded"), "{refused}");
}

#[tokio::test]
async fn a_refused_newcomer_leaves_the_live_stream_alone() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    let other = SessionRequest {
        selection: Selection {
            range: KeyRange::prefix("b/".into()),
            ..selection()
        },
        ..request()
    };
    let mut refused = fixture.subscribe("orders", other).await;
    let mismatch = Ended::By(EndReason::RangeMismatch);
    assert_eq!(
        soon("the refusal", refused.next()).await,
        Some(Err(mismatch))
    );

    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
}

#[tokio::test]
async fn a_subscriber_that_left_frees_its_watch_and_may_still_ack() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
    drop(stream);
    watch.ended().await;
    assert_eq!(fixture.ack("orders", 11).await, Ok(11));
}

#[tokio::test(start_paused = true)]
async fn a_busy_process_hands_on_together_what_etcd_says_in_a_moment() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    let says = async {
        for revision in 11..=160 {
            watch.say_put(revision, 10).await;
        }
    };
    let (mut revisions, mut most) = (Vec::new(), 0);
    let reads = async {
        while revisions.last() != Some(&160) {
            match next(&mut stream).await {
                Message::Events {
                    revision, events, ..
                } => {
                    let of = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
                    revisions.extend(events.iter().map(of));
                    assert_eq!(revisions.last(), Some(&revision.get()));
                    most = most.max(events.len());
                }
                other => assert!(
                    matches!(other, Message::State(..) | Message::Progress(_)),
                    "{other:?}"
                ),
            }
        }
    };
    tokio::join!(says, reads);
    assert_eq!(revisions, (11..=160).collect::<Vec<_>>());
    assert!(most > 1, "each went alone");
    watch.say_put(161, 10).await;
    assert_eq!(next_events(&mut stream).await, 161, "after the rest");
}

#[tokio::test(start_paused = true)]
async fn a_busy_process_joins_nothing_else_and_drops_nothing() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    let says = async {
        // The last of them is what makes it busy.
        for revision in 11..=111 {
            watch.say_put(revision, 10).await;
        }
        watch.say(Said::Bookmark(rev(120))).await;
        watch.say_put(121, 10).await;
        watch.say(Said::Lost).await;
    };
    let mut last = 0;
    let reads = async {
        while last < 121 {
            last = next_events(&mut stream).await;
        }
    };
    tokio::join!(says, reads);
    assert_eq!(last, 121);
    let (spec, _) = fixture.asked_watch().await;
    assert_eq!(spec.guard.revision, rev(121));
}

#[tokio::test]
async fn automatic_acks_follow_what_the_transport_took() {
    let mut fixture = Fixture::new(10);
    let automatic = SessionRequest {
        auto_ack: true,
        ..request()
    };
    let mut stream = fixture.subscribe("orders", automatic).await;
    fixture.asked_head().await.say(Said::Head(header(10))).await;
    let (_, watch) = fixture.asked_watch().await;
    watch.say_opened(10).await;
    assert!(matches!(next(&mut stream).await, Message::Opened { .. }));
    watch.say_put(11, 10).await;
    until("the driver has read", || watch.is_read()).await;
    assert_eq!(
        fixture.store.checkpoint("orders"),
        Some(10),
        "not taken yet"
    );
    assert_eq!(next_events(&mut stream).await, 11);
    until("it is acknowledged", || {
        fixture.store.checkpoint("orders") == Some(11)
    })
    .await;
}

#[tokio::test]
async fn what_the_transport_took_is_acknowledged_although_a_newer_stream_takes_over() {
    let mut fixture = Fixture::new(10);
    let automatic = SessionRequest {
        auto_ack: true,
        ..request()
    };
    let mut first = fixture.subscribe("orders", automatic.clone()).await;
    fixture.asked_head().await.say(Said::Head(header(10))).await;
    let (_, watch) = fixture.asked_watch().await;
    watch.say_opened(10).await;
    assert!(matches!(next(&mut first).await, Message::Opened { .. }));
    watch.say_put(11, 10).await;
    until("the driver has read", || watch.is_read()).await;

    // On one thread: the driver hears of both at once.
    assert_eq!(next_events(&mut first).await, 11);
    let _second = fixture.subscribe("orders", automatic).await;
    let (spec, _watch) = fixture.asked_watch().await;
    assert_eq!(spec.guard.revision, rev(11), "delivered at most once");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_stops_the_reading_of_etcd() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    let mut said = 10;
    // 100 KiB each: some fit into the outbox, one waits in the machine, 4 in the channel.
    for _ in 0..30 {
        said += 1;
        let saying = watch.say_put(said, 100 * 1024);
        if tokio::time::timeout(std::time::Duration::from_millis(200), saying)
            .await
            .is_err()
        {
            break;
        }
    }
    assert!(said - 10 < 15, "{said} were taken in");
    for revision in 11..said {
        assert_eq!(next_events(&mut stream).await, revision);
    }
}

#[tokio::test]
async fn a_panic_ends_the_stream_and_the_next_one_starts_at_the_checkpoint() {
    let mut fixture = Fixture::new(10);
    let (mut stream, watch) = fixture.subscribe_at_10("orders").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut stream).await, 11);
    assert_eq!(fixture.ack("orders", 11).await, Ok(11));
    watch.say_put(12, 10).await;
    assert_eq!(next_events(&mut stream).await, 12);

    // The next call must not depend on the panic's being noticed.
    fixture.stop_supervising();
    fixture.store.panic_on_next_put();
    assert_eq!(
        fixture.ack("orders", 12).await,
        Err("DriverStopped".to_owned())
    );
    assert_eq!(
        soon("the end", stream.next()).await,
        Some(Err(Ended::Abandoned))
    );
    // Nothing was delivered since: the subscriber must ask for it again.
    assert!(
        fixture
            .ack("orders", 12)
            .await
            .unwrap_err()
            .contains("NoSession")
    );

    let mut stream = fixture.subscribe("orders", request()).await;
    let (spec, watch) = fixture.asked_watch().await;
    assert_eq!(
        (spec.guard.revision, &*spec.guard.key),
        (rev(11), &b"a/11"[..])
    );
    watch.say_resumed(12, Some(11)).await;
    watch.say_put(12, 10).await;
    assert!(matches!(
        next(&mut stream).await,
        Message::Opened { resumed: true, .. }
    ));
    assert_eq!(next_events(&mut stream).await, 12);
    assert_eq!(fixture.ack("orders", 12).await, Ok(12));
}

#[tokio::test]
async fn an_ack_without_a_driver_is_answered_from_the_store() {
    let fixture = Fixture::new(10);
    let unknown = fixture.ack("orders", 5).await.unwrap_err();
    assert_eq!(unknown, "SubscriptionNotFound");
    let record = Record {
        checkpoint: Some(rev(7)),
        ..Record::new(selection())
    };
    fixture.store.insert("orders", record).await;
    assert_eq!(fixture.ack("orders", 7).await, Ok(7));
    assert!(
        fixture
            .ack("orders", 8)
            .await
            .unwrap_err()
            .contains("NoSession")
    );
    assert_eq!(fixture.registry.running(), 0);
}

#[tokio::test]
async fn new_names_above_the_limit_are_refused_and_known_ones_are_not() {
    let fixture = Fixture::new(2);
    for name in ["a", "b", "c"] {
        fixture.store.insert(name, Record::new(selection())).await;
    }
    let subscribe = |name| {
        let registry = std::sync::Arc::clone(&fixture.registry);
        async move {
            let client = client_id(name);
            registry
                .subscribe(&client, request(), PairOptions::default(), PEER.to_owned())
                .await
        }
    };
    assert!(subscribe("c").await.is_ok());
    assert!(matches!(
        subscribe("d").await,
        Err(SubscribeError::TooManySubscriptions { max: 2 })
    ));
    assert_eq!(fixture.registry.running(), 1);
}

#[tokio::test]
async fn a_name_that_begins_anew_after_its_deletion_keeps_its_place() {
    let fixture = Fixture::new(1);
    fixture.store.insert("a", Record::new(selection())).await;
    let _stream = fixture.subscribe("a", request()).await;
    fixture.store.memory.hold_puts();
    let client = client_id("a");
    let (deleted, _stream) = tokio::join!(
        fixture.registry.delete(&client),
        fixture.subscribe("a", request())
    );
    assert!(deleted.is_ok());
    until("it is stored again, nearly", || {
        fixture.store.memory.held_count() == 1
    })
    .await;
    let client = client_id("b");
    let refused =
        fixture
            .registry
            .subscribe(&client, request(), PairOptions::default(), PEER.to_owned());
    assert!(matches!(
        refused.await,
        Err(SubscribeError::TooManySubscriptions { max: 1 })
    ));
}

#[tokio::test]
async fn many_streams_of_one_name_at_once_leave_exactly_one_alive() {
    let fixture = Fixture::new(10);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(fixture.subscribe("orders", request()));
    }
    let mut alive = 0;
    for mut stream in futures_util::future::join_all(streams).await {
        let end = tokio::time::timeout(std::time::Duration::from_millis(50), stream.next()).await;
        match end {
            Err(_) => alive += 1,
            Ok(end) => assert_eq!(end, Some(Err(Ended::By(EndReason::Superseded)))),
        }
    }
    assert_eq!(alive, 1);
    assert_eq!(fixture.store.loads.load(Ordering::Relaxed), 1, "one driver");
}

#[tokio::test]
async fn a_drain_ends_streams_refuses_new_ones_and_waits_for_the_last_ack() {
    let mut fixture = Fixture::new(10);
    let (mut busy, watch) = fixture.subscribe_at_10("busy").await;
    let (mut idle, _watch) = fixture.subscribe_at_10("idle").await;
    watch.say_put(11, 10).await;
    assert_eq!(next_events(&mut busy).await, 11);

    let mut drain = Box::pin(fixture.registry.drain());
    assert!((&mut drain).now_or_never().is_none());
    let ended = |stream: Option<Result<Message, Ended>>| match stream {
        Some(Ok(Message::State(..) | Message::Progress(_))) => None,
        other => Some(other),
    };
    for stream in [&mut busy, &mut idle] {
        let end = loop {
            if let Some(end) = ended(soon("the end", stream.next()).await) {
                break end;
            }
        };
        assert_eq!(end, Some(Err(Ended::By(EndReason::Draining))));
    }
    let client = client_id("new");
    let refused =
        fixture
            .registry
            .subscribe(&client, request(), PairOptions::default(), PEER.to_owned());
    assert!(matches!(refused.await, Err(SubscribeError::Draining)));

    until("only the busy one is left", || {
        fixture.registry.running() == 1
    })
    .await;
    assert!((&mut drain).now_or_never().is_none());
    assert_eq!(fixture.ack("busy", 11).await, Ok(11));
    soon("drained", drain).await;
    assert_eq!(fixture.store.checkpoint("busy"), Some(11));
    // Repeating the last ack is harmless to the end.
    assert_eq!(fixture.ack("busy", 11).await, Ok(11));
}

#[tokio::test]
async fn a_drain_waits_for_no_ack_of_a_stream_that_acknowledges_by_itself() {
    let mut fixture = Fixture::new(10);
    let automatic = SessionRequest {
        auto_ack: true,
        ..request()
    };
    let mut stream = fixture.subscribe("orders", automatic).await;
    fixture.asked_head().await.say(Said::Head(header(10))).await;
    let (_, watch) = fixture.asked_watch().await;
    watch.say_opened(10).await;
    assert!(matches!(next(&mut stream).await, Message::Opened { .. }));
    for revision in [11, 12] {
        watch.say_put(revision, 10).await;
    }
    until("the driver has read", || watch.is_read()).await;
    assert_eq!(next_events(&mut stream).await, 11);
    // The other is queued, and the transport will never take it.
    soon("drained", fixture.registry.drain()).await;
    assert_eq!(fixture.store.checkpoint("orders"), Some(11));
}
