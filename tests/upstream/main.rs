//! The upstream against a real etcd: `$ETCD`, else the one on PATH.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod auth;
mod breaking;
mod harness;
mod opening;
mod paging;
mod probing;
mod scripted;
mod segments;
mod server;
mod snapshots;
mod tls;
mod watching;
