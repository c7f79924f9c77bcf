//! The only place that reads the system's clock. Tests move time instead of sleeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that can be moved forward. Clones share their time.
#[derive(Clone, Debug)]
pub struct Clock {
    base: Base,
    /// Milliseconds by which [`Clock::advance`] has moved it.
    offset: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum Base {
    System,
    Fixed(u64),
}

impl Clock {
    /// The system's time, plus whatever it is advanced by.
    pub fn system() -> Self {
        Self { base: Base::System, offset: Arc::default() }
    }

    /// Stands still at `epoch_ms` until it is advanced.
    pub fn fixed(epoch_ms: u64) -> Self {
        Self { base: Base::Fixed(epoch_ms), offset: Arc::default() }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let base = match self.base {
            Base::System => system_ms(),
            Base::Fixed(epoch_ms) => epoch_ms,
        };
        base.saturating_add(self.offset.load(Ordering::SeqCst))
    }

    /// Moves this clock, and all its clones, forward.
    pub fn advance(&self, by: Duration) {
        self.offset.fetch_add(millis(by), Ordering::SeqCst);
    }
}

#[expect(clippy::disallowed_methods, reason = "the simulator is an edge: it plays a server with a clock")]
fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// Whole milliseconds, at most `u64::MAX`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
