//! watchmark: a resumable etcd watch as a gRPC sidecar.

pub mod grpc;
pub mod proto;
pub mod resume;
pub mod session;
pub mod store;
pub mod upstream;
