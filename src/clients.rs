//! The `ClusterGraphClient`s and the labels of namespaces as the watches show them, and which `GraphToken`s are on which
//! client: a change wakes those that it concerns, and nobody else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::GraphTokenSpec;
use crate::api::client::ClusterGraphClientSpec;
use crate::desired::{ClusterClient, Desired, Guards, SpecError, shared_client};
use crate::observed::Identity;
use crate::state::Key;

/// A watch that fails this often in a row is not just being taken up.
const FAILURES_THAT_COUNT: u32 = 2;

/// What is watched for the sake of `ClusterGraphClient`s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// The `ClusterGraphClient`s themselves.
    Clients,
    /// The labels of namespaces.
    Namespaces,
    /// The metadata of the Secrets in the clients' namespace.
    Secrets,
}

impl Feed {
    const fn what(self) -> &'static str {
        match self {
            Self::Clients => "ClusterGraphClients",
            Self::Namespaces => "namespaces",
            Self::Secrets => "Secrets of the ClusterGraphClients' namespace",
        }
    }
}

/// A `ClusterGraphClient` as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Its spec.
    pub spec: ClusterGraphClientSpec,
    /// Its UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// What a watch has shown of one kind of object, by name.
#[derive(Debug)]
pub struct Mirror<V> {
    known: bool,
    values: HashMap<String, V>,
    /// The list that is being read.
    listed: HashMap<String, V>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { known: false, values: HashMap::new(), listed: HashMap::new() }
    }
}

/// What an event of a watch changes.
#[derive(Debug)]
pub enum Change<V> {
    /// A list begins.
    Listing,
    /// One of the list.
    Listed(String, V),
    /// The list is whole.
    Complete,
    /// One is new or has changed.
    Set(String, V),
    /// One is gone.
    Gone(String),
}

impl<V: PartialEq> Mirror<V> {
    /// Takes in a change, and tells whose value is another one now.
    fn take_in(&mut self, change: Change<V>) -> Vec<String> {
        match change {
            Change::Listing => self.listed.clear(),
            Change::Listed(name, value) => {
                self.listed.insert(name, value);
            }
            Change::Complete => {
                self.known = true;
                let before = std::mem::replace(&mut self.values, std::mem::take(&mut self.listed));
                let names =
                    before.keys().chain(self.values.keys().filter(|name| !before.contains_key(*name)));
                return names.filter(|name| before.get(*name) != self.values.get(*name)).cloned().collect();
            }
            Change::Set(name, value) => {
                if self.values.get(&name) != Some(&value) {
                    self.values.insert(name.clone(), value);
                    return vec![name];
                }
            }
            Change::Gone(name) => {
                if self.values.remove(&name).is_some() {
                    return vec![name];
                }
            }
        }
        Vec::new()
    }
}

/// Why there is nothing to go by yet.
#[derive(Debug)]
pub enum Unresolved {
    /// The spec, or the client that it is on, is at fault.
    Spec(SpecError),
    /// The watches have not shown what it rests on, and why, if that is known.
    Unknown(Option<String>),
}

#[derive(Default)]
struct Known {
    /// One that does not decode is there all the same, with what is wrong with it.
    clients: Mirror<Result<Stated, String>>,
    namespaces: Mirror<BTreeMap<String, String>>,
    secrets: bool,
    /// How often each watch has failed in a row, and why at last.
    troubles: Vec<(Feed, u32, String)>,
    users: BTreeMap<Key, String>,
}

/// The cache of `ClusterGraphClient`s; without them where the operator serves none.
pub struct ClientCache(Option<Mutex<Known>>);

impl ClientCache {
    /// An empty cache. An operator that does not serve `ClusterGraphClient`s watches nothing for them.
    pub fn new(served: bool) -> Self {
        Self(served.then(Mutex::default))
    }

