//! Objects by namespace and name, with the list that is being read beside what is known.

use std::collections::HashMap;

use kube::api::ObjectMeta;

use crate::state::Key;

/// A namespace is told once, however many objects are in it.
type ByName<V> = HashMap<Box<str>, HashMap<Box<str>, V>>;

/// What is known of the objects of a kind.
#[derive(Debug)]
pub(super) struct Table<V> {
    known: ByName<V>,
    /// The list that is being read: it replaces what is known once it is whole.
    listed: ByName<V>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { known: HashMap::new(), listed: HashMap::new() }
    }
}

impl<V> Table<V> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&V> {
        self.known.get(namespace)?.get(name)
    }

    /// All that is known: namespace, name, and what is kept.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, &V)> {
        all(&self.known)
    }

    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.listed = HashMap::new();
    }

    /// One more of the list.
    pub(super) fn list(&mut self, meta: &ObjectMeta, value: V) {
        insert(&mut self.listed, meta, value);
    }

    /// The list is whole.
    pub(super) fn end(&mut self) -> Former<V> {
        Former(std::mem::replace(&mut self.known, std::mem::take(&mut self.listed)))
    }

    /// Keeps one; returns what was kept of it before.
    pub(super) fn insert(&mut self, meta: &ObjectMeta, value: V) -> Option<V> {
        insert(&mut self.known, meta, value)
    }

    /// Keeps one no more.
    pub(super) fn remove(&mut self, meta: &ObjectMeta) {
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
        if let Some(objects) = self.known.get_mut(namespace.as_str()) {
            objects.remove(name.as_str());
            if objects.is_empty() {
                self.known.remove(namespace.as_str());
            }
        }
    }
}

/// What was known before a list.
pub(super) struct Former<V>(ByName<V>);

impl<V> Former<V> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&V> {
        self.0.get(namespace)?.get(name)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        all(&self.0).map(|(namespace, name, _)| Key::new(namespace, name))
    }
}

fn all<V>(objects: &ByName<V>) -> impl Iterator<Item = (&str, &str, &V)> {
    let of = |(namespace, objects)| {
        let objects: &HashMap<Box<str>, V> = objects;
        objects.iter().map(move |(name, value)| (namespace, &**name, value))
    };
    objects.iter().map(|(namespace, objects)| (&**namespace, objects)).flat_map(of)
}

fn insert<V>(objects: &mut ByName<V>, meta: &ObjectMeta, value: V) -> Option<V> {
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return None };
    if !objects.contains_key(namespace.as_str()) {
        objects.insert(namespace.as_str().into(), HashMap::new());
    }
    let objects = objects.get_mut(namespace.as_str())?;
    match objects.get_mut(name.as_str()) {
        Some(known) => Some(std::mem::replace(known, value)),
        None => objects.insert(name.as_str().into(), value),
    }
}
