//! What a subscriber should see, by etcd's own history.

use std::collections::BTreeMap;

use bytes::Bytes;
use watchmark::{
    proto::watchmark::v1::{Event, KeyValue, SubscribeRequest, event::EventType},
    resume::KeyRange,
};

use super::{
    record::{Record, Stream},
    truth::{History, mod_revision},
};

/// What a stream asked to see.
#[derive(Debug, Clone)]
pub(crate) struct View {
    range: KeyRange,
    no_put: bool,
    no_delete: bool,
    keys_only: bool,
}

impl View {
    /// Of one stream. A request without a range means the stored one, which
    /// is that of the last request that had one.
    pub(crate) fn of(record: &Record, stream: &Stream) -> Result<Self, String> {
        let asked = record
            .streams
            .iter()
            .filter(|other| other.requested_at <= stream.requested_at && has_range(&other.request))
            // A refused request changed nothing.
            .filter(|other| other.opened().is_some() || other.requested_at == stream.requested_at);
        let request = asked.last().map(|stream| &stream.request);
        let request = request.ok_or("a stream without a range")?;
        let range = if request.key.is_empty() {
            KeyRange::prefix(request.prefix.clone())
        } else {
            KeyRange::new(request.key.clone(), request.range_end.clone())
                .map_err(|e| e.to_string())?
        };
        Ok(Self {
            range,
            no_put: request.no_put,
            no_delete: request.no_delete,
            keys_only: stream.request.keys_only,
        })
    }

    /// Events of `after < revision <= until`, as they should arrive.
    pub(crate) fn events(&self, history: &History, after: i64, until: i64) -> Vec<Event> {
        let events = between(history, after, until).iter();
        let mut seen: Vec<Event> = events.filter(|e| self.shows(e)).cloned().collect();
        if self.keys_only {
            for kv in seen.iter_mut().filter_map(|event| event.kv.as_mut()) {
                kv.value = Bytes::new();
            }
        }
        seen
    }

    /// The state of the range at `revision`, by key.
    pub(crate) fn state(&self, history: &History, revision: i64) -> Vec<KeyValue> {
        let mut kvs_by_key = BTreeMap::new();
        for event in between(history, 0, revision) {
            let Some(kv) = &event.kv else { continue };
            if !self.has_key(&kv.key) {
            } else if event.r#type() == EventType::Delete {
                kvs_by_key.remove(&kv.key);
            } else {
                let mut kv = kv.clone();
                if self.keys_only {
                    kv.value = Bytes::new();
                }
                kvs_by_key.insert(kv.key.clone(), kv);
            }
        }
        kvs_by_key.into_values().collect()
    }

    fn shows(&self, event: &Event) -> bool {
        let filtered = match event.r#type() {
            EventType::Put => self.no_put,
            EventType::Delete => self.no_delete,
        };
        !filtered && event.kv.as_ref().is_some_and(|kv| self.has_key(&kv.key))
    }

    fn has_key(&self, key: &Bytes) -> bool {
        KeyRange::new(key.clone(), Bytes::new()).is_ok_and(|key| self.range.contains(&key))
    }
}

/// Events as they arrived, without what etcd may leave out.
pub(crate) fn without_prev(events: &[Event]) -> impl Iterator<Item = Event> {
    events.iter().cloned().map(|mut event| {
        event.prev_kv = None;
        event
    })
}

/// The event in a few words.
pub(crate) fn name(event: &Event) -> String {
    let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key[..]);
    let kind = event.r#type().as_str_name();
    let revision = mod_revision(event);
    format!("{kind} {:?} of {revision}", String::from_utf8_lossy(key))
}

/// Says where two lists of events part, if they do.
pub(crate) fn compare(expected: &[Event], received: &[Event]) -> Result<(), String> {
    let both = expected.iter().zip(received);
    let same = both.take_while(|(a, b)| a == b).count();
    match (expected.get(same), received.get(same)) {
        (None, None) => Ok(()),
        (Some(missing), None) => Err(format!("{} is missing at the end", name(missing))),
        (None, Some(extra)) => Err(format!("{} is too much", name(extra))),
        (Some(a), Some(b)) if name(a) == name(b) => {
            Err(format!("{} differs from etcd's: {a:?}, {b:?}", name(a)))
        }
        (Some(a), Some(b)) => Err(format!("{} came instead of {}", name(b), name(a))),
    }
}

fn has_range(request: &SubscribeRequest) -> bool {
    !request.prefix.is_empty() || !request.key.is_empty()
}

fn between(history: &History, after: i64, until: i64) -> &[Event] {
    let from = history.events.partition_point(|e| mod_revision(e) <= after);
    let to = history.events.partition_point(|e| mod_revision(e) <= until);
    &history.events[from..to.max(from)]
}
