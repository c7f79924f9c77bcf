//! The metadata of Secrets, foreign ones included: any of them may be named as a seed or a proof, or stand in a target's place.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use serde::Deserialize;

use super::packer::{Packed, Packer};
use super::scope_of;
use super::table::{Entry, Epoch, Put, Shared, version};
use crate::observed::Meta;
use crate::state::Key;
use crate::store::meta;

/// Of an object's metadata what may be needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptMeta {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) generation: Option<i64>,
    pub(super) deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// A Secret as it is watched: of its metadata what is needed, and nothing of what is in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Sent")]
pub struct WatchedSecret {
    /// Which Secret it is, and whose.
    meta: ObjectMeta,
    /// What is cached.
    kept: Meta,
}

#[derive(Deserialize)]
struct Sent {
    metadata: KeptMeta,
}

impl From<Sent> for WatchedSecret {
    fn from(sent: Sent) -> Self {
        let KeptMeta { name, namespace, uid, resource_version, deletion_timestamp, .. } = sent.metadata;
        let KeptMeta { labels, annotations, owner_references, .. } = sent.metadata;
        ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            deletion_timestamp,
            labels,
            annotations,
            owner_references,
            ..ObjectMeta::default()
        }
        .into()
    }
}

impl From<ObjectMeta> for WatchedSecret {
    fn from(object: ObjectMeta) -> Self {
        let kept = meta(&object);
        let ObjectMeta { name, namespace, uid, resource_version, .. } = object;
        let labels = Some(kept.labels.clone());
        Self {
            meta: ObjectMeta { name, namespace, uid, resource_version, labels, ..ObjectMeta::default() },
            kept,
        }
    }
}

impl Resource for WatchedSecret {
    type DynamicType = ();
    type Scope = <Secret as Resource>::Scope;

    // Contents are not asked for.
    fn metadata_api() -> bool {
        true
    }
    fn kind((): &()) -> Cow<'_, str> {
        Secret::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        Secret::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        Secret::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        Secret::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

static PACKER: Packer = Packer::new();

/// What is kept of a Secret.
#[derive(Debug)]
struct Kept {
    version: u64,
    /// Its [`Meta`].
    text: Packed,
}

impl Entry for Kept {
    fn version(&self) -> u64 {
        self.version
    }
}

impl Kept {
    fn new(secret: &WatchedSecret) -> Self {
        Self { version: version(secret.meta()), text: PACKER.pack_json(&secret.kept) }
    }

    fn open(&self) -> Meta {
        PACKER.open_json(&self.text).unwrap_or_default()
    }
}

/// The metadata of the Secrets of one namespace, or of all. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SecretStore(Shared<Kept>);

impl SecretStore {
    /// Whether there was a whole list of them.
    pub fn is_known(&self) -> bool {
        self.0.read().is_known()
    }

    /// Takes in what a watch shows. Returns whether a single Secret is another one now: an own write whose response was faster
    /// than the watch is known already.
    pub fn take_in(&self, event: &Event<WatchedSecret>) -> bool {
        match event {
            Event::Init => self.0.write().begin(),
            Event::InitApply(secret) => {
                let kept = Kept::new(secret);
                self.0.write().list(secret.meta(), kept);
            }
            Event::InitDone => drop(self.0.write().end()),
            Event::Apply(secret) => {
                let kept = Kept::new(secret);
                return matches!(self.0.write().watched(secret.meta(), kept), Put::Replaced(_));
            }
            Event::Delete(secret) => return self.0.write().gone(secret.meta()),
        }
        false
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Meta> {
        self.0.read().known.get(namespace, name).map(Kept::open)
    }

    /// The Secrets whose names end so.
    pub fn named(&self, suffix: &str) -> Vec<(Key, Meta)> {
        let table = self.0.read();
        let named = table.known.all().filter(|(_, name, _)| name.ends_with(suffix));
        named.map(|(namespace, name, kept)| (Key::new(namespace, name), kept.open())).collect()
    }
}

/// The mirrors of all watched namespaces.
pub struct SecretCache(BTreeMap<Option<String>, SecretStore>);

impl SecretCache {
    /// One mirror a namespace, or one for all of them.
    pub fn new(stores: BTreeMap<Option<String>, SecretStore>) -> Self {
        Self(stores)
    }

