use super::*;
use crate::resume::test_event::{Event, revision};

const MIB: usize = 1024 * 1024;
const UNLIMITED: Option<Window> = None;

/// So many events of one revision, numbered.
fn of(at: i64, count: usize, bytes: usize) -> Vec<Event> {
    (0..count).map(|id| Event { at, id, bytes }).collect()
}

/// One small event of each revision.
fn each(revisions: impl IntoIterator<Item = i64>) -> Vec<Event> {
    revisions.into_iter().flat_map(|at| of(at, 1, 10)).collect()
}

fn after(done: i64) -> Assembler<Event> {
    Assembler::new(Revision::new(done))
}

/// Revision, number of events, whether partial, sent before; until none is left.
fn drain(assembler: &mut Assembler<Event>) -> Vec<(i64, usize, bool, u64)> {
    batches(assembler)
        .map(|batch| {
            let count = batch.events.len();
            (
                batch.revision.get(),
                count,
                batch.partial,
                batch.sent_before,
            )
        })
        .collect()
}

/// What comes out until there is no more; never without end.
fn batches(assembler: &mut Assembler<Event>) -> impl Iterator<Item = Batch<Event>> {
    std::iter::from_fn(|| assembler.next_batch(UNLIMITED)).take(100)
}

fn room(free: u64, untouched: bool) -> Option<Window> {
    Some(Window { free, untouched })
}

#[test]
fn small_revisions_of_a_response_come_out_together() {
    let mut assembler = after(10);
    assembler.push(each([11, 12, 15]), false);
    assert_eq!(drain(&mut assembler), [(15, 3, false, 0)]);
    assert!(assembler.is_idle());
}

#[test]
fn the_last_revision_of_a_fragment_waits_until_it_is_whole() {
    let mut assembler = after(10);
    assembler.push([each([11]), of(12, 2, 10)].concat(), true);
    assert_eq!(drain(&mut assembler), [(11, 1, false, 0)]);
    assert!(!assembler.is_idle());
    assert_eq!(assembler.next_needs(), None);
    assembler.push(of(12, 3, 10), true);
    assert_eq!(drain(&mut assembler), []);
    assembler.push(each([13]), true);
    assert_eq!(drain(&mut assembler), [(12, 5, false, 0)]);
    assembler.push(each([14]), false);
    assert_eq!(drain(&mut assembler), [(14, 2, false, 0)]);
    assert!(assembler.is_idle());
}

#[test]
fn an_empty_last_fragment_makes_the_revision_whole() {
    let mut assembler = after(10);
    assembler.push(each([11]), true);
    assembler.push(Vec::new(), false);
    assert_eq!(drain(&mut assembler), [(11, 1, false, 0)]);
}

#[test]
fn replayed_events_are_dropped_whether_they_came_out_or_wait() {
    let mut assembler = after(10);
    assembler.push(each([9, 10, 11]), false);
    assembler.push(each([5, 11, 12]), false);
    assert_eq!(drain(&mut assembler), [(12, 2, false, 0)]);
    assembler.push(each([11, 12]), false);
    assert_eq!(drain(&mut assembler), []);
    assert!(assembler.is_idle());
}

#[test]
fn a_batch_ends_at_a_thousand_events_or_128_kib_but_never_inside_a_revision() {
    let mut assembler = after(1);
    assembler.push(each(2..=2001), false);
    assert_eq!(
        drain(&mut assembler),
        [(1001, 1000, false, 0), (2001, 1000, false, 0)]
    );
    let large = [of(3001, 1, 100_000), of(3002, 2, 20_000), of(3003, 1, 10)];
    assembler.push(large.concat(), false);
    assert_eq!(
        drain(&mut assembler),
        [(3001, 1, false, 0), (3003, 3, false, 0)]
    );
    assembler.push([of(4001, 1500, 10), of(4002, 1, 10)].concat(), false);
    assert_eq!(
        drain(&mut assembler),
        [(4001, 1500, false, 0), (4002, 1, false, 0)]
    );
}

#[test]
fn a_revision_larger_than_a_message_comes_in_parts_and_only_the_last_is_whole() {
    let mut assembler = after(10);
    assembler.push([of(11, 7, MIB), of(12, 1, 10)].concat(), false);
    assert_eq!(
        drain(&mut assembler),
        [
            (11, 3, true, 0),
            (11, 3, true, 3),
            (11, 1, false, 6),
            (12, 1, false, 0)
        ]
    );
}

#[test]
fn a_single_event_larger_than_a_message_is_sent_alone_and_whole() {
    let mut assembler = after(10);
    assembler.push(of(11, 1, 5 * MIB), false);
    assert_eq!(drain(&mut assembler), [(11, 1, false, 0)]);
}

#[test]
fn a_revision_exactly_as_large_as_a_message_is_not_split() {
    let mut assembler = after(10);
    assembler.push(of(11, 4, MESSAGE_BYTES_MAX / 4), false);
    assert_eq!(drain(&mut assembler), [(11, 4, false, 0)]);
}

#[test]
fn an_unfinished_revision_exactly_as_large_as_a_message_waits_for_one_more_event() {
    let mut assembler = after(10);
    assembler.push(of(11, 4, MESSAGE_BYTES_MAX / 4), true);
    assert_eq!(drain(&mut assembler), []);
    assembler.push(of(11, 1, 10), true);
    assert_eq!(drain(&mut assembler), [(11, 4, true, 0)]);
}

