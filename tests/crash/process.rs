//! One life of the operator: a runtime of its own, a new holder, empty memory, and the product's own queue, worker loop and
//! event handlers. Killed, the runtime is dropped with every task on it.
//!
//! Tokio's clock is paused and never moves by itself: a request to the provider is real IO, which a timer must not overtake.
//! Where nothing has moved for some beats of a real clock, the process sleeps, and time goes on by a nap.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use graphtoken::clients::ClientCache;
use graphtoken::clock::Clock;
use graphtoken::context::Context;
use graphtoken::controller::{self, Controller, Mirrors, Term, Work};
use graphtoken::desired::Guards;
use graphtoken::events::Events;
use graphtoken::exchange::Provider;
use graphtoken::kubeclient::Clients;
use graphtoken::leader::Lease;
use graphtoken::metrics::Metrics;
use graphtoken::permits::Permits;
use graphtoken::rotation::{Acquisitions, Exchanger};
use graphtoken::state::State;
use graphtoken::supervise::Heartbeats;
use graphtoken::throttle::Throttle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::http::{client, serve_provider};
use crate::world::World;

/// How time goes on while the process sleeps in the midst of something.
const NAP: Duration = Duration::from_secs(1);
/// A timer may fire late by its granularity.
const TIMER: Duration = Duration::from_millis(1);
/// The worker loop has been polled after this many yields.
const YIELDS: usize = 8;
/// Beats of the real clock without a move after which the process is asleep.
const QUIET_BEATS: usize = 5;

static METRONOME: LazyLock<watch::Receiver<()>> = LazyLock::new(|| {
    let (beat, beats) = watch::channel(());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(3));
            beat.send_replace(());
        }
    });
    beats
});

/// Loading the CA certificates takes longer than all the rest of a life, so that the HTTP client is shared. Nothing of one
/// life is left in it: the provider closes each connection.
static PROVIDER: LazyLock<Arc<Provider>> =
    LazyLock::new(|| Arc::new(Provider::new(0.0, Vec::new()).expect("an HTTP client can be made")));

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was killed.
    Killed,
    /// There is nothing left to do but to wait.
    Settled,
}

/// The process was killed.
struct Killed;

/// Lives until all has settled or a point on the tape is reached.
pub fn live(world: &Arc<World>, holder: &str) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be made");
    let (release, released) = std::sync::mpsc::channel::<()>();
    // While a blocking task runs, a paused clock stands still.
    runtime.spawn_blocking(move || released.recv());
    let end = runtime.block_on(async {
        tokio::spawn(serve_provider(Arc::clone(world)));
        let mut process = Process::start(world, holder);
        match process.live().await {
            Ok(()) => End::Settled,
            Err(Killed) => End::Killed,
        }
    });
    drop(release);
    drop(runtime);
    world.revive();
    end
}

struct Process {
    world: Arc<World>,
    work: Work,
    acquisitions: Acquisitions,
    events: Events,
    caches: Caches,
    reconciles: u64,
    results: u64,
}

impl Process {
    fn start(world: &Arc<World>, holder: &str) -> Self {
        let client = client(world);
        let clock = Arc::clone(world);
        let acquisitions = Acquisitions::default();
        let exchanger = Exchanger {
            provider: Arc::clone(&PROVIDER),
            client: client.clone(),
            clock: Clock::of(move || clock.wall_clock()),
            lease: Lease::always(),
            lease_duration: world.election,
            metrics: Metrics::default(),
            holder: holder.to_owned(),
            acquisitions: acquisitions.clone(),
            permits: Permits::default(),
            throttle: Throttle::default(),
        };
        let term = Term {
            clients: Clients { watches: client.clone(), requests: client.clone() },
            namespaces: vec!["ns".to_owned()],
            concurrency: 16,
            client_namespace: None,
            metrics: Metrics::default(),
            caches: controller::Caches::default(),
            heartbeats: Heartbeats::default(),
            stop: CancellationToken::new(),
        };
        let guards = Guards {
            allowed_endpoint_hosts: vec!["127.0.0.1".to_owned()],
            allow_http_endpoints: true,
            ..Guards::default()
        };
        let events = Events::new(client, holder.to_owned());
        let written = events.clone();
        let controller = Controller::new(term, |Mirrors { graphtokens, secrets }| Context {
            exchanger,
            graphtokens,
            secrets,
            clients: Arc::new(ClientCache::new(false)),
            state: State::default(),
            guards,
            secret_labels: BTreeMap::new(),
            events,
        });
        tokio::spawn(controller.worker());
        let caches = Caches::new(world, controller.scopes()[0].clone());
        Self {
            world: Arc::clone(world),
            work: controller.work(),
            acquisitions,
            events: written,
            caches,
            reconciles: 0,
            results: 0,
        }
    }

