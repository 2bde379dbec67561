//! How things are written for a person: keys, ranges, times, states.
//!
//! Invariant: no string made here holds a character that a terminal acts on,
//! whatever a key, a name or a message holds.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;

use crate::{
    proto::watchmark::v1::{Proof, SnapshotReason, StreamState, Subscription, SubscriptionState},
    resume::{self, KeyRange},
};

/// What is unknown, or was never.
pub(super) const NONE: &str = "-";

/// Above it, a count is rounded.
const EXACT_COUNT_MAX: u64 = 9_999_999;
/// Above it, an age is only said to be more.
const DAYS_MAX: u64 = 9_999;

/// Bytes as text: UTF-8 as it is, what is no text or not visible escaped.
pub(super) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                _ if is_visible(letter) => text.push(letter),
                _ => text.extend(letter.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Whether a terminal shows it, and does nothing else with it.
pub(super) fn is_visible(letter: char) -> bool {
    letter.is_ascii_graphic()
        || letter == ' '
        || letter.is_alphanumeric()
        // An accent is shown behind another letter.
        || format!("a{letter}").escape_debug().eq(['a', letter])
}

/// As [`readable`], of text that is meant for a person: line breaks become spaces.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    readable(words.join(" ").as_bytes()).replace("\\\\", "\\")
}

/// In quotes.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", readable(bytes).replace('"', "\\\""))
}

/// A range, as a prefix where it is one.
pub(super) fn range(subscription: &Subscription) -> String {
    let (key, range_end) = (&subscription.key, &subscription.range_end);
    if let Some(prefix) = prefix(subscription) {
        return format!("prefix {}", quoted(prefix));
    }
    match (&key[..], &range_end[..]) {
        (b"", b"") => NONE.to_owned(),
        (b"\0", b"\0") => "every key".to_owned(),
        (key, b"") => format!("key {}", quoted(key)),
        (key, b"\0") => format!("keys from {}", quoted(key)),
        (key, end) => format!("keys from {} to below {}", quoted(key), quoted(end)),
    }
}

/// The prefix that a range is, if it is one.
pub(super) fn prefix(subscription: &Subscription) -> Option<&[u8]> {
    let key = &subscription.key;
    let is_prefix = !key.is_empty()
        && key[..] != *b"\0"
        && *KeyRange::prefix(key.clone()).range_end() == subscription.range_end;
    is_prefix.then_some(&key[..])
}

/// A revision, of which 0 is none.
pub(super) fn revision(revision: i64) -> String {
    match revision {
        0 => NONE.to_owned(),
        _ => revision.to_string(),
    }
}

/// A count in at most 7 columns: exact as long as that is readable.
pub(super) fn count(count: u64) -> String {
    if count <= EXACT_COUNT_MAX {
        return count.to_string();
    }
    let units = [
        (1_000_000_000_000_000_000, 'E'),
        (1_000_000_000_000_000, 'P'),
        (1_000_000_000_000, 'T'),
        (1_000_000_000, 'G'),
    ];
    let (size, unit) = units
        .into_iter()
        .find(|(size, _)| count >= *size)
        .unwrap_or((1_000_000, 'M'));
    format!("{}.{}{unit}", count / size, count % size / (size / 10))
}

/// How far behind a subscription is, in revisions and in time.
pub(super) fn lag(revisions: i64, seconds: f64) -> String {
    let sign = if revisions < 0 { "-" } else { "" };
    let revisions = count(revisions.unsigned_abs());
    format!("{sign}{revisions} / {}", span(seconds))
}

/// A time span in at most 6 columns: `3.4s`, `42s`, `5m`, `3h`, `12d`.
pub(super) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "neither negative nor infinite; what is too large saturates"
    )]
    let seconds = seconds as u64;
    whole_seconds(seconds)
}

/// How long ago `time` was, in at most 6 columns.
pub(super) fn age(time: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(time) = time else {
        return NONE.to_owned();
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // The clocks of two machines differ: what is not yet is now.
    let seconds = i128::from(now) - i128::from(time.seconds);
    whole_seconds(u64::try_from(seconds.max(0)).unwrap_or(u64::MAX))
}

fn whole_seconds(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        ..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        _ if seconds / DAY > DAYS_MAX => format!(">{DAYS_MAX}d"),
        _ => format!("{}d", seconds / DAY),
    }
}

/// In RFC 3339, to the millisecond.
pub(super) fn time(time: &Timestamp) -> String {
    let millis = time.nanos / 1_000_000;
    Timestamp {
        seconds: time.seconds,
        nanos: millis * 1_000_000,
    }
    .to_string()
}

/// A time and how long ago that was.
pub(super) fn time_and_age(of: Option<&Timestamp>, now: SystemTime) -> String {
    of.map_or_else(
        || NONE.to_owned(),
        |of| format!("{} ({} ago)", time(of), age(Some(of), now)),
    )
}

pub(super) const fn state(state: SubscriptionState) -> &'static str {
    match state {
        SubscriptionState::Unspecified => "unknown",
        SubscriptionState::Disconnected => "disconnected",
        SubscriptionState::Opening => "opening",
        SubscriptionState::CatchingUp => "catching up",
        SubscriptionState::Live => "live",
        SubscriptionState::Blocked => "blocked",
        SubscriptionState::UpstreamLost => "upstream lost",
    }
}

