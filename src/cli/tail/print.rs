//! What of a stream is printed. Owns the memory of what was printed already,
//! so that a stream that begins again at the checkpoint repeats nothing here.

use serde_json::{Map, Value, json};

use crate::{
    cli::{
        failure::Failure,
        json,
        output::{Format, Output},
        words,
    },
    proto::watchmark::v1::{
        Event, KeyValue, Opened, SnapshotBegin, State, event::EventType,
        subscribe_response::Message,
    },
};

pub(super) struct Printer {
    format: Format,
    values: bool,
    verbose: bool,
    /// Everything at or below it was printed; 0: nothing was.
    printed: i64,
}

impl Printer {
    pub(super) const fn new(format: Format, values: bool, verbose: bool) -> Self {
        Self {
            format,
            values,
            verbose,
            printed: 0,
        }
    }

    pub(super) fn print(&mut self, message: Message, output: &mut Output) -> Result<(), Failure> {
        for line in self.lines(message) {
            match line {
                Line::Text(text) => output.line(&text)?,
                Line::Json(value) => output.json(&value)?,
            }
        }
        Ok(())
    }

    fn lines(&mut self, message: Message) -> Vec<Line> {
        match message {
            Message::Opened(opened) => vec![self.opened(&opened)],
            Message::Events(events) => {
                let printed = self.printed;
                if !events.partial {
                    self.printed = events.revision.max(printed);
                }
                let new = events.events.iter();
                let new = new.filter(|event| {
                    let kv = event.kv.as_ref();
                    kv.is_some_and(|kv| kv.mod_revision > printed)
                });
                new.map(|event| self.event(event)).collect()
            }
            Message::SnapshotBegin(begin) => {
                // What comes now replaces what was, also where it is older.
                self.printed = 0;
                vec![self.begin(&begin)]
            }
            Message::SnapshotChunk(chunk) => {
                let pairs = chunk.kvs.iter();
                pairs.map(|kv| self.pair("pair", kv)).collect()
            }
            Message::SnapshotEnd(end) => {
                self.printed = end.revision;
                let pairs = if end.count == 1 { "pair" } else { "pairs" };
                let text = format!("ends: {} {pairs}", end.count);
                let more = json!({ "count": end.count });
                vec![self.line("snapshot_end", end.revision, &text, more)]
            }
            Message::Progress(progress) if self.verbose => {
                vec![self.line("progress", progress.revision, "", json!({}))]
            }
            Message::Progress(_) => Vec::new(),
            Message::State(state) => vec![self.state(state)],
        }
    }

    fn opened(&self, opened: &Opened) -> Line {
        let text = match (opened.resumed, opened.checkpoint) {
            (true, _) => format!("resumed after it, {}", words::proof(opened.proof())),
            (false, 0) => "fresh".to_owned(),
            (false, _) => "fresh, after it".to_owned(),
        };
        let more = json!({
            "checkpoint": opened.checkpoint,
            "session_id": opened.session_id,
            "resumed": opened.resumed,
            "proof": json::name("PROOF_", opened.proof().as_str_name()),
            "cluster_id": opened.cluster_id.to_string(),
        });
        let text = format!("{text}; session {}", opened.session_id);
        self.line("opened", opened.checkpoint, &text, more)
    }

    fn state(&self, state: State) -> Line {
        let text = words::stream_state(state.state());
        let name = json::name("STREAM_STATE_", state.state().as_str_name());
        self.line("state", state.revision, text, json!({ "state": name }))
    }

    fn begin(&self, begin: &SnapshotBegin) -> Line {
        let text = format!("begins: {}", words::snapshot_reason(begin.reason()));
        let reason = begin.reason().as_str_name();
        let more = json!({
            "reason": json::name("SNAPSHOT_REASON_", reason),
            "compact_revision": begin.compact_revision,
        });
        self.line("snapshot_begin", begin.revision, &text, more)
    }

    fn event(&self, event: &Event) -> Line {
        let what = match event.r#type() {
            EventType::Put => "put",
            EventType::Delete => "delete",
        };
        let nothing = KeyValue::default();
        self.pair(what, event.kv.as_ref().unwrap_or(&nothing))
    }

    fn pair(&self, what: &'static str, kv: &KeyValue) -> Line {
        let has_value = self.values && what != "delete";
        let mut text = words::readable(&kv.key);
        let mut more = Map::new();
        json::put_bytes(&mut more, "key", &kv.key);
        if has_value {
            text = format!("{text}  {}", words::quoted(&kv.value));
            json::put_bytes(&mut more, "value", &kv.value);
        }
        if what != "delete" {
            more.insert("create_revision".to_owned(), kv.create_revision.into());
            more.insert("version".to_owned(), kv.version.into());
            // An id, which needs all its bits.
            more.insert("lease".to_owned(), format!("{:x}", kv.lease).into());
        }
        self.line(what, kv.mod_revision, &text, Value::Object(more))
    }

    fn line(&self, what: &'static str, revision: i64, text: &str, more: Value) -> Line {
        if self.format == Format::Json {
            let mut object = Map::new();
            object.insert("type".to_owned(), what.into());
            object.insert("revision".to_owned(), revision.into());
            if let Value::Object(more) = more {
                object.extend(more);
            }
            return Line::Json(Value::Object(object));
        }
        let what = what.split('_').next().unwrap_or(what);
        let revision = words::revision(revision);
        Line::Text(
            format!("{what:<8} {revision:>10}  {text}")
                .trim_end()
                .to_owned(),
        )
    }
}

/// One line.
#[derive(PartialEq, Eq, Debug)]
enum Line {
    Text(String),
    Json(Value),
}
