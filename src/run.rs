//! `graphtoken run`: one process, from its start through its terms of leadership to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Api;
use kube::api::ListParams;
use thiserror::Error;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin};
use crate::api::GraphToken;
use crate::args::{Settings, lease_namespace};
use crate::clients::ClientCache;
use crate::clock::Clock;
use crate::context::Context;
use crate::controller::{self, Caches, Term};
use crate::desired::Guards;
use crate::events::Events;
use crate::exchange::Provider;
use crate::kubeclient::{self, Clients};
use crate::leader::{self, Candidate, Lease, campaign};
use crate::metrics::{self, Metrics};
use crate::rotation::{Exchanger, InUse};
use crate::state::State;
use crate::throttle::Throttle;

/// Between two tries to reach the API server at the start.
const START_PAUSE: Duration = Duration::from_secs(2);

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
    /// No signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT; exchanges in flight are finished first. A second signal ends it at once.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let stop = stop_on_signals()?;
    let config = kubeclient::infer().await?;
    let metrics = Metrics::default();
    let clients = Clients::new(&config, settings.kube_qps, &metrics)?;
    let provider = Arc::new(provider(&settings)?);
    let identity = leader::identity();
    // Not while the API server is not reached: the Lease is better held by one that reaches it.
    let serving = watch::Sender::new(false);
    let (lease, campaign) = if settings.leader_election {
        let namespace = lease_namespace(settings.lease_namespace.as_deref(), &config);
        let candidate = Candidate {
            client: clients.requests.clone(),
            namespace,
            identity: identity.clone(),
            duration: settings.lease_duration,
            clock: Clock::system(),
        };
        let (lease, campaign) = campaign(candidate, serving.subscribe(), || {});
        (lease, Some(campaign))
    } else {
        (Lease::always(), None)
    };
    let caches = Caches::default();
    let reached = Arc::new(AtomicBool::new(false));
    let served = serve(&settings, &metrics, &lease, &caches, &reached).await?;

    reach(&clients, &settings, &reached, &stop).await;
    let throttle = Throttle::default();
    let mut terms = lease.clone();
    while !stop.is_cancelled() {
        if !terms.leading() {
            tokio::select! {
                () = terms.changed() => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let exchanger = Exchanger {
            provider: Arc::clone(&provider),
            client: clients.requests.clone(),
            clock: Clock::system(),
            lease: lease.clone(),
            lease_duration: settings.leader_election.then_some(settings.lease_duration),
            metrics: metrics.clone(),
            holder: identity.clone(),
            tasks: TaskTracker::new(),
            in_use: InUse::default(),
            throttle: throttle.clone(),
        };
        serving.send_replace(true);
        serve_a_term(&settings, &clients, exchanger, &caches, &stop).await;
        serving.send_replace(stop.is_cancelled());
    }
    if let Some(campaign) = campaign {
        campaign.release().await;
    }
    served.cancel();
    tracing::info!("ended");
    Ok(())
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

/// Works until the Lease is lost or the process is to end; what is in flight is finished in both cases.
async fn serve_a_term(
    settings: &Settings,
    clients: &Clients,
    exchanger: Exchanger,
    caches: &Caches,
    stop: &CancellationToken,
) {
    let ends = stop.child_token();
    let mut lease = exchanger.lease.clone();
    let term = Term {
        clients: clients.clone(),
        namespaces: settings.namespaces.clone(),
        concurrency: settings.concurrency,
        client_namespace: settings.client_namespace.clone(),
        metrics: exchanger.metrics.clone(),
        caches: caches.clone(),
        stop: ends.clone(),
    };
    let events = Events::new(clients.requests.clone(), exchanger.holder.clone());
    let guards = Guards {
        allowed_endpoint_hosts: settings.allowed_endpoint_hosts.clone(),
        allow_http_endpoints: settings.allow_http_endpoints,
        allowed_audiences: settings.allowed_audiences.clone(),
        client_namespace: settings.client_namespace.clone(),
    };
    let secret_labels = settings.secret_labels.clone();
    // Who limits the operator to namespaces has granted it nothing beyond them, unless a namespace of clients was named too.
    let served = settings.namespaces.is_empty() || settings.client_namespace.is_some();
    let clients = Arc::new(ClientCache::new(served));
    let work = controller::run(term, |secrets| Context {
        exchanger,
        secrets,
        clients,
        state: State::default(),
        guards,
        secret_labels,
        events,
    });
    let watch_lease = async {
        while lease.leading() {
            lease.changed().await;
        }
        ends.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = watch_lease => {}
    }
}

/// Waits for the API server and the CRD, saying what is missing.
async fn reach(clients: &Clients, settings: &Settings, reached: &AtomicBool, stop: &CancellationToken) {
    let api: Api<GraphToken> = match settings.namespaces.first() {
        Some(namespace) => Api::namespaced(clients.requests.clone(), namespace),
        None => Api::all(clients.requests.clone()),
    };
    while !stop.is_cancelled() {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => {
                reached.store(true, Ordering::Relaxed);
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

async fn serve(
    settings: &Settings,
    metrics: &Metrics,
    lease: &Lease,
    caches: &Caches,
    reached: &Arc<AtomicBool>,
) -> Result<CancellationToken, Error> {
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let (leading, caches, reached) = (lease.clone(), caches.clone(), Arc::clone(reached));
    let admin = Admin {
        // The runtime that answers is the one that works.
        live: Box::new(|| true),
        ready: Box::new(move || reached.load(Ordering::Relaxed)),
        registry: {
            let objects = caches.clone();
            let mut registry =
                metrics.registry(move || leading.leading(), Arc::new(move || objects.samples()));
            metrics::register_ends(&mut registry, move || caches.ends());
            registry
        },
    };
    let stop = CancellationToken::new();
    let ended = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, admin, ended).await {
            tracing::error!(%error, "cannot serve /livez, /readyz and /metrics any more");
        }
    });
    Ok(stop)
}

fn stop_on_signals() -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    let mut requests = Requests::new().map_err(Error::Signals)?;
    let told = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            requests.next().await;
            if again {
                tracing::error!("a second signal: ending at once, though something is in flight");
                std::process::exit(130);
            }
            tracing::info!("ending: finishing what is in flight");
            told.cancel();
        }
    });
    Ok(stop)
}

/// Requests to end: SIGTERM and SIGINT.
#[cfg(unix)]
struct Requests {
    terminate: Signal,
    interrupt: Signal,
}

#[cfg(unix)]
impl Requests {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Requests to end: Ctrl-C. The operator is not made for Windows, but the plugin is, from the same library.
#[cfg(windows)]
struct Requests(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Requests {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
