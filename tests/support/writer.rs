//! Writes to etcd: puts, transactions, deletions; alone or all the time.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use etcd_client::{Client, DeleteOptions, Error, TxnOp};
use fastrand::Rng;
use tokio::task::JoinHandle;

use super::{
    history::{Truth, tick},
    wait::DEADLINE,
};

/// etcd's limit of operations in one transaction.
pub(crate) const TXN_OPS_MAX: usize = 128;

/// Writes, and tells the direct watch when each write was sent.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    truth: Arc<Truth>,
}

/// What a writer does all the time.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) prefixes: Vec<String>,
    /// How many keys each prefix has.
    pub(crate) keys: usize,
    /// How many keys one transaction writes; 1..=1 means plain puts.
    pub(crate) txn_keys: RangeInclusive<usize>,
    /// How many bytes a value has.
    pub(crate) value_bytes: RangeInclusive<usize>,
    /// One write in so many deletes a part of a prefix instead; 0: never.
    pub(crate) delete_every: usize,
    pub(crate) seed: u64,
}

/// Ends the traffic when stopped or dropped.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    pub(crate) fn new(client: Client, truth: Arc<Truth>) -> Self {
        Self { client, truth }
    }

    /// Puts one pair. Returns the revision.
    pub(crate) async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        self.try_put(key, value).await.unwrap()
    }

    /// As [`put`](Self::put); the error leaves open whether it happened.
    pub(crate) async fn try_put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<i64, Error> {
        let sent_at = tick();
        let answer = self.client.kv_client().put(key, value, None).await?;
        Ok(self.sent(answer.header(), sent_at))
    }

    /// Puts every key with its own name as value, all in one revision.
    pub(crate) async fn put_all(&self, keys: &[String]) -> i64 {
        let ops = keys.iter();
        let ops: Vec<_> = ops
            .map(|key| TxnOp::put(key.as_str(), key.as_str(), None))
            .collect();
        self.txn(ops).await.unwrap()
    }

    /// Deletes everything below a prefix, in one revision.
    pub(crate) async fn delete_prefix(&self, prefix: &str) -> i64 {
        self.try_delete_prefix(prefix).await.unwrap()
    }

    pub(crate) async fn try_delete_prefix(&self, prefix: &str) -> Result<i64, Error> {
        let options = DeleteOptions::new().with_prefix();
        let sent_at = tick();
        let mut kv = self.client.kv_client();
        let answer = kv.delete(prefix, Some(options)).await?;
        Ok(self.sent(answer.header(), sent_at))
    }

    /// Deletes one key.
    pub(crate) async fn delete(&self, key: &str) -> i64 {
        let sent_at = tick();
        let answer = self.client.kv_client().delete(key, None).await.unwrap();
        self.sent(answer.header(), sent_at)
    }

    /// Runs the operations in one revision.
    pub(crate) async fn txn(&self, ops: Vec<TxnOp>) -> Result<i64, Error> {
        let sent_at = tick();
        let txn = etcd_client::Txn::new().and_then(ops);
        let answer = self.client.kv_client().txn(txn).await?;
        Ok(self.sent(answer.header(), sent_at))
    }

    /// `count` puts, one revision each, round and round over 100 keys. Returns
    /// the last revision.
    pub(crate) async fn put_many(&self, prefix: &str, count: usize) -> i64 {
        let mut last = 0;
        for n in 0..count {
            last = self
                .put(&format!("{prefix}{:02}", n % 100), format!("{n}"))
                .await;
        }
        last
    }

    /// Writes until stopped. Errors are passed over: whether a write happened,
    /// the direct watch knows.
    pub(crate) fn run(&self, traffic: Traffic) -> Running {
        println!("traffic with seed {}", traffic.seed);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = self.clone();
        let task = tokio::spawn(async move {
            let mut rng = Rng::with_seed(traffic.seed);
            let mut writes = 0;
            while !stopped.load(Ordering::Relaxed) {
                match writer.write(&traffic, &mut rng).await {
                    Ok(_) => writes += 1,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
            writes
        });
        Running { stop, task }
    }

    async fn write(&self, traffic: &Traffic, rng: &mut Rng) -> Result<i64, Error> {
        let prefix = &traffic.prefixes[rng.usize(..traffic.prefixes.len())];
        if traffic.delete_every > 0 && rng.usize(..traffic.delete_every) == 0 {
            let part = format!("{prefix}{}", rng.usize(..10));
            return self.try_delete_prefix(&part).await;
        }
        let count = rng.usize(traffic.txn_keys.clone());
        let first = rng.usize(..traffic.keys);
        let value_bytes = rng.usize(traffic.value_bytes.clone());
        // Text, as some subscribers take nothing else.
        let value: String = (0..value_bytes).map(|_| rng.alphanumeric()).collect();
        let key = |n: usize| format!("{prefix}{:04}", (first + n) % traffic.keys);
        if count == 1 {
            return self.try_put(&key(0), value).await;
        }
        let ops = (0..count).map(|n| TxnOp::put(key(n), value.clone(), None));
        self.txn(ops.collect()).await
    }

    fn sent(&self, header: Option<&etcd_client::ResponseHeader>, at: u64) -> i64 {
        let revision = header.unwrap().revision();
        self.truth.sent(revision, at);
        revision
    }
}

impl Running {
    /// Ends the traffic, and returns how many writes were answered.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
    }
}
