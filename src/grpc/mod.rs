//! Our own gRPC port: the API as applications see it.
//!
//! - `watch_service`: checks what comes in, hands it to `session`
//! - `convert`: between the generated messages and the words of `resume`
//! - `status`: THE table of what goes wrong and what a caller is told
//! - `server`: the services of one port and its limits
//!
//! Only here is a `Status` made. Nothing that a peer sends panics.

mod convert;
mod edge;
mod server;
mod status;
mod watch_service;

pub use self::{
    edge::EdgeRules,
    server::{Api, Health},
};
