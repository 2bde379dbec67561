//! Joins what etcd says in a moment into what it might have said at once.
//! Owns nothing; refuses whatever would make of two responses one that etcd
//! could not have sent. Invariant: revisions ascend across a seam.

use crate::{
    proto::watchmark::v1::{Event, KeyValue},
    resume::{Item, input::Upstream as Said},
};

/// As many events are joined: many small ones for one message, a few large.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// Whether more may be joined to it: after anything but events comes nothing,
/// or something else, and what is large goes alone.
pub(super) fn may_go_on(said: &Option<Said<Event, KeyValue>>) -> bool {
    matches!(said, Some(Said::Events { events, fragment: false }) if bytes(events) < JOINED_BYTES_MAX)
}

fn bytes(events: &[Event]) -> usize {
    events.iter().map(Item::size_bytes).sum()
}

/// Moves the events of `next` behind those of `said`, if it may. What is
/// whole stays whole.
pub(super) fn joins(
    said: &mut Option<Said<Event, KeyValue>>,
    next: &mut Option<Said<Event, KeyValue>>,
) -> bool {
    let (
        Some(Said::Events {
            events,
            fragment: false,
        }),
        Some(Said::Events {
            events: more,
            fragment: false,
        }),
    ) = (said, next)
    else {
        return false;
    };
    let (Some(last), Some(first)) = (events.last(), more.first()) else {
        return false;
    };
    let may = last.mod_revision() < first.mod_revision()
        && bytes(events) + bytes(more) <= JOINED_BYTES_MAX;
    if may {
        events.append(more);
    }
    may
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(mod_revision: i64, value_bytes: usize) -> Event {
        Event {
            kv: Some(KeyValue {
                mod_revision,
                value: vec![7; value_bytes].into(),
                ..KeyValue::default()
            }),
            ..Event::default()
        }
    }

    fn said(revisions: &[i64], fragment: bool) -> Option<Said<Event, KeyValue>> {
        let events = revisions.iter().map(|&revision| put(revision, 10));
        Some(Said::Events {
            events: events.collect(),
            fragment,
        })
    }

    #[test]
    fn whole_revisions_that_follow_are_joined() {
        let mut first = said(&[3, 4, 4], false);
        assert!(joins(&mut first, &mut said(&[7], false)));
        let joined = said(&[3, 4, 4, 7], false);
        assert_eq!(format!("{first:?}"), format!("{joined:?}"));
    }

    #[test]
    fn nothing_else_is() {
        let large = || {
            Some(Said::Events {
                events: vec![put(7, JOINED_BYTES_MAX)],
                fragment: false,
            })
        };
        for (mut first, mut next) in [
            (said(&[3], true), said(&[7], false)),
            (said(&[3], false), said(&[7], true)),
            // A member that repeats itself.
            (said(&[3, 7], false), said(&[7], false)),
            (said(&[3, 7], false), said(&[5], false)),
            (said(&[], false), said(&[7], false)),
            (said(&[3], false), said(&[], false)),
            (said(&[3], false), Some(Said::Lost)),
            (said(&[3], false), None),
            (None, said(&[7], false)),
            (said(&[3], false), large()),
            (large(), said(&[8], false)),
        ] {
            let as_it_was = format!("{first:?} {next:?}");
            assert!(!joins(&mut first, &mut next), "{as_it_was}");
            assert_eq!(format!("{first:?} {next:?}"), as_it_was);
        }
    }
}
