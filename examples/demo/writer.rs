//! Writes into etcd: steady traffic on one prefix, single puts elsewhere.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions, ConnectOptions, Txn, TxnOp};
use tokio::task::JoinHandle;

/// Pace of the traffic, if etcd keeps up.
const PACE: Duration = Duration::from_millis(8);
/// Keys in use.
const KEYS: u64 = 200;

/// The steady traffic; it ends when dropped.
pub(crate) struct Traffic(JoinHandle<()>);

impl Traffic {
    /// Puts, deletes, and transactions of three keys, on `prefix`.
    pub(crate) fn start(etcd: String, prefix: &'static str) -> Self {
        Self(tokio::spawn(async move {
            let mut number = 0;
            loop {
                // etcd may be away: what matters is what the witness saw.
                let _ = write(&etcd, prefix, &mut number).await;
                tokio::time::sleep(PACE).await;
            }
        }))
    }

    /// Stops between two writes.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes until etcd fails.
async fn write(etcd: &str, prefix: &str, number: &mut u64) -> Result<(), etcd_client::Error> {
    let mut client = connect(etcd).await?;
    let key = |number: u64| format!("{prefix}{:03}", number % KEYS);
    loop {
        *number += 1;
        let value = number.to_string();
        match *number % 10 {
            3 => {
                // Never one that the next writes use.
                client.delete(key(*number + KEYS / 2), None).await?;
            }
            7 => {
                let keys = [*number, *number + 1, *number + 2].map(key);
                let puts = keys.map(|key| TxnOp::put(key, value.clone(), None));
                client.txn(Txn::new().and_then(puts)).await?;
            }
            _ => {
                client.put(key(*number), value, None).await?;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// A connection whose calls end.
pub(crate) async fn connect(etcd: &str) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(2))
        .with_timeout(Duration::from_secs(5));
    Client::connect([etcd], Some(options)).await
}

/// Puts one pair; returns its revision.
pub(crate) async fn put(etcd: &str, key: &str, value: &str) -> anyhow::Result<i64> {
    let answer = connect(etcd).await?.put(key, value, None).await?;
    Ok(answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision))
}

/// etcd's newest revision.
pub(crate) async fn head(etcd: &str) -> anyhow::Result<i64> {
    let answer = connect(etcd).await?.get("head", None).await?;
    Ok(answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision))
}

/// Has etcd forget what happened before `revision`.
pub(crate) async fn compact(etcd: &str, revision: i64) -> anyhow::Result<()> {
    let options = CompactionOptions::new().with_physical();
    connect(etcd)
        .await?
        .compact(revision, Some(options))
        .await?;
    Ok(())
}
