use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;

/// An event of a revision; `id` tells it from others of the same revision.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at: i64,
    id: usize,
    bytes: usize,
}

static KEY: Bytes = Bytes::from_static(b"key");

impl Item for Event {
    fn key(&self) -> &Bytes {
        &KEY
    }
    fn mod_revision(&self) -> Revision {
        revision(self.at)
    }
    fn size_bytes(&self) -> usize {
        self.bytes
    }
    fn is_delete(&self) -> bool {
        false
    }
}

fn revision(at: i64) -> Revision {
    Revision::new(at).unwrap()
}

/// One event of each revision.
fn each(revisions: impl IntoIterator<Item = i64>) -> Vec<Event> {
    let event = |at| Event {
        at,
        id: 0,
        bytes: 10,
    };
    revisions.into_iter().map(event).collect()
}

/// Split at these revisions; the last segment open-ended.
fn split(after: i64, starts: &[i64]) -> Segments<Event> {
    let mut segments = Segments::new(revision(after));
    let starts: Vec<_> = starts.iter().map(|&at| revision(at)).collect();
    segments.extend(&starts, revision(1));
    segments
}

fn handed(segments: &mut Segments<Event>) -> Vec<i64> {
    let mut revisions = Vec::new();
    while let Some(piece) = segments.next() {
        if let Piece::Events { events, .. } = piece {
            revisions.extend(events.iter().map(|event| event.at));
        }
    }
    revisions
}

fn push(segments: &mut Segments<Event>, after: i64, revisions: impl IntoIterator<Item = i64>) {
    segments
        .events(revision(after), each(revisions), false)
        .unwrap();
}

#[test]
fn what_runs_ahead_waits_for_the_front() {
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, 21..=35);
    push(&mut segments, 30, 31..=35);
    assert_eq!(handed(&mut segments), Vec::<i64>::new());
    assert!(!segments.wants(revision(20)), "its watch has said all");
    push(&mut segments, 10, 11..=20);
    // Nobody knows yet whether there is more of the first segment.
    assert_eq!(handed(&mut segments), Vec::from_iter(11..=20));
    push(&mut segments, 10, 21..=22);
    assert_eq!(handed(&mut segments), Vec::from_iter(21..=35));
    assert_eq!(segments.front(), Some(revision(30)));
}

#[test]
fn an_event_far_ahead_shows_that_there_is_none_before() {
    let mut segments = split(10, &[20, 30, 40]);
    push(&mut segments, 10, [15, 45]);
    assert!(![20, 30].iter().any(|&at| segments.wants(revision(at))));
    assert_eq!(handed(&mut segments), [15]);
    push(&mut segments, 40, [45]);
    assert_eq!(handed(&mut segments), [45]);
}

#[test]
fn etcds_word_ends_a_segment_and_the_empty_ones_after_it() {
    let mut segments = split(10, &[20, 30]);
    segments.bookmark(revision(10), revision(19)).unwrap();
    assert_eq!(segments.front(), Some(revision(10)));
    segments.bookmark(revision(10), revision(33)).unwrap();
    assert_eq!(segments.next(), None);
    assert_eq!(segments.front(), Some(revision(30)));
    segments.bookmark(revision(30), revision(33)).unwrap();
    assert_eq!(segments.next(), Some(Piece::Bookmark(revision(33))));
}

#[test]
fn an_event_where_another_watch_shows_none_is_a_contradiction() {
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, [25]);
    let said = segments.events(revision(10), each([15, 31]), false);
    assert_eq!(said, Err(Contradiction));
}

#[test]
fn a_revision_is_whole_where_its_segment_ends() {
    let mut segments = split(10, &[20]);
    let fragment = segments.events(revision(10), each([20]), true);
    fragment.unwrap();
    let whole = |segments: &mut Segments<_>| match segments.next() {
        Some(Piece::Events { fragment, .. }) => !fragment,
        other => panic!("{other:?}"),
    };
    assert!(!whole(&mut segments));
    segments.events(revision(10), each([21]), true).unwrap();
    assert!(whole(&mut segments));
}

