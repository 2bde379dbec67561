//! The checkpoint store: what it promises, and what the disk may do to it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod contract;
mod corruption;
mod crash;
mod damage;
mod full_disk;
mod hung_disk;
#[path = "../fake/memory.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod memory;
#[path = "../support/mount.rs"]
mod mount;
mod ordering;
mod power_cut;
mod refusals;
mod reordering;
#[path = "../support/seed.rs"]
mod seed;
mod speed;
mod support;
mod writer;
