//! P9 Never silent: what is lost shows, by snapshot brackets with a reason or
//! by a typed error.

use tonic::Code;
use watchmark::proto::watchmark::v1::{SnapshotReason, subscribe_response::Message};

use super::{
    record::{End, Record, Stream},
    truth::History,
};

pub(super) fn check(_: &History, record: &Record) -> Result<(), String> {
    record.streams.iter().try_for_each(check_stream)
}

fn check_stream(stream: &Stream) -> Result<(), String> {
    let mut positioned = false;
    // The snapshot that has begun: its revision and how many pairs came.
    let mut snapshot: Option<(i64, i64)> = None;
    for (at, (_, message)) in stream.received.iter().enumerate() {
        match message {
            Message::Opened(opened) => {
                if at > 0 {
                    return Err("opened came twice".to_owned());
                }
                positioned = opened.checkpoint > 0;
            }
            _ if at == 0 => return Err("opened did not come first".to_owned()),
            Message::SnapshotBegin(begin) => {
                if begin.reason() == SnapshotReason::Unspecified {
                    return Err("a snapshot says no reason".to_owned());
                }
                snapshot = Some((begin.revision, 0));
            }
            Message::SnapshotChunk(chunk) => match &mut snapshot {
                Some((_, count)) => *count += chunk.kvs.len() as i64,
                None => return Err("a chunk came outside of the brackets".to_owned()),
            },
            Message::SnapshotEnd(end) => {
                if snapshot.take() != Some((end.revision, end.count)) {
                    return Err(format!(
                        "the snapshot of {} with {} pairs ended, and is not what came",
                        end.revision, end.count
                    ));
                }
                positioned = true;
            }
            Message::Events(_) | Message::Progress(_) => {
                if snapshot.is_some() {
                    return Err("a snapshot was left open".to_owned());
                }
                if !positioned {
                    return Err("no snapshot came where one was due".to_owned());
                }
            }
            Message::State(_) => {}
        }
    }
    check_end(stream)
}

fn check_end(stream: &Stream) -> Result<(), String> {
    match &stream.end {
        Some((_, End::Silent)) => Err("a stream ended without a word".to_owned()),
        // The connection broke: nobody was left to say why.
        Some((_, End::Status(Code::Unavailable | Code::Unknown | Code::Cancelled, _))) => Ok(()),
        Some((_, End::Status(code, reason))) if reason.is_empty() => {
            Err(format!("a stream ended with {code:?} and no reason"))
        }
        _ => Ok(()),
    }
}
