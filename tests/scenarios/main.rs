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

mod errors;
mod resume;
mod smoke;
mod takeover;
