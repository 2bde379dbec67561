//! What may happen often is logged once in a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Enough to see that it goes on.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// There are a handful; words of a library among them may vary.
const PROBLEMS_MAX: usize = 32;

/// One place is for all others.
const NAMED_MAX: usize = PROBLEMS_MAX - 1;

/// One line an interval for each problem; those in between are counted.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Those beyond [`NAMED_MAX`] are one, without a name.
    said_by_problem: Mutex<HashMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl Throttle {
    /// Whether to say it now: then how often it was not said since the last time.
    pub(super) fn pass(&self, problem: &str) -> Option<u64> {
        let said = self.said_by_problem.lock();
        let mut said = said.unwrap_or_else(PoisonError::into_inner);
        let is_known = said.contains_key(problem);
        if !is_known && said.len() >= NAMED_MAX {
            said.retain(|_, said| said.at.elapsed() < LINE_INTERVAL);
        }
        let has_a_name = is_known || said.len() < NAMED_MAX;
        let problem = if has_a_name { problem } else { "" };
        if let Some(said) = said.get_mut(problem) {
            if said.at.elapsed() < LINE_INTERVAL {
                said.unsaid += 1;
                return None;
            }
            said.at = Instant::now();
            return Some(std::mem::take(&mut said.unsaid));
        }
        let at = Instant::now();
        said.insert(problem.to_owned(), Said { at, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_an_interval_tells_how_many_it_stands_for() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass("a"), Some(0));
        assert_eq!((throttle.pass("a"), throttle.pass("a")), (None, None));
        assert_eq!(throttle.pass("b"), Some(0));
        tokio::time::advance(LINE_INTERVAL).await;
        assert_eq!(throttle.pass("a"), Some(2));
        assert_eq!(throttle.pass("a"), None);
        for n in 0..1000 {
            throttle.pass(&format!("{n}"));
        }
        assert!(throttle.said_by_problem.lock().unwrap().len() <= PROBLEMS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_varies_its_problems_cannot_fill_the_log() {
        let throttle = Throttle::default();
        let lines = |from: u32| {
            let problems = (from..from + 1000).map(|n| throttle.pass(&format!("{n}")));
            problems.flatten().count()
        };
        assert!(lines(0) <= PROBLEMS_MAX);
        assert_eq!(lines(1000), 0);
        tokio::time::advance(LINE_INTERVAL).await;
        assert!((1..=PROBLEMS_MAX).contains(&lines(2000)));
    }
}
