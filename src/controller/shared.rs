//! The watches that serve `ClusterGraphClient`s: of themselves, of the labels of namespaces, and of the Secrets of their
//! namespace where nothing else is watched there. Nothing waits for them but the `GraphToken`s that are on such a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt as _};

use super::watch::follow;
use super::{Everyone, Term};
use crate::api::ClusterGraphClient;
use crate::cache::{SecretStore, WatchedSecret};
use crate::clients::{Change, Feed, Stated};
use crate::context::Context;
use crate::state::Key;
use crate::supervise::Supervised;

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

/// Starts the watches that fill in what there is to know of `ClusterGraphClient`s, if they are served.
pub(super) fn watch(
    watches: &mut Supervised,
    term: &Term,
    ctx: &Arc<Context>,
    everyone: &Everyone,
    secrets: Option<ClientSecrets>,
) {
    if !ctx.clients.served() {
        return;
    }
    let client = &term.clients.watches;
    let (own, all) = (Arc::clone(ctx), everyone.clone());
    let clients = follow(
        "clustergraphclients",
        Api::all(client.clone()),
        term.heartbeats.of("clustergraphclients"),
        move |event| {
            all.wake(match event {
                Ok(event) => own.clients.client_changed(change(event, stated)),
                Err(why) => own.clients.failed(Feed::Clients, &why),
            });
        },
    );
    watches.spawn("clustergraphclients", clients);
    let (own, all) = (Arc::clone(ctx), everyone.clone());
    let namespaces =
        follow("namespaces", Api::all(client.clone()), term.heartbeats.of("namespaces"), move |event| {
            all.wake(match event {
                Ok(event) => own.clients.namespace_changed(change(event, labels)),
                Err(why) => own.clients.failed(Feed::Namespaces, &why),
            });
        });
    watches.spawn("namespaces", namespaces);
    if let Some(ClientSecrets { namespace, store }) = secrets {
        let (own, all) = (Arc::clone(ctx), everyone.clone());
        let api: Api<WatchedSecret> = Api::namespaced(client.clone(), &namespace);
        let secrets = follow("secrets", api, term.heartbeats.of("secrets"), move |event| {
            secret_event(event, &namespace, &store, &own, &all);
        });
        watches.spawn("secrets", secrets);
    }
}

fn secret_event(
    event: Result<Event<WatchedSecret>, String>,
    namespace: &str,
    store: &SecretStore,
    ctx: &Context,
    everyone: &Everyone,
) {
    let event = match event {
        Ok(event) => event,
        Err(why) => return everyone.wake(ctx.clients.failed(Feed::Secrets, &why)),
    };
    store.take_in(&event);
    match event {
        Event::Apply(secret) | Event::Delete(secret) => {
            everyone.wake(ctx.state.referrers(&Key::new(namespace, &secret.name_any())));
        }
        Event::InitDone => everyone.wake(ctx.clients.secrets_known()),
        Event::Init | Event::InitApply(_) => {}
    }
}

fn labels(namespace: PartialObjectMeta<Namespace>) -> BTreeMap<String, String> {
    namespace.metadata.labels.unwrap_or_default()
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