    /// The metadata of a Secret.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Meta> {
        scope_of(&self.0, namespace)?.get(namespace, name)
    }

    /// To be asked before a Secret is written or read live.
    pub fn epoch(&self, namespace: &str) -> Epoch {
        scope_of(&self.0, namespace).map_or_else(Epoch::default, |store| store.0.read().epoch())
    }

    /// Puts in what an own write or a live read was answered with. Returns whether the mirror is as new as that now; it is not
    /// where versions are no integers: the Secret is to be read live then.
    pub fn wrote(&self, secret: &Key, seen: &Meta, epoch: Epoch) -> bool {
        let Some(store) = scope_of(&self.0, &secret.namespace) else { return false };
        let object = ObjectMeta {
            namespace: Some(secret.namespace.clone()),
            name: Some(secret.name.clone()),
            resource_version: Some(seen.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let kept = Kept { version: version(&object), text: PACKER.pack_json(seen) };
        let is_ordered = kept.version != 0;
        store.0.write().wrote(&object, kept, epoch);
        is_ordered
    }

    /// A live read showed that a Secret is not there.
    pub fn absent(&self, secret: &Key, epoch: Epoch) {
        if let Some(store) = scope_of(&self.0, &secret.namespace) {
            let (namespace, name) = (Some(secret.namespace.clone()), Some(secret.name.clone()));
            store.0.write().absent(&ObjectMeta { namespace, name, ..ObjectMeta::default() }, epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(name: &str, version: &str) -> WatchedSecret {
        let object = json!({
            "metadata": {
                "name": name, "namespace": "ns", "uid": "u", "resourceVersion": version,
                "labels": {"graphtoken.io/name": "mail"},
                "annotations": {"graphtoken.io/uid": "g \"quoted\"", "other.example/big": "x"},
                "ownerReferences": [{"apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken", "name": "mail", "uid": "g"}],
                "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}],
            },
            "data": {"token": "czNjcmV0"},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_needed_of_a_secret_comes_back_as_it_was() {
        let store = SecretStore::default();
        store.take_in(&Event::Apply(secret("mail", "7")));
        let meta = store.get("ns", "mail").unwrap();
        assert_eq!(meta, secret("mail", "7").kept);
        assert_eq!(meta.annotations, BTreeMap::from([("graphtoken.io/uid".into(), "g \"quoted\"".into())]));
        assert_eq!((meta.owners, meta.deleting), (vec!["g".to_owned()], false));
        assert_eq!(store.get("ns", "other"), None);
        assert_eq!(store.get("other", "mail"), None);
    }

    #[test]
    fn a_new_list_replaces_what_was_known_once_it_is_whole() {
        let store = SecretStore::default();
        store.take_in(&Event::Apply(secret("gone", "1")));
        store.take_in(&Event::Init);
        store.take_in(&Event::InitApply(secret("mail", "2")));
        assert!(store.get("ns", "gone").is_some() && store.get("ns", "mail").is_none());
        store.take_in(&Event::InitDone);
        assert!(store.get("ns", "gone").is_none() && store.get("ns", "mail").is_some());
        store.take_in(&Event::Delete(secret("mail", "3")));
        assert!(store.get("ns", "mail").is_none() && store.0.read().known.all().next().is_none());
    }

    #[test]
    fn a_secret_is_watched_without_what_is_in_it() {
        assert!(WatchedSecret::metadata_api());
        assert!(!format!("{:?}", secret("mail", "1")).contains("czNjcmV0"));
    }
}
