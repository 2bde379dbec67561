//! Deep history, which several watches at once read. That they did is etcd's
//! own word: it counts the streams of watches.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use etcd_client::{Client, Txn, TxnOp, WatchOptions};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use watchmark::{
    resume::GuardReading,
    upstream::{Etcd, Upstream, Watch},
};

use super::{
    harness::{Item, events, next, open, spec},
    server::{Server, until},
};

/// Writes in flight.
const WRITERS: usize = 128;
/// More than a plain watch ever takes.
const SEVERAL: u64 = 20;

type Found = Vec<(i64, Bytes)>;

/// A revision for each number, made of `keys(n)`; the newest revision.
async fn write(server: &Server, count: usize, keys: impl Fn(usize) -> Vec<String>) -> i64 {
    let client = server.client().await;
    let writes = (0..count).map(|n| {
        let puts = keys(n).into_iter();
        let puts: Vec<_> = puts.map(|key| TxnOp::put(key, "value", None)).collect();
        let mut client = client.clone();
        async move { client.txn(Txn::new().and_then(puts)).await.unwrap() }
    });
    let answers = stream::iter(writes).buffer_unordered(WRITERS);
    let revisions = answers.map(|answer| answer.header().unwrap().revision());
    let all: Vec<_> = revisions.collect().await;
    all.into_iter().max().unwrap()
}

async fn singles(server: &Server, count: usize) -> i64 {
    write(server, count, |n| vec![format!("a/{:03}", n % 1000)]).await
}

/// What a watch that has nothing to do with ours says of `a/` after `after`.
async fn truth(server: &Server, after: i64, last: i64) -> Found {
    let client: Client = server.client().await;
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(after + 1);
    let mut watch = client.watch_client().max_decoding_message_size(usize::MAX);
    let mut stream = watch.watch("a/", Some(options)).await.unwrap();
    let mut found = Vec::new();
    while found.last().is_none_or(|(at, _)| *at < last) {
        let response = stream.message().await.unwrap().unwrap();
        assert_eq!(response.compact_revision(), 0);
        found.extend(response.events().iter().map(|event| {
            let kv = event.kv().unwrap();
            (kv.mod_revision(), Bytes::copy_from_slice(kv.key()))
        }));
    }
    found
}

/// How many streams of watches etcd has seen.
async fn watches(server: &Server) -> u64 {
    let address = server.endpoint();
    let address = address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let mut lines = text.lines();
    let line = lines
        .find(|line| line.starts_with("grpc_server_started_total{") && line.contains("\"Watch\""));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// What comes until the watch ends; how it ended, and what came.
async fn until_it_ends(watch: &mut Watch, found: &mut Found, last: i64) -> Option<Item> {
    while found.last().is_none_or(|(at, _)| *at < last) {
        match next(&mut watch.events).await {
            Item::Events { events, .. } => {
                let pairs = events.into_iter().map(|event| event.kv.unwrap());
                found.extend(pairs.map(|kv| (kv.mod_revision, kv.key)));
            }
            Item::Bookmark(_) => {}
            ended => return Some(ended),
        }
    }
    None
}

#[tokio::test]
async fn thirty_thousand_revisions_come_once_and_in_order() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let last = singles(&server, 30_000).await;
    let before = watches(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", first)).await;
    let (found, _) = events(&mut watch, 30_000).await;
    assert!(found.iter().map(|(at, _)| *at).eq(first + 1..=last));
    assert_eq!(found, truth(&server, first, last).await);
    let used = watches(&server).await - before;
    assert!(used > SEVERAL, "{used} watches");
    // From here on it is as live as any.
    let live = server.put(&[("a/live", "x"), ("a/live", "y")]).await;
    let (found, _) = events(&mut watch, 2).await;
    assert!(found.iter().map(|(at, _)| *at).eq([live - 1, live]));
}

#[tokio::test]
async fn a_history_of_every_density_comes_as_etcd_says_it() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let foreign = |n: usize| vec![format!("b/{n}")];
    singles(&server, 7_000).await;
    let many = |n: usize| (0..128).map(|k| format!("a/{n:03}/{k:03}")).collect();
    write(&server, 150, many).await;
    write(&server, 5_000, foreign).await;
    singles(&server, 5_000).await;
    let one_in_five = |n: usize| match n % 5 {
        0 => vec![format!("a/{:03}", n % 1000), "a/both".to_owned()],
        _ => foreign(n),
    };
    write(&server, 6_000, one_in_five).await;
    singles(&server, 1_000).await;
    let last = server.put(&[("a/last", "x")]).await;
    // Nothing in range at the end.
    write(&server, 5_000, foreign).await;
    let before = watches(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut watch, _) = open(&etcd, spec("a/", first)).await;
    let truth = truth(&server, first, last).await;
    let (found, _) = events(&mut watch, truth.len()).await;
    assert!(found == truth, "not what etcd says");
    let used = watches(&server).await - before;
    assert!(used > SEVERAL, "{used} watches");
    let live = server.put(&[("a/live", "x")]).await;
    assert_eq!(events(&mut watch, 1).await.0, [(live, "a/live".into())]);
}

