//! Campaigns on an API server in memory, on paused time.

use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::{advance, sleep, timeout};
use tower::{BoxError, service_fn};

use super::keeper::{MAX_RETRY, record, successor};
use super::*;

mod process;

const LEASE: Duration = Duration::from_secs(30);

/// What happens to the requests of one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Network {
    Works,
    Refuses,
    Hangs,
    /// Requests arrive, answers do not.
    LosesAnswers,
    /// Three seconds each way.
    Slow,
}

/// One Lease with compare-and-swap, and what was asked of it.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    requests: Vec<Method>,
    no_namespace: bool,
}

impl Server {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    fn spec(&self, field: &str) -> Value {
        self.store().lease.as_ref().expect("there is a Lease")["spec"][field].clone()
    }

    fn count(&self, method: &Method) -> usize {
        self.store().requests.iter().filter(|m| *m == method).count()
    }

    fn candidate(&self, identity: &str, network: &Arc<Mutex<Network>>) -> Candidate {
        let (server, network) = (self.clone(), Arc::clone(network));
        let service = service_fn(move |request| {
            let network = *network.lock().unwrap();
            serve(server.clone(), network, request)
        });
        Candidate {
            client: Client::new(service, "default"),
            namespace: "default".into(),
            identity: identity.into(),
            duration: LEASE,
            clock: Clock::of(|| Timestamp::UNIX_EPOCH),
        }
    }

    fn campaign(&self, identity: &str) -> (Lease, Campaign) {
        stand(self.candidate(identity, &Arc::new(Mutex::new(Network::Works))))
    }
}

/// Stands for election in a process that serves a term whenever it can.
fn stand(candidate: Candidate) -> (Lease, Campaign) {
    campaign(candidate, watch::channel(true).1, || {})
}

async fn serve(server: Server, network: Network, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    match network {
        Network::Refuses => return Err("refused".into()),
        Network::Hangs => std::future::pending::<()>().await,
        Network::Slow => seconds(3.0).await,
        Network::Works | Network::LosesAnswers => {}
    }
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await?;
    let (status, answer) = server.store().answer(&parts.method, serde_json::from_slice(&body).ok());
    match network {
        Network::LosesAnswers => std::future::pending::<()>().await,
        Network::Slow => seconds(3.0).await,
        _ => {}
    }
    Ok(Response::builder().status(status).body(Body::from(serde_json::to_vec(&answer)?))?)
}

impl Store {
    fn answer(&mut self, method: &Method, body: Option<Value>) -> (StatusCode, Value) {
        self.requests.push(method.clone());
        let reason = match (method, &self.lease, body) {
            (&Method::GET, Some(lease), _) => return (StatusCode::OK, lease.clone()),
            (&Method::POST, None, Some(new)) if !self.no_namespace => {
                return (StatusCode::CREATED, self.put(new));
            }
            (&Method::PUT, Some(old), Some(new)) => {
                if old["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"] {
                    return (StatusCode::OK, self.put(new));
                }
                "Conflict"
            }
            (_, None, _) => "NotFound",
            _ => "AlreadyExists",
        };
        let status = if reason == "NotFound" { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
        (status, json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status.as_u16()}))
    }

    fn put(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(lease.clone());
        lease
    }
}

