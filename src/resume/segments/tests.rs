use super::*;
use crate::resume::test_event::{Event, revision};

mod model;

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
    while let Some(piece) = segments.next_piece() {
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
fn a_watch_at_the_newest_revision_goes_on_alone() {
    let mut segments = split(10, &[20, 30, 40]);
    push(&mut segments, 10, [25]);
    segments.bookmark(revision(30), revision(33)).unwrap();
    assert!(!segments.wants(revision(40)));
    assert_eq!(handed(&mut segments), Vec::<i64>::new());
    push(&mut segments, 20, [25, 34]);
    // What the watch ahead said comes after what was before it.
    let piece = |at| Piece::Events {
        events: each([at]),
        fragment: false,
    };
    assert_eq!(segments.next_piece(), Some(piece(25)));
    assert_eq!(segments.next_piece(), Some(Piece::Bookmark(revision(33))));
    push(&mut segments, 30, [34, 45]);
    assert_eq!(handed(&mut segments), [34, 45]);
    assert_eq!(segments.goes_on_after(), None);
}

#[test]
fn the_end_of_a_response_that_was_cut_is_no_bookmark() {
    let mut segments = Segments::new(revision(10));
    segments.events(revision(10), each([11]), true).unwrap();
    segments.bookmark(revision(10), revision(33)).unwrap();
    let whole = |events, fragment| Some(Piece::Events { events, fragment });
    assert_eq!(segments.next_piece(), whole(each([11]), true));
    assert_eq!(segments.next_piece(), whole(Vec::new(), false));
    assert_eq!(segments.next_piece(), None);
}

#[test]
fn an_event_where_another_watch_shows_none_is_a_contradiction() {
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, [25]);
    let said = segments.events(revision(10), each([15, 31]), false);
    assert_eq!(said, Err(Contradiction));
}

#[test]
fn the_next_segment_begins_with_the_event_that_ended_the_one_before() {
    let lost = Err(Contradiction);
    // Said by the front first, by the watch ahead first, or never.
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 10, [15, 22]);
    assert_eq!(segments.events(revision(20), each([23]), false), lost);
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, [23]);
    assert_eq!(segments.events(revision(10), each([22]), false), lost);
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 10, [15, 22]);
    assert_eq!(segments.bookmark(revision(20), revision(22)), lost);
    // Nothing between the first and the third.
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 20, [35]);
    assert_eq!(segments.events(revision(10), each([36]), false), lost);
}

#[test]
fn a_watch_ahead_that_ends_is_done_without() {
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 30, [33]);
    assert!(segments.give_up(revision(20)));
    assert!(!segments.wants(revision(30)));
    push(&mut segments, 10, [15, 25]);
    assert_eq!(handed(&mut segments), [15, 25]);
    assert!(!segments.give_up(revision(10)));

    // The one before had said all: a new watch goes on there.
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 10, [15, 25]);
    assert!(segments.give_up(revision(20)));
    assert!(segments.give_up(revision(20)), "nobody wants it");
    assert_eq!(segments.goes_on_after(), None);
    assert_eq!(handed(&mut segments), [15]);
    assert_eq!(segments.goes_on_after(), Some(revision(20)));
}

