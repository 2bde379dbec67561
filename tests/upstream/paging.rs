//! Pages as no etcd sends them: broken, endless, in another order, unread.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{self, Body},
    extract::Request,
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body::Frame;
use prost::Message;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{codegen::http::HeaderMap, service::Routes, transport::Server};
use watchmark::{
    proto::{
        PairOptions,
        etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
        watchmark::v1::KeyValue,
    },
    resume::KeyRange,
    upstream::{Etcd, EtcdConfig, Upstream, UpstreamEvents},
};

use super::{
    harness::{Item, keys_only, next, prefix, revision},
    server::DEADLINE,
};

const PINNED: i64 = 77;
/// What a page waits for its reader.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);
/// As `upstream::pieces` cuts.
const PIECE_BYTES: usize = 128 << 10;
const RESOURCE_EXHAUSTED: &str = "8";
const OUT_OF_RANGE: &str = "11";
const UNIMPLEMENTED: &str = "12";

/// Of the body of an answer.
enum Part {
    Bytes(Bytes),
    /// grpc-status and grpc-message.
    Status(&'static str, &'static str),
    Breaks,
}

/// To the request of this number.
type Script = dyn Fn(usize, &RangeRequest) -> Vec<Part> + Send + Sync;

#[derive(Clone)]
struct Paged {
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<RangeRequest>>>,
    /// How many answers are not sent whole yet.
    under_way: Arc<AtomicUsize>,
}

struct Said {
    parts: VecDeque<Part>,
    under_way: Arc<AtomicUsize>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl http_body::Body for Said {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.parts.pop_front().map(|part| match part {
            Part::Bytes(bytes) => Ok(Frame::data(bytes)),
            Part::Status(status, message) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                trailers.insert("grpc-message", message.parse().unwrap());
                Ok(Frame::trailers(trailers))
            }
            Part::Breaks => Err(io::ErrorKind::BrokenPipe.into()),
        }))
    }
}

