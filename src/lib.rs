//! watchmark: a resumable etcd watch as a gRPC sidecar.
//!
//! ```text
//! etcd --watch, range--> upstream --Input--> session::driver <--Acked-- registry <-- grpc Ack
//!                                              |       ^
//!                                  handle(Input, now)  next_command, poll_timeout
//!                                              v       |
//!                                     resume::Subscription { ledger, checkpoint, idle }
//! driver runs  OpenWatch, ReadSnapshot, AskProgress -> upstream     Deliver -> outbox -> gRPC stream
//!              Persist -> store --Persisted--> driver --ReplyAck--> grpc   (ReplyAck only after Persisted)
//! ```
//!
//! | module | owns | may use |
//! |---|---|---|
//! | [`resume`] | the rules: a pure state machine, no I/O, no clock | nothing of ours |
//! | [`upstream`] | etcd: watches, snapshots, the probe | `resume`, `proto` |
//! | [`store`] | where checkpoints live | `resume`, `proto` |
//! | [`session`] | one task per subscription | `resume`, `proto`, the two traits |
//! | [`survey`] | how the process is doing, and what is wrong | `session`, `resume`, the two traits |
//! | [`grpc`] | our port: checks, conversions, the status table | `session`, `resume`, `proto`, `survey` |
//! | [`admin`] | the operators' port: probes, metrics, the status page | `survey`, `session`, `resume`, `grpc`, `logging` |
//! | [`metrics`] | every metric there is; all but `resume` may count | nothing of ours |
//! | [`logging`] | the log, and its filter | `config` |
//! | [`cli`] | the operator's commands, on the API alone | `resume`, `proto` |
//! | [`config`] | flags and environment, checked | `resume`, `cli` |
//! | [`app`] | puts it together; starts and stops it | all |
//!
//! What it promises, for one subscription: events arrive in ascending revision
//! order, none twice on one stream, none left out, and all events of one
//! revision in one acknowledgeable unit. A new stream goes on right after the
//! checkpoint, which is on disk before an `Ack` is answered and never passes an
//! event that was not acknowledged. History that etcd no longer has always
//! shows: as a snapshot with its reason, or as an error. One live stream per
//! client_id; bounded memory; and a stream says when etcd is away.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod logging;
pub mod metrics;
pub mod proto;
pub mod resume;
pub mod session;
pub mod store;
pub mod survey;
pub mod upstream;
