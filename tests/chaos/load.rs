//! Who writes: puts to hot and quiet prefixes, transactions over all of them,
//! leases that expire, deletions of ranges, and now and then a deep history.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{Error, PutOptions, TxnOp};
use fastrand::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    stage::Stage,
    support::{
        history::tick,
        writer::{TXN_OPS_MAX, Writer},
    },
};

/// In every value, and nowhere else.
pub(crate) const VALUE_MARK: &str = "value-of-7c1e09";
/// In every key, but in no range that is watched.
pub(crate) const KEY_MARK: &str = "key-of-5b30";

/// One write may take this long; whether it happened, the direct watch knows.
const WRITE_WITHIN: Duration = Duration::from_secs(3);
/// Of a flood: enough revisions for several watches.
const FLOOD_PUTS: usize = 10_000;
const FLOOD_WITHIN: Duration = Duration::from_secs(15);

/// What one writer does.
#[derive(Debug, Clone, Copy)]
enum Work {
    Puts {
        prefix: &'static str,
        keys: usize,
        value_bytes: usize,
    },
    Txns,
    Leases,
    Deletions,
    Flood,
}

/// How long each writer waits between two writes, in milliseconds.
const WRITERS: &[(Work, Range<u64>)] = &[
    (puts("hot/", 40, 200), 5..30),
    (puts("hot/", 40, 200), 5..30),
    (puts("hot/", 40, 60), 5..40),
    (puts("hot/", 40, 60), 5..40),
    (puts("warm/", 400, 100), 10..40),
    (puts("warm/", 400, 100), 10..40),
    (puts("warm/", 400, 100), 10..40),
    (puts("warm/", 400, 3000), 40..200),
    (puts("warm/", 400, 40_000), 800..3000),
    (puts("quiet/", 5, 30), 5000..15_000),
    (Work::Txns, 100..400),
    (Work::Txns, 200..800),
    (Work::Leases, 300..1500),
    (Work::Deletions, 400..2000),
    (Work::Flood, 10_000..25_000),
];

const fn puts(prefix: &'static str, keys: usize, value_bytes: usize) -> Work {
    Work::Puts {
        prefix,
        keys,
        value_bytes,
    }
}

/// The writers; they end when this is dropped.
pub(crate) struct Load {
    answered: Arc<AtomicU64>,
    unanswered: Arc<AtomicU64>,
    _writers: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(stage: &Arc<Stage>, seed: u64) -> Self {
        let (answered, unanswered) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut writers = JoinSet::new();
        for (at, (work, pause)) in WRITERS.iter().enumerate() {
            writers.spawn(write_on(
                Arc::clone(stage),
                *work,
                pause.clone(),
                Rng::with_seed(seed.wrapping_add(at as u64)),
                [Arc::clone(&answered), Arc::clone(&unanswered)],
            ));
        }
        Self {
            answered,
            unanswered,
            _writers: writers,
        }
    }

    /// How many writes were answered, and how many failed or were not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.answered), count(&self.unanswered))
    }
}

async fn write_on(
    stage: Arc<Stage>,
    work: Work,
    pause: Range<u64>,
    mut rng: Rng,
    [answered, unanswered]: [Arc<AtomicU64>; 2],
) {
    let mut writing = stage.writing.subscribe();
    let mut client = None;
    loop {
        sleep(Duration::from_millis(rng.u64(pause.clone()))).await;
        if writing.wait_for(|writing| *writing).await.is_err() {
            return;
        }
        let epoch = stage.epoch.read().await;
        if !*stage.writing.borrow() {
            continue;
        }
        let within = match work {
            Work::Flood => FLOOD_WITHIN,
            _ => WRITE_WITHIN,
        };
        let done = timeout(within, async {
            if client.is_none() {
                client = Some(stage.etcd.only(rng.usize(..3)).connect().await?);
            }
            let client = client.clone().ok_or(Error::InvalidArgs(String::new()))?;
            let writer = Writer::new(client.clone(), Arc::clone(&epoch.truth));
            match work {
                Work::Leases => leased(&client, &epoch.truth, &mut rng).await,
                _ => write(&writer, work, &mut rng).await,
            }
        });
        if let Ok(Ok(_)) = done.await {
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            unanswered.fetch_add(1, Ordering::Relaxed);
            // Another member may be better off.
            client = None;
        }
    }
}

async fn write(writer: &Writer, work: Work, rng: &mut Rng) -> Result<i64, Error> {
    match work {
        Work::Puts {
            prefix,
            keys,
            value_bytes,
        } => {
            let bytes = rng.usize(..value_bytes);
            writer
                .try_put(&key(prefix, rng.usize(..keys)), value(bytes, rng))
                .await
        }
        Work::Txns | Work::Leases => {
            // Most are small; one revision lies in many ranges.
            let most = [4, 16, TXN_OPS_MAX][rng.usize(..3)];
            let count = rng.usize(1..=most);
            let first = rng.usize(..400);
            let ops = (0..count).map(|n| {
                let prefix = ["hot/", "warm/", "warm/", "lease/"][n % 4];
                let key = key(prefix, 1000 + (first + n) % 400);
                if rng.usize(..8) == 0 {
                    TxnOp::delete(key, None)
                } else {
                    TxnOp::put(key, value(rng.usize(..100), rng), None)
                }
            });
            writer.txn(ops.collect()).await
        }
        Work::Flood => {
            let last = AtomicI64::new(0);
            let puts = stream::iter(0..FLOOD_PUTS).map(Ok::<_, Error>);
            puts.try_for_each_concurrent(200, async |n| {
                let revision = writer.try_put(&key("deep/", n % 50), VALUE_MARK).await?;
                last.fetch_max(revision, Ordering::Relaxed);
                Ok(())
            })
            .await?;
            Ok(last.into_inner())
        }
        Work::Deletions => {
            let prefix = ["hot/", "warm/"][rng.usize(..2)];
            let part = format!("{prefix}{KEY_MARK}-{:03}", rng.usize(..140));
            writer.try_delete_prefix(&part).await
        }
    }
}

/// Some keys that go all at once, seconds later.
async fn leased(
    client: &etcd_client::Client,
    truth: &crate::support::history::Truth,
    rng: &mut Rng,
) -> Result<i64, Error> {
    let mut client = client.clone();
    let lease = client.lease_grant(rng.i64(2..4), None).await?.id();
    let mut last = 0;
    for _ in 0..rng.usize(1..10) {
        let options = PutOptions::new().with_lease(lease);
        let key = key("lease/", rng.usize(..300));
        let sent_at = tick();
        let answer = client.put(key, value(50, rng), Some(options)).await?;
        last = answer.header().map_or(0, |header| header.revision());
        truth.sent(last, sent_at);
    }
    Ok(last)
}

fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}{KEY_MARK}-{n:04}")
}

fn value(bytes: usize, rng: &mut Rng) -> Vec<u8> {
    let mut value = format!("{VALUE_MARK}-{}-", rng.u64(..)).into_bytes();
    value.resize(value.len() + bytes, b'.');
    value
}
