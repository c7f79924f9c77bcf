//! `GraphToken`s as they are watched: what a look needs of them, and no more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::packer::{Packed, Packer};
use super::scope_of;
use super::secrets::KeptMeta;
use super::table::{Entry, Epoch, Put, Shared, version};
use crate::api::carry::decodable;
use crate::api::names::ANNOTATION_REQUESTED_AT;
use crate::api::{GraphToken, GraphTokenSpec, GraphTokenStatus, Time};
use crate::seed::hex;
use crate::state::{Key, Version};

/// The longest request for a refresh that is kept as it is. The status has it twice.
const MOST_REQUEST: usize = 256;

/// A `GraphToken` as the API server sent it. Spec and status stay text until somebody looks, which takes less memory than
/// what they decode to; and one that does not decode does not blind the watch to the others.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Sent")]
pub struct Watched {
    meta: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// A `GraphToken` whose spec does not decode, as after a CRD and an operator of different versions met.
#[derive(Debug)]
pub struct Undecodable {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its status.
    pub status: Option<GraphTokenStatus>,
    /// What is wrong with the spec.
    pub error: String,
}

/// Who goes first where many are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it: it is new, or was changed, or asked for.
    New,
    /// The token in its target ends then, in seconds since the epoch.
    ExpiresAt(i64),
    /// It has no token, and there was time to tell why.
    Failing,
}

/// Of a status what tells how urgent it is.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Urgent {
    observed_generation: i64,
    expires_at: Option<Time>,
    last_handled_request: Option<String>,
}

/// Text can be taken over from a document that is read for the first time only: which is so, as the API server sends the
/// type of an event before the object.
#[derive(Deserialize)]
struct Sent {
    metadata: KeptMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

impl From<Sent> for Watched {
    fn from(sent: Sent) -> Self {
        let KeptMeta { name, namespace, uid, resource_version, generation, deletion_timestamp, .. } =
            sent.metadata;
        let requested = sent.metadata.annotations.and_then(|mut all| all.remove(ANNOTATION_REQUESTED_AT));
        let annotations =
            requested.map(|value| BTreeMap::from([(ANNOTATION_REQUESTED_AT.to_owned(), request(value))]));
        let meta = ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            generation,
            deletion_timestamp,
            annotations,
            ..ObjectMeta::default()
        };
        Self { meta, spec: sent.spec, status: sent.status }
    }
}

/// A request for a refresh as it is kept and noted in the status: a long one by its hash.
fn request(value: String) -> String {
    if value.len() <= MOST_REQUEST { value } else { format!("sha256:{}", hex(&Sha256::digest(value))) }
}

impl Watched {
    /// The object, or what is wrong with its spec. The status is the operator's own: it is read as far as it decodes.
    pub fn decoded(&self) -> Result<GraphToken, Box<Undecodable>> {
        let status = self.status.as_deref().map(|status| GraphTokenStatus::read(status.get()));
        let metadata = self.meta.clone();
        match serde_json::from_str(self.spec()) {
            Ok(spec) => Ok(GraphToken { metadata, spec, status }),
            Err(error) => Err(Box::new(Undecodable { metadata, status, error: format!("spec: {error}") })),
        }
    }

    /// The spec as far as it decodes.
    pub fn readable_spec(&self) -> Option<GraphTokenSpec> {
        readable(self.spec())
    }

    /// The status as far as it decodes, to be read and not to be written back.
    pub fn status(&self) -> Option<GraphTokenStatus> {
        readable(self.status.as_deref()?.get())
    }

    fn spec(&self) -> &str {
        self.spec.as_deref().map_or("{}", RawValue::get)
    }

