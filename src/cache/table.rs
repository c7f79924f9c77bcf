//! Objects by namespace and name, with the list that is being read beside what is known.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::api::ObjectMeta;

use crate::state::Key;

/// By namespace and name. A namespace is told once, however many objects are in it.
#[derive(Debug)]
pub(super) struct ByName<V>(HashMap<Box<str>, HashMap<Box<str>, V>>);

impl<V> Default for ByName<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> ByName<V> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&V> {
        self.0.get(namespace)?.get(name)
    }

    /// All of them: namespace, name, and what is kept.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, &V)> {
        self.0.iter().flat_map(|(namespace, objects)| {
            objects.iter().map(move |(name, value)| (&**namespace, &**name, value))
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.all().map(|(namespace, name, _)| Key::new(namespace, name))
    }

    /// Keeps one; returns what was kept of it before.
    fn insert(&mut self, meta: &ObjectMeta, value: V) -> Option<V> {
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return None };
        if !self.0.contains_key(namespace.as_str()) {
            self.0.insert(namespace.as_str().into(), HashMap::new());
        }
        let objects = self.0.get_mut(namespace.as_str())?;
        match objects.get_mut(name.as_str()) {
            Some(known) => Some(std::mem::replace(known, value)),
            None => objects.insert(name.as_str().into(), value),
        }
    }

    fn remove(&mut self, meta: &ObjectMeta) {
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
        if let Some(objects) = self.0.get_mut(namespace.as_str()) {
            objects.remove(name.as_str());
            if objects.is_empty() {
                self.0.remove(namespace.as_str());
            }
        }
    }
}

/// What is known of the objects of a kind.
#[derive(Debug)]
pub(super) struct Table<V> {
    pub(super) known: ByName<V>,
    /// The list that is being read: it replaces what is known once it is whole.
    listed: ByName<V>,
    /// Whether there was a whole list.
    is_known: bool,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { known: ByName::default(), listed: ByName::default(), is_known: false }
    }
}

impl<V> Table<V> {
    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.listed = ByName::default();
    }

    /// One more of the list.
    pub(super) fn list(&mut self, meta: &ObjectMeta, value: V) {
        self.listed.insert(meta, value);
    }

    /// The list is whole; returns what was known before.
    pub(super) fn end(&mut self) -> ByName<V> {
        self.is_known = true;
        std::mem::replace(&mut self.known, std::mem::take(&mut self.listed))
    }

    pub(super) const fn is_known(&self) -> bool {
        self.is_known
    }

    /// Keeps one; returns what was kept of it before.
    pub(super) fn insert(&mut self, meta: &ObjectMeta, value: V) -> Option<V> {
        self.known.insert(meta, value)
    }

    /// Keeps one no more.
    pub(super) fn remove(&mut self, meta: &ObjectMeta) {
        self.known.remove(meta);
    }
}

/// A table that a watch fills and looks read. Clones share it.
#[derive(Debug)]
pub(super) struct Shared<V>(Arc<RwLock<Table<V>>>);

impl<V> Default for Shared<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<V> Clone for Shared<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> Shared<V> {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table<V>> {
        // A panic elsewhere leaves the table whole: each change is one call.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table<V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
