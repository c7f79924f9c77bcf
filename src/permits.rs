//! How many token requests of one client may be in flight: a permit each, from before the request until its response was read.
//!
//! A provider that accepts connections and never answers keeps its permits until the deadline of a request. Who needs one
//! meanwhile is parked by its key alone: it holds no worker, no task and no memory of its own. Each permit that is released
//! enqueues the most urgent of the parked keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::Urgency;
use crate::desired::Client;
use crate::state::Key;

/// Requests in flight at once for one client at one token endpoint.
const IN_FLIGHT: usize = 4;

/// Token endpoint and client ID.
type Of = (String, String);
/// Enqueues a key.
type Enqueue = Arc<dyn Fn(Key) + Send + Sync>;

/// The permits of all clients. Clones share them.
#[derive(Clone, Default)]
pub struct Permits(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    clients: HashMap<Of, Limit>,
    enqueue: Option<Enqueue>,
    /// Counts the keys that were ever parked: among equally urgent ones the first goes first.
    parked: u64,
}

/// Those of one client.
struct Limit {
    permits: Arc<Semaphore>,
    /// The parked keys in their order, and the place of each.
    parked: BTreeMap<Place, Key>,
    places: HashMap<Key, Place>,
}

/// How urgent it is, and when it came.
type Place = (Urgency, u64);

impl Limit {
    fn remove(&mut self, key: &Key) {
        if let Some(place) = self.places.remove(key) {
            self.parked.remove(&place);
        }
    }

    fn is_unused(&self) -> bool {
        self.parked.is_empty()
            && self.permits.available_permits() == IN_FLIGHT
            && Arc::strong_count(&self.permits) == 1
    }
}

/// Permission to have one request in flight. It is given back when it is dropped.
pub struct Permit {
    held: Option<OwnedSemaphorePermit>,
    of: Of,
    permits: Permits,
}

/// Whether a request may be made.
pub enum Admission {
    /// It may.
    Granted(Permit),
    /// Not at once. No key is parked, so it is worth waiting for a moment: see [`Permits::acquire`].
    Busy,
    /// Not now: the key is parked, and is enqueued when its turn comes.
    Parked,
}

impl Permits {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what enqueues a parked key; `None`: the term is over, and no key stays parked.
    pub fn set_enqueue(&self, enqueue: Option<Enqueue>) {
        let mut shared = self.lock();
        if enqueue.is_none() {
            for limit in shared.clients.values_mut() {
                limit.parked.clear();
                limit.places.clear();
            }
            shared.clients.retain(|_, limit| !limit.is_unused());
        }
        shared.enqueue = enqueue;
    }

    /// Asks for a permit for a key, and parks the key if others of its client are parked.
    pub fn admit(&self, client: &Client, key: &Key, urgency: Urgency) -> Admission {
        let of = of(client);
        let mut shared = self.lock();
        let limit = shared.limit(&of);
        if let Ok(permit) = Arc::clone(&limit.permits).try_acquire_owned() {
            limit.remove(key);
            return Admission::Granted(Permit { held: Some(permit), of, permits: self.clone() });
        }
        if limit.parked.is_empty() {
            return Admission::Busy;
        }
        shared.park(&of, key, urgency);
        Admission::Parked
    }

    /// Waits for a permit. Limit it: a provider that does not answer keeps it waiting.
    pub async fn acquire(&self, client: &Client) -> Permit {
        let of = of(client);
        let permits = Arc::clone(&self.lock().limit(&of).permits);
        // Before it has one, so that a wait that is cancelled leaves nothing behind.
        let mut permit = Permit { held: None, of, permits: self.clone() };
        // The semaphore is never closed.
        permit.held = permits.acquire_owned().await.ok();
        permit
    }

    /// Parks a key that waited in vain, unless the term is over that would enqueue it.
    pub fn park(&self, client: &Client, key: &Key, urgency: Urgency) {
        let of = of(client);
        let mut shared = self.lock();
        if shared.enqueue.is_none() {
            return;
        }
        shared.park(&of, key, urgency);
        // One may have been released meanwhile.
        let enqueued = shared.unpark(&of);
        drop(shared);
        enqueued.run();
    }

    /// How many clients are known.
    #[cfg(test)]
    fn clients(&self) -> usize {
        self.lock().clients.len()
    }
}

impl Shared {
    fn limit(&mut self, of: &Of) -> &mut Limit {
        self.clients.entry(of.clone()).or_insert_with(|| Limit {
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
            parked: BTreeMap::new(),
            places: HashMap::new(),
        })
    }

    fn park(&mut self, of: &Of, key: &Key, urgency: Urgency) {
        self.parked += 1;
        let number = self.parked;
        let limit = self.limit(of);
        // One that is parked already keeps its number, and may have become more urgent.
        let came = limit.places.get(key).map_or(number, |(_, came)| *came);
        if let Some(before) = limit.places.insert(key.clone(), (urgency, came)) {
            limit.parked.remove(&before);
        }
        limit.parked.insert((urgency, came), key.clone());
    }

    /// Takes as many keys as there are permits, to be enqueued once the lock is released.
    fn unpark(&mut self, of: &Of) -> Unparked {
        let mut keys = Vec::new();
        if let Some(limit) = self.clients.get_mut(of) {
            while keys.len() < limit.permits.available_permits()
                && let Some((_, key)) = limit.parked.pop_first()
            {
                limit.places.remove(&key);
                keys.push(key);
            }
            if limit.is_unused() {
                self.clients.remove(of);
            }
        }
        Unparked { keys, enqueue: self.enqueue.clone() }
    }
}

struct Unparked {
    keys: Vec<Key>,
    enqueue: Option<Enqueue>,
}

impl Unparked {
    fn run(self) {
        if let Some(enqueue) = self.enqueue {
            self.keys.into_iter().for_each(|key| enqueue(key));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shared = self.permits.lock();
        // Under the lock, so that no key is parked between this and the next line.
        drop(self.held.take());
        let unparked = shared.unpark(&self.of);
        drop(shared);
        unparked.run();
    }
}

fn of(client: &Client) -> Of {
    (client.token_url.clone(), client.client_id.clone())
}

#[cfg(test)]
mod tests;
