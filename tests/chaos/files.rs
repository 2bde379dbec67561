//! What a failed run leaves behind: logs, data, and the histories as text.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use watchmark::proto::watchmark::v1::{Event, event::EventType, subscribe_response::Message};

use crate::support::history::{History, Record};

/// A directory for everything of one run.
pub(crate) fn directory(seed: u64) -> PathBuf {
    let name = format!("chaos-{seed}-{}", std::process::id());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Writes what etcd said and what subscribers saw.
pub(crate) fn write(dir: &Path, number: usize, history: &History, records: &[Record]) {
    let mut text = String::new();
    for event in &history.events {
        writeln!(text, "{}", name(event)).unwrap();
    }
    fs::write(dir.join(format!("history-{number}.txt")), text).unwrap();
    for record in records {
        let file = format!("history-{number}-{}.txt", record.client_id);
        fs::write(dir.join(file), record_as_text(record)).unwrap();
    }
}

fn record_as_text(record: &Record) -> String {
    let mut lines = Vec::new();
    for (n, stream) in record.streams.iter().enumerate() {
        let request = &stream.request;
        lines.push((
            stream.requested_at,
            format!(
                "stream {n}: subscribe, resume_after {}",
                request.resume_after
            ),
        ));
        for (at, message) in &stream.received {
            lines.push((*at, format!("stream {n}: {}", summary(message))));
        }
        if let Some((at, end)) = &stream.end {
            lines.push((*at, format!("stream {n}: {end:?}")));
        }
    }
    for ack in &record.acks {
        let what = format!("ack {} on session {}", ack.revision, ack.session_id);
        lines.push((ack.sent_at, what.clone()));
        if let Some((at, answer)) = &ack.answer {
            lines.push((*at, format!("{what}: {answer:?}")));
        }
    }
    lines.sort();
    let mut text = String::new();
    for (at, line) in lines {
        writeln!(text, "{at:>9} {line}").unwrap();
    }
    text
}

fn summary(message: &Message) -> String {
    match message {
        Message::Events(batch) => {
            let names: Vec<_> = batch.events.iter().map(name).collect();
            let partial = if batch.partial { " partial" } else { "" };
            format!("events {}{partial}: {}", batch.revision, names.join(", "))
        }
        Message::SnapshotChunk(chunk) => format!("snapshot_chunk of {}", chunk.kvs.len()),
        other => format!("{other:?}"),
    }
}

fn name(event: &Event) -> String {
    let kind = match event.r#type() {
        EventType::Put => "put",
        EventType::Delete => "delete",
    };
    let Some(kv) = &event.kv else {
        return kind.to_owned();
    };
    let key = String::from_utf8_lossy(&kv.key);
    format!(
        "{} {kind} {key} ({} bytes)",
        kv.mod_revision,
        kv.value.len()
    )
}
