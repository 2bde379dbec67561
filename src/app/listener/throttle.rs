//! What may happen often is logged once in a while.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Enough to see it happening.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// One line an interval; those in between are counted.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    /// Whether to say it now: then how often it was not said since the last time.
    pub(super) fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| last.elapsed() < LINE_INTERVAL)
        {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_an_interval_tells_how_many_it_stands_for() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!((throttle.pass(), throttle.pass()), (None, None));
        tokio::time::advance(LINE_INTERVAL).await;
        assert_eq!(throttle.pass(), Some(2));
        assert_eq!(throttle.pass(), None);
    }
}
