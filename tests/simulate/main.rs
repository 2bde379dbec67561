//! The simulator: worlds full of faults, each made from one seed.
//!
//! Simulated: an etcd of three members (histories of transactions, compaction,
//! restores that keep or change its identity, members that lag and take in
//! snapshots, and what old versions do wrong: events repeated, low bookmarks,
//! forgotten progress requests, deletions lost at the compact revision, stale
//! linearizable answers); the network (fragments, delays, disconnects that
//! swallow what was said, words of attempts that are over); a store whose
//! writes fail, or seem to, or are lost with the process; the process, which
//! crashes and stands still; probes; and a subscriber that is slow, absent,
//! impatient or mistaken; an operator who moves and deletes. Driven by it is `resume::Subscription` itself. After
//! every command the promises P1 to P12 are checked, as far as they can be
//! seen from outside; at the end the faults stop, and everything must arrive.
//!
//! Each world is lived through again with a crash before some of its commands;
//! one of 25 with a crash before every one of them, with the write under way
//! lost and kept.
//!
//! Not simulated: what a server must not do and watchmark could not notice
//! (events left out on a healthy stream, a restore that keeps every id, the
//! term and the last event: such worlds are counted), how gRPC and the disk
//! fail (tests of their own), values.
//!
//! | module | owns |
//! |---|---|
//! | `seeds`, `tally` | which worlds; what happened in them, and must have |
//! | `worlds`, `steps`, `life` | a seed's world, its steps, its deaths, its end |
//! | `etcd`, `upstream`, `network` | what is true, what is said, what is heard |
//! | `world`, `store`, `subscriber` | the surroundings of the state machine |
//! | `check`, `acks`, `identity`, `operator` | the promises |
//! | `found` | what broke once, shrunk |
//! | `sessions` | worlds of the registry, its drivers and outboxes, on a paused clock |
//!
//! `make simulate SEEDS=10000` lives through many; `SEED=n make simulate`
//! replays one, with its log. A share is part of every run of the tests. A
//! failure prints the seed and shrunk steps, which then become a test in
//! `found`. The same seed makes the same world: nothing here reads a clock,
//! iterates in hash order or runs beside anything else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not recognise as such"
)]

mod acks;
mod check;
mod etcd;
mod found;
mod identity;
mod life;
mod network;
mod operator;
mod seeds;
mod sessions;
mod steps;
mod store;
mod subscriber;
mod tally;
mod upstream;
mod world;
mod worlds;