#[test]
fn a_revision_is_whole_where_its_segment_ends() {
    let mut segments = split(10, &[20]);
    let fragment = segments.events(revision(10), each([20]), true);
    fragment.unwrap();
    let whole = |segments: &mut Segments<_>| match segments.next_piece() {
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
    assert_eq!(full().plan(revision(6010)).len(), 5);
    let plan = full().plan(revision(10_010));
    assert_eq!(plan.first(), Some(&revision(1010 + 938)));
    assert_eq!(plan.len(), 9);
    // Not full, however many events.
    let mut short = Segments::new(revision(10));
    push(&mut short, 10, (22..=2019).map(|twice| twice / 2));
    assert_eq!(short.plan(revision(100_000)), []);
}

#[test]
fn nobody_reads_ahead_of_a_watch_at_the_newest_revision() {
    // Its range is quiet, others are not.
    let newest = revision(100_000);
    let mut segments = Segments::new(revision(10));
    push(&mut segments, 10, 11..=1010);
    assert_ne!(segments.plan(newest), []);
    segments.bookmark(revision(10), newest).unwrap();
    assert_eq!(segments.plan(newest), []);
}

#[test]
fn a_front_that_was_left_to_itself_stays_so() {
    let newest = revision(100_000);
    let mut segments = Segments::new(revision(10));
    push(&mut segments, 10, 11..=1010);
    let plan = segments.plan(newest);
    segments.extend(&plan, newest);
    segments.collapse();
    assert!(!segments.runs_ahead());
    assert_eq!(segments.plan(newest), []);
}

#[test]
fn what_was_certified_empty_holds_nothing() {
    // Certified first, and belied by the watch before.
    let mut segments = split(10, &[20, 30]);
    segments.bookmark(revision(20), revision(33)).unwrap();
    let said = segments.events(revision(10), each([15, 25]), false);
    assert_eq!(said, Err(Contradiction));
    // Said first, and denied by the watch before.
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 30, [35]);
    let said = segments.bookmark(revision(10), revision(40));
    assert_eq!(said, Err(Contradiction));
    // What comes after is none.
    let mut segments = split(10, &[20, 30]);
    push(&mut segments, 30, [35]);
    segments.bookmark(revision(20), revision(34)).unwrap();
    let mut segments = split(10, &[20, 30]);
    segments.bookmark(revision(20), revision(33)).unwrap();
    push(&mut segments, 10, [15, 34]);
}

#[test]
fn pieces_of_a_response_are_measured_together() {
    let mut segments = Segments::new(revision(10));
    for from in [11, 511] {
        let events = each(from..from + 500);
        segments.events(revision(10), events, from == 11).unwrap();
    }
    let plan = segments.plan(revision(10_010));
    assert_eq!(plan.first(), Some(&revision(1010 + 938)));
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
    assert_eq!(plan(1000), AHEAD_BYTES_MAX / (1000 * (1000 + EVENT_BYTES)));
    assert_eq!(plan(1 << 20), 0);
}

#[test]
fn all_that_waits_is_bounded() {
    let large = |at| {
        let bytes = AHEAD_BYTES_MAX / 2 - EVENT_BYTES;
        vec![Event { at, id: 0, bytes }]
    };
    let mut segments = split(10, &[20, 30]);
    for at in [11, 21] {
        segments.events(revision(at - 1), large(at), false).unwrap();
    }
    assert!(segments.wants(revision(30)));
    push(&mut segments, 30, [31]);
    assert!(!segments.wants(revision(30)) && segments.wants(revision(20)));
    push(&mut segments, 20, [22]);
    assert!(!segments.wants(revision(20)) && segments.wants(revision(10)));
}

#[test]
fn a_watch_ahead_that_says_the_same_for_ever_is_given_up() {
    let mut segments = split(10, &[20, 30]);
    for _ in 0..=AHEAD_BYTES_MAX / EVENT_BYTES {
        segments.bookmark(revision(20), revision(25)).unwrap();
    }
    assert!(!segments.wants(revision(20)));
    assert!(segments.wants(revision(10)));
}

/// Singles, one of ten revisions in range; then as `after` says, up to the end of
/// the first segment.
fn after_a_change(after: impl Iterator<Item = i64>, bytes: usize) -> Segments<Event> {
    let mut segments = Segments::new(revision(10));
    push(&mut segments, 10, (0..1000).map(|n| 20 + 10 * n));
    handed(&mut segments);
    let newest = revision(1_000_000);
    let plan = segments.plan(newest);
    segments.extend(&plan, newest);
    let events = after.map(|at| Event { at, id: 0, bytes }).collect();
    segments.events(revision(10), events, false).unwrap();
    handed(&mut segments);
    segments
}

#[test]
fn a_segment_that_turns_out_too_long_is_planned_anew() {
    let segments = after_a_change(10_011..=11_010, 10);
    assert!(!segments.runs_ahead());
    let plan = segments.plan(revision(1_000_000));
    assert_eq!(plan.first(), Some(&revision(11_010 + 938)));
    // Five responses are left of it.
    let end = 19_377;
    assert!(after_a_change(end - 5999..=end - 5000, 10).runs_ahead());
    assert!(!after_a_change(end - 6000..=end - 5001, 10).runs_ahead());
}

