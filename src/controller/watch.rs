//! One watch loop for every kind: it lists, watches, begins again by itself, beats, and logs a failure once for each reason.

use std::fmt::Debug;
use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::supervise::{self, Heart};

/// The longest pause before a broken watch begins again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A watch that goes on failing for one reason is logged this often.
const LOG_AGAIN: Duration = Duration::from_mins(10);

/// kube's own, which grows to a minute: for that long an operator would be blind when its API server is back after an outage.
#[derive(Default)]
struct WatchBackoff(watcher::DefaultBackoff);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(MAX_PAUSE))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// What a watch shows, in lists of kube's pages. It begins again by itself.
fn events<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, watcher::Config::default()).backoff(WatchBackoff::default())
}

/// Of one namespace, or of all.
pub(super) fn api<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Reports each event, and the error whenever the watch fails. It never returns.
pub(super) async fn follow<K>(
    what: &'static str,
    api: Api<K>,
    heart: Heart,
    mut tell: impl FnMut(Result<Event<K>, String>),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(events(api));
    let mut beats = supervise::beats();
    let mut failing = Failing::default();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    if matches!(event, Event::InitDone) {
                        failing = Failing::default();
                    }
                    tell(Ok(event));
                }
                Some(Err(error)) => {
                    let why = broken(&error);
                    failing.log(what, &why);
                    tell(Err(why));
                }
                None => return,
            },
            _ = beats.tick() => heart.beat(),
        }
    }
}

/// What was last logged of a watch that fails.
#[derive(Default)]
struct Failing(Option<(String, Instant)>);

impl Failing {
    fn log(&mut self, what: &str, why: &str) {
        let logged = |(before, at): &(String, Instant)| before == why && at.elapsed() < LOG_AGAIN;
        if self.0.as_ref().is_some_and(logged) {
            return tracing::debug!(what, why, "a watch broke off; it begins again");
        }
        tracing::warn!(what, why, "a watch broke off; it begins again");
        self.0 = Some((why.to_owned(), Instant::now()));
    }
}

fn broken(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            crate::kubeclient::describe(error)
        }
        WatchError(status) => format!("the API server answered {} {}", status.code, status.reason),
        NoResourceVersion => "an answer without a resourceVersion".to_owned(),
    }
}
