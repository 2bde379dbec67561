//! Our own gRPC port: the API as applications see it.
//!
//! - `watch_service`: checks what comes in, hands it to `session`
//! - `admin_service`: the same for operators, and who of them may do what
//! - `caller`: who calls
//! - `convert`, `admin_convert`: between the generated messages and the words of
//!   `resume` and `session`
//! - `status`: THE table of what goes wrong and what a caller is told
//! - `server`: the services of one port and its limits
//!
//! Only here is a `Status` made. Nothing that a peer sends panics.

mod admin_convert;
mod admin_service;
mod caller;
mod convert;
mod edge;
mod server;
mod status;
mod watch_service;

pub use self::{
    admin_service::{Operators, Problem},
    caller::Caller,
    edge::EdgeRules,
    server::{Api, Health},
};
