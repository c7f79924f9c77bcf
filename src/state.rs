//! What the process keeps in memory between two reconciles of a `GraphToken`: what saves a read or a write, and what came of
//! an acquisition. Nothing here is truth: a restart loses it and loses nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::api::GraphTokenStatus;
use crate::api::names::{CREDENTIAL_SUFFIX, LOGIN_SUFFIX};
use crate::api::spec::Workload;
use crate::cache::{Packed, Packer};
use crate::grant::device_code::SLOW_DOWN;
use crate::observed::{Credential, Meta, SeedState, Unrenderable};
use crate::proof::Held;
use crate::rotation::InHand;

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

/// What is kept for one `GraphToken`. There may be ten thousand of them: what is there for some only, or for a moment, is boxed.
#[derive(Debug, Default)]
pub struct Memory {
    /// The UID it is about: another one starts afresh.
    pub uid: String,
    /// The credential as last read or written.
    pub credential: Option<KeptCredential>,
    /// Which token was last written into the target.
    pub written: Option<String>,
    /// When a target that was changed or deleted was last written again.
    pub repaired: Option<Instant>,
    /// The resourceVersion of a target whose bytes were checked against what was written, and the verdict.
    pub checked: Option<Box<(String, bool)>>,
    /// The seed as last read: its UID, resourceVersion and what it was.
    pub seed: Option<Box<(String, String, SeedState)>>,
    /// The login Secret as last read.
    pub login: Option<Box<Login>>,
    /// The polls for a device code.
    pub polls: Option<Box<Polls>>,
    /// The status as last decided, where it could not be written yet.
    pub unsaved: Option<Box<Unsaved>>,
    /// How many acquisitions in a row found that something else had changed.
    pub stale: u32,
    /// Since when it waits for a permit of its client.
    pub parked: Option<Instant>,
    /// For which Secrets the mirror is known to be behind.
    pub read_live: Live,
    /// The versions of objects that the present reconcile has written.
    pub own: Vec<Version>,
    /// A token that is not published yet.
    pub in_hand: Option<Box<InHand>>,
    /// A token that could not be rendered.
    pub unrenderable: Option<Box<Unrenderable>>,
    /// Somebody else's write-ahead record: the attempt, and since when answered reads have shown it.
    pub pending_since: Option<Box<(String, Instant)>>,
    /// What was done about the workloads that are restarted when the target changed.
    pub restarts: HashMap<Workload, Restart>,
    /// What was said in an event that no condition speaks of, so that it is said once.
    pub said: BTreeSet<String>,
}

/// The Secrets that the next reconcile reads live.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live {
    /// The credential.
    pub credential: bool,
    /// The target.
    pub target: bool,
}

/// A status that could not be written yet.
#[derive(Debug)]
pub struct Unsaved {
    /// The status.
    pub status: GraphTokenStatus,
    /// The one that events have spoken of; `None`: the one that is stored.
    pub announced: Option<GraphTokenStatus>,
}

impl Memory {
    /// Keeps a status until it is written, if it is another than before.
    pub fn keep_unsaved(&mut self, before: &GraphTokenStatus, status: &GraphTokenStatus) {
        if before == status {
            return;
        }
        let announced = self.unsaved.take().and_then(|unsaved| unsaved.announced);
        self.unsaved = Some(Box::new(Unsaved { status: status.clone(), announced }));
    }
}

/// A credential as JSON: decoded, it takes many times that, for each user.
#[derive(Debug)]
pub struct KeptCredential(Packed);

static CREDENTIALS: Packer = Packer::new();

impl KeptCredential {
    /// Keeps one.
    pub fn new(credential: &Credential) -> Self {
        Self(CREDENTIALS.pack_json(credential))
    }

    /// The credential as it was.
    pub fn open(&self) -> Option<Box<Credential>> {
        CREDENTIALS.open_json(&self.0)
    }
}

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// The one entry of a `GraphToken`.
#[derive(Debug, Default)]
struct Entry {
    /// Absent while a reconcile has it.
    memory: Option<Box<Memory>>,
    /// The Secrets that it refers to, beside those that are named after it.
    refers_to: Vec<Key>,
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

/// A referenced proof: UID and resourceVersion of its Secret, and what that holds or what is wrong with it.
type Proof = (String, String, Result<Held, String>);

/// The entries of all `GraphToken`s, and who refers to which Secret.
#[derive(Default)]
pub struct State {
    entries: Mutex<HashMap<Key, Entry>>,
    /// Each Secret with each `GraphToken` that refers to it, and whether that starts from it.
    referrers: Mutex<BTreeMap<(Key, Key), bool>>,
    proofs: Mutex<BTreeMap<(Key, String), Proof>>,
    /// When the proofs that are in use end.
    pub ends: Ends,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Takes the memory of a `GraphToken` for the length of a reconcile, of which there are never two at once for one object.
    pub fn take(&self, key: &Key) -> Box<Memory> {
        // A reconcile that panicked has lost it.
        lock(&self.entries).entry(key.clone()).or_default().memory.take().unwrap_or_default()
    }

    /// The memory, if it is of this UID; else that of a `GraphToken` that nothing is known of.
    pub fn of(&self, key: &Key, memory: Box<Memory>, uid: &str) -> Box<Memory> {
        if memory.uid == uid {
            return memory;
        }
        self.refer(key, Vec::new());
        Box::new(Memory { uid: uid.to_owned(), ..Memory::default() })
    }

