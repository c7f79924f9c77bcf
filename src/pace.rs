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
    /// At most `qps` requests in any second: after a pause a burst of a tenth of that, and the rest of them evenly spaced. A rate
    /// of less than twenty has no bursts. 0, negative and non-finite rates mean no limit.
    pub fn new(qps: f64) -> Self {
        if !qps.is_finite() || qps <= 0.0 {
            return Self::unbounded();
        }
        let burst = (qps / 10.0).floor();
        let (burst, spaced) = if burst > 1.0 { (burst, qps - burst) } else { (1.0, qps) };
        let interval =
            Duration::try_from_secs_f64(spaced.recip()).map_or(MAX_INTERVAL, |i| i.min(MAX_INTERVAL));
        let slack = Duration::try_from_secs_f64((burst - 1.0) / spaced).unwrap_or_default();
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
    #[case::then_evenly_spaced(100.0, 28, 200)]
    #[case::with_bursts_a_tenth_less_in_the_long_run(2_000.0, 18_200, 10_000)]
    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced(#[case] qps: f64, #[case] requests: u32, #[case] millis: u128) {
        let took = time_of(&Pacer::new(qps), requests).await.as_millis();
        assert!(took.abs_diff(millis) <= 1, "{took} ms");
    }

    #[rstest]
    #[case(5.0)]
    #[case(20.0)]
    #[case(200.0)]
    #[case(1_999.0)]
    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_rate(#[case] qps: f64) {
        let (pacer, mut sent) = (Pacer::new(qps), Vec::new());
        // As many as can be, and once again after a pause.
        for _ in 0..2 {
            let end = Instant::now() + Duration::from_secs(3);
            while Instant::now() < end {
                pacer.acquire().await;
                sent.push(Instant::now());
            }
            sleep(Duration::from_mins(1)).await;
        }
        let within = |first: &Instant| {
            sent.iter().filter(|at| **at >= *first && **at < *first + Duration::from_secs(1)).count()
        };
        let most = sent.iter().map(within).max().unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number")]
        let qps = qps as usize;
        assert!(most <= qps, "{most}");
        assert!(most * 10 >= qps * 9, "{most}");
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
        assert!((11..=12).contains(&time_of(&pacer, 1).await.as_millis()));
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
