//! The watch of Secrets' metadata: whom a change wakes, and the credentials that have no `GraphToken` any more.

use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::mpsc;
use futures::stream::StreamExt as _;
use kube::api::ObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource as _};

use super::{PAGE_SIZE, Wakes, WatchBackoff, broken, log_watch};
use crate::api::names::CREDENTIAL_SUFFIX;
use crate::cache::{GraphTokenStore, SecretStore, WatchedSecret};
use crate::clients::Feed;
use crate::context::Context;
use crate::retention::{is_credential, retain};
use crate::state::Key;
use crate::store::StoreError;

/// Keeps the cache of Secrets' metadata, and wakes whom a change concerns.
pub(super) async fn watch(
    api: Api<WatchedSecret>,
    secrets: SecretStore,
    ctx: Arc<Context>,
    wakes: Wakes,
    graphtokens: GraphTokenStore,
    holds_client_secrets: bool,
) {
    let events =
        watcher(api, watcher::Config::default().page_size(PAGE_SIZE)).backoff(WatchBackoff::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            secrets.take_in(event);
        }
        match event {
            Ok(Event::Apply(secret)) => changed(&ctx, &wakes, &graphtokens, secret.meta(), true),
            Ok(Event::Delete(secret)) => changed(&ctx, &wakes, &graphtokens, secret.meta(), false),
            Ok(Event::InitDone) => {
                wakes.secrets_known.send_replace(true);
                wake_orphans(&wakes, &secrets, &graphtokens);
                let _ = wakes.all.unbounded_send(());
                if holds_client_secrets {
                    wakes.everyone.wake(ctx.clients.secrets_known());
                }
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                log_watch("secrets", &error);
                if holds_client_secrets {
                    wakes.everyone.wake(ctx.clients.failed(Feed::Secrets, &broken(&error)));
                }
            }
        }
    }
}

fn changed(ctx: &Context, wakes: &Wakes, graphtokens: &GraphTokenStore, meta: &ObjectMeta, is_there: bool) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    let secret = Key::new(namespace, name);
    let version = is_there.then(|| meta.resource_version.as_deref().unwrap_or_default());
    let concerned = ctx.state.referrers(&secret).into_iter().filter(|key| ctx.state.concerns(key, version));
    wakes.everyone.wake(concerned.collect::<Vec<_>>());
    let labels = meta.labels.as_ref().filter(|_| is_there);
    if labels.is_some_and(|labels| is_credential(name, labels)) && is_orphan(&secret, graphtokens) {
        wakes.orphans.found(&secret);
    }
}

/// Credentials without a `GraphToken`, once both caches are filled.
pub(super) fn wake_orphans(wakes: &Wakes, secrets: &SecretStore, graphtokens: &GraphTokenStore) {
    if !*wakes.secrets_known.borrow() || !*wakes.graphtokens_known.borrow() {
        return;
    }
    for (secret, meta) in secrets.named(CREDENTIAL_SUFFIX) {
        if is_credential(&secret.name, &meta.labels) && is_orphan(&secret, graphtokens) {
            wakes.orphans.found(&secret);
        }
    }
}

fn is_orphan(credential: &Key, graphtokens: &GraphTokenStore) -> bool {
    let name = credential.name.strip_suffix(CREDENTIAL_SUFFIX).unwrap_or_default();
    graphtokens.get(&ObjectRef::new(name).within(&credential.namespace)).is_none()
}

/// The credentials that have no `GraphToken`. They are few, so a `Controller` looks after them, with a store that has nothing else.
#[derive(Clone)]
pub(super) struct Orphans {
    writer: Arc<Mutex<Writer<WatchedSecret>>>,
    woken: mpsc::UnboundedSender<ObjectRef<WatchedSecret>>,
}

impl Orphans {
    /// Nothing yet; with its store, and who is woken of it.
    pub(super) fn new() -> (Self, Store<WatchedSecret>, mpsc::UnboundedReceiver<ObjectRef<WatchedSecret>>) {
        let (store, mut writer) = reflector::store();
        // A Controller begins when its store has been filled.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        let (woken, wakes) = mpsc::unbounded();
        (Self { writer: Arc::new(Mutex::new(writer)), woken }, store, wakes)
    }

    fn apply(&self, event: &Event<WatchedSecret>) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).apply_watcher_event(event);
    }

    /// One may be without a `GraphToken`.
    pub(super) fn found(&self, credential: &Key) {
        let Key { namespace, name } = credential.clone();
        let meta = ObjectMeta { namespace: Some(namespace), name: Some(name), ..ObjectMeta::default() };
        let secret = WatchedSecret::from(meta);
        let reference = ObjectRef::from_obj(&secret);
        self.apply(&Event::Apply(secret));
        let _ = self.woken.unbounded_send(reference);
    }

    /// Does what is due about one, at the version that the cache has of it.
    pub(super) async fn look_after(
        &self,
        secret: &WatchedSecret,
        ctx: &Context,
    ) -> Result<Action, StoreError> {
        let ObjectMeta { namespace: Some(namespace), name: Some(name), .. } = secret.meta() else {
            return Ok(Action::await_change());
        };
        let key = Key::new(namespace, name);
        let next = match ctx.secrets.get(namespace, name) {
            Some(meta) if is_credential(name, &meta.labels) => {
                retain(&ctx.exchanger.client, &key, meta, ctx.exchanger.clock.now()).await?
            }
            _ => Action::await_change(),
        };
        if next == Action::await_change() {
            self.apply(&Event::Delete(secret.clone()));
        }
        Ok(next)
    }
}
