//! Our own gRPC port: the API as applications see it.
//!
//! - `watch_service`: checks what comes in, hands it to `session`
//! - `admin_service`: the same for operators, and who of them may do what
//! - `convert`, `admin_convert`: between the generated messages and the words of
//!   `resume` and `session`
//! - `status`: THE table of what goes wrong and what a caller is told
//! - `peer`: who calls; `owner`: whose client_id it is
//! - `server`: the services of one port; `limits`: what it refuses before they
//!   see it; `calls`: counts what is called; `http2`, `prompt`: how connections
//!   and their streams are run
//!
//! Only here is a `Status` made. Nothing that a peer sends panics.

mod admin_convert;
mod admin_service;
#[cfg(any(test, fuzzing))]
pub mod any_bytes;
mod calls;
mod convert;
mod edge;
mod http2;
mod limits;
mod owner;
mod peer;
mod prompt;
mod server;
mod status;
mod watch_service;

pub use self::{
    admin_service::Operators,
    edge::EdgeRules,
    peer::{ConnectionLimit, Peer},
    server::{Api, Health, local_only},
};