impl Paged {
    async fn start(
        script: impl Fn(usize, &RangeRequest) -> Vec<Part> + Send + Sync + 'static,
    ) -> (Self, Etcd) {
        let paged = Self {
            script: Arc::new(script),
            asked: Arc::default(),
            under_way: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = paged.clone();
        let router = Router::new().fallback(move |request| server.clone().answer(request));
        let server = Server::builder().add_routes(Routes::from(router));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let config = EtcdConfig {
            endpoints: vec![endpoint],
            ..EtcdConfig::default()
        };
        (paged, Etcd::connect(config).unwrap())
    }

    async fn answer(self, request: Request) -> Response {
        let is_range = request.uri().path() == "/etcdserverpb.KV/Range";
        let request = body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let asked = RangeRequest::decode(request.slice(5..));
        // A snapshot's; others ask for one key.
        let asked = asked.ok().filter(|asked| is_range && asked.limit > 1);
        let parts = match asked {
            Some(asked) => {
                let number = self.asked.lock().unwrap().len();
                let parts = (self.script)(number, &asked);
                self.asked.lock().unwrap().push(asked);
                parts
            }
            None => vec![Part::Status(UNIMPLEMENTED, "")],
        };
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let said = Said {
            parts: parts.into(),
            under_way: self.under_way,
        };
        let answer = Response::builder().header("content-type", "application/grpc");
        answer.body(Body::new(said)).unwrap()
    }

    /// Where each page was asked for, and how many keys.
    fn asked(&self) -> Vec<(String, i64)> {
        let asked = self.asked.lock().unwrap();
        let first = |it: &RangeRequest| String::from_utf8(it.key.to_vec()).unwrap();
        asked.iter().map(|it| (first(it), it.limit)).collect()
    }
}

fn key(n: usize) -> String {
    format!("a/{n:06}")
}

fn page(keys: impl IntoIterator<Item = usize>, more: bool) -> RangeResponse {
    let pair = |n| KeyValue {
        key: key(n).into(),
        mod_revision: 1,
        value: vec![b'v'; 100].into(),
        ..KeyValue::default()
    };
    RangeResponse {
        header: Some(ResponseHeader {
            revision: PINNED,
            ..ResponseHeader::default()
        }),
        kvs: keys.into_iter().map(pair).collect(),
        more,
        ..RangeResponse::default()
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.len().try_into().unwrap());
    bytes.extend_from_slice(message);
    bytes.freeze()
}

fn message(page: &RangeResponse) -> Bytes {
    framed(&page.encode_to_vec())
}

/// In parts, of which the transport takes no more than there is room for.
fn whole(page: &RangeResponse) -> Vec<Part> {
    let mut all = message(page);
    let mut parts = Vec::new();
    while !all.is_empty() {
        let part = all.split_to(all.len().min(16 << 10));
        parts.push(Part::Bytes(part));
    }
    parts.push(Part::Status("0", ""));
    parts
}

/// The keys that come, and what comes after them.
async fn read(events: &mut UpstreamEvents) -> (Vec<Bytes>, Item) {
    let mut keys = Vec::new();
    loop {
        match next(events).await {
            Item::SnapshotPage(pairs) => {
                let bytes = pairs.iter().map(|pair| 2 + pair.encoded_len());
                assert!(bytes.sum::<usize>() <= PIECE_BYTES);
                keys.extend(pairs.into_iter().map(|pair| pair.key));
            }
            last => return (keys, last),
        }
    }
}

async fn begun(etcd: &Etcd) -> UpstreamEvents {
    let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
    let begun = next(&mut events).await;
    let is_pinned = matches!(&begun, Item::SnapshotBegun(it) if it.revision == revision(PINNED));
    assert!(is_pinned, "{begun:?}");
    events
}

#[tokio::test]
async fn pages_grow_are_pinned_and_each_begins_right_after_the_one_before() {
    let (paged, etcd) = Paged::start(|number, request| {
        assert_eq!(request.revision, if number == 0 { 0 } else { PINNED });
        whole(&match number {
            0 => page(0..1_000, true),
            1 => page(1_000..17_000, true),
            _ => page(17_000..20_000, false),
        })
    })
    .await;
    let (keys, last) = read(&mut begun(&etcd).await).await;
    assert!(matches!(last, Item::SnapshotEnded), "{last:?}");
    assert!(keys.into_iter().eq((0..20_000).map(key)));
    let after = |n| format!("{}\0", key(n));
    let expected = [
        ("a/".to_owned(), 1_000),
        (after(999), 16_000),
        (after(16_999), 50_000),
    ];
    assert_eq!(paged.asked(), expected);
}

/// Protobuf allows any order: `more` is what the whole message says.
#[tokio::test]
async fn more_may_stand_anywhere_in_a_page() {
    let (_, etcd) = Paged::start(|number, _| {
        let header = page([], true).encode_to_vec();
        let pairs = RangeResponse {
            header: None,
            ..page(0..10_000, false)
        };
        match number {
            0 => vec![
                Part::Bytes(framed(&[header, pairs.encode_to_vec()].concat())),
                Part::Status("0", ""),
            ],
            _ => whole(&page([10_000], false)),
        }
    })
    .await;
    let (keys, last) = read(&mut begun(&etcd).await).await;
    assert!(matches!(last, Item::SnapshotEnded), "{last:?}");
    assert_eq!(keys.len(), 10_001);
}

#[tokio::test]
async fn half_a_page_is_never_taken_as_a_whole_one() {
    fn half() -> Bytes {
        let all = message(&page(0..10_000, false));
        all.slice(..all.len() / 2)
    }
    let ends: [fn() -> Vec<Part>; 7] = [
        || vec![Part::Bytes(half())],
        || vec![Part::Bytes(half()), Part::Status("0", "")],
        || vec![Part::Bytes(half()), Part::Status("14", "no leader")],
        || vec![Part::Bytes(half()), Part::Breaks],
        // Whole, but the call failed.
        || {
            let all = message(&page(0..10_000, false));
            vec![Part::Bytes(all), Part::Status("14", "no leader")]
        },
        // Two answers; and out of order, in another piece.
        || {
            let all = message(&page(0..10_000, false));
            let second = message(&page(10_000..10_001, false));
            vec![Part::Bytes(all), Part::Bytes(second), Part::Status("0", "")]
        },
        || whole(&page((0..10_000).chain([9_999]), false)),
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let (_, etcd) = Paged::start(move |_, _| end()).await;
        let mut events = etcd.snapshot(prefix("a/"), PairOptions::default());
        let (keys, last) = match next(&mut events).await {
            Item::SnapshotBegun(_) => read(&mut events).await,
            // What breaks may break before any of it is read.
            last => (Vec::new(), last),
        };
        assert!(matches!(last, Item::Lost), "{n}: {last:?}");
        assert!(keys.into_iter().zip((0..).map(key)).all(|(a, b)| a == b));
    }
}

/// As a proxy might: what is wanted of a pair is ours to see to, as in a watch.
#[tokio::test]
async fn pairs_hold_what_was_asked_for_though_etcd_says_more() {
    let (_, etcd) = Paged::start(|number, request| {
        assert!(request.keys_only);
        whole(&match number {
            0 => page(0..1_000, true),
            _ => page(1_000..2_000, false),
        })
    })
    .await;
    let mut events = etcd.snapshot(prefix("a/"), keys_only());
    let (mut pairs, mut bare) = (0, 0);
    loop {
        match next(&mut events).await {
            Item::SnapshotBegun(_) => {}
            Item::SnapshotPage(page) => {
                pairs += page.len();
                bare += page.iter().filter(|pair| pair.value.is_empty()).count();
            }
            last => break assert!(matches!(last, Item::SnapshotEnded), "{last:?}"),
        }
    }
    assert_eq!((pairs, bare), (2_000, 2_000));
}

/// Of the second page; the first would not even begin a snapshot.
#[tokio::test]
async fn an_answer_that_says_nothing_ends_no_snapshot() {
    let says_nothing: [fn() -> Vec<Part>; 4] = [
        || vec![Part::Status("0", "")],
        || vec![Part::Bytes(framed(&[])), Part::Status("0", "")],
        || whole(&page([], true)),
        Vec::new,
    ];
    for (n, nothing) in says_nothing.into_iter().enumerate() {
        let (_, etcd) = Paged::start(move |number, _| match number {
            0 => whole(&page(0..1_000, true)),
            _ => nothing(),
        })
        .await;
        let (keys, last) = read(&mut begun(&etcd).await).await;
        assert_eq!(keys.len(), 1_000);
        assert!(matches!(last, Item::Lost), "{n}: {last:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_compacted_ends_the_snapshot_as_compacted() {
    let (_, etcd) = Paged::start(|number, _| match number {
        0 => whole(&page(0..1_000, true)),
        _ => vec![Part::Status(
            OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
        )],
    })
    .await;
    let (_, last) = read(&mut begun(&etcd).await).await;
    assert!(matches!(last, Item::SnapshotCompacted { .. }), "{last:?}");
}

#[tokio::test]
async fn a_page_beyond_what_grpc_carries_is_asked_for_in_smaller_ones() {
    let (paged, etcd) = Paged::start(|number, _| match number {
        0 => whole(&page(0..1_000, true)),
        1 => vec![Part::Status(
            RESOURCE_EXHAUSTED,
            "grpc: trying to send message larger than max (2415919104 vs. 2147483647)",
        )],
        _ => whole(&page(1_000..3_000, false)),
    })
    .await;
    let (keys, last) = read(&mut begun(&etcd).await).await;
    assert!(matches!(last, Item::SnapshotEnded), "{last:?}");
    assert_eq!(keys.len(), 3_000);
    let limits: Vec<_> = paged.asked().iter().map(|(_, limit)| *limit).collect();
    assert_eq!(limits, [1_000, 16_000, 2_000]);
}

/// etcd would keep the rest of it in memory for as long.
#[tokio::test]
async fn a_page_that_nobody_takes_is_given_up_and_the_rest_asked_for_again() {
    const ALL: usize = 100_000;
    let (paged, etcd) = Paged::start(|number, request| {
        let first = String::from_utf8(request.key.to_vec()).unwrap();
        match number {
            0 => whole(&page(0..1_000, true)),
            1 => whole(&page(1_000..ALL, false)),
            _ => {
                let from = (0..ALL).find(|&n| key(n) >= first).unwrap();
                let to = ALL.min(from + usize::try_from(request.limit).unwrap());
                whole(&page(from..to, to < ALL))
            }
        }
    })
    .await;
    let mut events = begun(&etcd).await;
    let Item::SnapshotPage(first) = next(&mut events).await else {
        panic!("no page");
    };
    let given_up = async {
        while paged.asked().len() < 2 || paged.under_way.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, given_up).await.expect("the page is kept");
    let (keys, last) = read(&mut events).await;
    assert!(matches!(last, Item::SnapshotEnded), "{last:?}");
    assert!(keys.into_iter().eq((first.len()..ALL).map(key)));
    assert_eq!(paged.asked()[2].1, 1_000);
    assert!(events.next().await.is_none());
}

/// etcd would say that nobody may read it.
#[tokio::test]
async fn what_is_left_of_a_range_without_keys_is_not_asked_for() {
    let (paged, etcd) = Paged::start(|_, _| whole(&page(0..1_000, true))).await;
    let end = format!("{}\0", key(999));
    let range = KeyRange::new("a/".into(), end.into()).unwrap();
    let mut events = etcd.snapshot(range, PairOptions::default());
    let begun = next(&mut events).await;
    assert!(matches!(begun, Item::SnapshotBegun(_)), "{begun:?}");
    let (keys, last) = read(&mut events).await;
    assert!(matches!(last, Item::SnapshotEnded), "{last:?}");
    assert_eq!((keys.len(), paged.asked().len()), (1_000, 1));
}

/// etcd holds each whole.
#[tokio::test]
async fn only_some_pages_are_large_at_a_time() {
    let at_a_time = EtcdConfig::default().max_catchups;
    let limits = async || {
        let (paged, etcd) = Paged::start(|_, request| {
            whole(&match request.limit {
                1_000 => page(0..1_000, true),
                _ => page(1_000..100_000, false),
            })
        })
        .await;
        let since = Instant::now();
        let mut unread = Vec::new();
        for number in 1..=at_a_time + 1 {
            unread.push(begun(&etcd).await);
            let asked = async {
                while paged.asked().len() < 2 * number {
                    // The first page is to be taken before the next is asked for.
                    let events = unread.last_mut().unwrap();
                    let _ = timeout(Duration::from_millis(10), events.next()).await;
                }
            };
            timeout(DEADLINE, asked).await.expect("no second page");
        }
        let limits: Vec<_> = paged.asked().iter().map(|it| it.1).collect();
        // Later, the first may have been given up.
        (since.elapsed() < GIVEN_UP_AFTER).then_some(limits)
    };
    let deadline = Instant::now() + DEADLINE;
    let limits = loop {
        if let Some(limits) = limits().await {
            break limits;
        }
        assert!(Instant::now() < deadline, "too slow to tell");
    };
    let large = limits.iter().filter(|&&limit| limit == 16_000).count();
    assert_eq!((large, limits.last()), (at_a_time, Some(&2_000)));
}
