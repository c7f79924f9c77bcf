//! One life of the operator: a runtime of its own, a new holder, empty memory. It reconciles as kube's Controller would have
//! it: when something changed, and when the requeue is due. Killed, the runtime is dropped with every task on it.
//!
//! Tokio's clock is paused and never moves by itself: a request to the provider is real IO, which a timer must not overtake.
//! Where nothing has moved for some beats of a real clock, the process sleeps, and time goes on by a nap.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use graphtoken::api::duration;
use graphtoken::clients::ClientCache;
use graphtoken::clock::Clock;
use graphtoken::context::Context;
use graphtoken::desired::Guards;
use graphtoken::events::Events;
use graphtoken::exchange::Provider;
use graphtoken::leader::Lease;
use graphtoken::metrics::Metrics;
use graphtoken::reconcile::reconcile;
use graphtoken::retention::retain;
use graphtoken::rotation::{Exchanger, InUse};
use graphtoken::state::{Key, State};
use graphtoken::store::StoreError;
use graphtoken::throttle::Throttle;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::caches::{Caches, Woken};
use crate::http::{client, serve_provider};
use crate::scenario::CREDENTIAL;
use crate::world::World;

/// How kube's Controller is told to go on after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(2);
/// How time goes on while the process sleeps in the midst of something.
const NAP: Duration = Duration::from_secs(1);
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
    ctx: Context,
    caches: Caches,
    look_at: Option<Timestamp>,
    retain_at: Option<Timestamp>,
    looks: usize,
}

impl Process {
    fn start(world: &Arc<World>, holder: &str) -> Self {
        let (caches, secrets) = Caches::new(world);
        let client = client(world);
        let clock = Arc::clone(world);
        let exchanger = Exchanger {
            provider: Arc::clone(&PROVIDER),
            client: client.clone(),
            clock: Clock::of(move || clock.wall_clock()),
            lease: Lease::always(),
            lease_duration: world.election,
            metrics: Metrics::default(),
            holder: holder.to_owned(),
            tasks: TaskTracker::new(),
            in_use: InUse::default(),
            throttle: Throttle::default(),
        };
        let ctx = Context {
            exchanger,
            secrets,
            clients: Arc::new(ClientCache::new(false)),
            state: State::default(),
            guards: Guards {
                allowed_endpoint_hosts: vec!["127.0.0.1".to_owned()],
                allow_http_endpoints: true,
                ..Guards::default()
            },
            secret_labels: std::collections::BTreeMap::new(),
            events: Events::new(client, holder.to_owned()),
        };
        let now = Some(world.now());
        Self { world: Arc::clone(world), ctx, caches, look_at: now, retain_at: now, looks: 0 }
    }

    async fn live(&mut self) -> Result<(), Killed> {
        loop {
            self.wake();
            let now = self.world.now();
            if self.retain_at.is_some_and(|at| at <= now) {
                self.retain().await?;
            } else if self.look_at.is_some_and(|at| at <= now) {
                self.look().await?;
            } else if self.world.dying() {
                return Err(Killed);
            } else if self.is_settled() {
                if !self.world.next_step() {
                    return Ok(());
                }
            } else {
                let next =
                    [self.look_at, self.retain_at, self.world.next_event(), self.caches.behind_until()];
                let next = next.into_iter().flatten().min();
                let next = next.unwrap_or_else(|| {
                    panic!("nothing will ever happen again: {}", self.world.lock().describe())
                });
                self.rest(next).await?;
            }
        }
    }

    fn is_settled(&self) -> bool {
        let quiet = self.ctx.exchanger.tasks.is_empty() && self.caches.behind_until().is_none();
        quiet && self.world.step_is_over() && self.world.lock().settled()
    }

    /// What the watches bring.
    fn wake(&mut self) {
        for woken in self.caches.catch_up(&self.world, &self.ctx.state) {
            let now = Some(self.world.now());
            match woken {
                Woken::GraphToken => self.look_at = now,
                Woken::Credential => self.retain_at = now,
            }
        }
    }

    async fn look(&mut self) -> Result<(), Killed> {
        self.looks += 1;
        let patience = self.world.lock().patience;
        assert!(self.looks < patience, "a hot loop: {}", self.world.lock().describe());
        self.look_at = None;
        let Some(object) = self.caches.graphtoken() else { return Ok(()) };
        self.world.looks();
        let mail = Key::new("ns", "mail");
        let look = Box::pin(reconcile(&mail, || Some(Ok(object)), &self.ctx));
        let done = run(&self.world, look).await?;
        self.look_at = self.next(done);
        Ok(())
    }

    async fn retain(&mut self) -> Result<(), Killed> {
        self.retain_at = None;
        let Some(meta) = self.caches.orphaned_credential() else { return Ok(()) };
        let credential = Key::new("ns", CREDENTIAL);
        let now = self.ctx.exchanger.clock.now();
        let done = run(&self.world, retain(&self.ctx.exchanger.client, &credential, meta, now)).await?;
        self.retain_at = self.next(done.map(|action| requeue_after(&action)));
        Ok(())
    }

    fn next(&self, done: Result<Option<Duration>, StoreError>) -> Option<Timestamp> {
        let after = done.unwrap_or(Some(ERROR_PAUSE))?;
        Some(self.world.now() + SignedDuration::try_from(after).expect("a requeue is near"))
    }

    /// Lets time pass. With nothing under way all at once, else nap by nap.
    async fn rest(&self, until: Timestamp) -> Result<(), Killed> {
        while let Ok(left) = Duration::try_from(until.duration_since(self.world.now()))
            && !left.is_zero()
        {
            let busy = !self.ctx.exchanger.tasks.is_empty();
            if busy {
                run(&self.world, asleep(&self.world)).await?;
            }
            pass(&self.world, if busy { left.min(NAP) } else { left }).await;
        }
        Ok(())
    }
}

/// Runs until it is done or the process is killed.
async fn run<T>(world: &World, work: impl Future<Output = T>) -> Result<T, Killed> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            () = world.stopped() => return Err(Killed),
            done = &mut work => return Ok(done),
            () = asleep(world) => {
                if world.dying() {
                    return Err(Killed);
                }
                pass(world, NAP).await;
            }
        }
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

/// `Action` does not give it away but by `Debug`.
fn requeue_after(action: &Action) -> Option<Duration> {
    let text = format!("{action:?}");
    let (_, after) = text.split_once("Some(")?;
    let (after, _) = after.split_once(')')?;
    Some(duration::parse(after).expect("Duration's Debug is a Go duration"))
}
