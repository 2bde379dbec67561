//! What an operator sees and does, on the real binary: metrics through a real
//! parser, the status page in a real browser, probes, problems, and the log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not recognise as such"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin_port;
mod logs;
mod metrics;
mod page;
mod problems;
