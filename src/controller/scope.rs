//! One watched namespace, or all of them: what the watches show goes into the mirrors, and what it concerns into the queue.

use std::sync::Arc;

use kube::Resource as _;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;

use super::everyone::Everyone;
use super::queue::Item;
use super::worker::Work;
use crate::api::names::{CREDENTIAL_SUFFIX, credential_name};
use crate::cache::{GraphTokenStore, News, SecretStore, Watched, WatchedSecret};
use crate::clients::Feed;
use crate::context::Context;
use crate::retention::{graphtoken_of, is_credential};
use crate::state::{Key, Version};

/// What is known of one namespace, or of all. Clones share it.
#[derive(Clone)]
pub struct Scope {
    pub(super) namespace: Option<String>,
    pub(super) graphtokens: GraphTokenStore,
    pub(super) secrets: SecretStore,
    /// Whether the Secrets of `ClusterGraphClient`s are among its own.
    pub(super) holds_client_secrets: bool,
    pub(super) everyone: Everyone,
    pub(super) work: Work,
    pub(super) ctx: Arc<Context>,
}

impl Scope {
    /// The watch of `GraphToken`s shows something, or failed.
    pub fn graphtoken_event(&self, event: Result<Event<Watched>, String>) {
        let Ok(event) = event else { return self.everyone.heard(&self.namespace) };
        let News { changed, gone } = self.graphtokens.take_in(&event);
        for key in &gone {
            self.forget(key);
        }
        match event {
            Event::Apply(object) => {
                self.note_throttling(&object);
                self.everyone.changed(changed, &object.version());
            }
            Event::InitApply(object) => self.note_throttling(&object),
            Event::InitDone => {
                self.everyone.heard(&self.namespace);
                self.enqueue_orphans();
                self.everyone.wake(changed);
            }
            Event::Init | Event::Delete(_) => {}
        }
    }

    /// What a provider said to one `GraphToken` holds for others, also if another process was told.
    fn note_throttling(&self, object: &Watched) {
        if object.may_tell_of_silence()
            && let Some(failure) = object.status().and_then(|status| status.last_failure)
        {
            self.ctx.exchanger.throttle.note(&failure, self.ctx.now());
        }
    }

    fn forget(&self, key: &Key) {
        self.ctx.forget(key);
        let credential = Key::new(&key.namespace, &credential_name(&key.name));
        self.work.enqueue([Item::Credential(credential)]);
    }

    /// The watch of Secrets' metadata shows something, or failed.
    pub fn secret_event(&self, event: Result<Event<WatchedSecret>, String>) {
        let event = match event {
            Ok(event) => event,
            Err(why) if self.holds_client_secrets => {
                return self.everyone.wake(self.ctx.clients.failed(Feed::Secrets, &why));
            }
            Err(_) => return,
        };
        let is_news = self.secrets.take_in(&event);
        match event {
            Event::Apply(secret) if is_news => self.secret_changed(secret.meta(), true),
            Event::Delete(secret) if is_news => self.secret_changed(secret.meta(), false),
            Event::InitDone => {
                self.enqueue_orphans();
                self.everyone.has_secrets(&self.namespace);
                if self.holds_client_secrets {
                    self.everyone.wake(self.ctx.clients.secrets_known());
                }
            }
            Event::Init | Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
    }

    fn secret_changed(&self, meta: &ObjectMeta, is_there: bool) {
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
        let secret = Key::new(namespace, name);
        let version = Version {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
        };
        let mut concerned = self.ctx.state.referrers(&secret);
        if let Some(owner) = graphtoken_of(&secret) {
            // An acquisition writes the credential itself, reads it before it does, and enqueues its GraphToken at its end.
            let writes_it = self.ctx.exchanger.acquisitions.running(&owner).is_some();
            concerned.retain(|key| *key != owner || !writes_it);
        }
        self.everyone.changed(concerned, &version);
        let labels = meta.labels.as_ref().filter(|_| is_there);
        if labels.is_some_and(|labels| is_credential(name, labels)) && self.is_orphan(&secret) {
            self.work.changed([Item::Credential(secret)], &version);
        }
    }

    /// Credentials without a `GraphToken`, once both mirrors are filled.
    fn enqueue_orphans(&self) {
        if !self.secrets.is_known() || !self.graphtokens.is_known() {
            return;
        }
        let credentials = self.secrets.named(CREDENTIAL_SUFFIX).into_iter();
        let orphans = credentials
            .filter(|(secret, meta)| is_credential(&secret.name, &meta.labels) && self.is_orphan(secret));
        self.work.enqueue(orphans.map(|(secret, _)| Item::Credential(secret)).collect::<Vec<_>>());
    }

    fn is_orphan(&self, credential: &Key) -> bool {
        graphtoken_of(credential).is_some_and(|graphtoken| !self.graphtokens.contains(&graphtoken))
    }
}
