//! The shells around the state machine: one task drives each subscription.
//!
//! - `registry`: client_id -> the task that owns the subscription
//! - `driver`: that task: it turns what happens into inputs and runs commands
//! - `message`: what that task needs to know of the messages it passes on
//! - `observe`: what that task counts
//! - `overview`: what an operator sees of a subscription
//! - `outbox`: the bounded queue between a driver and one gRPC stream
//! - `pace`: whether events are handed on one by one, or what comes in a moment
//!
//! Decides nothing about revisions, knows no status codes, and names etcd and
//! the store by their traits only.

mod driver;
mod message;
mod observe;
mod outbox;
mod overview;
mod pace;
mod registry;

/// What is known of etcd; asked of a [`Registry`].
pub use crate::upstream::{EndpointFailure, EndpointStatus, EtcdStatus, FailureKind};

pub use self::{
    message::Message,
    outbox::{Ended, Outbox, Receiver, Signal, outbox},
    overview::{Overview, SessionOverview},
    registry::{
        AckError, OperationError, Registry, RegistrySettings, Sought, Standing, Standings,
        SubscribeError, Subscribed,
    },
};
