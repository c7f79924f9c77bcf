//! `graphtoken run`: one process, from its start through its terms of leadership to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::Api;
use kube::api::ListParams;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::api::GraphToken;
use crate::args::{Settings, lease_namespace};
use crate::clients::ClientCache;
use crate::clock::Clock;
use crate::context::Context;
use crate::controller::{Caches, Controller, Mirrors, Term};
use crate::desired::Guards;
use crate::events::Events;
use crate::exchange::Provider;
use crate::kubeclient::{self, Clients};
use crate::leader::{self, Campaign, Candidate, Lease, campaign};
use crate::metrics::{self, Metrics};
use crate::permits::Permits;
use crate::rotation::{Acquisitions, Exchanger};
use crate::state::{Key, State};
use crate::supervise::{Heartbeats, Supervised, TaskEnded};
use crate::throttle::Throttle;

mod signals;

/// Between two tries to reach the API server at the start.
const START_PAUSE: Duration = Duration::from_secs(2);
/// A standby checks its Lease this often at least.
const LEASE_CHECK: Duration = Duration::from_secs(1);
/// For how long the process tries to give the Lease back at its end.
const RELEASE: Duration = Duration::from_secs(10);

/// For how long the process waits for its last events to be written.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Why the operator could not run.
#[derive(Debug, Error)]
pub enum Error {
    /// No access to an API server.
    #[error(transparent)]
    Kube(#[from] kubeclient::Error),
    /// No HTTP client.
    #[error("cannot make an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The CA bundle cannot be used.
    #[error("cannot use the CA certificates of {path}: {problem}; see --ca-bundle")]
    CaBundle {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A loop has ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// New refresh tokens are lost with this process. A line for each has been logged.
    #[error("{0} new refresh tokens could not be stored before the process had to end")]
    Unstored(usize),
    /// No signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT; acquisitions that are running are finished first. A second signal ends it at once.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let stop = signals::stop_on_signals()?;
    let config = kubeclient::infer().await?;
    let metrics = Metrics::default();
    let clients = Clients::new(&config, settings.kube_qps, &metrics)?;
    let provider = Arc::new(provider(&settings)?);
    let shown = Shown::default();
    let (mut admin, served) = serve_admin(&settings, &metrics, &shown).await?;

    // Not before the API server is reached: the Lease is better held by one that reaches it.
    tokio::select! {
        () = reach(&clients, &settings, &shown, &stop) => {}
        ended = admin.ended() => return Err(ended.into()),
    }
    let identity = leader::identity();
    let serving = watch::Sender::new(false);
    let (lease, mut elector) = stand(&settings, &config, &clients, &identity, &serving, &shown.heartbeats);
    let _ = shown.lease.set(lease.clone());
    let exchanger = Exchanger {
        provider,
        client: clients.requests.clone(),
        clock: Clock::system(),
        lease,
        lease_duration: settings.leader_election.then_some(settings.lease_duration),
        metrics,
        holder: identity.clone(),
        acquisitions: Acquisitions::new(stop.clone()),
        permits: Permits::default(),
        throttle: Throttle::default(),
    };
    let acquisitions = exchanger.acquisitions.clone();
    let events = Events::new(clients.requests.clone(), identity);
    let terms =
        Terms { settings, clients, exchanger, events: events.clone(), shown, serving, stop: stop.clone() };
    let outcome = tokio::select! {
        outcome = terms.serve() => outcome,
        ended = admin.ended() => Err(ended),
        ended = elector_ended(&mut elector) => Err(ended),
    };
    stop.cancel();
    let finished = finish(&acquisitions, &events, elector).await;
    served.cancel();
    outcome?;
    finished?;
    tracing::info!("ended");
    Ok(())
}

/// What `/livez`, `/readyz` and `/metrics` show.
#[derive(Clone, Default)]
struct Shown {
    heartbeats: Heartbeats,
    caches: Caches,
    /// Whether the API server was reached.
    reached: Arc<AtomicBool>,
    /// Set once this process stands for election.
    lease: Arc<OnceLock<Lease>>,
}

impl Shown {
    fn leads(&self) -> bool {
        self.lease.get().is_some_and(Lease::leading)
    }

    /// A standby has no mirrors, and is ready to take over. A process that does not know yet whether it leads is not: it
    /// would be ready, and unready as soon as it leads.
    fn is_ready(&self) -> bool {
        let Some(lease) = self.lease.get().filter(|lease| lease.is_known()) else { return false };
        self.reached.load(Ordering::Relaxed) && (!lease.leading() || self.caches.are_filled())
    }
}

/// Stands for election, if leaders are elected.
fn stand(
    settings: &Settings,
    config: &kube::Config,
    clients: &Clients,
    identity: &str,
    serving: &watch::Sender<bool>,
    heartbeats: &Heartbeats,
) -> (Lease, Option<Campaign>) {
    if !settings.leader_election {
        return (Lease::always(), None);
    }
    let candidate = Candidate {
        client: clients.requests.clone(),
        namespace: lease_namespace(settings.lease_namespace.as_deref(), config),
        identity: identity.to_owned(),
        duration: settings.lease_duration,
        clock: Clock::system(),
    };
    let heart = heartbeats.of("elector");
    let (lease, elector) = campaign(candidate, serving.subscribe(), move || heart.beat());
    (lease, Some(elector))
}

async fn elector_ended(elector: &mut Option<Campaign>) -> TaskEnded {
    match elector {
        Some(elector) => match elector.ended().await {
            Err(leader::Ended::Panicked) => TaskEnded::by_panic("elector"),
            _ => TaskEnded::by_itself("elector"),
        },
        None => std::future::pending().await,
    }
}

/// Finishes what is running, then gives the Lease back: until a new refresh token is stored, no other process is to send the
/// old one.
async fn finish(
    acquisitions: &Acquisitions,
    events: &Events,
    elector: Option<Campaign>,
) -> Result<(), Error> {
    let unstored = acquisitions.finish().await;
    for Key { namespace, name } in &unstored {
        tracing::error!(
            namespace,
            name,
            "the process ends with a new refresh token that could not be stored: if the provider takes each refresh token only \
             once, a user has to sign in again"
        );
    }
    let _ = tokio::time::timeout(LAST_EVENTS, events.flush()).await;
    if let Some(elector) = elector
        && tokio::time::timeout(RELEASE, elector.release()).await.is_err()
    {
        tracing::warn!("the Lease could not be given back in time; it expires by itself");
    }
    if unstored.is_empty() { Ok(()) } else { Err(Error::Unstored(unstored.len())) }
}

/// What the terms of leadership of this process share.
struct Terms {
    settings: Settings,
    clients: Clients,
    exchanger: Exchanger,
    events: Events,
    shown: Shown,
    serving: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Terms {
    /// Serves one term after another until the process is to end.
    async fn serve(&self) -> Result<(), TaskEnded> {
        let mut lease = self.exchanger.lease.clone();
        while !self.stop.is_cancelled() {
            if lease.leading() {
                self.serving.send_replace(true);
                self.serve_one().await?;
                // What a term began is finished before the process ends, and the Lease is kept until then.
                self.serving.send_replace(self.stop.is_cancelled());
            } else {
                // A Lease that lapsed and was renewed meanwhile is no change.
                tokio::select! {
                    () = lease.changed() => {}
                    () = tokio::time::sleep(LEASE_CHECK) => {}
                    () = self.stop.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    /// Works until the Lease is lost or the process is to end.
    async fn serve_one(&self) -> Result<(), TaskEnded> {
        let ends = self.stop.child_token();
        let mut lease = self.exchanger.lease.clone();
        let controller = self.controller(ends.clone());
        let watch_lease = async {
            while lease.leading() {
                lease.changed().await;
            }
            ends.cancel();
            std::future::pending().await
        };
        tokio::select! {
            ended = controller.run() => ended,
            never = watch_lease => never,
        }
    }

    fn controller(&self, stop: CancellationToken) -> Controller {
        let settings = &self.settings;
        let term = Term {
            clients: self.clients.clone(),
            namespaces: settings.namespaces.clone(),
            concurrency: settings.concurrency,
            client_namespace: settings.client_namespace.clone(),
            metrics: self.exchanger.metrics.clone(),
            caches: self.shown.caches.clone(),
            heartbeats: self.shown.heartbeats.clone(),
            stop,
        };
        let (exchanger, events) = (self.exchanger.clone(), self.events.clone());
        let guards = Guards {
            allowed_endpoint_hosts: settings.allowed_endpoint_hosts.clone(),
            allow_http_endpoints: settings.allow_http_endpoints,
            allowed_audiences: settings.allowed_audiences.clone(),
            client_namespace: settings.client_namespace.clone(),
        };
        let secret_labels = settings.secret_labels.clone();
        // Who limits the operator to namespaces has granted it nothing beyond them, unless a namespace of clients was named too.
        let served = settings.namespaces.is_empty() || settings.client_namespace.is_some();
        Controller::new(term, move |Mirrors { graphtokens, secrets }| Context {
            exchanger,
            graphtokens,
            secrets,
            clients: Arc::new(ClientCache::new(served)),
            state: State::default(),
            guards,
            secret_labels,
            events,
        })
    }
}

/// Waits for the API server and the CRD, saying what is missing.
async fn reach(clients: &Clients, settings: &Settings, shown: &Shown, stop: &CancellationToken) {
    let heart = shown.heartbeats.of("start");
    let api: Api<GraphToken> = match settings.namespaces.first() {
        Some(namespace) => Api::namespaced(clients.requests.clone(), namespace),
        None => Api::all(clients.requests.clone()),
    };
    while !stop.is_cancelled() {
        heart.beat();
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => {
                shown.reached.store(true, Ordering::Relaxed);
                return;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::error!(
                    "the CRD graphtokens.graphtoken.io is not there; install it: kubectl apply -f crds/"
                );
            }
            Err(error) => {
                tracing::error!(
                    error = kubeclient::describe(&error),
                    "the API server does not answer as it should"
                );
            }
        }
        tokio::select! {
            () = tokio::time::sleep(START_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Starts to serve `/livez`, `/readyz` and `/metrics`, until the token is cancelled.
async fn serve_admin(
    settings: &Settings,
    metrics: &Metrics,
    shown: &Shown,
) -> Result<(Supervised, CancellationToken), Error> {
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let [live, ready, leading, objects, ends] = [(); 5].map(|()| shown.clone());
    let admin = Admin {
        live: Box::new(move || live.heartbeats.hanging().is_none()),
        ready: Box::new(move || ready.is_ready()),
        registry: {
            let samples = Arc::new(move || objects.caches.samples());
            let mut registry = metrics.registry(move || leading.leads(), samples);
            metrics::register_ends(&mut registry, move || ends.caches.ends());
            registry
        },
    };
    let stop = CancellationToken::new();
    let ended = stop.clone().cancelled_owned();
    let mut tasks = Supervised::default();
    tasks.spawn("admin server", async move {
        if let Err(error) = admin::serve(listener, admin, ended).await {
            tracing::error!(%error, "cannot serve /livez, /readyz and /metrics any more");
        }
    });
    Ok((tasks, stop))
}

/// Whether the certificates of a bundle are any is known only here.
fn provider(settings: &Settings) -> Result<Provider, Error> {
    Provider::new(settings.provider_qps, extra_roots(settings)?).map_err(|error| match &settings.ca_bundle {
        Some(path) if error.is_builder() => Error::CaBundle {
            path: path.display().to_string(),
            problem: "it holds a certificate that cannot be read".to_owned(),
        },
        _ => error.into(),
    })
}

/// The CA certificates that are trusted besides the system's.
fn extra_roots(settings: &Settings) -> Result<Vec<reqwest::Certificate>, Error> {
    let Some(path) = &settings.ca_bundle else { return Ok(Vec::new()) };
    let wrong = |problem: String| Error::CaBundle { path: path.display().to_string(), problem };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no PEM certificate is in it".to_owned()));
    }
    Ok(certificates)
}
