//! What the watches show a process: caught up before each look, or a second behind; and whom a change wakes, as in
//! `controller.rs`.

use std::collections::BTreeMap;

use graphtoken::api::GraphToken;
use graphtoken::api::names::ANNOTATION_REQUESTED_AT;
use graphtoken::cache::{SecretCache, SecretStore, WatchedSecret};
use graphtoken::observed::Meta;
use graphtoken::retention::is_credential;
use graphtoken::state::{Key, SecretVersion, State};
use graphtoken::store;
use jiff::{SignedDuration, Timestamp};
use kube::Resource as _;
use kube::runtime::watcher::Event;
use serde::Deserialize as _;
use serde_json::Value;

use crate::objects::{Kind, Snapshot};
use crate::scenario::CREDENTIAL;
use crate::world::World;

/// How far a cache that lags is behind.
const LAG: SignedDuration = SignedDuration::from_secs(1);

/// Who is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    GraphToken,
    Credential,
}

pub struct Caches {
    secrets: SecretStore,
    shown: Snapshot,
    /// How many changes have been told.
    told: u64,
    lags: bool,
    behind_until: Option<Timestamp>,
}

impl Caches {
    /// As a new process lists them.
    pub fn new(world: &World) -> (Self, SecretCache) {
        let secrets = SecretStore::default();
        let state = world.lock();
        let told = state.objects.changes;
        let mut caches = Self {
            secrets: secrets.clone(),
            shown: Snapshot::new(),
            told,
            lags: world.lagging,
            behind_until: None,
        };
        if world.lagging && !state.last_seen.is_empty() {
            caches.behind_until = Some(state.now + LAG);
            caches.show(state.last_seen.clone());
        } else {
            caches.show(state.objects.snapshot());
        }
        (caches, SecretCache::new(BTreeMap::from([(None, secrets)])))
    }

    /// When the watches tell the next change.
    pub fn behind_until(&self) -> Option<Timestamp> {
        self.behind_until
    }

    /// Shows what is, and tells whom the changes wake.
    pub fn catch_up(&mut self, world: &World, memory: &State) -> Vec<Woken> {
        let state = world.lock();
        let news = state.objects.changes > self.told;
        if !news && self.behind_until.is_none() {
            return Vec::new();
        }
        let due = if self.lags { *self.behind_until.get_or_insert(state.now + LAG) } else { state.now };
        if due > state.now {
            return Vec::new();
        }
        let before = std::mem::take(&mut self.shown);
        self.told = state.objects.changes;
        self.behind_until = None;
        self.show(state.objects.snapshot());
        let changed = before.keys().chain(self.shown.keys().filter(|key| !before.contains_key(*key)));
        changed
            .filter_map(|key| {
                let [before, now] = [&before, &self.shown].map(|objects| objects.get(key).map(|o| &**o));
                let same = before.map(std::ptr::from_ref) == now.map(std::ptr::from_ref);
                if same { None } else { self.wakes(key.0, &key.1, before, now, memory) }
            })
            .collect()
    }

    pub fn graphtoken(&self) -> Option<GraphToken> {
        let object = self.shown.get(&(Kind::GraphToken, "mail".to_owned()))?;
        Some(GraphToken::deserialize(&**object).expect("it decodes"))
    }

    /// The credential, if its `GraphToken` is not there.
    pub fn orphaned_credential(&self) -> Option<Meta> {
        let credential = self.shown.get(&(Kind::Secret, CREDENTIAL.to_owned()))?;
        self.graphtoken().is_none().then(|| store::meta(metadata(credential).meta()))
    }

    fn wakes(
        &self,
        kind: Kind,
        name: &str,
        before: Option<&Value>,
        now: Option<&Value>,
        memory: &State,
    ) -> Option<Woken> {
        let mail = Key::new("ns", "mail");
        match (kind, now) {
            // Service accounts are not watched.
            (Kind::Event | Kind::ServiceAccount | Kind::Deployment, _) => None,
            (Kind::GraphToken, None) => {
                memory.forget(&mail);
                Some(Woken::Credential)
            }
            (Kind::GraphToken, Some(now)) => {
                // Own writes of the status wake nobody.
                let fingerprint = |o: &Value| {
                    let meta = &o["metadata"];
                    let requested = &meta["annotations"][ANNOTATION_REQUESTED_AT];
                    [meta["uid"].clone(), meta["generation"].clone(), requested.clone()]
                };
                (before.map(fingerprint) != Some(fingerprint(now))).then_some(Woken::GraphToken)
            }
            (Kind::Secret, now) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let seen = now.map(|now| SecretVersion {
                    uid: text(&now["metadata"]["uid"]),
                    resource_version: text(&now["metadata"]["resourceVersion"]),
                });
                let refers = !memory.referrers(&Key::new("ns", name)).is_empty();
                if refers && memory.concerns(&mail, seen.as_ref()) {
                    return Some(Woken::GraphToken);
                }
                let orphan = now
                    .is_some_and(|now| is_credential(name, &store::meta(metadata(now).meta()).labels))
                    && !self.shown.contains_key(&(Kind::GraphToken, "mail".to_owned()));
                orphan.then_some(Woken::Credential)
            }
        }
    }

    fn show(&mut self, objects: Snapshot) {
        self.secrets.take_in(&Event::Init);
        for object in objects.iter().filter(|((kind, _), _)| *kind == Kind::Secret).map(|(_, object)| object)
        {
            self.secrets.take_in(&Event::InitApply(metadata(object)));
        }
        self.secrets.take_in(&Event::InitDone);
        self.shown = objects;
    }
}

fn metadata(object: &Value) -> WatchedSecret {
    WatchedSecret::deserialize(object).expect("it is a Secret")
}
