//! The time of the day: Tokio's paused clock, which by itself moves on to the next timer as soon as the runtime has nothing to
//! do. That must not be while a token request is under way, whose answer comes from a socket: then it is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use graphtoken::clock::Clock;
use graphtoken::rotation::Acquisitions;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use crate::report::now;
use crate::{Failed, wall_clock};

/// So often everybody else has had a turn, and nothing has moved: nothing will before the next timer.
const STILL: u32 = 40;
/// A running acquisition that has moved nothing for so long, in real time, waits for a timer and not for a socket.
const ANSWERED: Duration = Duration::from_millis(20);

/// Clones tell the same time.
#[derive(Clone)]
pub struct Time {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: Timestamp,
    began: Instant,
    moves: AtomicU64,
    moved: Notify,
    /// Exchanges under way.
    exchanges: Acquisitions,
}

/// While it is there, time stands still: Tokio's paused clock waits for blocking acquisitions.
struct Held {
    release: Sender<()>,
    task: JoinHandle<()>,
}

impl Held {
    fn new() -> Self {
        let (release, released) = channel::<()>();
        let task = tokio::task::spawn_blocking(move || {
            // Ends with its sender.
            let _ = released.recv();
        });
        Self { release, task }
    }

    async fn release(self) {
        drop(self.release);
        let _ = self.task.await;
    }
}

impl Time {
    /// Begins now, on a paused runtime.
    pub fn new(exchanges: Acquisitions) -> Self {
        let shared = Shared {
            epoch: wall_clock(),
            began: Instant::now(),
            moves: AtomicU64::new(0),
            moved: Notify::new(),
            exchanges,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The time that the operator is shown. Whoever asks is at work.
    pub fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::of(move || {
            time.moves();
            time.now()
        })
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since_began()).unwrap_or(SignedDuration::MAX);
        self.shared.epoch + passed
    }

    /// How long it has lasted.
    pub fn since_began(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Something is under way.
    pub fn moves(&self) {
        self.shared.moves.fetch_add(1, Ordering::Relaxed);
        self.shared.moved.notify_one();
    }

    /// Lets so much time pass.
    pub async fn pass(&self, time: Duration) -> Result<(), Failed> {
        let end = Instant::now() + time;
        let mut told = 0;
        loop {
            let held = Held::new();
            self.rest().await;
            let now = Instant::now();
            if now >= end {
                held.release().await;
                return Ok(());
            }
            let hour = self.since_began().as_secs() / 3600;
            if hour > told {
                told = hour;
                crate::report::say(&format!("hour {hour}"));
            }
            held.release().await;
            // The runtime has nothing to do now, so its clock moves on to the next timer, be it this one.
            let _ = tokio::time::timeout_at(end, self.shared.moved.notified()).await;
        }
    }

    /// Until nothing moves.
    async fn rest(&self) {
        let mut still = 0;
        // The real clock: Tokio's stands still.
        let mut moved = now();
        while still < STILL || !self.shared.exchanges.is_empty() && now() - moved < ANSWERED {
            let before = self.shared.moves.load(Ordering::Relaxed);
            yield_now().await;
            if self.shared.moves.load(Ordering::Relaxed) == before {
                still += 1;
            } else {
                still = 0;
                moved = now();
            }
        }
    }
}
