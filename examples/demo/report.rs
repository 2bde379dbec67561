//! What a subscriber process prints: one line for each thing that happens to
//! it. The story reads the lines back and checks them against the witness.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, bail};

/// One line of a subscriber.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    /// The stream is open; delivery starts right after `checkpoint`.
    Opened {
        checkpoint: i64,
        resumed: bool,
        proof: String,
    },
    /// A put (`value` is some) or a deletion.
    Event(Change),
    /// An `Events` message ended here.
    EventsEnd {
        revision: i64,
        partial: bool,
    },
    SnapshotBegin {
        revision: i64,
        reason: String,
        compact_revision: i64,
    },
    /// A pair of a snapshot.
    Pair(Change),
    SnapshotEnd {
        revision: i64,
        count: i64,
    },
    Progress(i64),
    State(String),
    /// About to call `Ack`.
    Acking(i64),
    /// `Ack` was answered with this checkpoint.
    Acked(i64),
    /// The stream ended, with this code and this reason (`-`: none).
    Ended {
        code: String,
        reason: String,
    },
}

/// What one event did to one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) key: String,
    /// `None`: deleted.
    pub(crate) value: Option<String>,
}

impl Report {
    /// The checkpoint and the proof, if the stream opened.
    pub(crate) fn opened(&self) -> Option<(i64, String)> {
        match self {
            Self::Opened {
                checkpoint, proof, ..
            } => Some((*checkpoint, proof.clone())),
            _ => None,
        }
    }

    /// The code and the reason, if the stream ended.
    pub(crate) fn ended(&self) -> Option<(String, String)> {
        match self {
            Self::Ended { code, reason } => Some((code.clone(), reason.clone())),
            _ => None,
        }
    }

    pub(crate) fn live(&self) -> Option<()> {
        matches!(self, Self::State(state) if state == "LIVE").then_some(())
    }

    pub(crate) fn upstream_lost(&self) -> Option<()> {
        matches!(self, Self::State(state) if state == "UPSTREAM_LOST").then_some(())
    }

    pub(crate) fn progress(&self) -> Option<()> {
        matches!(self, Self::Progress(_)).then_some(())
    }

    pub(crate) const fn is_snapshot(&self) -> bool {
        matches!(self, Self::SnapshotBegin { .. })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened {
                checkpoint,
                resumed,
                proof,
            } => write!(f, "opened {checkpoint} {resumed} {proof}"),
            Self::Event(change) => write!(f, "event {change}"),
            Self::EventsEnd { revision, partial } => write!(f, "events-end {revision} {partial}"),
            Self::SnapshotBegin {
                revision,
                reason,
                compact_revision,
            } => write!(f, "snapshot-begin {revision} {reason} {compact_revision}"),
            Self::Pair(change) => write!(f, "pair {change}"),
            Self::SnapshotEnd { revision, count } => write!(f, "snapshot-end {revision} {count}"),
            Self::Progress(revision) => write!(f, "progress {revision}"),
            Self::State(state) => write!(f, "state {state}"),
            Self::Acking(revision) => write!(f, "acking {revision}"),
            Self::Acked(checkpoint) => write!(f, "acked {checkpoint}"),
            Self::Ended { code, reason } => write!(f, "ended {code} {reason}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            key,
            value,
        } = self;
        match value {
            Some(value) => write!(f, "{revision} {key} {value}"),
            None => write!(f, "{revision} {key}"),
        }
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        Ok(match words[..] {
            ["opened", checkpoint, resumed, proof] => Self::Opened {
                checkpoint: checkpoint.parse()?,
                resumed: resumed.parse()?,
                proof: proof.to_owned(),
            },
            ["event", ref change @ ..] => Self::Event(Change::of(change)?),
            ["events-end", revision, partial] => Self::EventsEnd {
                revision: revision.parse()?,
                partial: partial.parse()?,
            },
            ["snapshot-begin", revision, reason, compact_revision] => Self::SnapshotBegin {
                revision: revision.parse()?,
                reason: reason.to_owned(),
                compact_revision: compact_revision.parse()?,
            },
            ["pair", ref change @ ..] => Self::Pair(Change::of(change)?),
            ["snapshot-end", revision, count] => Self::SnapshotEnd {
                revision: revision.parse()?,
                count: count.parse()?,
            },
            ["progress", revision] => Self::Progress(revision.parse()?),
            ["state", state] => Self::State(state.to_owned()),
            ["acking", revision] => Self::Acking(revision.parse()?),
            ["acked", checkpoint] => Self::Acked(checkpoint.parse()?),
            ["ended", code, reason] => Self::Ended {
                code: code.to_owned(),
                reason: reason.to_owned(),
            },
            _ => bail!("a subscriber printed {line:?}"),
        })
    }
}

impl Change {
    fn of(words: &[&str]) -> anyhow::Result<Self> {
        let (revision, key, value) = match *words {
            [revision, key] => (revision, key, None),
            [revision, key, value] => (revision, key, Some(value.to_owned())),
            _ => bail!("not an event: {words:?}"),
        };
        Ok(Self {
            revision: revision.parse().context(revision.to_owned())?,
            key: key.to_owned(),
            value,
        })
    }
}
