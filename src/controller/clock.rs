//! Whether wall-clock time has passed that the timers did not see: a suspended machine, a paused VM. Pure.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Clocks drift, and a busy machine reads one later than the other.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// The two clocks as they were read last.
pub(super) struct ClockWatch {
    wall: Timestamp,
    monotonic: Instant,
}

impl ClockWatch {
    /// They are in step now.
    pub(super) const fn new(wall: Timestamp, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// Whether they have got out of step since this was asked last. Timers count on the monotonic clock, which stands still
    /// while a machine is suspended, so after that they are late.
    pub(super) fn jumped(&mut self, wall: Timestamp, monotonic: Instant) -> bool {
        let passed = SignedDuration::try_from(monotonic.saturating_duration_since(self.monotonic));
        let apart = wall.duration_since(self.wall) - passed.unwrap_or(SignedDuration::MAX);
        *self = Self { wall, monotonic };
        apart.abs() > TOLERANCE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_that_only_the_wall_clock_saw_is_noticed_once() {
        let (wall, monotonic) = ("2026-11-23T10:00:00Z".parse::<Timestamp>().unwrap(), Instant::now());
        let mut watch = ClockWatch::new(wall, monotonic);
        let second = Duration::from_secs(1);
        assert!(!watch.jumped(wall + second, monotonic + second));
        assert!(watch.jumped(wall + 7_200 * second, monotonic + 2 * second));
        assert!(!watch.jumped(wall + 7_201 * second, monotonic + 3 * second));
        assert!(watch.jumped(wall, monotonic + 4 * second), "it was set back");
    }
}