pub(super) const fn stream_state(state: StreamState) -> &'static str {
    match state {
        StreamState::Unspecified => "unknown",
        StreamState::CatchingUp => "catching up",
        StreamState::Live => "live",
        StreamState::UpstreamLost => "upstream lost: etcd is away, watchmark keeps trying",
    }
}

pub(super) fn proof(proof: Proof) -> &'static str {
    match resume::Proof::from(proof).name() {
        "" => NONE,
        name => name,
    }
}

/// Why a snapshot comes, as the end of a sentence.
pub(super) const fn snapshot_reason(reason: SnapshotReason) -> &'static str {
    match reason {
        SnapshotReason::Unspecified => "for a reason that this version does not know",
        SnapshotReason::First => "there is no checkpoint yet",
        SnapshotReason::Compacted => "etcd has compacted what came after the checkpoint",
        SnapshotReason::HistoryReplaced => "etcd was restored or replaced",
        SnapshotReason::Requested => "an operator asked for it",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_stays_and_what_a_terminal_acts_on_is_escaped() {
        for (bytes, expected) in [
            ("/config/a b".as_bytes(), "/config/a b"),
            ("größe/日本/é/🚀".as_bytes(), "größe/日本/é/🚀"),
            (b"say \"it's\"", "say \"it's\""),
            (b"a\\b", "a\\\\b"),
            (
                b"\x1b[31mred\x07\r\n\t\0",
                "\\u{1b}[31mred\\u{7}\\r\\n\\t\\0",
            ),
            (b"\x7f", "\\u{7f}"),
            // Control sequence introducer as one character, and as one byte.
            ("\u{9b}2J".as_bytes(), "\\u{9b}2J"),
            (b"\x9b2J", "\\x9b2J"),
            (b"a\xff\xfeb", "a\\xff\\xfeb"),
            (
                "\u{202e}gnp\u{2066}\u{feff}".as_bytes(),
                "\\u{202e}gnp\\u{2066}\\u{feff}",
            ),
            ("\u{2028}\u{200b}".as_bytes(), "\\u{2028}\\u{200b}"),
        ] {
            assert_eq!(readable(bytes), expected);
        }
        assert_eq!(one_line("two\n lines\x1b"), "two lines\\u{1b}");
    }

    #[test]
    fn no_character_that_a_terminal_acts_on_is_left_alone() {
        let letters: String = (char::MIN..=char::MAX).collect();
        let text = readable(letters.as_bytes());
        assert!(!text.contains(char::is_control));
        assert!(!text.contains(['\u{202e}', '\u{2067}', '\u{200f}']));
    }

    #[test]
    fn ranges_are_prefixes_where_they_are() {
        let text = |key: &'static [u8], range_end: &'static [u8]| {
            range(&Subscription {
                key: key.into(),
                range_end: range_end.into(),
                ..Subscription::default()
            })
        };
        assert_eq!(text(b"/config/", b"/config0"), "prefix \"/config/\"");
        assert_eq!(text(b"a\xff", b"b"), "prefix \"a\\xff\"");
        assert_eq!(text(b"\xff", b"\0"), "prefix \"\\xff\"");
        assert_eq!(text(b"a", b""), "key \"a\"");
        assert_eq!(text(b"a", b"c"), "keys from \"a\" to below \"c\"");
        assert_eq!(text(b"a", b"\0"), "keys from \"a\"");
        assert_eq!(text(b"\0", b"\0"), "every key");
        assert_eq!(text(b"\0", b"a"), "keys from \"\\0\" to below \"a\"");
        assert_eq!(text(b"", b""), "-");
    }

    #[test]
    fn counts_and_spans_keep_to_their_columns() {
        assert_eq!(count(0), "0");
        assert_eq!(count(9_999_999), "9999999");
        assert_eq!(count(12_345_678), "12.3M");
        assert_eq!(count(999_999_999), "999.9M");
        assert_eq!(count(1_000_000_000), "1.0G");
        assert_eq!(count(u64::MAX), "18.4E");
        for (seconds, text) in [
            (0.0, "0s"),
            (3.44, "3.4s"),
            (9.94, "9.9s"),
            (9.96, "9s"),
            (42.9, "42s"),
            (60.0, "1m"),
            (3599.0, "59m"),
            (7200.0, "2h"),
            (864_000.0, "10d"),
            (1e300, ">9999d"),
            (-1.0, "?"),
            (f64::NAN, "?"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
        assert_eq!(lag(12, 3.4), "12 / 3.4s");
        assert_eq!(lag(i64::MIN, 1e300), "-9.2E / >9999d");
    }

    #[test]
    fn times_are_written_whatever_they_are() {
        let stamp = |seconds, nanos| Timestamp { seconds, nanos };
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(
            time(&stamp(1_799_999_790, 5_999_999)),
            "2027-01-15T07:56:30.005Z"
        );
        assert_eq!(
            time_and_age(Some(&stamp(1_799_999_790, 0)), now),
            "2027-01-15T07:56:30Z (3m ago)"
        );
        assert_eq!(age(Some(&stamp(1_800_000_060, 0)), now), "0s");
        assert_eq!(age(Some(&stamp(i64::MIN, i32::MIN)), now), ">9999d");
        assert_eq!(age(None, now), "-");
        for stamp in [stamp(i64::MIN, i32::MIN), stamp(i64::MAX, i32::MAX)] {
            assert!(!time(&stamp).is_empty());
        }
    }
}
