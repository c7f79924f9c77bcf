//! The operator's binary while its API server, or etcd behind it, is away for a minute: `cargo test --test outage`. Each test
//! brings a control plane of its own up and down, so it disturbs nobody.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its harness too")]

#[path = "../cluster/chaos_ledger.rs"]
#[expect(dead_code, reason = "shared with the tests that need no control plane of their own")]
mod chaos_ledger;
#[path = "../cluster/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests that need no control plane of their own")]
mod harness;
mod plane;

use std::sync::Arc;
use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Outcome, Rotation, Simulator, digest};
use serde_json::{Value, json};
use tokio::sync::{Barrier, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::chaos_ledger::{Ledger, Pod};
use crate::harness::objects::credential;
use crate::harness::operator::Operator;
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::plane::{Blow, Plane};

/// Twice as long as the default Lease.
const OUTAGE: Duration = Duration::from_mins(1);
/// The provider answers when the control plane is away.
const IN_FLIGHT: Duration = Duration::from_secs(6);
/// Tokens outlive the outage.
const LIFETIME: Duration = Duration::from_mins(3);
/// All is well again so soon after the outage, on a busy machine too.
const HEALED: Duration = Duration::from_secs(45);
/// The operator sees again what users do so soon afterwards.
const SEEN: Duration = Duration::from_secs(30);
/// At most of one `GraphToken`'s operators, in an outage: a few a second, watches and Leases included.
const REQUESTS: u64 = 240;
const RECONCILES: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_gone_for_a_minute_costs_no_sign_in_and_no_second_without_a_token() {
    let topics = ["api-alone", "api-lease", "api-pair", "api-due", "api-short"];
    Box::pin(outage("kube-apiserver", Blow::Killed, topics)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_does_not_answer_for_a_minute_costs_no_sign_in_and_no_second_without_a_token() {
    let topics = ["etcd-alone", "etcd-lease", "etcd-pair", "etcd-due", "etcd-short"];
    Box::pin(outage("etcd", Blow::Paused, topics)).await;
}

/// Everything at once, in one outage.
async fn outage(component: &'static str, blow: Blow, topics: [&'static str; 5]) {
    let plane = Plane::up().await;
    let (told, now) = watch::channel(Moment::Before);
    let scene = Scene { ready: Arc::new(Barrier::new(topics.len() + 1)), now };
    let [alone, lease, pair, due, short] = topics;
    let cluster = || plane.cluster.clone();
    let director = async {
        // All are signed in; all exchanges are in flight.
        scene.ready.wait().await;
        scene.ready.wait().await;
        plane.strike(component, blow).await;
        told.send_replace(Moment::Begun);
        sleep(OUTAGE).await;
        told.send_replace(Moment::Ending);
        scene.ready.wait().await;
        plane.mend(component, blow).await;
        told.send_replace(Moment::Over(Instant::now()));
    };
    tokio::join!(
        director,
        World::run_on(cluster(), alone, async |world| {
            in_mid_exchange(world, &scene, &["--leader-election=false"], 1).await;
        }),
        World::run_on(cluster(), lease, async |world| in_mid_exchange(world, &scene, &[], 1).await),
        World::run_on(cluster(), pair, async |world| in_mid_exchange(world, &scene, &[], 2).await),
        World::run_on(cluster(), due, async |world| due_meanwhile(world, &scene).await),
        World::run_on(cluster(), short, async |world| run_out_meanwhile(world, &scene).await),
    );
}

/// What the worlds of one outage share.
struct Scene {
    ready: Arc<Barrier>,
    now: watch::Receiver<Moment>,
}

#[derive(Clone, Copy)]
enum Moment {
    Before,
    Begun,
    Ending,
    Over(Instant),
}

/// What the provider has seen when an outage begins, and when it ends.
#[derive(Clone, Copy)]
struct Sent {
    exchanges: usize,
    in_flight: bool,
}

impl Scene {
    /// Lets the outage begin when all are ready, looks at what it made of operators and provider just before its end, and
    /// waits for that. `sent` are the exchanges until then, the last of which may be in flight.
    async fn outage(&self, operators: &[Arc<Operator>], entra: &Simulator, sent: Option<Sent>) -> Instant {
        let before = load(operators).await;
        self.ready.wait().await;
        let mut now = self.now.clone();
        timeout(OUTAGE, now.wait_for(|now| matches!(now, Moment::Begun))).await.expect("it begins").unwrap();
        if let Some(Sent { exchanges, in_flight: true }) = sent {
            let outcome = entra.journal().token[exchanges - 1].outcome;
            assert_eq!(outcome, Outcome::Unanswered, "the machine is too slow for this test");
        }
        let ending = now.wait_for(|now| matches!(now, Moment::Ending));
        timeout(OUTAGE * 2, ending).await.expect("the outage ends").unwrap();
        let after = load(operators).await;
        let (requests, reconciles) = (after.0 - before.0, after.1 - before.1);
        assert!(requests <= REQUESTS, "{requests} requests in {OUTAGE:?}");
        assert!(reconciles <= RECONCILES, "{reconciles} reconciles in {OUTAGE:?}");
        if let Some(Sent { exchanges, .. }) = sent {
            assert_eq!(entra.journal().token.len(), exchanges, "nothing is sent that could not be stored");
        }
        for operator in operators {
            assert!(operator.lives().await && operator.ready().await, "no restart would help");
        }
        self.ready.wait().await;
        let over = timeout(OUTAGE * 2, now.wait_for(|now| matches!(now, Moment::Over(_)))).await;
        let Moment::Over(at) = *over.expect("it is over").unwrap() else { panic!("it is over") };
        at
    }
}

/// A provider that takes each refresh token once, and a `GraphToken` with a first token from it.
async fn signed_in(world: &World, lifetime: Duration, percentage: u8) -> Simulator {
    let config = Config { rotation: Rotation::Strict, token_lifetime: lifetime, ..Config::default() };
    let entra = world.entra(config).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut object = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
    object["spec"]["refresh"] = json!({"renewBeforePercentage": percentage});
    world.create(&object).await;
    world.until("mail", "ready", Gt::ready).await;
    entra
}

/// The answer arrives during the outage: it is kept in memory, and stored afterwards. That holds beyond the end of the Lease,
/// which was cut off for everybody alike, and with a standby that takes it over.
async fn in_mid_exchange(world: &World, scene: &Scene, flags: &[&str], operators: usize) {
    let mut running: Vec<Arc<Operator>> = Vec::new();
    for _ in 0..operators {
        let options = flags.iter().fold(Options::default(), |options, flag| options.flag(flag));
        running.push(world.operator(options).await);
    }
    let entra = signed_in(world, LIFETIME, 10).await;
    let ledger = Ledger::of(world, "mail", &entra);
    let pod = Pod::mount(world, "mail", &entra).await;
    scene.ready.wait().await;
    entra.queue_fault(Fault::token(Action::DelayMs(IN_FLIGHT.as_millis().try_into().unwrap())));
    world.request_refresh("mail", "now").await;
    entra.journal_until(|journal| journal.token.len() == 2).await;

    let over = scene.outage(&running, &entra, Some(Sent { exchanges: 2, in_flight: true })).await;
    heals(world, over, 2).await;
    // A new term does not know that the request was handled, for that could not be written: it handles it once more.
    let journal = entra.journal();
    assert!(journal.token.len() <= 3, "{:#?}", journal.token);
    let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
    assert_eq!(Some(digest(&kept["refresh_token"])), journal.token.last().unwrap().issued_sha256);
    goes_on(world, over).await;
    let journal = entra.journal();
    assert_eq!(journal.count(Outcome::Issued), journal.token.len(), "{:#?}", journal.token);
    assert!(ledger.replays(0).is_empty(), "{:#?}", journal.token);
    assert_eq!(ledger.lost().len(), 0, "{:#?}", ledger.lost());
    assert_eq!(pod.refused(), [0; 0], "pods had a valid token all the time");
}

/// A refresh that falls due during the outage is made afterwards, and nothing is sent before.
async fn due_meanwhile(world: &World, scene: &Scene) {
    let operator = world.operator(Options::default().flag("--leader-election=false")).await;
    let entra = signed_in(world, LIFETIME, 85).await;
    let pod = Pod::mount(world, "mail", &entra).await;
    scene.ready.wait().await;
    let over = scene.outage(&[operator], &entra, Some(Sent { exchanges: 1, in_flight: false })).await;
    heals(world, over, 2).await;
    assert_eq!(entra.journal().count(Outcome::Refused), 0, "{:#?}", entra.journal().token);
    assert_eq!(pod.refused(), [0; 0], "pods had a valid token all the time");
}

/// A token that runs out during the outage is replaced soon afterwards.
async fn run_out_meanwhile(world: &World, scene: &Scene) {
    let operator = world.operator(Options::default()).await;
    let entra = signed_in(world, OUTAGE / 4, 50).await;
    let ledger = Ledger::of(world, "mail", &entra);
    scene.ready.wait().await;
    let over = scene.outage(&[operator], &entra, None).await;
    let count = entra.journal().count(Outcome::Issued) as u64;
    heals(world, over, count + 1).await;
    assert!(entra.is_active(&world.data("mail").await["token"]));
    assert_eq!(entra.journal().count(Outcome::Refused), 0, "{:#?}", entra.journal().token);
    assert_eq!(ledger.lost().len(), 0, "{:#?}", ledger.lost());
}

async fn heals(world: &World, over: Instant, refreshes: u64) {
    let healed = |gt: &Gt| {
        gt.ready()
            && gt.refresh_count() >= refreshes
            && gt.condition("Refreshed") == Some(("True", "Succeeded"))
    };
    let gt = world.until("mail", "healed", healed).await;
    assert!(over.elapsed() <= HEALED, "healed after {:?}", over.elapsed());
    assert_eq!(*gt.status("/lastFailure"), Value::Null);
    assert_eq!(gt.condition("Stalled"), None);
}

async fn goes_on(world: &World, over: Instant) {
    world.request_refresh("mail", "after the outage").await;
    let handled = |gt: &Gt| *gt.status("/lastHandledRequest") == "after the outage" && gt.ready();
    world.until("mail", "refreshed after the outage", handled).await;
    assert!(over.elapsed() <= SEEN, "it saw a change after {:?}", over.elapsed());
}

/// Requests to the API server, and reconciles, so far.
async fn load(operators: &[Arc<Operator>]) -> (u64, u64) {
    let (mut requests, mut reconciles) = (0, 0);
    for operator in operators {
        let metrics = operator.metrics().await.unwrap();
        requests += metrics.sum("graphtoken_kube_requests_total", &[]);
        reconciles += metrics.sum("graphtoken_reconcile_duration_seconds_count", &[]);
    }
    (requests, reconciles)
}