#[test]
fn what_ends_a_segment_tells_of_the_next_ones() {
    // One of a hundred: 94 and six more.
    let mut segments = after_a_change((0..100).map(|n| 10_020 + 100 * n), 10);
    assert_eq!(segments.density.unwrap().revisions, 99_010);
    // Too heavy for more than one watch.
    segments = after_a_change((0..1000).map(|n| 10_020 + 10 * n), 2000);
    segments.restart(revision(20_000));
    assert_eq!(segments.plan(revision(1_000_000)), []);
    // Too few to tell.
    segments = after_a_change((0..99).map(|n| 10_020 + 1000 * n), 10);
    assert_eq!(segments.density.unwrap().revisions, 9991);
}

#[test]
fn revisions_at_the_end_of_numbers_do_no_harm() {
    let mut segments = Segments::new(revision(1));
    let events: Vec<_> = (0..1000).map(|n| n * (i64::MAX / 1000) + 2).collect();
    push(&mut segments, 1, events);
    let newest = revision(i64::MAX);
    assert_eq!(segments.plan(newest), []);
    segments.extend(&[newest], newest);
    assert!(segments.wants(newest));
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

#[test]
fn an_event_that_a_watch_repeats_is_not_its_first() {
    let mut segments = split(10, &[20]);
    push(&mut segments, 10, [15, 22]);
    push(&mut segments, 20, [20, 22]);
    assert_eq!(handed(&mut segments), [15, 22]);
}

#[test]
fn what_is_dropped_does_not_count_as_waiting() {
    let mut segments = split(10, &[20]);
    push(&mut segments, 10, [10, 15, 22]);
    assert_eq!(segments.queue[0].waiting[0].1, 10 + EVENT_BYTES);
    assert_eq!(segments.queue[0].waiting_bytes, 10 + EVENT_BYTES);
    segments.next_piece();
    assert_eq!(segments.queue[0].waiting_bytes, 0);
}

#[test]
fn only_the_front_decides_that_it_is_too_long() {
    // One of ten revisions is in range, up to the front's end.
    let mut segments = after_a_change([10_020].into_iter(), 10);
    let ahead = segments.queue[1].after.get();
    // Beyond it all are.
    push(&mut segments, ahead, ahead + 1..=ahead + 1000);
    assert_eq!(segments.density.unwrap().revisions, 1000);
    assert!(segments.runs_ahead());
    push(&mut segments, 10, [10_030]);
    assert!(segments.runs_ahead());
}

#[test]
fn a_plan_is_made_for_a_single_watch_and_small_enough_responses() {
    // A thousand events that take so much together.
    let full = |bytes| {
        let mut segments = Segments::new(revision(10));
        let mut events = each(11..=1010);
        events[0].bytes = bytes - 1000 * EVENT_BYTES - 999 * 10;
        segments.events(revision(10), events, false).unwrap();
        segments
    };
    let newest = revision(1_000_000);
    assert_ne!(full(RESPONSE_BYTES_MAX).plan(newest), []);
    assert_eq!(full(RESPONSE_BYTES_MAX + 1).plan(newest), []);
    let mut segments = full(300_000);
    segments.extend(&[revision(5000)], newest);
    assert!(segments.runs_ahead());
    assert_eq!(segments.plan(newest), []);
}

#[test]
fn a_watch_begins_only_where_there_is_an_open_end() {
    let newest = revision(3001);
    let mut segments = Segments::new(revision(10));
    push(&mut segments, 10, 11..=1010);
    segments.extend(&[revision(10)], newest);
    assert!(!segments.runs_ahead());
    segments.extend(&[revision(2000)], newest);
    let end = segments.queue[1].until.unwrap();
    assert_eq!(end, revision(2000 + 1000));
    segments.extend(&[revision(end.get() + 1)], newest);
    assert_eq!(segments.queue.len(), 2);
    // One response more is up to the newest revision.
    segments.extend(&[end], newest);
    assert_eq!(segments.queue[2].until, None);
    let mut segments = Segments::new(revision(10));
    push(&mut segments, 10, 11..=1010);
    segments.extend(&[revision(2001)], newest);
    assert_eq!(segments.queue[1].until, None);
}
