//! P6 Bookmarkable: `Progress{r}` means that every event in range up to r has
//! been delivered on this stream. So does the revision of a state.

use watchmark::proto::watchmark::v1::subscribe_response::Message;

use super::{
    expect::{View, name},
    record::{Record, Stream},
    truth::{History, mod_revision},
};

pub(super) fn check(history: &History, record: &Record) -> Result<(), String> {
    for stream in record.streams.iter().filter(|s| s.opened().is_some()) {
        check_stream(history, &View::of(record, stream)?, stream)?;
    }
    Ok(())
}

fn check_stream(history: &History, view: &View, stream: &Stream) -> Result<(), String> {
    // Everything at or below it was delivered; `None`: a snapshot must come.
    let mut delivered = None;
    let mut promised = 0;
    for (_, message) in &stream.received {
        let said = match message {
            Message::Opened(opened) => {
                delivered = (opened.checkpoint > 0).then_some(opened.checkpoint);
                continue;
            }
            Message::SnapshotEnd(end) => {
                delivered = Some(end.revision);
                continue;
            }
            Message::Events(batch) => {
                for event in &batch.events {
                    if mod_revision(event) <= promised {
                        return Err(format!("{} came after progress {promised}", name(event)));
                    }
                }
                if !batch.partial {
                    delivered = Some(batch.revision);
                }
                continue;
            }
            Message::SnapshotBegin(_) | Message::SnapshotChunk(_) => continue,
            Message::Progress(progress) => progress.revision,
            Message::State(state) => state.revision,
        };
        if said == 0 && matches!(message, Message::State(_)) {
            continue;
        }
        let Some(from) = delivered else {
            return Err(format!("{said} is called delivered before the snapshot is"));
        };
        if let Some(missing) = view.events(history, from, said).first() {
            return Err(format!(
                "{said} is called delivered, and {} is not",
                name(missing)
            ));
        }
        promised = promised.max(said);
    }
    Ok(())
}
