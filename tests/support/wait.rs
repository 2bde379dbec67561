//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Longer than anything should take on two busy cores: reaching it is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something, and panics at the deadline.
#[track_caller]
pub(crate) fn until<T, F: AsyncFnMut() -> Option<T>>(
    what: &str,
    look: F,
) -> impl Future<Output = T> {
    within(DEADLINE, what, look)
}

/// As [`until`], with a deadline of one's own.
#[track_caller]
pub(crate) fn within<T, F: AsyncFnMut() -> Option<T>>(
    deadline: Duration,
    what: &str,
    mut look: F,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            if let Ok(Some(found)) = tokio::time::timeout(left, look()).await {
                return found;
            }
            assert!(
                started.elapsed() < deadline,
                "{caller}: {what}: not within {deadline:?}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}
