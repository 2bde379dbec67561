//! Clients that mean no good, or know no better: nobody else notices.

use std::{
    fs,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::task::JoinHandle;
use watchmark::proto::watchmark::v1::{Start, SubscribeRequest};

use crate::{
    rude::{END_HEADERS, END_STREAM, Kind, PREFACE, Rude, call_headers, frame, headers},
    support::{
        Scenario, Subscriber,
        client::request,
        wait,
        writer::{Running, Traffic},
    },
};

fn latest(client_id: &str) -> SubscribeRequest {
    SubscribeRequest {
        start: Start::Latest.into(),
        ..request(client_id, "a/")
    }
}

/// Lets the running watchmark open so many files more.
fn leave_files(scenario: &Scenario, more: u64) {
    let pid = scenario.watchmark.process().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = Rlimit {
        current: Some(u64::try_from(open).unwrap() + more),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_use_up_all_files_keep_others_out_only_while_they_last() {
    let scenario = Scenario::start(&[]).await;
    let mut subscriber = scenario.open(latest("app")).await.unwrap();
    let address = scenario.watchmark.address();
    leave_files(&scenario, 8);
    let crowd: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    wait::until("watchmark to run out of files", async || {
        let log = scenario.watchmark.log();
        log.contains("cannot accept a connection").then_some(())
    })
    .await;
    // Who is connected is served meanwhile.
    let first = scenario.writer.put("a/1", "").await;
    assert_eq!(subscriber.events_until(first).await.len(), 1);

    drop(crowd);
    let opened = tokio::time::timeout(Duration::from_secs(20), scenario.open(latest("late")));
    let mut late = opened.await.expect("connections are taken again").unwrap();
    let second = scenario.writer.put("a/2", "").await;
    assert_eq!(late.events_until(second).await.len(), 1);
    drop((subscriber, late));
    scenario.finish().await;
}

/// More than the tests below ever need; far less than what they throw.
const RESIDENT_BYTES_MAX: u64 = 100 << 20;

/// A subscriber that acknowledges all it gets, while the writer writes.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Subscriber, i64)>,
    running: Running,
}

impl Bystander {
    pub(crate) async fn start(scenario: &Scenario) -> Self {
        let running = scenario.writer.run(Traffic {
            prefixes: vec!["a/".to_owned()],
            keys: 50,
            txn_keys: 1..=8,
            value_bytes: 0..=200,
            delete_every: 20,
            seed: 1,
        });
        let mut subscriber = scenario.open(latest("bystander")).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut acked = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (revision, _) = subscriber.next_events().await;
                    acked = subscriber.ack(revision).await.unwrap();
                    assert_eq!(acked, revision);
                }
                (subscriber, acked)
            }
        });
        Self {
            stop,
            task,
            running,
        }
    }

    /// It was served all the time, is still, and watchmark is well.
    pub(crate) async fn finish(self, scenario: Scenario) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut subscriber, acked) = self.task.await.unwrap();
        assert!(self.running.stop().await > 10);
        let last = scenario.writer.put("a/last", "").await;
        subscriber.events_until(last).await;
        assert!(acked > 0 && subscriber.ack(last).await.unwrap() == last);
        drop(subscriber);
        let log = scenario.watchmark.log();
        assert!(!log.contains("panicked"), "{log}");
        let peak = scenario.watchmark.process().peak_resident_bytes();
        println!("watchmark had at most {} MiB resident", peak >> 20);
        assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes resident");
        scenario.finish().await;
    }
}

