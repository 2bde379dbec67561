//! The operator's commands: the real binary, asking a server that says what a
//! test wants it to, and asking the real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/mod.rs"]
mod support;

mod fake;
mod help;
mod ls;
mod orders;
mod real;
mod run;
mod tail;
mod tls;
mod unreachable;
