//! The rules, one by one: what happens, then the exact commands and no others.

mod acks;
mod deletion;
mod delivery;
mod harness;
mod idle;
mod lines;
mod operator;
mod replaced;
mod sessions;
mod snapshot;
mod store;
mod upstream;
