//! Segments of any history, fed in any order by watches of which some end,
//! repeat themselves, or lose their first event.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

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
    Lose {
        which: usize,
    },
    End {
        which: usize,
    },
    Hand,
    Collapse,
    Extend(Vec<i64>),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<usize>();
    prop_oneof![
        12 => (which, 1..6_usize, proptest::option::of(0..8_usize))
            .prop_map(|(which, revisions, cut)| Step::Say { which, revisions, cut }),
        2 => which.prop_map(|which| Step::Certify { which }),
        2 => (which, 1..20_i64).prop_map(|(which, back)| Step::Repeat { which, back }),
        1 => which.prop_map(|which| Step::Lose { which }),
        1 => which.prop_map(|which| Step::End { which }),
        8 => Just(Step::Hand),
        1 => Just(Step::Collapse),
        3 => vec(1..15_i64, 1..5).prop_map(Step::Extend),
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

    /// The revisions after `from`.
    fn revisions_after(&self, from: i64) -> Vec<i64> {
        let all = self.history.iter().map(|it| it.at);
        let mut ahead: Vec<_> = all.filter(|&at| at > from).collect();
        ahead.dedup();
        ahead
    }

    fn between(&self, from: i64, to: i64) -> Vec<Event> {
        let all = self.history.iter().copied();
        all.filter(|it| it.at > from && it.at <= to).collect()
    }

    fn take(&mut self, step: &Step) {
        if self.try_take(step) == Err(Contradiction) {
            self.reopen();
        }
        // As its caller does: a watch that is not wanted any more is closed.
        let segments = &self.segments;
        self.said_up_to.retain(|&after, _| segments.wants(after));
        self.check_shape();
    }

    fn try_take(&mut self, step: &Step) -> Result<(), Contradiction> {
        match step {
            Step::Say {
                which,
                revisions,
                cut,
            } => self.say(*which, *revisions, *cut)?,
            Step::Certify { which } => {
                let newest = self.newest();
                if let Some((after, from)) = self.pick(*which)
                    && from >= newest
                {
                    self.segments.bookmark(after, revision(newest))?;
                }
            }
            Step::Repeat { which, back } => {
                if let Some((after, from)) = self.pick(*which) {
                    let again = self.between(from - back, from);
                    self.segments.events(after, again, false)?;
                }
            }
            Step::Lose { which } => {
                if let Some((after, from)) = self.pick(*which)
                    && Some(after) != self.segments.front()
                    && from == after.get()
                    && let Some(&first) = self.revisions_after(from).first()
                {
                    self.said_up_to.insert(after, first);
                }
            }
            Step::End { which } => {
                if let Some((after, _)) = self.pick(*which)
                    && !self.segments.give_up(after)
                {
                    self.reopen();
                }
            }
            Step::Hand => self.hand(),
            Step::Collapse => self.segments.collapse(),
            Step::Extend(gaps) => self.extend(gaps),
        }
        Ok(())
    }

    fn say(
        &mut self,
        which: usize,
        revisions: usize,
        cut: Option<usize>,
    ) -> Result<(), Contradiction> {
        let Some((after, from)) = self.pick(which) else {
            return Ok(());
        };
        let ahead = self.revisions_after(from);
        let Some(&to) = ahead.get(revisions.min(ahead.len()).wrapping_sub(1)) else {
            return Ok(());
        };
        let said = self.between(from, to);
        let (first, rest) = said.split_at(cut.unwrap_or(0).min(said.len()));
        if cut.is_some() {
            self.segments.events(after, first.to_vec(), true)?;
        }
        self.segments.events(after, rest.to_vec(), false)?;
        self.said_up_to.insert(after, to);
        Ok(())
    }

    fn extend(&mut self, gaps: &[i64]) {
        self.hand();
        let Some(last) = self.segments.queue.back() else {
            return;
        };
        if last.is_said || last.until.is_some() {
            return;
        }
        // As far as the watch has come: behind that nobody starts.
        let said_up_to = self.said_up_to.get(&last.after);
        let mut at = last.after.get().max(*said_up_to.unwrap_or(&0));
        let starts: Vec<_> = gaps
            .iter()
            .map(|gap| {
                at += gap;
                revision(at)
            })
            .collect();
        self.segments.extend(&starts, revision(1));
    }

    fn go_on(&mut self) {
        if let Some(after) = self.segments.goes_on_after() {
            self.segments.restart(after);
        }
    }

    /// As the state machine does: a new watch, after the last whole revision.
    fn reopen(&mut self) {
        let last = self.handed.last().map_or(10, |it| it.at - 1).max(10);
        self.segments = Segments::new(revision(last));
        self.said_up_to.clear();
    }

    /// As a subscriber's state machine takes it: whole revisions once.
    fn hand(&mut self) {
        while let Some(piece) = self.segments.next_piece() {
            match piece {
                Piece::Events { events, .. } => {
                    for event in events {
                        let last = self.handed.last().map_or((0, 0), |it| (it.at, it.id));
                        if (event.at, event.id) > last {
                            self.handed.push(event);
                        }
                    }
                }
                Piece::Bookmark(at) => {
                    let missing = self.history.get(self.handed.len());
                    assert!(missing.is_none_or(|it| it.at > at.get()), "{missing:?}");
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
        let waiting = queue.iter().flat_map(|it| &it.waiting);
        let waiting: usize = waiting.map(|(_, bytes)| bytes).sum();
        assert!(queue.len() == 1 || waiting <= AHEAD_BYTES_MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn it_is_what_one_watch_says(
        gaps in vec((1..8_i64, 1..4_usize, proptest::bool::weighted(0.05)), 0..40),
        steps in vec(step(), 0..120),
    ) {
        let mut world = World::new(&gaps);
        for step in &steps {
            world.take(step);
        }
        // In the end every watch says all it has, and that it has, as etcd's do.
        for _ in 0..=world.history.len() * 4 {
            world.take(&Step::Hand);
            if world.handed == world.history {
                break;
            }
            for which in 0..8 {
                world.take(&Step::Say { which, revisions: 3, cut: None });
                world.take(&Step::Certify { which });
            }
        }
        world.take(&Step::Hand);
        prop_assert_eq!(&world.handed, &world.history);
    }
}
