//! The metadata of Secrets, foreign ones included: any of them may be named as a seed or a proof, or stand in a target's place.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use serde::Deserialize;

use crate::api::names::is_of_group;
use crate::observed::Meta;
use crate::state::Key;
use crate::store::meta;

/// What is kept of an object's metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<KeptMeta> for ObjectMeta {
    fn from(kept: KeptMeta) -> Self {
        let mut annotations = kept.annotations;
        if let Some(annotations) = &mut annotations {
            annotations.retain(|key, _| is_of_group(key));
        }
        Self {
            name: kept.name,
            namespace: kept.namespace,
            uid: kept.uid,
            resource_version: kept.resource_version,
            generation: kept.generation,
            deletion_timestamp: kept.deletion_timestamp,
            labels: kept.labels,
            annotations: annotations.filter(|annotations| !annotations.is_empty()),
            owner_references: kept.owner_references,
            ..Self::default()
        }
    }
}

/// A Secret as it is watched: of its metadata what is needed, and nothing of what is in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Sent")]
pub struct WatchedSecret(ObjectMeta);

#[derive(Deserialize)]
struct Sent {
    metadata: KeptMeta,
}

impl From<Sent> for WatchedSecret {
    fn from(sent: Sent) -> Self {
        Self(sent.metadata.into())
    }
}

impl From<ObjectMeta> for WatchedSecret {
    fn from(meta: ObjectMeta) -> Self {
        Self(meta)
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
        &self.0
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

/// One Secret's metadata as JSON, in one piece: maps of strings take several times that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packed(Box<[u8]>);

impl Packed {
    fn new(meta: &Meta) -> Self {
        // It cannot fail: strings, and maps of them.
        Self(serde_json::to_vec(meta).unwrap_or_default().into_boxed_slice())
    }

    fn open(&self) -> Meta {
        serde_json::from_slice(&self.0).unwrap_or_default()
    }
}

/// By namespace and name.
type Table = HashMap<Box<str>, HashMap<Box<str>, Packed>>;

/// The metadata of the Secrets of one namespace, or of all. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SecretStore(Arc<RwLock<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    known: Table,
    /// The list that is being read.
    listed: Table,
}

impl SecretStore {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        // A panic elsewhere leaves the tables whole: each change is one call.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a watch shows.
    pub fn take_in(&self, event: &Event<WatchedSecret>) {
        match event {
            Event::Init => self.write().listed = Table::new(),
            Event::InitApply(secret) => insert(&mut self.write().listed, secret),
            Event::InitDone => {
                let mut tables = self.write();
                tables.known = std::mem::take(&mut tables.listed);
            }
            Event::Apply(secret) => insert(&mut self.write().known, secret),
            Event::Delete(secret) => remove(&mut self.write().known, secret.meta()),
        }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Meta> {
        let tables = self.read();
        Some(tables.known.get(namespace)?.get(name)?.open())
    }

    /// The Secrets whose names end so.
    pub fn named(&self, suffix: &str) -> Vec<(Key, Meta)> {
        let tables = self.read();
        let all = tables.known.iter().flat_map(|(namespace, secrets)| {
            secrets.iter().map(move |(name, packed)| (namespace, name, packed))
        });
        all.filter(|(_, name, _)| name.ends_with(suffix))
            .map(|(namespace, name, packed)| (Key::new(namespace, name), packed.open()))
            .collect()
    }
}

fn insert(table: &mut Table, secret: &WatchedSecret) {
    let ObjectMeta { namespace: Some(namespace), name: Some(name), .. } = secret.meta() else { return };
    let packed = Packed::new(&meta(secret.meta()));
    match table.get_mut(namespace.as_str()) {
        Some(secrets) => secrets.insert(name.as_str().into(), packed),
        None => table.entry(namespace.as_str().into()).or_default().insert(name.as_str().into(), packed),
    };
}

fn remove(table: &mut Table, meta: &ObjectMeta) {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
    if let Some(secrets) = table.get_mut(namespace.as_str()) {
        secrets.remove(name.as_str());
        if secrets.is_empty() {
            table.remove(namespace.as_str());
        }
    }
}

/// The caches of all watched namespaces.
pub struct SecretCache(BTreeMap<Option<String>, SecretStore>);

impl SecretCache {
    /// One cache a namespace, or one for all of them.
    pub fn new(stores: BTreeMap<Option<String>, SecretStore>) -> Self {
        Self(stores)
    }

    /// The cached metadata of a Secret.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Meta> {
        let store = self.0.get(&None).or_else(|| self.0.get(&Some(namespace.to_owned())))?;
        store.get(namespace, name)
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
                "ownerReferences": [{"apiVersion": "v1", "kind": "GraphToken", "name": "mail", "uid": "g"}],
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
        assert_eq!(meta, crate::store::meta(secret("mail", "7").meta()));
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
        assert!(store.get("ns", "mail").is_none() && store.read().known.is_empty());
    }

    #[test]
    fn a_secret_is_watched_without_what_is_in_it() {
        assert!(WatchedSecret::metadata_api());
        assert!(!format!("{:?}", secret("mail", "1")).contains("czNjcmV0"));
    }
}