/// What is compacted is at the front, ahead of it or in the middle, as it comes.
#[tokio::test]
async fn compactions_meanwhile_lose_nothing_silently() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let last = singles(&server, 20_000).await;
    let truth = truth(&server, first, last).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    // Each begins where the compaction before left the oldest history.
    let mut after = first;
    for compacted in [3_000, 8_000, 14_000].map(|at| first + at) {
        let (mut watch, _) = open(&etcd, spec("a/", after)).await;
        let mut found = Vec::new();
        let begun = after + 1_000;
        assert!(until_it_ends(&mut watch, &mut found, begun).await.is_none());
        let (ended, ()) = tokio::join!(
            until_it_ends(&mut watch, &mut found, last),
            server.compact(compacted)
        );
        let reached = found.last().unwrap().0;
        let expected = &truth[usize::try_from(after - first).unwrap()..][..found.len()];
        assert!(found == expected, "not what etcd says, up to {reached}");
        match ended {
            None => assert_eq!(reached, last),
            Some(Item::Lost | Item::Compacted { .. }) => {
                // Only where something was lost there is nothing to go on with.
                let (_, opened) = open(&etcd, spec("a/", reached)).await;
                let is_there = matches!(opened.guard, GuardReading::Present { .. });
                assert_eq!(is_there, reached >= compacted);
            }
            Some(other) => panic!("{other:?}"),
        }
        after = compacted;
    }
}

#[tokio::test]
async fn a_break_in_the_middle_is_gone_on_after() {
    let mut server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let last = singles(&server, 20_000).await;
    let truth = truth(&server, first, last).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut found = Vec::new();
    let mut breaks = 0;
    while found.len() < truth.len() {
        let after = found.last().map_or(first, |&(at, _)| at);
        let mut watch = until("etcd to be back", async || {
            let mut watch = etcd.watch(spec("a/", after));
            let opened = matches!(next(&mut watch.events).await, Item::WatchOpened(_));
            opened.then_some(watch)
        })
        .await;
        until_it_ends(&mut watch, &mut found, last.min(after + 500)).await;
        server.kill();
        // What came before may still be read.
        let ended = until_it_ends(&mut watch, &mut found, last).await;
        assert!(matches!(ended, None | Some(Item::Lost)), "{ended:?}");
        assert!(found == truth[..found.len()], "not what etcd says");
        breaks += usize::from(ended.is_some());
        server.restart();
    }
    assert!(breaks > 0);
}

#[tokio::test]
async fn beside_many_other_watches_there_is_still_a_place() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let last = singles(&server, 15_000).await;
    let before = watches(&server).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let mut others = Vec::new();
    for _ in 0..94 {
        others.push(open(&etcd, spec("a/", last)).await.0);
    }
    let (mut watch, _) = open(&etcd, spec("a/", first)).await;
    let mut found = Vec::new();
    until_it_ends(&mut watch, &mut found, first + 2_000).await;
    // Whatever place is given back from here on, somebody takes it.
    let done = Arc::new(AtomicBool::new(false));
    let taking = async {
        let mut more = Vec::new();
        while !done.load(Ordering::Relaxed) && more.len() < 100 {
            more.push(open(&etcd, spec("a/", last)).await.0);
        }
        more
    };
    let reading = async {
        let ended = until_it_ends(&mut watch, &mut found, last).await;
        done.store(true, Ordering::Relaxed);
        ended
    };
    let (ended, more) = tokio::join!(reading, taking);
    assert!(ended.is_none(), "{ended:?}");
    assert!(found.iter().map(|(at, _)| *at).eq(first + 1..=last));
    let used = watches(&server).await - before - 95 - more.len() as u64;
    assert!(used > 0, "none ahead");
    server.put(&[("a/live", "x")]).await;
    for other in others.iter_mut().chain([&mut watch]) {
        assert_eq!(events(other, 1).await.0.len(), 1);
    }
}

#[tokio::test]
async fn whoever_stops_reading_in_the_middle_delays_nobody_and_misses_nothing() {
    let server = Server::start(&[]).await;
    let first = server.put(&[("a/0", "x")]).await;
    let last = singles(&server, 20_000).await;
    let etcd = Etcd::connect(server.config()).unwrap();
    let (mut stopped, _) = open(&etcd, spec("a/", first)).await;
    let mut found = Vec::new();
    until_it_ends(&mut stopped, &mut found, first + 2_000).await;
    let (mut other, _) = open(&etcd, spec("a/", first)).await;
    assert_eq!(events(&mut other, 20_000).await.0.len(), 20_000);
    let live = server.put(&[("a/live", "x")]).await;
    assert_eq!(events(&mut other, 1).await.0, [(live, "a/live".into())]);
    until_it_ends(&mut stopped, &mut found, live).await;
    let revisions = found.iter().map(|(at, _)| *at);
    assert!(revisions.eq((first + 1..=last).chain([live])));
}
