//! What the scopes have in common: each can wake a `GraphToken` of any, and none begins before all have been heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queue::Item;
use super::worker::Work;
use crate::cache::{GraphTokenStore, scope_of};
use crate::state::{Key, Version};

/// A namespace, or all of them.
type Namespace = Option<String>;

/// All scopes.
#[derive(Clone)]
pub(super) struct Everyone {
    scopes: Arc<Mutex<BTreeMap<Namespace, Scope>>>,
    work: Work,
}

/// What is known of a scope.
struct Scope {
    graphtokens: GraphTokenStore,
    /// Its `GraphToken`s are known, or cannot be had for now.
    heard: bool,
    /// The cache of its Secrets is filled.
    has_secrets: bool,
    /// There is all that a look needs. Until then nobody is woken, and then all are.
    begun: bool,
}

impl Everyone {
    pub(super) fn new(work: Work, stores: &BTreeMap<Namespace, GraphTokenStore>) -> Self {
        let scope = |graphtokens: &GraphTokenStore| Scope {
            graphtokens: graphtokens.clone(),
            heard: false,
            has_secrets: false,
            begun: false,
        };
        let scopes = stores.iter().map(|(namespace, store)| (namespace.clone(), scope(store))).collect();
        Self { scopes: Arc::new(Mutex::new(scopes)), work }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Namespace, Scope>> {
        // A panic elsewhere leaves the map whole: each change is one assignment.
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `GraphToken`s, in whichever scope they are.
    pub(super) fn wake(&self, graphtokens: impl IntoIterator<Item = Key>) {
        let scopes = self.lock();
        let begun = |key: &Key| scope_of(&scopes, &key.namespace).is_some_and(|scope| scope.begun);
        self.work.enqueue(graphtokens.into_iter().filter(begun).map(Item::GraphToken));
    }

    /// A watch shows another version of an object that concerns these `GraphToken`s.
    pub(super) fn changed(&self, graphtokens: impl IntoIterator<Item = Key>, version: &Version) {
        let scopes = self.lock();
        let begun = |key: &Key| scope_of(&scopes, &key.namespace).is_some_and(|scope| scope.begun);
        self.work.changed(graphtokens.into_iter().filter(begun).map(Item::GraphToken), version);
    }

    /// Whether the mirrors of all scopes are filled.
    pub(super) fn are_known(&self) -> bool {
        self.lock().values().all(|scope| scope.has_secrets && scope.graphtokens.is_known())
    }

    /// The `GraphToken`s of a scope are known, or cannot be had for now. What a provider said to one `GraphToken` is for those
    /// of other namespaces too, so all wait for this.
    pub(super) fn heard(&self, namespace: &Namespace) {
        let mut scopes = self.lock();
        if let Some(scope) = scopes.get_mut(namespace) {
            scope.heard = true;
        }
        self.begin(&mut scopes);
    }

    /// The Secrets of a scope are known, or known anew: whatever changed before, all are looked at.
    pub(super) fn has_secrets(&self, namespace: &Namespace) {
        let mut scopes = self.lock();
        if let Some(scope) = scopes.get_mut(namespace) {
            (scope.has_secrets, scope.begun) = (true, false);
        }
        self.begin(&mut scopes);
    }

    fn begin(&self, scopes: &mut BTreeMap<Namespace, Scope>) {
        if scopes.values().any(|scope| !scope.heard) {
            return;
        }
        for scope in scopes.values_mut().filter(|scope| scope.has_secrets && !scope.begun) {
            scope.begun = true;
            self.work.enqueue(scope.graphtokens.keys().into_iter().map(Item::GraphToken));
        }
    }
}
