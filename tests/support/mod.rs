//! What the tests stand on: real processes of etcd and watchmark, subscribers
//! that record everything, and validators for what they recorded.
//!
//! Every process is a child of the test, gets addresses of its own, and dies
//! with the test, however it ends. Nothing waits by sleeping: see [`wait`].
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod etcd;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod mount;
pub(crate) mod operator;
pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod scenario;
pub(crate) mod seed;
pub(crate) mod tls;
pub(crate) mod wait;
pub(crate) mod watchmark;
pub(crate) mod writer;

pub(crate) use self::{
    client::{Ended, Subscriber},
    etcd::Etcd,
    operator::Operator,
    scenario::Scenario,
    watchmark::Watchmark,
    writer::Writer,
};
