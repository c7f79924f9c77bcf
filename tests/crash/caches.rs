//! What the watches show a process: as things are, or a second behind. It goes through the product's own handlers of events.

use graphtoken::cache::{Watched, WatchedSecret};
use graphtoken::controller::Scope;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::objects::{Key, Kind, Snapshot};
use crate::world::World;

/// How far a watch that lags is behind.
const LAG: SignedDuration = SignedDuration::from_secs(1);

pub struct Caches {
    scope: Scope,
    shown: Snapshot,
    /// How many changes have been shown.
    passed: u64,
    lags: bool,
    behind_until: Option<Timestamp>,
}

impl Caches {
    /// As a new process lists them.
    pub fn new(world: &World, scope: Scope) -> Self {
        let state = world.lock();
        let passed = state.objects.changes;
        let mut caches =
            Self { scope, shown: Snapshot::new(), passed, lags: world.lagging, behind_until: None };
        let objects = if world.lagging && !state.last_seen.is_empty() {
            caches.behind_until = Some(state.now + LAG);
            state.last_seen.clone()
        } else {
            state.objects.snapshot()
        };
        drop(state);
        caches.list(objects);
        caches
    }

    /// When the watches show the next change.
    pub fn behind_until(&self) -> Option<Timestamp> {
        self.behind_until
    }

    /// Shows what has changed. Returns whether anything has.
    pub fn catch_up(&mut self, world: &World) -> bool {
        let state = world.lock();
        let news = state.objects.changes > self.passed;
        if !news && self.behind_until.is_none() {
            return false;
        }
        let due = if self.lags { *self.behind_until.get_or_insert(state.now + LAG) } else { state.now };
        if due > state.now {
            return false;
        }
        self.passed = state.objects.changes;
        self.behind_until = None;
        let now = state.objects.snapshot();
        drop(state);
        let before = std::mem::replace(&mut self.shown, now.clone());
        let mut changed: Vec<(&Key, Option<&Value>)> = now
            .iter()
            .filter(|(key, object)| {
                before.get(*key).is_none_or(|known| !std::sync::Arc::ptr_eq(known, object))
            })
            .map(|(key, object)| (key, Some(&**object)))
            .chain(before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key, None)))
            .collect();
        // In the order in which they happened, deletions last.
        changed.sort_by_key(|(_, object)| object.map_or(u64::MAX, version));
        for (key, object) in changed {
            if let Some(object) = object {
                self.show(key.0, Event::Apply(object));
            } else {
                let mut gone = (*before[key]).clone();
                gone["metadata"]["resourceVersion"] = json!(self.passed.to_string());
                self.show(key.0, Event::Delete(&gone));
            }
        }
        true
    }

    fn list(&mut self, objects: Snapshot) {
        for kind in [Kind::GraphToken, Kind::Secret] {
            self.show(kind, Event::Init);
            for (_, object) in objects.iter().filter(|((of, _), _)| *of == kind) {
                self.show(kind, Event::InitApply(object));
            }
            self.show(kind, Event::InitDone);
        }
        self.shown = objects;
    }

    fn show(&self, kind: Kind, event: Event<&Value>) {
        match kind {
            Kind::GraphToken => self.scope.graphtoken_event(Ok(map(event, |object| {
                serde_json::from_str::<Watched>(&object.to_string()).expect("it is a GraphToken")
            }))),
            Kind::Secret => self.scope.secret_event(Ok(map(event, |object| {
                serde_json::from_str::<WatchedSecret>(&object.to_string()).expect("it is a Secret")
            }))),
            // These are not watched.
            Kind::Event | Kind::ServiceAccount | Kind::Deployment => {}
        }
    }
}

fn map<A, B>(event: Event<A>, with: impl Fn(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(with(object)),
        Event::Delete(object) => Event::Delete(with(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(with(object)),
        Event::InitDone => Event::InitDone,
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}