#[test]
fn what_is_given_up_is_read_again_from_where_it_began() {
    let mut segments = split(10, &[20, 30]);
    let large = vec![Event {
        at: 21,
        id: 0,
        bytes: AHEAD_BYTES_MAX,
    }];
    segments.events(revision(20), large, false).unwrap();
    assert!(!segments.wants(revision(20)) && !segments.wants(revision(30)));
    push(&mut segments, 10, [12, 25]);
    assert_eq!(handed(&mut segments), [12]);
    // Up to 24 there is nothing.
    assert_eq!(segments.goes_on_after(), Some(revision(24)));
}

#[test]
fn the_front_alone_goes_on_by_itself() {
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, [25]);
    segments.collapse();
    push(&mut segments, 10, [12, 25]);
    assert_eq!(handed(&mut segments), [12, 25]);
    assert_eq!(segments.goes_on_after(), None);
}

#[test]
fn only_full_responses_and_a_deep_backlog_are_worth_more_watches() {
    let full = || {
        let mut segments = Segments::new(revision(10));
        push(&mut segments, 10, 11..=1010);
        segments
    };
    assert_eq!(full().plan(revision(6009)), []);
    let plan = full().plan(revision(10_010));
    assert_eq!(plan.first(), Some(&revision(1010 + 938)));
    assert_eq!(plan.len(), 9);
    let mut short = Segments::new(revision(10));
    push(&mut short, 10, 11..=1009);
    assert_eq!(short.plan(revision(100_000)), []);
}

#[test]
fn what_runs_ahead_is_bounded_in_watches_and_bytes() {
    let plan = |bytes| {
        let mut segments = Segments::new(revision(10));
        let events = (11..=1010).map(|at| Event { at, id: 0, bytes });
        segments
            .events(revision(10), events.collect(), false)
            .unwrap();
        segments.plan(revision(1_000_000)).len()
    };
    assert_eq!(plan(10), SEGMENTS_MAX);
    assert_eq!(plan(4096 - EVENT_BYTES), AHEAD_BYTES_MAX / (4096 * 1000));
    assert_eq!(plan(1 << 20), 0);
}

#[test]
fn the_last_segment_is_open_ended_only_near_the_newest_revision() {
    let open_end = |newest| {
        let mut segments = Segments::new(revision(10));
        push(&mut segments, 10, 11..=1010);
        handed(&mut segments);
        let plan = segments.plan(revision(newest));
        segments.extend(&plan, revision(newest));
        segments.queue.back().unwrap().until.is_none()
    };
    assert!(open_end(20_000));
    assert!(!open_end(200_000));
}

/// What etcd has, and how far each watch has come.
#[derive(Debug)]
struct World {
    history: Vec<Event>,
    said_up_to: BTreeMap<Revision, i64>,
    segments: Segments<Event>,
    handed: Vec<Event>,
}

/// Anything that can happen to the watch that `which` picks.
#[derive(Debug, Clone)]
enum Step {
    Say {
        which: usize,
        revisions: usize,
        cut: Option<usize>,
    },
    Certify {
        which: usize,
    },
    Repeat {
        which: usize,
        back: i64,
    },
    Hand,
    Collapse,
    Extend(Vec<i64>),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<usize>();
    prop_oneof![
        6 => (which, 1..6_usize, proptest::option::of(0..8_usize))
            .prop_map(|(which, revisions, cut)| Step::Say { which, revisions, cut }),
        2 => which.prop_map(|which| Step::Certify { which }),
        1 => (which, 1..20_i64).prop_map(|(which, back)| Step::Repeat { which, back }),
        4 => Just(Step::Hand),
        1 => Just(Step::Collapse),
        1 => vec(1..15_i64, 1..5).prop_map(Step::Extend),
    ]
}

impl World {
    fn new(gaps: &[(i64, usize, bool)]) -> Self {
        let mut at = 10;
        let mut history = Vec::new();
        for &(gap, count, is_large) in gaps {
            at += gap;
            let bytes = if is_large { AHEAD_BYTES_MAX / 3 } else { 10 };
            history.extend((0..count).map(|id| Event { at, id, bytes }));
        }
        Self {
            history,
            said_up_to: BTreeMap::new(),
            segments: Segments::new(revision(10)),
            handed: Vec::new(),
        }
    }

    fn newest(&self) -> i64 {
        self.history.last().map_or(10, |event| event.at)
    }

