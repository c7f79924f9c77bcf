//! The watches that serve `ClusterGraphClient`s: of themselves, of the labels of namespaces, and of the Secrets of their
//! namespace where nothing else is watched there. Nothing waits for them but the `GraphToken`s that are on such a client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;

use super::{Everyone, broken, events};
use crate::api::ClusterGraphClient;
use crate::cache::{SecretStore, WatchedSecret};
use crate::clients::{Change, Feed, Stated};
use crate::context::Context;
use crate::kubeclient::Clients;
use crate::state::Key;

/// A watch that goes on failing for one reason is logged this often.
const SAY_AGAIN: Duration = Duration::from_mins(10);

type Guarded = DeserializeGuard<ClusterGraphClient>;

/// The cache of the metadata of Secrets in the clients' namespace, where no `GraphToken`s are served.
pub(super) struct ClientSecrets {
    namespace: String,
    store: SecretStore,
}

impl ClientSecrets {
    /// Adds a cache to those of the watched namespaces, unless one of them covers it.
    pub(super) fn beside(
        stores: &mut BTreeMap<Option<String>, SecretStore>,
        namespace: Option<&str>,
    ) -> Option<Self> {
        let namespace = namespace?.to_owned();
        if stores.contains_key(&None) || stores.contains_key(&Some(namespace.clone())) {
            return None;
        }
        let store = SecretStore::default();
        stores.insert(Some(namespace.clone()), store.clone());
        Some(Self { namespace, store })
    }
}

/// Keeps what there is to know of `ClusterGraphClient`s, if they are served.
pub(super) async fn watch(
    clients: Clients,
    ctx: Arc<Context>,
    everyone: Everyone,
    secrets: Option<ClientSecrets>,
) {
    if !ctx.clients.served() {
        return;
    }
    let client = clients.watches;
    let secrets = async {
        if let Some(secrets) = secrets {
            watch_secrets(client.clone(), &ctx, &everyone, secrets).await;
        }
    };
    futures::join!(
        watch_clients(Api::all(client.clone()), &ctx, &everyone),
        watch_namespaces(Api::all(client.clone()), &ctx, &everyone),
        secrets,
    );
}

async fn watch_clients(api: Api<Guarded>, ctx: &Context, everyone: &Everyone) {
    let mut trouble = Trouble::default();
    let mut events = std::pin::pin!(events(api));
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(event) => change(event, stated),
            Err(error) => {
                trouble.say("clustergraphclients", &error);
                everyone.wake(ctx.clients.failed(Feed::Clients, &broken(&error)));
                continue;
            }
        };
        trouble.is_over(&change);
        everyone.wake(ctx.clients.client_changed(change));
    }
}

async fn watch_namespaces(api: Api<PartialObjectMeta<Namespace>>, ctx: &Context, everyone: &Everyone) {
    let mut trouble = Trouble::default();
    let mut events = std::pin::pin!(events(api));
    while let Some(event) = events.next().await {
        let labels = |namespace: PartialObjectMeta<Namespace>| namespace.metadata.labels.unwrap_or_default();
        let change = match event {
            Ok(event) => change(event, labels),
            Err(error) => {
                trouble.say("namespaces", &error);
                everyone.wake(ctx.clients.failed(Feed::Namespaces, &broken(&error)));
                continue;
            }
        };
        trouble.is_over(&change);
        everyone.wake(ctx.clients.namespace_changed(change));
    }
}

async fn watch_secrets(client: kube::Client, ctx: &Context, everyone: &Everyone, secrets: ClientSecrets) {
    let mut trouble = Trouble::default();
    let ClientSecrets { namespace, store } = secrets;
    let api: Api<WatchedSecret> = Api::namespaced(client, &namespace);
    let mut events = std::pin::pin!(events(api));
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            store.take_in(event);
        }
        match event {
            Ok(Event::Apply(secret) | Event::Delete(secret)) => {
                everyone.wake(ctx.state.referrers(&Key::new(&namespace, &secret.name_any())));
            }
            Ok(Event::InitDone) => {
                trouble = Trouble::default();
                everyone.wake(ctx.clients.secrets_known());
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                trouble.say("secrets", &error);
                everyone.wake(ctx.clients.failed(Feed::Secrets, &broken(&error)));
            }
        }
    }
}

fn stated(object: Guarded) -> Result<Stated, String> {
    let client = object.0.map_err(|invalid| invalid.error)?;
    Ok(Stated {
        uid: client.metadata.uid.unwrap_or_default(),
        generation: client.metadata.generation.unwrap_or_default(),
        spec: client.spec,
    })
}

fn change<K: kube::ResourceExt, V>(event: Event<K>, value: impl Fn(K) -> V) -> Change<V> {
    match event {
        Event::Init => Change::Listing,
        Event::InitApply(object) => Change::Listed(object.name_any(), value(object)),
        Event::InitDone => Change::Complete,
        Event::Apply(object) => Change::Set(object.name_any(), value(object)),
        Event::Delete(object) => Change::Gone(object.name_any()),
    }
}

/// What was last said of a watch that fails.
#[derive(Default)]
struct Trouble(Option<(String, Instant)>);

impl Trouble {
    fn say(&mut self, what: &str, error: &watcher::Error) {
        let why = broken(error);
        let said = |(before, at): &(String, Instant)| *before == why && at.elapsed() < SAY_AGAIN;
        if self.0.as_ref().is_some_and(said) {
            return tracing::debug!(what, why, "a watch broke off; it is taken up again");
        }
        tracing::warn!(what, why, "a watch broke off; it is taken up again");
        self.0 = Some((why, Instant::now()));
    }

    fn is_over<V>(&mut self, change: &Change<V>) {
        if matches!(change, Change::Complete) {
            self.0 = None;
        }
    }
}
