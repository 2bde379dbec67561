//! Joins what etcd says in a moment into what it might have said at once.
//! Owns nothing; refuses whatever would make of two responses one that etcd
//! could not have sent. Invariant: revisions ascend across a seam.

use crate::{
    proto::watchmark::v1::{Event, KeyValue},
    resume::{Item, input::Upstream as Said},
};

/// As many events are joined: many small ones for one message, a few large.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// What etcd said in a moment.
pub(super) struct Turn {
    /// `None`: it ended.
    pub(super) said: Option<Said<Event, KeyValue>>,
    /// How large its events are; `None`: nothing may be joined to it.
    joined_bytes: Option<usize>,
}

impl Turn {
    pub(super) fn begin(said: Option<Said<Event, KeyValue>>) -> Self {
        let joined_bytes = match &said {
            Some(Said::Events {
                events,
                fragment: false,
            }) => Some(bytes(events)),
            _ => None,
        };
        Self { said, joined_bytes }
    }

    /// Whether more may be joined to it: after anything but events comes nothing,
    /// or something else, and what is large goes alone.
    pub(super) fn may_go_on(&self) -> bool {
        self.joined_bytes.is_some_and(|it| it < JOINED_BYTES_MAX)
    }

    /// Moves the events of `next` behind its own, if it may; else gives it back.
    /// What is whole stays whole.
    pub(super) fn join(
        &mut self,
        next: Option<Said<Event, KeyValue>>,
    ) -> Option<Option<Said<Event, KeyValue>>> {
        let mut next = Self::begin(next);
        let (
            (Some(Said::Events { events, .. }), Some(bytes)),
            (Some(Said::Events { events: more, .. }), Some(more_bytes)),
        ) = (
            (&mut self.said, &mut self.joined_bytes),
            (&mut next.said, next.joined_bytes),
        )
        else {
            return Some(next.said);
        };
        let ascends = match (events.last(), more.first()) {
            (Some(last), Some(first)) => last.mod_revision() < first.mod_revision(),
            _ => false,
        };
        if !ascends || *bytes + more_bytes > JOINED_BYTES_MAX {
            return Some(next.said);
        }
        events.append(more);
        *bytes += more_bytes;
        None
    }
}

fn bytes(events: &[Event]) -> usize {
    events.iter().map(Item::size_bytes).sum()
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
        let mut turn = Turn::begin(said(&[3, 4, 4], false));
        assert!(turn.join(said(&[7], false)).is_none());
        assert!(turn.join(said(&[8, 9], false)).is_none());
        let joined = said(&[3, 4, 4, 7, 8, 9], false);
        assert_eq!(format!("{:?}", turn.said), format!("{joined:?}"));
        let at_once = Turn::begin(joined);
        assert_eq!(turn.joined_bytes, at_once.joined_bytes);
    }

    #[test]
    fn no_more_than_one_message_holds() {
        let third = |revision| {
            Some(Said::Events {
                events: vec![put(revision, JOINED_BYTES_MAX / 3)],
                fragment: false,
            })
        };
        let mut turn = Turn::begin(third(3));
        assert!(turn.join(third(4)).is_none());
        assert!(turn.may_go_on());
        assert!(turn.join(third(5)).is_some());
    }

    #[test]
    fn nothing_else_is() {
        let large = || {
            Some(Said::Events {
                events: vec![put(7, JOINED_BYTES_MAX)],
                fragment: false,
            })
        };
        for (first, next) in [
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
            let mut turn = Turn::begin(first);
            let next = turn.join(next).expect(&as_it_was);
            assert_eq!(format!("{:?} {next:?}", turn.said), as_it_was);
        }
    }
}
