//! What is known of etcd from here: for operators, never for the rules.

use std::time::SystemTime;

use crate::resume::Revision;

/// etcd as seen from here, at one moment. No secrets.
#[derive(Clone, Default, Debug)]
pub struct EtcdStatus {
    /// One for each of `--etcd-endpoints`, in their order.
    pub endpoints: Vec<EndpointStatus>,
    /// 0: never reached.
    pub cluster_id: u64,
    /// etcd's newest known revision, and when it was.
    pub revision: Option<(Revision, SystemTime)>,
}

/// One endpoint, at one moment.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// As configured.
    pub url: String,
    /// `None`: not known yet.
    pub version: Option<String>,
    /// 0: not known.
    pub member_id: u64,
    /// Progress requests are sound on its version.
    pub can_ask_progress: bool,
    /// What went wrong last and is not known to be over: what etcd said, with
    /// what to do, since when.
    pub failure: Option<EndpointFailure>,
}

/// Why an endpoint does not serve us.
#[derive(Clone, Debug)]
pub struct EndpointFailure {
    /// What kind.
    pub kind: FailureKind,
    /// What happened, and what to do.
    pub message: String,
    /// When it began.
    pub since: SystemTime,
}

/// Kinds of failure that ask for different deeds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureKind {
    /// Nobody answers there, or too late.
    Unreachable,
    /// The certificates do not fit: theirs or ours.
    Tls,
    /// It does not accept our credentials.
    Unauthenticated,
    /// It does not let our identity read.
    PermissionDenied,
    /// It answers, and has no leader.
    NoLeader,
    /// Anything else.
    Other,
}