    /// Whether `ClusterGraphClient`s are served.
    pub const fn served(&self) -> bool {
        self.0.is_some()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Known>> {
        // A panic elsewhere leaves the maps whole: each change is one call.
        self.0.as_ref().map(|known| known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the `GraphToken` asks for, with the client that it is on.
    pub fn desired(
        &self,
        identity: &Identity,
        spec: &GraphTokenSpec,
        guards: &Guards,
    ) -> Result<Desired, Unresolved> {
        let key = Key::new(&identity.namespace, &identity.name);
        let Some(name) = shared_client(spec) else {
            self.forget(&key);
            return Desired::new(&identity.name, spec, guards, &|_| None).map_err(Unresolved::Spec);
        };
        let Some(mut known) = self.lock() else {
            return Err(Unresolved::Spec(SpecError::ClientsNotServed { name: name.to_owned() }));
        };
        known.users.insert(key, name.to_owned());
        let found = known.find(name, &identity.namespace, guards.client_namespace.is_some())?;
        drop(known);
        Desired::new(&identity.name, spec, guards, &|_| found.clone()).map_err(Unresolved::Spec)
    }

    /// Tenant and client id of a `ClusterGraphClient`.
    pub fn tenant_and_client(&self, name: &str) -> Option<(String, String)> {
        let known = self.lock()?;
        let stated = known.clients.values.get(name)?.as_ref().ok()?;
        Some((stated.spec.tenant.clone(), stated.spec.client_id.clone()))
    }

    /// A `GraphToken` is gone, or states its client itself.
    pub fn forget(&self, graphtoken: &Key) {
        if let Some(mut known) = self.lock() {
            known.users.remove(graphtoken);
        }
    }

    /// Takes in a change of `ClusterGraphClient`s; returns the `GraphToken`s that it concerns.
    pub fn client_changed(&self, change: Change<Result<Stated, String>>) -> Vec<Key> {
        let Some(mut known) = self.lock() else { return Vec::new() };
        let filled = known.heard(Feed::Clients, matches!(change, Change::Complete));
        let changed = known.clients.take_in(change);
        if filled {
            return known.users.keys().cloned().collect();
        }
        known.users_of(|_, client| changed.iter().any(|name| name == client))
    }

    /// Takes in a change of namespaces' labels; returns the `GraphToken`s that it concerns.
    pub fn namespace_changed(&self, change: Change<BTreeMap<String, String>>) -> Vec<Key> {
        let Some(mut known) = self.lock() else { return Vec::new() };
        let filled = known.heard(Feed::Namespaces, matches!(change, Change::Complete));
        let changed = known.namespaces.take_in(change);
        if filled {
            return known.users.keys().cloned().collect();
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let changed: std::collections::BTreeSet<String> = changed.into_iter().collect();
        known.users_of(|key, _| changed.contains(&key.namespace))
    }

    /// The metadata of all Secrets of the clients' namespace is there; returns the `GraphToken`s that it concerns.
    pub fn secrets_known(&self) -> Vec<Key> {
        let Some(mut known) = self.lock() else { return Vec::new() };
        known.heard(Feed::Secrets, true);
        known.secrets = true;
        known.users.keys().cloned().collect()
    }

    /// A watch failed. Returns the `GraphToken`s that are to say so.
    pub fn failed(&self, feed: Feed, why: &str) -> Vec<Key> {
        let Some(mut known) = self.lock() else { return Vec::new() };
        let trouble = known.troubles.iter_mut().find(|(of, ..)| *of == feed);
        let news = if let Some((_, times, before)) = trouble {
            *times = times.saturating_add(1);
            let news = *times == FAILURES_THAT_COUNT || before != why;
            why.clone_into(before);
            news
        } else {
            known.troubles.push((feed, 1, why.to_owned()));
            false
        };
        // Once it has been filled, the cache serves on as it is.
        if news && !known.is_filled(feed) { known.users.keys().cloned().collect() } else { Vec::new() }
    }
}

impl Known {
    fn is_filled(&self, feed: Feed) -> bool {
        match feed {
            Feed::Clients => self.clients.known,
            Feed::Namespaces => self.namespaces.known,
            Feed::Secrets => self.secrets,
        }
    }

    /// The watch answers. Returns whether it is filled by this for the first time.
    fn heard(&mut self, feed: Feed, complete: bool) -> bool {
        if complete {
            self.troubles.retain(|(of, ..)| *of != feed);
        }
        complete && !self.is_filled(feed)
    }

    fn users_of(&self, concerned: impl Fn(&Key, &str) -> bool) -> Vec<Key> {
        self.users.iter().filter(|(key, client)| concerned(key, client)).map(|(key, _)| key.clone()).collect()
    }

    fn unknown(&self, feed: Feed) -> Unresolved {
        let trouble =
            self.troubles.iter().find(|(of, times, _)| *of == feed && *times >= FAILURES_THAT_COUNT);
        Unresolved::Unknown(trouble.map(|(feed, _, why)| {
            format!(
                "the {} cannot be watched: {why}; let whoever runs the cluster see to the operator's rights and CRDs; the \
                 operator tries again by itself",
                feed.what()
            )
        }))
    }

    fn find(
        &self,
        name: &str,
        namespace: &str,
        with_secrets: bool,
    ) -> Result<Option<ClusterClient>, Unresolved> {
        if let Some(feed) = [Feed::Clients, Feed::Namespaces].into_iter().find(|feed| !self.is_filled(*feed))
        {
            return Err(self.unknown(feed));
        }
        let stated = match self.clients.values.get(name) {
            None => return Ok(None),
            Some(Ok(stated)) => stated,
            Some(Err(problem)) => {
                let (name, problem) = (name.to_owned(), problem.clone());
                return Err(Unresolved::Spec(SpecError::ClientUndecodable { name, problem }));
            }
        };
        if with_secrets && secret_of(&stated.spec).is_some() && !self.secrets {
            return Err(self.unknown(Feed::Secrets));
        }
        // A namespace that is so new that its own watch has not shown it.
        let Some(namespace_labels) = self.namespaces.values.get(namespace).cloned() else {
            return Err(Unresolved::Unknown(None));
        };
        Ok(Some(ClusterClient {
            spec: stated.spec.clone(),
            uid: stated.uid.clone(),
            generation: stated.generation,
            namespace_labels,
        }))
    }
}

/// The Secret that a client's proof is in.
fn secret_of(spec: &ClusterGraphClientSpec) -> Option<&str> {
    let auth = spec.client_auth.as_ref()?;
    let secret = auth.secret_ref.as_ref().map(|secret| secret.name.as_str());
    secret.or(auth.certificate_ref.as_ref().map(|secret| secret.name.as_str()))
}

#[cfg(test)]
mod tests;
