//! The rules, one by one: what happens, then the exact commands and no others.

mod acks;
mod delivery;
mod harness;
mod idle;
mod lines;
mod replaced;
mod sessions;
mod snapshot;
mod store;
mod upstream;
