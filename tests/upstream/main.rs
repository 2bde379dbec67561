//! The upstream against a real etcd: `$ETCD`, else the one on PATH.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod harness;
mod opening;
mod server;
mod snapshots;
mod watching;
