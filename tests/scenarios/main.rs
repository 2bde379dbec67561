//! What a subscriber sees on a real etcd, whatever breaks. Every scenario ends
//! by comparing all that subscribers received and acknowledged with an
//! independent direct watch (`support/history`).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod atomicity;
mod cluster;
mod compaction;
mod deep_history;
mod drain;
mod edges;
mod errors;
mod full_disk;
mod history_replaced;
mod hostile;
mod idle_advance;
mod limits;
mod options;
mod resume;
mod rude;
mod slow_subscriber;
mod smoke;
mod takeover;
mod transport;
mod upstream_loss;