    /// Puts it back. Returns whether the `GraphToken` is still there: it may have been forgotten meanwhile.
    pub fn put(&self, key: &Key, memory: Box<Memory>) -> bool {
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(key) else { return false };
        entry.memory = Some(memory);
        true
    }

    /// Forgets a `GraphToken` that is gone.
    pub fn forget(&self, key: &Key) {
        if let Some(entry) = lock(&self.entries).remove(key) {
            self.unrefer(&entry.refers_to, key);
        }
        self.ends.forget(key);
    }

    /// Keeps the end of what a `GraphToken` uses. A reconcile that outlives its `GraphToken` keeps nothing: the entry is removed
    /// before the end is forgotten, and looked up here under the same lock as the end is kept.
    pub fn note_end(&self, graphtoken: &Key, end: Option<End>) {
        let entries = lock(&self.entries);
        if entries.contains_key(graphtoken) {
            self.ends.note(graphtoken, end);
        }
        drop(entries);
    }

    /// Notes on which Secrets a `GraphToken` depends, so that a change of them enqueues it, beside those that are named after
    /// it.
    pub fn refer(&self, graphtoken: &Key, secrets: Vec<Key>) {
        let mut entries = lock(&self.entries);
        // One that was forgotten meanwhile refers to nothing any more.
        let Some(entry) = entries.get_mut(graphtoken).filter(|entry| entry.refers_to != secrets) else {
            return;
        };
        let mut referrers = lock(&self.referrers);
        for secret in secrets.iter().filter(|secret| !entry.refers_to.contains(secret)) {
            referrers.insert((secret.clone(), graphtoken.clone()), false);
        }
        drop(referrers);
        let former = std::mem::replace(&mut entry.refers_to, secrets);
        let dropped: Vec<Key> =
            former.into_iter().filter(|secret| !entry.refers_to.contains(secret)).collect();
        self.unrefer(&dropped, graphtoken);
    }

    /// What was read of a Secret goes with the last that refers to it.
    fn unrefer(&self, secrets: &[Key], graphtoken: &Key) {
        let mut referrers = lock(&self.referrers);
        let mut proofs = lock(&self.proofs);
        for secret in secrets {
            referrers.remove(&(secret.clone(), graphtoken.clone()));
            if referrers_of(&referrers, secret).next().is_none() {
                let first = (secret.clone(), String::new());
                let unused = proofs.range(first..).take_while(|((of, _), _)| of == secret);
                for what_for in unused.map(|(what_for, _)| what_for.clone()).collect::<Vec<_>>() {
                    proofs.remove(&what_for);
                }
            }
        }
    }

    /// The `GraphToken`s that a Secret concerns: those that refer to it, wherever they are, and the one that it is named after.
    pub fn referrers(&self, secret: &Key) -> Vec<Key> {
        let named = named_after(&secret.name).map(|name| Key::new(&secret.namespace, name));
        let entries = lock(&self.entries);
        let mut all: Vec<Key> = named.filter(|key| entries.contains_key(key)).collect();
        drop(entries);
        let known = all.len();
        for (referrer, _) in referrers_of(&lock(&self.referrers), secret) {
            if !all[..known].contains(referrer) {
                all.push(referrer.clone());
            }
        }
        all
    }

    /// Notes that a `GraphToken` starts from a seed that it refers to, and tells which others do.
    pub fn share_seed(&self, seed: &Key, graphtoken: &Key) -> Vec<String> {
        let mut referrers = lock(&self.referrers);
        if let Some(starts) = referrers.get_mut(&(seed.clone(), graphtoken.clone())) {
            *starts = true;
        }
        let others = referrers_of(&referrers, seed).filter(|(key, starts)| *starts && *key != graphtoken);
        others.map(|(key, _)| key.name.clone()).collect()
    }

    /// What a Secret held for a use of it when it was read at this version.
    pub fn proof(&self, what_for: &(Key, String), meta: &Meta) -> Option<Result<Held, String>> {
        let proofs = lock(&self.proofs);
        let (uid, version, held) = proofs.get(what_for)?;
        (*uid == meta.uid && *version == meta.resource_version).then(|| held.clone())
    }

    /// Keeps it, so that it is read once a version, for as long as a `GraphToken` refers to the Secret.
    pub fn keep_proof(&self, what_for: (Key, String), meta: &Meta, held: Result<Held, String>) {
        let referrers = lock(&self.referrers);
        if referrers_of(&referrers, &what_for.0).next().is_some() {
            lock(&self.proofs).insert(what_for, (meta.uid.clone(), meta.resource_version.clone(), held));
        }
    }
}

/// Who refers to a Secret, and whether it starts from it.
fn referrers_of<'a>(
    all: &'a BTreeMap<(Key, Key), bool>,
    secret: &'a Key,
) -> impl Iterator<Item = (&'a Key, bool)> {
    let first = (secret.clone(), Key::new("", ""));
    let of = all.range(first..).take_while(move |((of, _), _)| of == secret);
    of.map(|((_, graphtoken), starts)| (graphtoken, *starts))
}

/// The names of the `GraphToken`s whose target, credential or login Secret a Secret may be by its name.
fn named_after(secret: &str) -> impl Iterator<Item = &str> {
    let suffixes = ["", CREDENTIAL_SUFFIX, LOGIN_SUFFIX];
    suffixes.into_iter().filter_map(|suffix| secret.strip_suffix(suffix))
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
mod tests;
