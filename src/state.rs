//! What the process keeps in memory between two reconciles: caches of the API server, its own last writes laid over them,
//! and per `GraphToken` only what saves a read. Nothing here is truth: a restart loses it and loses nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::time::Instant;

use crate::api::GraphTokenStatus;
use crate::api::spec::Workload;
use crate::grant::device_code::SLOW_DOWN;
use crate::observed::{Credential, Meta, SeedState, TargetView, Unrenderable};
use crate::proof::Held;
use crate::rotation::{InFlight, InHand};
use crate::store::meta;

mod ends;

pub use ends::{End, Ends};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key of its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What is kept for one `GraphToken`.
#[derive(Debug, Default)]
pub struct Memory {
    /// The UID it is about: another one starts afresh.
    pub uid: String,
    /// The credential as last read or written.
    pub credential: Option<Credential>,
    /// The target as last written, until the cache has caught up.
    pub target: Option<(TargetView, Instant)>,
    /// When a target that was changed or deleted was last written again.
    pub repaired: Option<Instant>,
    /// The resourceVersion of a target whose bytes were checked against what was written, and the verdict.
    pub checked: Option<(String, bool)>,
    /// The seed as last read: its UID, resourceVersion and what it was.
    pub seed: Option<(String, String, SeedState)>,
    /// The login Secret as last read.
    pub login: Option<Login>,
    /// The polls for a device code.
    pub polls: Option<Polls>,
    /// The status as last decided, with the resourceVersion that it was written at, until the cache has caught up; `None`:
    /// it could not be written yet.
    pub status: Option<(Option<String>, GraphTokenStatus)>,
    /// Whether the cache is known to lag, so that the next look reads live.
    pub read_live: bool,
    /// A token that is not published yet.
    pub in_hand: Option<InHand>,
    /// A token that could not be rendered.
    pub unrenderable: Option<Unrenderable>,
    /// Somebody else's write-ahead record: the attempt, and since when answered reads have shown it.
    pub pending_since: Option<(String, Instant)>,
    /// An exchange that is not settled yet.
    pub in_flight: Option<InFlight>,
    /// What was done about the workloads that are restarted when the target changed.
    pub restarts: HashMap<Workload, Restart>,
    /// What was said in an event that no condition speaks of, so that it is said once.
    pub said: BTreeSet<String>,
}

/// What was done about a workload for one content of the target.
#[derive(Debug)]
pub struct Restart {
    /// Digest of the content.
    pub content: String,
    /// When the workload is to be looked at again all the same.
    pub again: Option<Timestamp>,
}

/// The login Secret as it was read.
#[derive(Debug)]
pub struct Login {
    /// Its metadata.
    pub meta: Meta,
    /// The client whose refresh token was looked for.
    pub client_id: String,
    /// What is in it.
    pub state: SeedState,
}

/// The polls for one device code. They write nothing, so a restart begins them anew.
#[derive(Debug)]
pub struct Polls {
    /// Which code.
    pub user_code: String,
    /// Between two of them.
    interval: Duration,
    /// When the next may be made.
    pub next: Timestamp,
}

impl Polls {
    /// The first is an interval away: nobody types faster.
    pub fn new(user_code: String, interval: Duration, now: Timestamp) -> Self {
        let mut polls = Self { user_code, interval, next: now };
        polls.made(false, now);
        polls
    }

    /// Notes that one was made.
    pub fn made(&mut self, slow_down: bool, now: Timestamp) {
        if slow_down {
            self.interval += SLOW_DOWN;
        }
        let wait = SignedDuration::try_from(self.interval).unwrap_or(SignedDuration::MAX);
        self.next = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
    }
}

/// How long the cache may lag behind an own write before the cache is believed.
pub const CACHE_LAG: Duration = Duration::from_secs(5);

/// A referenced proof: UID and resourceVersion of its Secret, and what that holds or what is wrong with it.
type Proof = (String, String, Result<Held, String>);

/// The process's memory.
#[derive(Default)]
pub struct State {
    memories: Mutex<HashMap<Key, Memory>>,
    referrers: Mutex<BTreeMap<Key, BTreeSet<Key>>>,
    seed_users: Mutex<BTreeMap<Key, BTreeSet<String>>>,
    proofs: Mutex<HashMap<(Key, String), Proof>>,
    /// When the proofs that are in use end.
    pub ends: Ends,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Takes the memory of a `GraphToken` for the length of a reconcile, which never runs twice at once for one object.
    pub fn take(&self, key: &Key, uid: &str) -> Memory {
        let memory = lock(&self.memories).remove(key).filter(|memory| memory.uid == uid);
        memory.unwrap_or_else(|| Memory { uid: uid.to_owned(), ..Memory::default() })
    }

