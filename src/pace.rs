//! Paces requests: evenly spaced, in the order of arrival, with a small burst.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

/// The longest distance between two requests, so that a rate next to zero cannot overflow a clock.
const MAX_INTERVAL: Duration = Duration::from_hours(24);

/// Lets at most so many requests a second pass. Clones share one budget.
#[derive(Clone, Debug, Default)]
pub struct Pacer(Option<Arc<Schedule>>);

#[derive(Debug)]
struct Schedule {
    interval: Duration,
    /// How far requests may run ahead of an even spacing after a pause: the burst less one.
    slack: Duration,
    /// When the next request is due at an even spacing. Tokio's mutex is fair, and a waiter that is
    /// cancelled leaves its queue without having used a turn.
    due: Mutex<Instant>,
}

impl Pacer {
    /// `qps` requests a second with a burst of a tenth of a second's worth, at least one; 0, negative
    /// and non-finite rates mean no limit.
    pub fn new(qps: f64) -> Self {
        if !qps.is_finite() || qps <= 0.0 {
            return Self::unbounded();
        }
        let interval = Duration::try_from_secs_f64(qps.recip()).map_or(MAX_INTERVAL, |i| i.min(MAX_INTERVAL));
        let ahead = ((qps / 10.0).floor() - 1.0).max(0.0);
        let slack = Duration::try_from_secs_f64(ahead / qps).unwrap_or_default();
        Self(Some(Arc::new(Schedule { interval, slack, due: Mutex::new(Instant::now()) })))
    }

    /// Never waits.
    pub const fn unbounded() -> Self {
        Self(None)
    }

    /// Waits for this request's turn. Safe to cancel.
    pub async fn acquire(&self) {
        let Some(schedule) = &self.0 else { return };
        // Held while it sleeps: this is what keeps the order.
        let mut due = schedule.due.lock().await;
        let early = due.saturating_duration_since(Instant::now());
        if let Some(wait) = early.checked_sub(schedule.slack).filter(|wait| !wait.is_zero()) {
            sleep(wait).await;
        }
        *due = (*due).max(Instant::now()) + schedule.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use rstest::rstest;

    use super::*;

    async fn time_of(pacer: &Pacer, requests: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..requests {
            pacer.acquire().await;
        }
        start.elapsed()
    }

    #[rstest]
    #[case::no_burst_at_a_low_rate(10.0, 5, 400)]
    #[case::less_than_one_a_second(0.5, 2, 2_000)]
    #[case::a_burst_of_a_tenth_of_a_second(100.0, 10, 0)]
    #[case::then_evenly_spaced(100.0, 30, 200)]
    #[case::the_rate_holds_in_the_long_run(2_000.0, 20_200, 10_000)]
    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced(#[case] qps: f64, #[case] requests: u32, #[case] millis: u128) {
        let took = time_of(&Pacer::new(qps), requests).await.as_millis();
        assert!(took.abs_diff(millis) <= 1, "{took} ms");
    }

    #[rstest]
    #[case(0.0)]
    #[case(-1.0)]
    #[case(f64::NAN)]
    #[case(f64::INFINITY)]
    #[tokio::test(start_paused = true)]
    async fn no_rate_means_no_limit(#[case] qps: f64) {
        assert_eq!(time_of(&Pacer::new(qps), 10_000).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_next_to_zero_does_not_overflow() {
        let pacer = Pacer::new(f64::MIN_POSITIVE);
        assert_eq!(time_of(&pacer, 2).await, MAX_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_one_burst_and_no_more() {
        let pacer = Pacer::new(100.0);
        pacer.acquire().await;
        sleep(Duration::from_hours(1)).await;
        assert_eq!(time_of(&pacer, 10).await, Duration::ZERO);
        assert_eq!(time_of(&pacer, 1).await.as_millis(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn clones_share_one_budget_and_the_first_to_come_goes_first() {
        let (pacer, order) = (Pacer::new(1.0), Arc::new(StdMutex::new(Vec::new())));
        let start = Instant::now();
        let tasks = (0..4).map(|n| {
            let (pacer, order) = (pacer.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                pacer.acquire().await;
                order.lock().unwrap().push(n);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_waiter_uses_no_turn() {
        let pacer = Pacer::new(1.0);
        pacer.acquire().await;
        for _ in 0..50 {
            assert!(tokio::time::timeout(Duration::from_millis(1), pacer.acquire()).await.is_err());
        }
        assert!(time_of(&pacer, 1).await < Duration::from_secs(1));
    }
}