/// Whatever comes first on a connection.
fn openings() -> Vec<(&'static str, Vec<u8>)> {
    let mut rng = fastrand::Rng::with_seed(7);
    let garbage = std::iter::repeat_with(|| rng.u8(..))
        .take(1 << 16)
        .collect();
    let tls_hello = [
        &[0x16, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3][..],
        &[9; 32],
        &[
            0, 0, 2, 0x13, 1, 1, 0, 0, 13, 0, 43, 0, 9, 8, 3, 4, 3, 3, 3, 2, 3, 1,
        ],
    ]
    .concat();
    let after_preface = |frames: &[Vec<u8>]| [PREFACE, &frames.concat()].concat();
    let settings = frame(Kind::Settings, 0, 0, &[]);
    vec![
        ("garbage", garbage),
        ("zeros", vec![0; 1 << 16]),
        ("a TLS hello", tls_hello),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "etcd's own HTTP",
            b"POST /v3/watch HTTP/1.0\r\n\r\n{}".to_vec(),
        ),
        (
            "a frame that is too large",
            after_preface(&[settings.clone(), vec![0xff; 1 << 16]]),
        ),
        (
            "data for a stream that is not there",
            after_preface(&[settings.clone(), frame(Kind::Data, 0, 9, b"x")]),
        ),
        (
            "a push",
            after_preface(&[settings.clone(), frame(Kind::PushPromise, 4, 1, &[0; 8])]),
        ),
        (
            "headers that decode to nothing",
            after_preface(&[
                settings.clone(),
                frame(Kind::Headers, END_HEADERS, 1, &[0xff; 99]),
            ]),
        ),
        (
            "a window that overflows",
            after_preface(&[
                settings.clone(),
                frame(Kind::WindowUpdate, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ]),
        ),
        (
            "settings that contradict themselves",
            after_preface(&[frame(Kind::Settings, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_nonsense_on_a_connection_reaches_anybody_else() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let address = scenario.watchmark.address();
    for (what, bytes) in openings() {
        let mut rude = Rude::connect(&address).await;
        rude.send(&bytes).await;
        assert!(rude.closed().await.is_some(), "{what}: kept open");
    }
    // What may be the beginning of something sensible ends when it does.
    let ping = [PREFACE, &frame(Kind::Ping, 0, 0, &[0; 8])].concat();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("half a preface", &PREFACE[..10]),
        ("a preface", PREFACE),
        ("a ping without settings", &ping),
    ] {
        let mut rude = Rude::connect(&address).await;
        rude.send(bytes).await;
        rude.half_close().await;
        assert!(rude.closed().await.is_some(), "{what}: kept open");
    }
    bystander.finish(scenario).await;
}

/// Each would take much memory or time, could one have it.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let stream = |number: u32| 2 * number + 1;
    let open = |number| {
        frame(
            Kind::Headers,
            END_HEADERS,
            stream(number),
            &call_headers("Ack"),
        )
    };
    let reset = |number| frame(Kind::RstStream, 0, stream(number), &[0, 0, 0, 8]);
    // One table entry of 4,000 bytes, then references to it.
    let mut bomb = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    bomb.extend([0xbe; 12_000]);
    let long = headers(&[("x", &"y".repeat(120))]).repeat(130);
    let cut_off = |block: &[u8]| frame(Kind::Headers, 0, 1, block);
    let goes_on = |block: &[u8]| frame(Kind::Continuation, 0, 1, block);
    let empty_data = frame(Kind::Data, 0, 1, &[]);
    // Says that it is 4 GiB, and another one that it is compressed.
    let huge = frame(Kind::Data, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1]);
    let compressed = frame(Kind::Data, END_STREAM, 1, &[1, 0, 0, 0, 2, 8, 1]);
    vec![
        (
            "calls, reset at once",
            (0..5000)
                .flat_map(|it| [open(it), reset(it)].concat())
                .collect(),
        ),
        ("calls without an end", (0..5000).flat_map(open).collect()),
        ("pings", frame(Kind::Ping, 0, 0, &[7; 8]).repeat(20_000)),
        ("settings", frame(Kind::Settings, 0, 0, &[]).repeat(20_000)),
        (
            "unknown frames",
            frame(Kind::Unknown, 0, 0, &[7; 100]).repeat(5000),
        ),
        ("a header bomb", frame(Kind::Headers, END_HEADERS, 1, &bomb)),
        (
            "headers without an end",
            [cut_off(&long), goes_on(&long).repeat(4000)].concat(),
        ),
        (
            "headers byte by byte",
            [cut_off(&[]), goes_on(&[]).repeat(5000)].concat(),
        ),
        ("empty data", [open(0), empty_data.repeat(20_000)].concat()),
        ("a message of 4 GiB", [open(0), huge].concat()),
        ("a compressed message", [open(0), compressed].concat()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flood_of_frames_reaches_anybody_else() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let address = scenario.watchmark.address();
    for (what, bytes) in floods() {
        let started = Instant::now();
        let mut rude = Rude::connect_http2(&address).await;
        rude.send(&bytes).await;
        rude.half_close().await;
        let answers = rude.closed().await.map(|it| it.len());
        println!(
            "{what}: {} bytes, answer {answers:?}, {:?}",
            bytes.len(),
            started.elapsed()
        );
    }
    bystander.finish(scenario).await;
}

/// Each costs it the call only, and an answer; it may make so many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_on_breaking_the_protocol_loses_the_connection() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    // Of HTTP/1, and forbidden in HTTP/2.
    let malformed = [call_headers("Ack"), headers(&[("connection", "close")])].concat();
    let call = |number: u32| frame(Kind::Headers, END_HEADERS, 2 * number + 1, &malformed);
    let mut rude = Rude::connect_http2(&scenario.watchmark.address()).await;
    rude.send(&(0..2000).flat_map(call).collect::<Vec<_>>())
        .await;
    // Keep-alive, which gets no answer, would close it after 30 s.
    let closed = tokio::time::timeout(Duration::from_secs(15), rude.closed()).await;
    assert!(matches!(closed, Ok(Some(_))), "kept open");
    bystander.finish(scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_idle_and_slow_connections_is_no_burden() {
    let scenario = Scenario::start(&[]).await;
    let bystander = Bystander::start(&scenario).await;
    let address = scenario.watchmark.address();
    let slow = frame(Kind::Headers, END_HEADERS, 1, &call_headers("Subscribe"));
    let mut crowd = Vec::new();
    for number in 0..200 {
        let mut rude = match number % 2 {
            0 => Rude::connect(&address).await,
            _ => Rude::connect_http2(&address).await,
        };
        match number % 8 {
            2 => rude.send(&PREFACE[..number % 24]).await,
            3 => rude.half_close().await,
            _ => {}
        }
        crowd.push(rude);
    }
    // A call, one byte at a time, on every fourth.
    for byte in slow.chunks(1) {
        for rude in crowd.iter_mut().skip(1).step_by(4) {
            rude.send(byte).await;
        }
    }
    drop(crowd);
    bystander.finish(scenario).await;
}