    async fn live(&mut self) -> Result<(), Killed> {
        loop {
            self.caches.catch_up(&self.world);
            if self.work.is_due() {
                self.world.reconciles();
            }
            self.run().await?;
            self.events.flush().await;
            if self.world.dying() {
                return Err(Killed);
            }
            // What was written meanwhile is shown before anything else.
            self.caches.catch_up(&self.world);
            if !self.is_quiet() {
                continue;
            }
            if self.is_settled() {
                if !self.world.next_step() {
                    return Ok(());
                }
            } else {
                let left = self.until_next();
                let left = left.unwrap_or_else(|| {
                    panic!("nothing will ever happen again: {}", self.world.lock().describe())
                });
                pass(&self.world, left).await;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.work.is_idle() && self.acquisitions.is_empty()
    }

    fn is_settled(&self) -> bool {
        self.is_quiet()
            && self.caches.behind_until().is_none()
            && self.world.step_is_over()
            && self.world.lock().settled()
    }

    /// How long nothing happens by itself.
    fn until_next(&self) -> Option<Duration> {
        let now = self.world.now();
        let world = [self.world.next_event(), self.caches.behind_until()].into_iter().flatten();
        let world = world.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        let due = self.work.due().map(|due| due.saturating_duration_since(Instant::now()) + TIMER);
        world.chain(due).min()
    }

    /// Lets the process run until nothing is running and nothing is due, or it is killed.
    async fn run(&mut self) -> Result<(), Killed> {
        let world = Arc::clone(&self.world);
        let mut rounds = self.work.rounds();
        // A timer of its own may have fired that makes something due.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        loop {
            rounds.borrow_and_update();
            self.count();
            if self.is_quiet() {
                return Ok(());
            }
            let round = pin!(rounds.changed());
            tokio::select! {
                biased;
                () = world.stopped() => return Err(Killed),
                _ = round => {}
                () = asleep(&world) => {
                    if world.dying() {
                        return Err(Killed);
                    }
                    if !self.caches.catch_up(&world) {
                        let nap = self.until_next().map_or(NAP, |left| left.min(NAP));
                        pass(&world, nap.max(TIMER)).await;
                    }
                }
            }
        }
    }

    /// Notes the reconciles and the results of acquisitions since this was called last.
    fn count(&mut self) {
        let (begun, results) = (self.work.begun(), self.acquisitions.ended());
        let mut state = self.world.lock();
        let now = state.now;
        state.looks.extend((self.reconciles..begun).map(|_| now));
        state.results.extend((self.results..results).map(|_| now));
        (self.reconciles, self.results) = (begun, results);
        let patience = state.patience as u64;
        assert!(begun < patience, "a hot loop: {}", state.describe());
    }
}

/// Resolves when nothing has moved for a while.
async fn asleep(world: &World) {
    let mut beats = METRONOME.clone();
    if world.holds() {
        return tokio::task::yield_now().await;
    }
    loop {
        let before = world.moves();
        for _ in 0..QUIET_BEATS {
            beats.changed().await.expect("the metronome never stops");
        }
        if world.moves() == before {
            return;
        }
    }
}

async fn pass(world: &World, time: Duration) {
    world.pass(time);
    tokio::time::advance(time).await;
    world.happen();
}