#[test]
fn an_oversized_revision_goes_out_while_it_still_comes_in() {
    let mut assembler = after(10);
    assembler.push(of(11, 4, MIB), true);
    assert_eq!(drain(&mut assembler), [(11, 3, true, 0)]);
    assembler.push(of(11, 2, MIB), true);
    assert_eq!(drain(&mut assembler), []);
    assembler.push(each([12]), false);
    assert_eq!(
        drain(&mut assembler),
        [(11, 3, false, 3), (12, 1, false, 0)]
    );
}

#[test]
fn a_revision_that_turns_out_to_be_sent_ends_with_an_empty_part() {
    let mut assembler = after(10);
    assembler.push(of(11, 4, 2 * MIB), true);
    // Two of them are more than a message: one at a time, as long as two wait.
    assert_eq!(
        drain(&mut assembler),
        [(11, 1, true, 0), (11, 1, true, 1), (11, 1, true, 2)]
    );
    assembler.restart();
    assembler.push(of(11, 3, 2 * MIB), true);
    assert_eq!(drain(&mut assembler), []);
    assembler.push(each([12]), false);
    assert_eq!(
        drain(&mut assembler),
        [(11, 0, false, 3), (12, 1, false, 0)]
    );
}

#[test]
fn parts_that_came_out_are_not_repeated_after_a_restart() {
    let mut assembler = after(10);
    assembler.push(of(11, 7, MIB), false);
    let first = assembler.next_batch(UNLIMITED).unwrap();
    assembler.restart();
    assert!(!assembler.is_idle());
    assert_eq!(assembler.next_needs(), None);
    // Again from 11, in other fragments; old events come again too.
    assembler.push([each([9]), of(11, 2, MIB)].concat(), true);
    assembler.push(of(11, 7, MIB).split_off(2), false);
    let events: Vec<Event> = [first]
        .into_iter()
        .chain(batches(&mut assembler))
        .flat_map(|batch| batch.events)
        .collect();
    assert_eq!(events, of(11, 7, MIB));
    assert!(assembler.is_idle());
}

#[test]
fn what_did_not_come_out_is_forgotten_by_a_restart() {
    let mut assembler = after(10);
    assembler.push(each([11, 12]), true);
    assert_eq!(drain(&mut assembler), [(11, 1, false, 0)]);
    assembler.restart();
    assert!(assembler.is_idle());
    assembler.push(each([12, 13]), false);
    assert_eq!(drain(&mut assembler), [(13, 2, false, 0)]);
}

#[test]
fn after_an_advance_older_events_are_replays() {
    let mut assembler = after(10);
    assembler.advance(revision(20));
    assembler.push(each([15, 20, 21]), false);
    assert_eq!(drain(&mut assembler), [(21, 1, false, 0)]);
}

#[test]
fn a_batch_takes_as_many_whole_revisions_as_the_window_has_room_for() {
    let mut assembler = after(10);
    assembler.push(
        [of(11, 2, 10), of(12, 2, 10), of(13, 1, 10)].concat(),
        false,
    );
    let batch = assembler.next_batch(room(3, false)).unwrap();
    assert_eq!((batch.revision.get(), batch.events.len()), (11, 2));
    assert_eq!(assembler.next_needs(), Some(2));
    assert_eq!(assembler.next_batch(room(1, false)), None);
    let batch = assembler.next_batch(room(3, false)).unwrap();
    assert_eq!((batch.revision.get(), batch.events.len()), (13, 3));
}

#[test]
fn a_revision_larger_than_the_window_goes_alone_when_nothing_is_unacknowledged() {
    let mut assembler = after(10);
    assembler.push([of(11, 5, 10), of(12, 1, 10)].concat(), false);
    assert_eq!(assembler.next_batch(room(3, false)), None);
    let batch = assembler.next_batch(room(3, true)).unwrap();
    assert_eq!((batch.revision.get(), batch.events.len()), (11, 5));
}

#[test]
fn a_revision_that_is_half_sent_does_not_wait_for_the_window() {
    let mut assembler = after(10);
    assembler.push(of(11, 5, MIB), false);
    assert_eq!(assembler.next_needs(), Some(5));
    assert!(assembler.next_batch(room(5, false)).unwrap().partial);
    assert_eq!(assembler.next_needs(), Some(0));
    assert!(!assembler.next_batch(room(0, false)).unwrap().partial);
}

#[test]
fn an_oversized_revision_of_unknown_length_goes_only_when_nothing_is_unacknowledged() {
    let mut assembler = after(10);
    assembler.push(of(11, 5, MIB), true);
    assert_eq!(assembler.next_batch(room(1000, false)), None);
    assert!(assembler.next_batch(room(1, true)).unwrap().partial);
}

#[test]
fn what_a_reopened_watch_brings_may_belie_the_parts_that_came_out() {
    let mut assembler = Assembler::new(Some(revision(10)));
    assert!(!assembler.is_belied_by(&each([11, 12])), "there are none");
    assembler.push(of(12, 5, MIB), true);
    let part = assembler.next_batch(UNLIMITED).unwrap();
    assert!(part.partial);
    let sent = part.events.len();
    assert!(!assembler.is_belied_by(&of(12, 1, MIB)));
    assert!(!assembler.is_belied_by(&each([11, 13])), "a repetition");
    assembler.restart();
    let goes_on = |before: &[i64], repeated: usize, after: i64| {
        let mut events = each(before.iter().copied());
        events.extend(of(12, repeated, MIB));
        events.extend(each([after]));
        assembler.is_belied_by(&events)
    };
    assert!(!goes_on(&[9, 10], sent, 13));
    assert!(!assembler.is_belied_by(&of(12, 1, MIB)), "more may follow");
    assert!(goes_on(&[11], sent, 13), "a revision before it");
    assert!(goes_on(&[], sent - 1, 13), "less of it");
    assert!(goes_on(&[], 0, 13), "nothing of it");
}