    /// How urgent a look at it is. It takes no decoding of the whole.
    pub fn urgency(&self) -> Urgency {
        let status = self.status.as_deref().map(|status| serde_json::from_str(status.get()));
        let Some(Ok(Urgent { observed_generation, expires_at, last_handled_request })) = status else {
            return Urgency::New;
        };
        let annotations = self.meta.annotations.as_ref();
        let requested = annotations.and_then(|all| all.get(ANNOTATION_REQUESTED_AT));
        let handled = requested.is_none_or(|requested| last_handled_request.as_ref() == Some(requested));
        match expires_at {
            _ if Some(observed_generation) != self.meta.generation || !handled => Urgency::New,
            Some(at) => Urgency::ExpiresAt(at.epoch()),
            None => Urgency::Failing,
        }
    }

    /// Whether the status has something to say of a provider that asked for silence. Reading it takes much longer.
    pub fn may_tell_of_silence(&self) -> bool {
        self.status.as_deref().is_some_and(|status| status.get().contains("\"throttles\""))
    }

    /// What others ask for: a write of the status does not change it.
    fn asked(&self) -> u64 {
        let requested = self.meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION_REQUESTED_AT));
        let deleting = self.meta.deletion_timestamp.is_some();
        let mut hasher = DefaultHasher::new();
        (&self.meta.uid, self.meta.generation, requested, deleting).hash(&mut hasher);
        hasher.finish()
    }

    /// What a reconcile goes by: all of the above and the status. Own writes of the status are in the mirror before a watch
    /// shows them, so that a status that differs is somebody else's.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.asked(), self.status.as_deref().map(RawValue::get)).hash(&mut hasher);
        hasher.finish()
    }

    /// UID and resourceVersion.
    pub fn version(&self) -> Version {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Version { uid: text(&self.meta.uid), resource_version: text(&self.meta.resource_version) }
    }
}

/// What is usual takes one pass.
fn readable<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok().or_else(|| decodable(serde_json::from_str(text).ok()?))
}

impl Resource for Watched {
    type DynamicType = ();
    type Scope = <GraphToken as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        GraphToken::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        GraphToken::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        GraphToken::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        GraphToken::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What is kept of one.
#[derive(Debug)]
struct Kept {
    version: u64,
    asked: u64,
    fingerprint: u64,
    urgency: Urgency,
    /// The whole as JSON.
    text: Packed,
}

static PACKER: Packer = Packer::new();

/// As it is packed. (Borrowed: nothing is copied but once.)
#[derive(Serialize)]
struct Packing<'a> {
    metadata: &'a ObjectMeta,
    spec: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
}

impl Kept {
    fn new(watched: &Watched) -> Self {
        let Watched { meta, spec, status } = watched;
        let packing = Packing { metadata: meta, spec: spec.as_deref(), status: status.as_deref() };
        let text = PACKER.pack_json(&packing);
        let (asked, fingerprint) = (watched.asked(), watched.fingerprint());
        Self { version: version(meta), asked, fingerprint, urgency: watched.urgency(), text }
    }

    fn open(&self) -> Option<Watched> {
        PACKER.open_json(&self.text)
    }
}

impl Entry for Kept {
    fn version(&self) -> u64 {
        self.version
    }
}

/// Whom what a watch showed concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Those that are new, or changed in a way that matters.
    pub changed: Vec<Key>,
    /// Those that are gone.
    pub gone: Vec<Key>,
}

/// The `GraphToken`s of one namespace, or of all. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct GraphTokenStore(Shared<Kept>);

impl GraphTokenStore {
    /// Whether there was a whole list of them.
    pub fn is_known(&self) -> bool {
        self.0.read().is_known()
    }

    /// Takes in what a watch shows, and tells whom it concerns.
    pub fn take_in(&self, event: &Event<Watched>) -> News {
        let key = |meta: &ObjectMeta| Some(Key::new(meta.namespace.as_deref()?, meta.name.as_deref()?));
        match event {
            Event::Init => self.0.write().begin(),
            Event::InitApply(object) => {
                let kept = Kept::new(object);
                self.0.write().list(object.meta(), kept);
            }
            Event::InitDone => return self.listed(),
            Event::Apply(object) => {
                let kept = Kept::new(object);
                let fingerprint = kept.fingerprint;
                let changed = match self.0.write().watched(object.meta(), kept) {
                    Put::Replaced(former) => former.is_none_or(|former| former.fingerprint != fingerprint),
                    Put::Passed => false,
                };
                let changed = changed.then(|| key(object.meta())).flatten();
                return News { changed: changed.into_iter().collect(), gone: Vec::new() };
            }
            Event::Delete(object) => {
                let gone = self.0.write().gone(object.meta()).then(|| key(object.meta())).flatten();
                return News { changed: Vec::new(), gone: gone.into_iter().collect() };
            }
        }
        News::default()
    }

