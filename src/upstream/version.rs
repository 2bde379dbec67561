//! etcd's versions and what they are known for. Owns the version gates and the
//! table of defects; refuses to assume anything of a version it can't read.
//! Invariant: a gate opens only at the release that carries the fix.

use std::fmt;

/// The version of one etcd server, as its `Status` says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// `false` for a pre-release, which sorts before its release.
    released: bool,
}

/// The first fixed patch of each line that had the defect: 3.4, 3.5, 3.6, 3.7.
/// `None`: that line never had it, or never got the fix.
struct Defect {
    /// Issue or advisory, and what it does.
    what: &'static str,
    fixed: [Line; 4],
}

#[derive(Clone, Copy)]
enum Line {
    Clean,
    FixedIn(u32),
    Never,
}

use Line::{Clean, FixedIn, Never};

/// The first minor version of the table's lines.
const FIRST_LINE: u32 = 4;

/// Defects that cost events, or that the design works around.
const DEFECTS: [Defect; 6] = [
    Defect {
        what: "events lost without a word by a slow watch under compaction (#17529)",
        fixed: [FixedIn(31), FixedIn(13), Clean, Clean],
    },
    Defect {
        what: "progress requests unsound or unanswered (#15220, #17507)",
        fixed: [FixedIn(31), FixedIn(13), Clean, Clean],
    },
    Defect {
        what: "deletions at the compact revision lost on resume; the resume guard covers it (#18089, #19179)",
        fixed: [FixedIn(36), FixedIn(18), Clean, Clean],
    },
    Defect {
        what: "a watch of a future revision gets old events; they are dropped (#20221)",
        fixed: [FixedIn(38), FixedIn(22), FixedIn(2), Clean],
    },
    Defect {
        what: "linearizable reads may be stale (#20418)",
        fixed: [FixedIn(42), FixedIn(28), FixedIn(9), Clean],
    },
    Defect {
        what: "an open-ended watch bypasses read permission (GHSA-xg4h-6gfc-h4m8)",
        fixed: [Never, FixedIn(33), FixedIn(14), FixedIn(1)],
    },
];

impl Version {
    /// Reads `3.5.13` or `3.7.0-rc.1`; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (numbers, released) = match text.split_once(['-', '+']) {
            Some((numbers, _)) => (numbers, false),
            None => (text, true),
        };
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let version = Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            patch: numbers.next()??,
            released,
        };
        numbers.next().is_none().then_some(version)
    }

    /// Whether a progress request is answered, and never ahead of events
    /// (#15220, #17507): from 3.4.31, 3.5.13 and 3.6.0 on.
    pub(super) fn answers_progress_soundly(self) -> bool {
        self >= Self::release(3, 4, 31) && self.minor_is(3, 4)
            || self >= Self::release(3, 5, 13) && self.minor_is(3, 5)
            || self >= Self::release(3, 6, 0)
    }

    /// The known defects of this version that matter to a watch.
    pub(super) fn defects(self) -> impl Iterator<Item = &'static str> {
        DEFECTS
            .iter()
            .filter(move |defect| self.has(defect))
            .map(|defect| defect.what)
    }

    fn has(self, defect: &Defect) -> bool {
        if self.major != 3 || self.minor < FIRST_LINE {
            return self.major < 3 || self.minor < FIRST_LINE && self.major == 3;
        }
        let line = usize::try_from(self.minor - FIRST_LINE)
            .ok()
            .and_then(|line| defect.fixed.get(line));
        match line {
            Some(&FixedIn(patch)) => self < Self::release(self.major, self.minor, patch),
            Some(Never) => true,
            Some(Clean) | None => false,
        }
    }

    const fn release(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
            released: true,
        }
    }

    const fn minor_is(self, major: u32, minor: u32) -> bool {
        self.major == major && self.minor == minor
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.released {
            Ok(())
        } else {
            f.write_str("-pre")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn the_progress_gate_opens_at_the_fixed_release_of_each_line() {
        for sound in ["3.4.31", "3.4.45", "3.5.13", "3.6.0", "3.7.3", "4.0.0"] {
            assert!(version(sound).answers_progress_soundly(), "{sound}");
        }
        for unsound in [
            "3.3.27",
            "3.4.23",
            "3.4.30",
            "3.5.0",
            "3.5.1",
            "3.5.12",
            "3.6.0-rc.1",
            "2.3.8",
        ] {
            assert!(!version(unsound).answers_progress_soundly(), "{unsound}");
        }
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "not_decided", "3", "3.5", "3.5.x", "3.5.1.2", "-1.2.3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn defects_end_where_they_were_fixed() {
        let count = |text| version(text).defects().count();
        assert_eq!(count("3.4.23"), 6);
        assert_eq!(count("3.4.45"), 1);
        assert_eq!(count("3.5.12"), 6);
        assert_eq!(count("3.5.33"), 0);
        assert_eq!(count("3.6.13"), 1);
        assert_eq!(count("3.6.16"), 0);
        assert_eq!(count("3.7.0"), 1);
        assert_eq!(count("3.7.3"), 0);
        assert_eq!(count("3.8.0"), 0);
    }
}
