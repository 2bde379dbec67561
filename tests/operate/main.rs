//! What an operator sees and does, on the real binary: metrics through a real
//! parser, the status page in a real browser, probes, problems, and the log.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod admin_port;
mod logs;
mod metrics;
mod page;
mod problems;
