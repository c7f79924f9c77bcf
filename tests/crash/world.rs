//! What outlives a process: the API server, the provider, the time, and the tape on which every IO call is noted.
//!
//! Time stands still while anything is under way. The driver alone moves it (`process.rs`).

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::idp::Rotation;
use crate::state::State;
use crate::tape::{Broken, Moment, Point};

/// A change that the world makes once everything has settled, and for how long it goes on then at least.
#[derive(Clone, Copy)]
pub struct Step {
    pub change: fn(&mut State),
    pub lasts: Duration,
}

/// Something that happens to the world.
pub type Event = Box<dyn FnOnce(&World) + Send>;

pub struct World {
    state: Mutex<State>,
    stopped: watch::Sender<bool>,
    pub listener: TcpListener,
    /// By how many seconds the operator's clock is ahead of the true time.
    pub skew: AtomicI64,
    pub election: Option<Duration>,
    pub lagging: bool,
}

impl World {
    pub fn new(rotation: Rotation, election: Option<Duration>, lagging: bool) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let state = State::new(rotation, &format!("http://{address}"));
        let stopped = watch::Sender::new(false);
        let (state, skew) = (Mutex::new(state), AtomicI64::new(0));
        Arc::new(Self { state, stopped, listener, skew, election, lagging })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    // === Time ===

    pub fn now(&self) -> Timestamp {
        self.lock().now
    }

    /// The time as the operator's clock shows it.
    pub fn wall_clock(&self) -> Timestamp {
        self.now() + jiff::SignedDuration::from_secs(self.skew.load(Ordering::SeqCst))
    }

    pub fn set_skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::SeqCst);
    }

    /// Time goes on.
    pub fn pass(&self, time: Duration) {
        let mut state = self.lock();
        state.now += time;
    }

    /// Something that is to happen at a time.
    pub fn at(&self, from_now: Duration, event: impl FnOnce(&Self) + Send + 'static) {
        let mut state = self.lock();
        let at = state.now + from_now;
        let place = state.agenda.partition_point(|(other, _)| *other <= at);
        state.agenda.insert(place, (at, Box::new(event)));
    }

    /// The time of the next thing that the world itself does.
    pub fn next_event(&self) -> Option<Timestamp> {
        let state = self.lock();
        let step = Some(state.step_ends).filter(|at| *at > state.now);
        state.agenda.front().map(|(at, _)| *at).into_iter().chain(step).min()
    }

    /// Lets what is due happen.
    pub fn happen(&self) {
        loop {
            let mut state = self.lock();
            let now = state.now;
            match state.agenda.pop_front_if(|(at, _)| *at <= now) {
                Some((_, event)) => {
                    drop(state);
                    event(self);
                }
                None => return,
            }
        }
    }

    // === Steps ===

    /// What is to happen when all has settled; the tape runs from the first step on, or at once if there is none.
    pub fn then(&self, steps: &[Step]) {
        let mut state = self.lock();
        state.steps.extend(steps);
        if steps.is_empty() {
            state.tape.record();
        }
    }

    /// Makes the next change; `false`: there is none.
    pub fn next_step(&self) -> bool {
        let mut state = self.lock();
        let Some(step) = state.steps.pop_front() else { return false };
        state.tape.record();
        state.step_ends = state.now + step.lasts;
        (step.change)(&mut state);
        true
    }

    /// Whether the step has lasted as long as it should.
    pub fn step_is_over(&self) -> bool {
        let state = self.lock();
        state.step_ends <= state.now && state.agenda.is_empty()
    }

    // === Calls ===

    /// What is to happen on the tape.
    pub fn arm(&self, point: Point) {
        self.lock().tape.arm(point);
    }

    /// What is to happen to the next process, on a tape of its own.
    pub fn arm_again(&self, point: Point) {
        self.lock().tape.arm_again(point);
    }

    /// A new process may begin.
    pub fn revive(&self) {
        self.lock().tape.dying = false;
        self.stopped.send_replace(false);
    }

    /// Resolves when the process is to die.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Whether the process is to die before it does anything else.
    pub fn dying(&self) -> bool {
        self.lock().tape.dying
    }

    /// One IO call of the operator's.
    pub async fn call<T>(&self, what: String, act: impl FnOnce(&mut State) -> T) -> Result<T, Broken> {
        let moment = self.lock().tape.begin(what);
        match moment {
            Some(Moment::Before) => self.die().await,
            Some(Moment::Refused) => return Err(Broken::Refused),
            _ => {}
        }
        let done = act(&mut self.lock());
        match moment {
            Some(Moment::Done) => self.die().await,
            Some(Moment::After) => self.lock().tape.dying = true,
            Some(Moment::AnswerLost) => return Err(Broken::AnswerLost),
            _ => {}
        }
        Ok(done)
    }

    async fn die(&self) {
        self.stopped.send_replace(true);
        match std::future::pending::<Infallible>().await {}
    }

    /// A request that is never answered.
    pub async fn hold(&self) {
        self.lock().tape.held += 1;
        let _held = Held(self);
        match std::future::pending::<Infallible>().await {}
    }

    /// Changes whenever something moves.
    pub fn moves(&self) -> u64 {
        self.lock().tape.moves
    }

    /// Whether the process can but wait for a deadline.
    pub fn holds(&self) -> bool {
        self.lock().tape.held > 0
    }

    /// Reconciles are about to begin.
    pub fn reconciles(&self) {
        let mut state = self.lock();
        state.last_seen = state.objects.snapshot();
    }
}

/// Ends with the connection.
struct Held<'a>(&'a World);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.lock().tape.held -= 1;
    }
}
