//! P1 Ordered: events arrive in ascending revision order.

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::name,
    record::Record,
    truth::{History, mod_revision},
};

pub(super) fn check(_: &History, record: &Record) -> Result<(), String> {
    for stream in &record.streams {
        // Everything at or below it was delivered.
        let mut done = 0;
        // The revision whose parts are arriving.
        let mut part_of = None;
        for (_, message) in &stream.received {
            match message {
                Message::Opened(opened) => done = opened.checkpoint,
                Message::Events(batch) => {
                    let mut last = part_of.unwrap_or(done + 1);
                    for event in &batch.events {
                        let revision = mod_revision(event);
                        if revision < last || part_of.is_some_and(|part| part != revision) {
                            return Err(format!("{} came after revision {last}", name(event)));
                        }
                        last = revision;
                    }
                    // The last part of a revision may turn out to be empty.
                    let closes = part_of == Some(batch.revision) && !batch.partial;
                    if batch.events.is_empty() && !closes || last != batch.revision {
                        return Err(format!(
                            "a batch says it ends at {} and ends at {last}",
                            batch.revision
                        ));
                    }
                    part_of = batch.partial.then_some(last);
                    if !batch.partial {
                        done = last;
                    }
                }
                Message::SnapshotBegin(begin) => {
                    if begin.revision < done {
                        return Err(format!(
                            "a snapshot of {} came after revision {done}",
                            begin.revision
                        ));
                    }
                    part_of = None;
                }
                Message::SnapshotEnd(end) => done = end.revision,
                Message::Progress(progress) => {
                    if progress.revision < done {
                        return Err(format!(
                            "progress {} came after revision {done}",
                            progress.revision
                        ));
                    }
                    done = progress.revision;
                }
                Message::SnapshotChunk(_) | Message::State(_) => {}
            }
        }
    }
    Ok(())
}
