//! A future that is polled again at once when it woke itself.
//!
//! The task in which hyper sends a stream wakes itself with every message: it
//! asks h2 for room for the next one, and is told at once that there is some.
//! The runtime takes that for work that another thread could do, and wakes one:
//! for nothing, and before the message is written. Owns no more than where a
//! wake-up goes; invariant: none is lost.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::{ArcWake, AtomicWaker, waker_ref};
use pin_project_lite::pin_project;

const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// What else wants to run waits no longer than this.
const POLLS_MAX: usize = 2;

pin_project! {
    /// Such a future.
    pub(super) struct Prompt<F> {
        #[pin]
        future: F,
        wakes: Arc<Wakes>,
    }
}

/// Between a future and its task.
#[derive(Default)]
struct Wakes {
    /// `POLLED`: it is being polled; `WOKEN`: it was woken, which counts if it
    /// was while it was polled, and else has woken the task.
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F> Prompt<F> {
    pub(super) fn new(future: F) -> Self {
        let wakes = Arc::default();
        Self { future, wakes }
    }
}

impl<F: Future> Future for Prompt<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let waker = waker_ref(this.wakes);
        this.wakes.task.register(cx.waker());
        for _ in 0..POLLS_MAX {
            this.wakes.state.swap(POLLED, Ordering::AcqRel);
            let polled = this.future.as_mut().poll(&mut Context::from_waker(&waker));
            let state = this.wakes.state.swap(0, Ordering::AcqRel);
            if polled.is_ready() || state & WOKEN == 0 {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        // Whoever polls sees it when that is over; else the task is to poll.
        if wakes.state.fetch_or(WOKEN, Ordering::AcqRel) & POLLED == 0 {
            wakes.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
        time::{Duration, Instant},
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How often it was polled, and its task woken, when it wakes itself so often.
    fn polled_and_woken(wakes_itself: usize) -> (usize, usize) {
        let mut polls = 0;
        let future = poll_fn(|cx| {
            polls += 1;
            if polls <= wakes_itself {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        let count = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&count));
        {
            let prompt = std::pin::pin!(Prompt::new(future));
            let polled = prompt.poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        (polls, count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn what_wakes_itself_is_polled_again_at_once_and_then_waits_its_turn() {
        assert_eq!(polled_and_woken(0), (1, 0));
        assert_eq!(polled_and_woken(1), (2, 0));
        assert_eq!(polled_and_woken(usize::MAX), (POLLS_MAX, 1));
    }

    #[test]
    fn what_is_woken_while_it_waits_wakes_its_task() {
        let woken_by = Arc::<AtomicWaker>::default();
        let waits = Arc::clone(&woken_by);
        let mut prompt = std::pin::pin!(Prompt::new(poll_fn(|cx| {
            waits.register(cx.waker());
            Poll::<()>::Pending
        })));
        for expected in 1..=3 {
            // As after a move to another task.
            let count = Arc::<Count>::default();
            let waker = Waker::from(Arc::clone(&count));
            let polled = prompt.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            assert_eq!(count.0.load(Ordering::SeqCst), 0);
            woken_by.wake();
            assert_eq!(count.0.load(Ordering::SeqCst), 1, "{expected}");
        }
    }

    /// Each number is said when the one before was seen: mostly while that poll
    /// still goes on. A lost wake-up leaves it unseen for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_from_another_thread_is_lost() {
        const NUMBERS: usize = 20_000;
        let said = Arc::<(AtomicUsize, AtomicWaker)>::default();
        let seen = Arc::<AtomicUsize>::default();
        let (says, sees) = (Arc::clone(&said), Arc::clone(&seen));
        let reader = tokio::spawn(Prompt::new(poll_fn(move |cx| {
            let (number, waker) = &*said;
            waker.register(cx.waker());
            let number = number.load(Ordering::SeqCst);
            sees.store(number, Ordering::SeqCst);
            std::thread::yield_now();
            if number == NUMBERS {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })));
        let writer = tokio::task::spawn_blocking(move || {
            for number in 1..=NUMBERS {
                let deadline = Instant::now() + Duration::from_secs(15);
                says.0.store(number, Ordering::SeqCst);
                says.1.wake();
                while seen.load(Ordering::SeqCst) != number {
                    assert!(Instant::now() < deadline, "{number} is not seen");
                    std::thread::yield_now();
                }
            }
        });
        writer.await.unwrap();
        reader.await.unwrap();
    }
}
