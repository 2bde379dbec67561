//! How things are written for programs: one JSON object a line, with the names
//! of the API. Revisions and counts are numbers, times RFC 3339, enums their
//! names without the type's, what is unknown null. Numbers that only name
//! something and may need all 64 bits are strings.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::words::{self, is_visible};
use crate::proto::{
    PairOptions,
    watchmark::v1::{Session, Subscription},
};

/// One line. JSON leaves characters as they are that some terminals act on;
/// they are in strings only, where an escape says the same.
pub(super) fn line(value: &Value) -> String {
    let text = value.to_string();
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() && !letter.is_control() || is_visible(letter) {
            line.push(letter);
            continue;
        }
        let mut units = [0; 2];
        for unit in letter.encode_utf16(&mut units) {
            // Writing to a string cannot fail.
            let _ = write!(line, "\\u{unit:04x}");
        }
    }
    line
}

/// Bytes as a member called `name`: a string, with `NAME_encoding` base64
/// where they are no UTF-8.
pub(super) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert(name.to_owned(), text.into());
        }
        Err(_) => {
            object.insert(name.to_owned(), STANDARD.encode(bytes).into());
            object.insert(format!("{name}_encoding"), "base64".into());
        }
    }
}

/// A value of an enum, given by its name in the API; the unspecified is null.
pub(super) fn name(prefix: &str, name: &str) -> Value {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => Value::Null,
        name => name.into(),
    }
}

/// As [`name`], where the unspecified means another.
fn name_or(prefix: &str, full: &str, default: &str) -> Value {
    match name(prefix, full) {
        Value::Null => default.into(),
        name => name,
    }
}

fn time(time: Option<&Timestamp>) -> Value {
    time.map_or(Value::Null, |time| words::time(time).into())
}

/// All that the API says of a subscription.
pub(super) fn subscription(subscription: &Subscription) -> Value {
    let it = subscription;
    let mut object = Map::new();
    object.insert("client_id".to_owned(), it.client_id.clone().into());
    let state = it.state().as_str_name();
    object.insert("state".to_owned(), name("SUBSCRIPTION_STATE_", state));
    put_bytes(&mut object, "key", &it.key);
    put_bytes(&mut object, "range_end", &it.range_end);
    let filters = [("no_put", it.no_put), ("no_delete", it.no_delete)];
    for (name, is_set) in filters.into_iter().chain(PairOptions::of(it).by_name()) {
        object.insert(name.to_owned(), is_set.into());
    }
    let session = |session: &Session| {
        json!({
            "session_id": session.session_id,
            "peer": session.peer,
            "since": time(session.since.as_ref()),
        })
    };
    let on_compaction = it.on_compaction().as_str_name();
    let ack_mode = it.ack_mode().as_str_name();
    let pending_snapshot = it.pending_snapshot().as_str_name();
    let rest = json!({
        "on_compaction": name_or("COMPACTION_POLICY_", on_compaction, "RESYNC"),
        "ack_mode": name_or("ACK_MODE_", ack_mode, "MANUAL"),
        "max_unacked_events": it.max_unacked_events,
        "session": it.session.as_ref().map(session),
        "checkpoint": it.checkpoint,
        "delivered": it.delivered,
        "unacked_events": it.unacked_events,
        "oldest_unacked_time": time(it.oldest_unacked_time.as_ref()),
        "lag_revisions": it.lag_revisions,
        "lag_seconds": it.lag_seconds,
        "last_event_time": time(it.last_event_time.as_ref()),
        "assumed": it.assumed,
        "last_advance": it.last_advance.as_ref().map(|advance| json!({
            "proof": name("PROOF_", advance.proof().as_str_name()),
            "time": time(advance.time.as_ref()),
        })),
        "resyncs": it.resyncs,
        "pending_snapshot": name("SNAPSHOT_REASON_", pending_snapshot),
        "resumable": it.resumable,
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_same_and_holds_nothing_a_terminal_acts_on() {
        let letters: Vec<char> = (char::MIN..=char::MAX).collect();
        for letters in letters.chunks(4096) {
            let value = json!({ "key": letters.iter().collect::<String>() });
            let line = line(&value);
            assert!(!line.contains(char::is_control), "{letters:?}");
            assert!(!line.contains(['\u{202e}', '\u{2067}', '\u{200f}']));
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        }
    }

    #[test]
    fn bytes_that_are_no_text_say_so() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", "größe".as_bytes());
        put_bytes(&mut object, "value", b"\xff\xfe");
        assert_eq!(
            Value::Object(object),
            json!({ "key": "größe", "value": "//4=", "value_encoding": "base64" })
        );
    }
}