    /// A watch that is open, and how far it has come.
    fn pick(&self, which: usize) -> Option<(Revision, i64)> {
        let open: Vec<_> = self
            .segments
            .queue
            .iter()
            .filter(|it| !it.is_said)
            .collect();
        let after = open.get(which.checked_rem(open.len())?)?.after;
        Some((after, *self.said_up_to.get(&after).unwrap_or(&after.get())))
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Say {
                which,
                revisions,
                cut,
            } => {
                let Some((after, from)) = self.pick(*which) else {
                    return;
                };
                let mut ahead: Vec<i64> = self
                    .history
                    .iter()
                    .map(|it| it.at)
                    .filter(|&at| at > from)
                    .collect();
                ahead.dedup();
                let Some(&to) = ahead.get((*revisions).min(ahead.len()).wrapping_sub(1)) else {
                    return;
                };
                let said: Vec<_> = self
                    .history
                    .iter()
                    .copied()
                    .filter(|it| it.at > from && it.at <= to)
                    .collect();
                let (first, rest) = said.split_at(cut.unwrap_or(0).min(said.len()));
                if cut.is_some() {
                    self.segments.events(after, first.to_vec(), true).unwrap();
                }
                self.segments.events(after, rest.to_vec(), false).unwrap();
                self.said_up_to.insert(after, to);
            }
            Step::Certify { which } => {
                let newest = self.newest();
                if let Some((after, from)) = self.pick(*which)
                    && from >= newest
                {
                    self.segments.bookmark(after, revision(newest)).unwrap();
                }
            }
            Step::Repeat { which, back } => {
                let Some((after, from)) = self.pick(*which) else {
                    return;
                };
                let again = self.history.iter().copied();
                let again = again
                    .filter(|it| it.at <= from && it.at > from - back)
                    .collect();
                self.segments.events(after, again, false).unwrap();
            }
            Step::Hand => self.hand(),
            Step::Collapse => self.segments.collapse(),
            Step::Extend(gaps) => {
                self.go_on();
                let Some(last) = self.segments.queue.back() else {
                    return;
                };
                if last.is_said || last.until.is_some() {
                    return;
                }
                // As far as the watch has come: behind that nobody starts.
                let mut at = self.pick(usize::MAX).map_or(0, |_| {
                    last.after
                        .get()
                        .max(*self.said_up_to.get(&last.after).unwrap_or(&0))
                });
                let starts: Vec<_> = gaps
                    .iter()
                    .map(|gap| {
                        at += gap;
                        revision(at)
                    })
                    .collect();
                self.segments.extend(&starts, revision(1));
            }
        }
        // As its caller does: a watch that is not wanted any more is closed.
        let segments = &self.segments;
        self.said_up_to.retain(|&after, _| segments.wants(after));
        self.check_shape();
    }

    fn go_on(&mut self) {
        if let Some(after) = self.segments.goes_on_after() {
            self.segments.restart(after);
        }
    }

    /// As a subscriber's state machine takes it: whole revisions once.
    fn hand(&mut self) {
        while let Some(piece) = self.segments.next() {
            let Piece::Events { events, .. } = piece else {
                continue;
            };
            for event in events {
                let last = self.handed.last().map_or((0, 0), |it| (it.at, it.id));
                if (event.at, event.id) > last {
                    self.handed.push(event);
                }
            }
        }
        assert_eq!(self.handed, self.history[..self.handed.len()]);
        self.go_on();
    }

    fn check_shape(&self) {
        let queue = &self.segments.queue;
        for (one, next) in queue.iter().zip(queue.iter().skip(1)) {
            assert_eq!(one.until, Some(next.after));
        }
        assert!(!queue.is_empty());
        let ahead: usize = queue.iter().skip(1).map(|it| it.waiting_bytes).sum();
        assert!(ahead <= AHEAD_BYTES_MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn it_is_what_one_watch_says(
        gaps in vec((1..8_i64, 1..4_usize, proptest::bool::weighted(0.05)), 0..40),
        steps in vec(step(), 0..120),
    ) {
        let mut world = World::new(&gaps);
        for step in &steps {
            world.take(step);
        }
        // In the end every watch says all it has, as etcd's do.
        for _ in 0..=world.history.len() * 4 {
            world.take(&Step::Hand);
            for which in 0..SEGMENTS_MAX {
                world.take(&Step::Say { which, revisions: 3, cut: None });
            }
        }
        world.take(&Step::Hand);
        prop_assert_eq!(&world.handed, &world.history);
    }
}
