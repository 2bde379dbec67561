//! watchmark: a resumable etcd watch as a gRPC sidecar.
//!
//! ```text
//! etcd --watch, range--> upstream --Input--> session::driver <--Acked-- registry <-- grpc Ack
//!                                              |       ^
//!                                  handle(Input, now)  next_command, poll_timeout
//!                                              v       |
//!                                     resume::Subscription { writes, ledger, phase }
//! driver runs  OpenWatch, ReadSnapshot, AskProgress -> upstream     Deliver -> outbox -> gRPC stream
//!              Persist -> store --Persisted--> driver --ReplyAck--> grpc   (ReplyAck only after Persisted)
//! ```
//!
//! | module | owns | may use |
//! |---|---|---|
//! | [`resume`] | the rules: a pure state machine, no I/O, no clock | nothing of ours |
//! | [`proto`] | the generated messages; what a pair holds, and what a proof is called, in them | `resume` |
//! | [`upstream`] | etcd: watches, snapshots, the probe | `resume`, `proto` |
//! | [`store`] | where checkpoints live | `resume`, `proto` |
//! | [`session`] | one task per subscription | `resume`, `proto`, the two traits |
//! | [`survey`] | how the process is doing, and what is wrong | `session`, `resume`, the two traits |
//! | [`grpc`] | our port: checks, conversions, the status table | `session`, `resume`, `proto`, `survey` |
//! | [`admin`] | the operators' port: probes, metrics, the status page | `survey`, `session`, `resume`, `grpc`, `logging` |
//! | [`metrics`] | every metric there is; all but `resume` may count | `resume` |
//! | [`logging`] | the log, and its filter | `config` |
//! | [`cli`] | the operator's commands, on the API alone | `resume`, `proto` |
//! | [`config`] | flags and environment, checked | `resume`, `store`, `cli` |
//! | [`app`] | puts it together; starts and stops it | all |
//!
//! **The way of an event.** etcd's bytes arrive on the watch's own stream, and
//! `upstream::pieces` cuts a large response while they do. The generated stub
//! decodes it, keys and values being slices of what arrived; `upstream::convert`
//! checks it. `upstream::watch` joins the watches that read a deep history at
//! once, and says `Events`. The driver, which polls that in its own task, hands
//! them to the machine as an `Input`. `resume::batch` puts whole revisions
//! together, as large as the window and a message allow, and the ledger notes
//! them: `Command::Deliver`. The driver moves the batch into the stream's outbox,
//! bounded in bytes. The transport's task takes it out, `grpc::convert` moves it
//! into a `SubscribeResponse`, and tonic encodes it, which copies values.
//!
//! **The way of an ack.** `grpc::watch_service` parses the request, and refuses
//! whose client_id it is not. The registry finds the driver's mailbox, or starts
//! the driver. The machine judges the ack by its ledger (`resume`'s `acks`), and
//! says `Command::Persist` with the new record. The driver queues that for the
//! store's committer thread, which writes all that waits as one group: into
//! sled, flushed and synced, then into the witness, synced. Only then the driver
//! hears of it, and tells the machine `Persisted`; `Command::ReplyAck` wakes the
//! RPC that waits. A write that fails answers the ack with an error, and the
//! machine goes on from what is durable.
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