async fn seconds(n: f64) {
    sleep(Duration::from_secs_f64(n)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_and_keeps_the_lease() {
    let server = Server::default();
    let (mut lease, campaign) = server.campaign("a");
    assert!(!lease.leading() && !lease.is_known());
    lease.changed().await;
    assert!(lease.leading() && lease.is_known());
    assert_eq!(server.spec("holderIdentity"), "a");
    assert_eq!(server.spec("leaseDurationSeconds"), 30);
    assert_eq!(server.spec("leaseTransitions"), 0);
    let (acquired, renewed) = (server.spec("acquireTime"), server.spec("renewTime"));
    assert!(acquired == renewed && acquired.as_str().unwrap().ends_with('Z'));
    for _ in 0..59 {
        seconds(1.0).await;
        assert!(lease.leading());
    }
    assert_eq!(server.count(&Method::PUT), 5, "every ten seconds");
    assert_eq!(server.count(&Method::GET), 1, "a leader need not read");
    assert_eq!((server.spec("acquireTime"), server.spec("leaseTransitions")), (acquired, 0.into()));
    drop(campaign);
}

#[tokio::test(start_paused = true)]
async fn the_lease_outlives_what_remains_of_it() {
    let server = Server::default();
    let network = Arc::new(Mutex::new(Network::Works));
    let (mut lease, _campaign) = stand(server.candidate("a", &network));
    assert!(!lease.outlives(Duration::ZERO));
    lease.changed().await;
    *network.lock().unwrap() = Network::Refuses;
    assert!(lease.outlives(Duration::from_secs(29)) && !lease.outlives(LEASE));
    seconds(20.0).await;
    assert!(lease.outlives(Duration::from_secs(9)) && !lease.outlives(Duration::from_secs(10)));
    assert!(Lease::always().outlives(Duration::MAX) && Lease::always().leading());
}

#[rstest]
#[case(Network::Refuses)]
#[case(Network::Hangs)]
#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stands_by_in_time_and_the_rival_follows(#[case] broken: Network) {
    let server = Server::default();
    let network = Arc::new(Mutex::new(Network::Works));
    let (mut a, _first) = stand(server.candidate("a", &network));
    a.changed().await;
    let (mut b, _second) = server.campaign("b");
    *network.lock().unwrap() = broken;
    let start = Instant::now();
    seconds(1.0).await;
    assert!(b.is_known() && !b.leading());
    a.changed().await;
    assert_eq!(start.elapsed().as_secs(), 30, "not a moment later, though a request may hang");
    assert!(!a.leading());
    b.changed().await;
    assert!((30..=33).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(b.leading());
    assert_eq!((server.spec("holderIdentity"), server.spec("leaseTransitions")), ("b".into(), 1.into()));
    *network.lock().unwrap() = Network::Works;
    seconds(60.0).await;
    assert!(b.leading() && !a.leading(), "who comes back finds a rival");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_lease_changes_nothing() {
    let server = Server::default();
    let network = Arc::new(Mutex::new(Network::Works));
    let (mut a, _campaign) = stand(server.candidate("a", &network));
    a.changed().await;
    for broken in [Network::Refuses, Network::Hangs, Network::LosesAnswers] {
        *network.lock().unwrap() = broken;
        seconds(11.0).await;
        *network.lock().unwrap() = Network::Works;
        seconds(25.0).await;
        assert!(a.leading() && a.outlives(Duration::from_secs(15)), "{broken:?}");
    }
    assert_eq!(server.spec("leaseTransitions"), 0);
    assert!(timeout(Duration::from_secs(1), a.changed()).await.is_err(), "nobody was woken");
}

#[tokio::test(start_paused = true)]
async fn a_label_put_on_the_lease_does_not_depose_the_leader() {
    let server = Server::default();
    let (mut a, _campaign) = server.campaign("a");
    a.changed().await;
    let mut labelled = server.store().lease.clone().unwrap();
    labelled["metadata"]["labels"] = json!({"team": "x"});
    server.store().put(labelled);
    assert!(timeout(Duration::from_mins(2), a.changed()).await.is_err());
    assert!(a.leading());
    assert_eq!(server.store().lease.as_ref().unwrap()["metadata"]["labels"]["team"], "x");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again() {
    let server = Server::default();
    let (mut a, _campaign) = server.campaign("a");
    a.changed().await;
    server.store().lease = None;
    seconds(15.0).await;
    assert!(a.leading());
    assert_eq!(server.spec("holderIdentity"), "a");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_does_not_exist_is_no_lost_race() {
    let server = Server::default();
    server.store().no_namespace = true;
    let works = Arc::new(Mutex::new(Network::Works));
    let mut keeper = Keeper::new(server.candidate("a", &works));
    let Err(error) = keeper.attempt().await else { panic!("there is no Lease") };
    assert!(!error.lost_race());
    let says = error.to_string();
    assert!(
        says.contains("namespace default does not exist") && says.contains("--lease-namespace"),
        "{says}"
    );
    server.store().no_namespace = false;
    assert!(matches!(keeper.attempt().await, Ok(Standing::Held { .. })), "it was created");
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let server = Server::default();
    let (mut a, first) = server.campaign("a");
    a.changed().await;
    let (mut b, _second) = server.campaign("b");
    seconds(5.0).await;
    first.release().await;
    assert!(!a.leading());
    assert_eq!(server.spec("holderIdentity"), "");
    assert_eq!(server.spec("leaseDurationSeconds"), 1);
    let start = Instant::now();
    b.changed().await;
    assert!(b.leading() && start.elapsed() <= MAX_RETRY);
    assert_eq!(server.spec("leaseTransitions"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_finds_the_version_that_is_current() {
    let server = Server::default();
    let (mut a, campaign) = server.campaign("a");
    a.changed().await;
    let touched = server.store().lease.clone().unwrap();
    server.store().put(touched);
    campaign.release().await;
    assert_eq!(server.spec("holderIdentity"), "");
}

#[tokio::test(start_paused = true)]
async fn a_standby_releases_nothing() {
    let server = Server::default();
    let (mut a, _first) = server.campaign("a");
    a.changed().await;
    let (_b, second) = server.campaign("b");
    seconds(1.0).await;
    let asked = server.store().requests.len();
    second.release().await;
    assert_eq!(server.store().requests.len(), asked);
    assert_eq!(server.spec("holderIdentity"), "a");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_campaign_stands_by_and_lets_the_lease_run_out() {
    let server = Server::default();
    let (mut a, campaign) = server.campaign("a");
    a.changed().await;
    drop(campaign);
    a.changed().await;
    assert!(!a.leading());
    assert_eq!(server.spec("holderIdentity"), "a");
}

/// Three candidates, each on a network that breaks and heals at random.
#[rstest]
#[tokio::test(start_paused = true)]
async fn there_are_never_two_leaders(#[values(1, 2, 3, 4, 5, 6)] seed: u64) {
    let server = Server::default();
    let networks = [0; 3].map(|_| Arc::new(Mutex::new(Network::Works)));
    let names = ["a", "b", "c"];
    let standing: Vec<_> =
        names.iter().zip(&networks).map(|(name, network)| stand(server.candidate(name, network))).collect();
    let (mut random, mut led, mut leaders) = (seed, 0, std::collections::BTreeSet::new());
    for step in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if step % 50 == 0 {
            let network = match (random >> 33) % 8 {
                0 => Network::Refuses,
                1 => Network::Hangs,
                2 => Network::LosesAnswers,
                3 | 4 => Network::Slow,
                _ => Network::Works,
            };
            *networks[usize::try_from((random >> 40) % 3).unwrap()].lock().unwrap() = network;
        }
        advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
        let leading: Vec<_> = names.iter().zip(&standing).filter(|(_, (lease, _))| lease.leading()).collect();
        assert!(leading.len() <= 1, "step {step}");
        led += leading.len();
        leaders.extend(leading.iter().map(|(name, _)| **name));
    }
    assert!(led > 10_000 && leaders.len() == 3, "somebody leads most of the time: {led}, {leaders:?}");
}

#[test]
fn an_identity_is_unique() {
    let (one, two) = (identity(), identity());
    assert_ne!(one, two);
    assert!(one.rsplit_once('_').is_some_and(|(_, random)| random.len() == 16), "{one}");
}

#[rstest]
#[case(Duration::from_secs(30), 30)]
#[case(Duration::from_millis(2_100), 3)]
#[case(Duration::from_millis(1), 1)]
fn rivals_wait_no_shorter_than_the_lease_is_valid(#[case] duration: Duration, #[case] seconds: i32) {
    let lease = successor(None, "a", duration, Timestamp::UNIX_EPOCH);
    assert_eq!(lease.spec.as_ref().unwrap().lease_duration_seconds, Some(seconds));
    assert!(record(&lease, LEASE).duration >= duration);
}

#[test]
fn a_lease_without_a_duration_is_waited_for_as_for_ours() {
    let mut lease = successor(None, "a", Duration::from_secs(7), Timestamp::UNIX_EPOCH);
    lease.spec.as_mut().unwrap().lease_duration_seconds = None;
    assert_eq!(record(&lease, LEASE).duration, LEASE);
}