    /// Puts it back.
    pub fn put(&self, key: &Key, memory: Memory) {
        lock(&self.memories).insert(key.clone(), memory);
    }

    /// Forgets a `GraphToken` that is gone.
    pub fn forget(&self, key: &Key) {
        lock(&self.memories).remove(key);
        self.ends.note(key, None);
        lock(&self.referrers).retain(|_, graphtokens| {
            graphtokens.remove(key);
            !graphtokens.is_empty()
        });
        lock(&self.seed_users).retain(|secret, names| {
            if secret.namespace == key.namespace {
                names.remove(&key.name);
            }
            !names.is_empty()
        });
    }

    /// Whether an event about a Secret only echoes what this process wrote.
    pub fn is_own_write(&self, graphtoken: &Key, resource_version: &str) -> bool {
        lock(&self.memories).get(graphtoken).is_some_and(|memory| {
            let target = memory.target.as_ref().map(|(view, _)| &view.meta.resource_version);
            let credential = memory.credential.as_ref().map(|c| &c.meta.resource_version);
            [target, credential].into_iter().flatten().any(|own| own == resource_version)
        })
    }

    /// Notes that a `GraphToken` depends on a Secret, so that a change of the Secret wakes it.
    pub fn refer(&self, secret: &Key, graphtoken: &Key) {
        lock(&self.referrers).entry(secret.clone()).or_default().insert(graphtoken.clone());
    }

    /// The `GraphToken`s that depend on a Secret. They may be in other namespaces than it.
    pub fn referrers(&self, secret: &Key) -> Vec<Key> {
        lock(&self.referrers).get(secret).map(|all| all.iter().cloned().collect()).unwrap_or_default()
    }

    /// Notes that a `GraphToken` starts from a seed, and tells which others do.
    pub fn share_seed(&self, seed: &Key, graphtoken: &str) -> Vec<String> {
        let mut users = lock(&self.seed_users);
        let users = users.entry(seed.clone()).or_default();
        users.insert(graphtoken.to_owned());
        users.iter().filter(|name| *name != graphtoken).cloned().collect()
    }

    /// What a Secret held for a use of it when it was read at this version.
    pub fn proof(&self, what_for: &(Key, String), meta: &Meta) -> Option<Result<Held, String>> {
        let proofs = lock(&self.proofs);
        let (uid, version, held) = proofs.get(what_for)?;
        (*uid == meta.uid && *version == meta.resource_version).then(|| held.clone())
    }

    /// Keeps it, so that it is read once a version.
    pub fn keep_proof(&self, what_for: (Key, String), meta: &Meta, held: Result<Held, String>) {
        lock(&self.proofs).insert(what_for, (meta.uid.clone(), meta.resource_version.clone(), held));
    }
}

/// The cache of all Secrets' metadata.
pub type SecretStore = Store<PartialObjectMeta<Secret>>;

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
        let object = store.get(&ObjectRef::new(name).within(namespace))?;
        Some(meta(&object.metadata))
    }
}

/// Whether a resourceVersion is newer than another. They are comparable as numbers (KEP-5504); what is not a number is
/// taken for newer, which costs one read at worst.
pub fn newer(one: &str, other: &str) -> bool {
    match (one.parse::<u128>(), other.parse::<u128>()) {
        (Ok(one), Ok(other)) => one > other,
        _ => one != other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_wakes_the_graphtokens_of_other_namespaces_until_they_are_gone() {
        let state = State::default();
        let shared = Key::new("clients", "app-cert");
        let [here, there] = ["one", "two"].map(|namespace| Key::new(namespace, "mail"));
        for graphtoken in [&here, &there] {
            state.refer(&shared, graphtoken);
        }
        assert_eq!(state.referrers(&shared), [here.clone(), there.clone()]);
        assert_eq!(state.referrers(&Key::new("one", "app-cert")), []);
        state.forget(&here);
        assert_eq!(state.referrers(&shared), [there]);
    }
}
