//! Whether durability is affordable. Needs a quiet machine, so it runs on
//! demand: `cargo test --release --test store speed -- --ignored --nocapture`.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use watchmark::store::{CheckpointStore as _, DiskStore};

use crate::support::{id, open, record, wait};

/// The disk under the build, not a tmpfs.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A bare append of 4 KiB and its fdatasync, and a durable ack, by turns: both
/// meet the same disk.
fn bare_and_ack_p50(path: &Path, store: &DiskStore, count: u64) -> [Duration; 2] {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path.join("bare"))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..count {
        let began = Instant::now();
        file.write_all_at(&[7; 4096], n * 4096).unwrap();
        file.sync_data().unwrap();
        times[0].push(began.elapsed());

        let client = usize::try_from(n).unwrap() % 100;
        let began = Instant::now();
        let change = store.put(&id(client), record(n + 1));
        runtime.block_on(change).unwrap().unwrap();
        times[1].push(began.elapsed());
    }
    times.map(p50)
}

#[test]
#[ignore = "measures the disk: needs a quiet machine"]
fn one_durable_ack_costs_at_most_two_fdatasyncs() {
    let directory = directory();
    let store = open(directory.path()).unwrap();
    let mut ratios = Vec::new();
    for _ in 0..7 {
        let [bare, ack] = bare_and_ack_p50(directory.path(), &store, 500);
        let ratio = ack.as_secs_f64() / bare.as_secs_f64();
        println!("bare fdatasync p50 {bare:?}, durable ack p50 {ack:?}, ratio {ratio:.2}");
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[3] <= 2.0, "{ratios:?}");
}

fn acks_per_second(store: &DiskStore, writers: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let began = Instant::now();
    let last = began + Duration::from_secs(3);
    let acks: u32 = runtime.block_on(async {
        let write = |writer| async move {
            let mut acks = 0;
            while Instant::now() < last {
                store
                    .put(&id(writer), record(u64::from(acks) + 1))
                    .await
                    .unwrap()
                    .unwrap();
                acks += 1;
            }
            acks
        };
        let writers = (0..writers).map(write);
        futures_util::future::join_all(writers).await.iter().sum()
    });
    f64::from(acks) / began.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures the disk: needs a quiet machine"]
fn a_hundred_writers_share_their_syncs() {
    let directory = directory();
    let store = open(directory.path()).unwrap();
    for _ in 0..3 {
        let [one, hundred] = [1, 100].map(|writers| acks_per_second(&store, writers));
        let ratio = hundred / one;
        println!("acks/s: 1 writer {one:.0}, 100 writers {hundred:.0}, ratio {ratio:.1}");
        assert!(ratio >= 15.0);
    }
}

#[test]
fn ten_thousand_records_open_quickly() {
    let directory = directory();
    let store = open(directory.path()).unwrap();
    // No more at a time than may wait.
    for thousand in 0..10 {
        let ids = thousand * 1000..(thousand + 1) * 1000;
        let changes: Vec<_> = ids.map(|n| store.put(&id(n), record(1))).collect();
        for change in changes {
            wait(change).unwrap();
        }
    }
    drop(store);
    let began = Instant::now();
    let store = open(directory.path()).unwrap();
    let took = began.elapsed();
    assert_eq!(store.client_ids().len(), 10_000);
    println!("10,000 records opened in {took:?}");
    if !cfg!(debug_assertions) {
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
}