    /// A list is whole. What changed, or was deleted, while the watch was broken shows only now.
    fn listed(&self) -> News {
        let mut table = self.0.write();
        let (former, own) = table.end();
        let differs = |(namespace, name, now): &(&str, &str, &Kept)| {
            former.get(namespace, name).is_none_or(|former| former.fingerprint != now.fingerprint)
        };
        let changed = table.known.all().filter(differs).map(|(namespace, name, _)| Key::new(namespace, name));
        let changed = changed.filter(|key| !own.contains(key));
        let gone = former.keys().filter(|key| table.known.get(&key.namespace, &key.name).is_none());
        News { changed: changed.collect(), gone: gone.collect() }
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<Watched> {
        self.0.read().known.get(&key.namespace, &key.name)?.open()
    }

    /// Whether there is one of this name.
    pub fn contains(&self, key: &Key) -> bool {
        self.0.read().known.get(&key.namespace, &key.name).is_some()
    }

    /// How urgent a look at it is.
    pub fn urgency(&self, key: &Key) -> Option<Urgency> {
        self.0.read().known.get(&key.namespace, &key.name).map(|kept| kept.urgency)
    }

    /// All of them.
    pub fn keys(&self) -> Vec<Key> {
        self.0.read().known.keys().collect()
    }

    /// An own write of the status was answered with this. Returns whether others changed the object meanwhile, which no
    /// watch will tell any more.
    fn wrote(&self, object: &Watched, epoch: Epoch) -> bool {
        let kept = Kept::new(object);
        let asked = kept.asked;
        let put = self.0.write().wrote(object.meta(), kept, epoch);
        matches!(put, Put::Replaced(Some(former)) if former.asked != asked)
    }
}

/// The caches of all watched namespaces. Clones share them.
#[derive(Clone, Default)]
pub struct GraphTokenCache(Arc<BTreeMap<Option<String>, GraphTokenStore>>);

impl GraphTokenCache {
    /// One cache a namespace, or one for all of them.
    pub fn new(stores: BTreeMap<Option<String>, GraphTokenStore>) -> Self {
        Self(Arc::new(stores))
    }

    fn of(&self, key: &Key) -> Option<&GraphTokenStore> {
        scope_of(&self.0, &key.namespace)
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<Watched> {
        self.of(key)?.get(key)
    }

    /// How urgent a look at it is.
    pub fn urgency(&self, key: &Key) -> Option<Urgency> {
        self.of(key)?.urgency(key)
    }

    /// Whether there is one of this name.
    pub fn contains(&self, key: &Key) -> bool {
        self.of(key).is_some_and(|store| store.contains(key))
    }

    /// To be asked before a status is written.
    pub fn epoch(&self, key: &Key) -> Epoch {
        self.of(key).map_or_else(Epoch::default, |store| store.0.read().epoch())
    }

    /// Puts in what an own write of the status was answered with. Returns whether others changed the object meanwhile, which
    /// no watch will tell any more.
    pub fn wrote(&self, key: &Key, object: &Watched, epoch: Epoch) -> bool {
        self.of(key).is_some_and(|store| store.wrote(object, epoch))
    }

    /// All of them, one after another: together they would take as much again as all that is kept.
    pub fn all(&self) -> impl Iterator<Item = Watched> {
        let of = |store: &GraphTokenStore| {
            let store = store.clone();
            store.keys().into_iter().filter_map(move |key| store.get(&key))
        };
        self.0.values().flat_map(of)
    }
}

#[cfg(test)]
mod tests;
