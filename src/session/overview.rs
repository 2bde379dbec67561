//! What a subscription looks like from outside: for operators, never for the
//! rules. Asked for, not published, so that it costs nothing when nobody looks.

use std::time::SystemTime;

use crate::{
    proto::PairOptions,
    resume::{Activity, ClientId, OnCompaction, Proof, Record, Revision, Selection, SessionId},
};

/// One subscription, at one moment.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Whose.
    pub client_id: ClientId,
    /// What it watches.
    pub selection: Selection,
    /// What is durable; `None`: nothing yet.
    pub record: Option<Record>,
    /// What it is doing.
    pub activity: Activity,
    /// The live stream.
    pub session: Option<SessionOverview>,
    /// Everything in range up to here was delivered by the last stream.
    pub delivered: Option<Revision>,
    /// How many delivered events are not acknowledged.
    pub unacked_events: u64,
    /// When the oldest of them was delivered.
    pub oldest_unacked_at: Option<SystemTime>,
    /// Since when it has not been up to date, or not known to be; `None`: a
    /// live stream has delivered everything, and all of it is acknowledged.
    pub behind_since: Option<SystemTime>,
    /// When an event was delivered last, by this process.
    pub last_event_at: Option<SystemTime>,
    /// What moved the checkpoint last, and when, in this process.
    pub last_advance: Option<(Proof, SystemTime)>,
    /// Snapshots that were forced or asked for, in this process.
    pub resyncs: u64,
}

/// A live stream, at one moment.
#[derive(Clone, Debug)]
pub struct SessionOverview {
    /// Its number.
    pub id: SessionId,
    /// Who is at the other end: an address and port, or `unix`.
    pub peer: String,
    /// When it began.
    pub since: SystemTime,
    /// What it sees of each pair.
    pub pair_options: PairOptions,
    /// What it chose for a lost history.
    pub on_compaction: OnCompaction,
    /// Handing it a message acknowledges the message.
    pub auto_ack: bool,
    /// How many events it may have unacknowledged; `None`: any number.
    pub max_unacked_events: Option<u32>,
}

impl Overview {
    /// A subscription that is only stored, since `known_since` or before.
    pub(super) fn stored(client_id: ClientId, record: Record, known_since: SystemTime) -> Self {
        Self {
            client_id,
            selection: record.selection.clone(),
            record: Some(record),
            activity: Activity::Disconnected,
            session: None,
            delivered: None,
            unacked_events: 0,
            oldest_unacked_at: None,
            behind_since: Some(known_since),
            last_event_at: None,
            last_advance: None,
            resyncs: 0,
        }
    }
}
