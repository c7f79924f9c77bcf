//! The mirror of one kind of objects: by namespace and name, with the list that is being read beside what is known.
//!
//! A watch fills it, and own writes go into it too, so that the next reconcile sees them though the watch is behind. Versions
//! are compared as integers (KEP-5504): the mirror of an object only moves forward, and a complete list replaces all. A write
//! whose response comes when the watch has already passed its version is dropped: the object may be gone by then.

use std::collections::{HashMap, HashSet};
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

    fn remove(&mut self, meta: &ObjectMeta) -> Option<V> {
        let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        let objects = self.0.get_mut(namespace)?;
        let removed = objects.remove(name);
        if objects.is_empty() {
            self.0.remove(namespace);
        }
        removed
    }
}

impl<V: Entry> ByName<V> {
    /// The version of one; 0 if it is not there.
    fn version(&self, meta: &ObjectMeta) -> u64 {
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let known = self.get(namespace.unwrap_or_default(), name.unwrap_or_default());
        known.map(Entry::version).unwrap_or_default()
    }
}

/// What is kept of an object.
pub(super) trait Entry {
    /// The resourceVersion; 0 where it is no integer.
    fn version(&self) -> u64;
}

/// The resourceVersion as an integer; 0 where it is none.
pub(super) fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// What came of an event or of an own write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<V> {
    /// It is in the mirror now, in the place of this.
    Replaced(Option<V>),
    /// The mirror is as new, or newer.
    Passed,
}

/// How far the mirror was before an own write or a live read was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epoch {
    /// How many lists were whole.
    lists: u64,
    /// The greatest version that the watch had shown.
    passed: u64,
}

/// What is known of the objects of a kind.
#[derive(Debug)]
pub(super) struct Table<V> {
    pub(super) known: ByName<V>,
    /// The list that is being read: it replaces what is known once it is whole.
    listed: ByName<V>,
    /// What was written since that list began, while it is being read: the list may be older.
    written: Option<Vec<ObjectMeta>>,
    /// How many lists were whole.
    lists: u64,
    /// The greatest version that the watch has shown.
    passed: u64,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { known: ByName::default(), listed: ByName::default(), written: None, lists: 0, passed: 0 }
    }
}

impl<V: Entry> Table<V> {
    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.listed = ByName::default();
        self.written = Some(Vec::new());
    }

    /// One more of the list.
    pub(super) fn list(&mut self, meta: &ObjectMeta, value: V) {
        self.listed.insert(meta, value);
    }

    /// The list is whole. Returns what was known before, but for own writes that it leaves in place.
    pub(super) fn end(&mut self) -> (ByName<V>, HashSet<Key>) {
        self.lists += 1;
        // A store that was restored from a backup counts from an earlier version again.
        self.passed = self.listed.all().map(|(_, _, value)| value.version()).max().unwrap_or_default();
        let mut former = std::mem::replace(&mut self.known, std::mem::take(&mut self.listed));
        let mut kept = HashSet::new();
        // An own write of an object that the list has in an older version came after the list.
        for meta in self.written.take().into_iter().flatten() {
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            let listed = self.known.get(namespace.unwrap_or_default(), name.unwrap_or_default());
            if let Some(listed) = listed.map(Entry::version)
                && former.version(&meta) > listed
                && let Some(written) = former.remove(&meta)
            {
                self.known.insert(&meta, written);
                kept.insert(Key::new(namespace.unwrap_or_default(), name.unwrap_or_default()));
            }
        }
        (former, kept)
    }

    pub(super) const fn is_known(&self) -> bool {
        self.lists > 0
    }

    /// The watch shows one.
    pub(super) fn watched(&mut self, meta: &ObjectMeta, value: V) -> Put<V> {
        self.passed = self.passed.max(value.version());
        self.put(meta, value)
    }

    /// The watch shows that one is gone. Returns whether it was known, and not newer: one that was made again stays.
    pub(super) fn gone(&mut self, meta: &ObjectMeta) -> bool {
        let gone = version(meta);
        self.passed = self.passed.max(gone);
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return false };
        let goes = self.known.get(namespace, name).is_some_and(|known| gone == 0 || known.version() <= gone);
        if goes {
            self.known.remove(meta);
        }
        goes
    }

    /// To be asked before an own write is sent.
    pub(super) const fn epoch(&self) -> Epoch {
        Epoch { lists: self.lists, passed: self.passed }
    }

    /// An own write was answered with this.
    pub(super) fn wrote(&mut self, meta: &ObjectMeta, value: V, epoch: Epoch) -> Put<V> {
        // Where versions are no integers nothing tells which is newer. The response is, most likely.
        let is_ordered = value.version() != 0;
        // A list that came meanwhile is older than the write if it has the object in an older version.
        let is_listed_older = (1..value.version()).contains(&self.known.version(meta));
        if is_ordered && !is_listed_older && (epoch.lists != self.lists || value.version() <= self.passed) {
            return Put::Passed;
        }
        if let Some(written) = &mut self.written {
            let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
            written.push(ObjectMeta { namespace, name, ..ObjectMeta::default() });
        }
        self.put(meta, value)
    }

    /// A live read showed that one is not there. What the watch has shown since may have been made after it.
    pub(super) fn absent(&mut self, meta: &ObjectMeta, epoch: Epoch) {
        if epoch.lists == self.lists && self.known.version(meta) <= epoch.passed {
            self.known.remove(meta);
        }
    }

    fn put(&mut self, meta: &ObjectMeta, value: V) -> Put<V> {
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let known = self.known.get(namespace.unwrap_or_default(), name.unwrap_or_default());
        if known.is_some_and(|known| {
            known.version() != 0 && value.version() != 0 && known.version() >= value.version()
        }) {
            return Put::Passed;
        }
        Put::Replaced(self.known.insert(meta, value))
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
