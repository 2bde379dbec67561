//! P3 Reliable: no event in the range is left out between two that arrive, and
//! every event and every snapshot is exactly etcd's.

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::{View, compare, without_prev},
    record::{Record, Stream},
    truth::History,
};

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    for stream in record.streams.iter().filter(|s| s.opened().is_some()) {
        check_stream(history, &View::of(record, stream)?, stream)?;
    }
    Ok(())
}

fn check_stream(history: &History, view: &View, stream: &Stream) -> Result<(), String> {
    // Where delivery goes on after; `None`: a snapshot must come first.
    let mut position = None;
    // Parts of a revision that is not whole yet.
    let mut parts = Vec::new();
    let mut snapshot = Vec::new();
    for (_, message) in &stream.received {
        match message {
            Message::Opened(opened) => {
                position = (opened.checkpoint > 0).then_some(opened.checkpoint);
            }
            Message::SnapshotBegin(_) => {
                snapshot.clear();
                parts.clear();
            }
            Message::SnapshotChunk(chunk) => snapshot.extend(chunk.kvs.iter().cloned()),
            Message::SnapshotEnd(end) => {
                snapshot.sort_by(|a, b| a.key.cmp(&b.key));
                let expected = view.state(history, end.revision);
                if snapshot != expected {
                    return Err(format!(
                        "the snapshot of {} has {} pairs and is not etcd's state of {} pairs",
                        end.revision,
                        snapshot.len(),
                        expected.len()
                    ));
                }
                position = Some(end.revision);
            }
            Message::Events(batch) => {
                let after = position.ok_or("events came before a position")?;
                parts.extend(without_prev(&batch.events));
                let mut expected = view.events(history, after, batch.revision);
                if batch.partial {
                    // More of it may follow.
                    expected.truncate(parts.len());
                }
                compare(&expected, &parts)?;
                if !batch.partial {
                    position = Some(batch.revision);
                    parts.clear();
                }
            }
            // What came before it must still come: P6 looks at its claim.
            Message::Progress(_) | Message::State(_) => {}
        }
    }
    Ok(())
}
