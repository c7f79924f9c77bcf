//! What the process keeps in memory between two reconciles: caches of the API server, its own last writes laid over them,
//! and per `GraphToken` only what saves a read. Nothing here is truth: a restart loses it and loses nothing.

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
use crate::observed::{Credential, Meta, SeedState, TargetView, Unrenderable};
use crate::proof::Held;
use crate::rotation::{InFlight, InHand};

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
    /// The target as last written, until the cache has caught up.
    pub target: Option<Box<(TargetView, Instant)>>,
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
    /// The status as last decided, with the resourceVersion that it was written at, until the cache has caught up; `None`:
    /// it could not be written yet.
    pub status: Option<Box<(Option<String>, GraphTokenStatus)>>,
    /// Whether the cache is known to lag, so that the next look reads live.
    pub read_live: bool,
    /// A token that is not published yet.
    pub in_hand: Option<Box<InHand>>,
    /// A token that could not be rendered.
    pub unrenderable: Option<Box<Unrenderable>>,
    /// Somebody else's write-ahead record: the attempt, and since when answered reads have shown it.
    pub pending_since: Option<Box<(String, Instant)>>,
    /// An exchange that is not settled yet.
    pub in_flight: Option<Box<InFlight>>,
    /// What was done about the workloads that are restarted when the target changed.
    pub restarts: HashMap<Workload, Restart>,
    /// What was said in an event that no condition speaks of, so that it is said once.
    pub said: BTreeSet<String>,
    /// The Secrets that it refers to, beside those that are named after it.
    refers_to: Vec<Key>,
}

impl Memory {
    /// Whether a Secret at this version is as this process last wrote it, or as it was before: what it was in between, the
    /// write knew.
    fn knows(&self, seen: &SecretVersion) -> bool {
        let target = self.target.as_deref().map(|(view, _)| (&*view.meta.uid, &*view.meta.resource_version));
        let credential = self.credential.as_ref().map(|c| (&*c.uid, &*c.resource_version));
        let own = [target, credential].into_iter().flatten().find(|(uid, _)| *uid == seen.uid);
        own.is_some_and(|(_, own)| !newer(&seen.resource_version, own))
    }

    /// The cache has caught up with what was written: it tells the same from here on.
    fn shown(&mut self, resource_version: &str) {
        if self.target.as_deref().is_some_and(|(view, _)| view.meta.resource_version == resource_version) {
            self.target = None;
        }
    }
}

/// A credential as JSON: decoded, it takes many times that, for each user.
#[derive(Debug)]
pub struct KeptCredential {
    uid: Box<str>,
    resource_version: Box<str>,
    text: Packed,
}

static CREDENTIALS: Packer = Packer::new();

impl KeptCredential {
    /// Keeps one.
    pub fn new(credential: &Credential) -> Self {
        Self {
            uid: credential.meta.uid.as_str().into(),
            resource_version: credential.meta.resource_version.as_str().into(),
            text: CREDENTIALS.pack_json(credential),
        }
    }

    /// The credential as it was.
    pub fn open(&self) -> Option<Box<Credential>> {
        CREDENTIALS.open_json(&self.text)
    }
}

/// A Secret as a watch shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVersion {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// Where the memory of a `GraphToken` is.
#[derive(Debug)]
enum Slot {
    /// Nobody looks at it.
    Idle(Box<Memory>),
    /// A look has it. Meanwhile these versions of its Secrets were seen: whether they are its own writes, it can tell when it
    /// ends, and not before, for a watch may be faster than the answer to the write. `None`: one was deleted.
    Busy(Vec<Option<SecretVersion>>),
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
    slots: Mutex<HashMap<Key, Slot>>,
    /// Each Secret with each `GraphToken` that refers to it, and whether that starts from it.
    referrers: Mutex<BTreeMap<(Key, Key), bool>>,
    proofs: Mutex<HashMap<(Key, String), Proof>>,
    /// When the proofs that are in use end.
    pub ends: Ends,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Takes the memory of a `GraphToken` for the length of a look, of which there are never two at once for one object. From here on
    /// nothing of it goes because a cache has caught up: so what the cache has is to be read afterwards.
    pub fn take(&self, key: &Key) -> Box<Memory> {
        match lock(&self.slots).insert(key.clone(), Slot::Busy(Vec::new())) {
            Some(Slot::Idle(memory)) => memory,
            Some(Slot::Busy(_)) | None => Box::default(),
        }
    }

    /// The memory, if it is of this UID; else that of a `GraphToken` that nothing is known of.
    pub fn of(&self, key: &Key, memory: Box<Memory>, uid: &str) -> Box<Memory> {
        if memory.uid == uid {
            return memory;
        }
        self.unrefer(&memory.refers_to, key);
        Box::new(Memory { uid: uid.to_owned(), ..Memory::default() })
    }

    /// Puts it back. Returns whether its Secrets were changed by others meanwhile, so that it is to be looked at again.
    pub fn put(&self, key: &Key, mut memory: Box<Memory>) -> bool {
        let mut slots = lock(&self.slots);
        let Some(Slot::Busy(seen)) = slots.remove(key) else {
            // It was forgotten meanwhile.
            drop(slots);
            self.unrefer(&memory.refers_to, key);
            return false;
        };
        let mut changed = false;
        for version in seen {
            match version {
                Some(seen) if memory.knows(&seen) => memory.shown(&seen.resource_version),
                Some(_) | None => changed = true,
            }
        }
        slots.insert(key.clone(), Slot::Idle(memory));
        changed
    }

    /// Forgets a `GraphToken` that is gone.
    pub fn forget(&self, key: &Key) {
        let slot = lock(&self.slots).remove(key);
        if let Some(Slot::Idle(memory)) = slot {
            self.unrefer(&memory.refers_to, key);
        }
        self.ends.note(key, None);
    }

    /// Whether a change of a Secret is to wake a `GraphToken`: not if it only echoes what this process wrote. `None`: the Secret
    /// is gone.
    pub fn concerns(&self, graphtoken: &Key, secret: Option<&SecretVersion>) -> bool {
        match (lock(&self.slots).get_mut(graphtoken), secret) {
            (Some(Slot::Idle(memory)), Some(seen)) if memory.knows(seen) => {
                memory.shown(&seen.resource_version);
                false
            }
            (Some(Slot::Busy(all)), seen) => {
                all.push(seen.cloned());
                false
            }
            (Some(Slot::Idle(_)) | None, _) => true,
        }
    }

    /// The cache shows a `GraphToken` at this version: a status that was written at it need not be kept beside it.
    pub fn status_shown(&self, graphtoken: &Key, resource_version: &str) {
        if let Some(Slot::Idle(memory)) = lock(&self.slots).get_mut(graphtoken) {
            let written = memory.status.as_deref().and_then(|(version, _)| version.as_deref());
            if written.is_some_and(|written| !newer(written, resource_version)) {
                memory.status = None;
            }
        }
    }

    /// Notes on which Secrets a `GraphToken` depends, so that a change of them wakes it, beside those that are named after it.
    pub fn refer(&self, graphtoken: &Key, memory: &mut Memory, secrets: Vec<Key>) {
        if memory.refers_to == secrets {
            return;
        }
        self.unrefer(&memory.refers_to, graphtoken);
        let mut referrers = lock(&self.referrers);
        for secret in &secrets {
            referrers.insert((secret.clone(), graphtoken.clone()), false);
        }
        memory.refers_to = secrets;
    }

    fn unrefer(&self, secrets: &[Key], graphtoken: &Key) {
        let mut referrers = lock(&self.referrers);
        for secret in secrets {
            referrers.remove(&(secret.clone(), graphtoken.clone()));
        }
    }

    /// The `GraphToken`s that a Secret concerns: those that refer to it, wherever they are, and the one that it is named after.
    pub fn referrers(&self, secret: &Key) -> Vec<Key> {
        let named = named_after(&secret.name).map(|name| Key::new(&secret.namespace, name));
        let slots = lock(&self.slots);
        let mut all: Vec<Key> = named.filter(|key| slots.contains_key(key)).collect();
        drop(slots);
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

    /// Keeps it, so that it is read once a version.
    pub fn keep_proof(&self, what_for: (Key, String), meta: &Meta, held: Result<Held, String>) {
        lock(&self.proofs).insert(what_for, (meta.uid.clone(), meta.resource_version.clone(), held));
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
mod tests {
    use super::*;

    #[test]
    fn a_secret_wakes_the_graphtokens_of_other_namespaces_until_they_are_gone() {
        let state = State::default();
        let shared = Key::new("clients", "app-cert");
        let [here, there] = ["one", "two"].map(|namespace| Key::new(namespace, "mail"));
        for graphtoken in [&here, &there] {
            let mut memory = state.take(graphtoken);
            state.refer(graphtoken, &mut memory, vec![shared.clone()]);
            assert!(!state.put(graphtoken, memory));
        }
        assert_eq!(
            BTreeSet::from_iter(state.referrers(&shared)),
            BTreeSet::from([here.clone(), there.clone()])
        );
        assert_eq!(state.referrers(&Key::new("one", "app-cert")), []);
        state.forget(&here);
        assert_eq!(state.referrers(&shared), std::slice::from_ref(&there));
        let mut memory = state.take(&there);
        state.refer(&there, &mut memory, Vec::new());
        state.put(&there, memory);
        assert_eq!(state.referrers(&shared), []);
        assert!(lock(&state.referrers).is_empty());
    }

    #[test]
    fn a_secret_wakes_the_graphtoken_that_it_is_named_after() {
        let (state, mail) = (State::default(), Key::new("ns", "mail"));
        let memory = state.take(&mail);
        state.put(&mail, memory);
        for name in ["mail", "mail-graphtoken-credential", "mail-graphtoken-login"] {
            assert_eq!(state.referrers(&Key::new("ns", name)), std::slice::from_ref(&mail), "{name}");
            assert_eq!(state.referrers(&Key::new("other", name)), [], "{name}");
        }
        assert_eq!(state.referrers(&Key::new("ns", "mail-other")), []);
    }

    #[test]
    fn who_starts_from_one_seed_is_told_of_the_others_as_long_as_they_do() {
        let (state, seed) = (State::default(), Key::new("ns", "seed"));
        let [one, two, other] = ["one", "two", "other"].map(|name| Key::new("ns", name));
        for graphtoken in [&one, &two, &other] {
            let mut memory = state.take(graphtoken);
            state.refer(graphtoken, &mut memory, vec![seed.clone()]);
            state.put(graphtoken, memory);
        }
        assert_eq!(
            state.share_seed(&seed, &one),
            Vec::<String>::new(),
            "that others refer to it is not enough"
        );
        assert_eq!(state.share_seed(&seed, &two), ["one"]);
        assert_eq!(state.share_seed(&seed, &one), ["two"]);
        state.forget(&two);
        assert_eq!(state.share_seed(&seed, &one), Vec::<String>::new());
    }

    fn written(version: &str) -> Box<(TargetView, Instant)> {
        let SecretVersion { uid, resource_version } = seen(version);
        let meta = Meta { uid, resource_version, ..Meta::default() };
        Box::new((TargetView { meta, published: None, intact: true }, Instant::now()))
    }

    fn seen(version: &str) -> SecretVersion {
        SecretVersion { uid: "target".to_owned(), resource_version: version.to_owned() }
    }

    #[tokio::test]
    async fn an_own_write_wakes_nobody_though_its_echo_is_faster_than_its_answer() {
        let (state, mail) = (State::default(), Key::new("ns", "mail"));
        let other = SecretVersion { uid: "seed".to_owned(), ..seen("6") };
        for (shown, again) in [
            (vec![Some(seen("7"))], false),
            // The first of two writes of one look.
            (vec![Some(seen("6")), Some(seen("7"))], false),
            (vec![Some(seen("7")), Some(seen("8"))], true),
            (vec![Some(other)], true),
            (vec![None], true),
        ] {
            let mut memory = state.take(&mail);
            for secret in &shown {
                assert!(!state.concerns(&mail, secret.as_ref()), "it is being looked at");
            }
            memory.target = Some(written("7"));
            assert_eq!(state.put(&mail, memory), again, "{shown:?}");
        }
    }

    /// The look reads the object after this: had it read it before, it would know neither.
    #[tokio::test]
    async fn what_is_being_looked_at_keeps_what_the_cache_catches_up_with() {
        let (state, mail) = (State::default(), Key::new("ns", "mail"));
        let mut memory = state.take(&mail);
        memory.status = Some(Box::new((Some("9".to_owned()), GraphTokenStatus::default())));
        state.put(&mail, memory);
        let memory = state.take(&mail);
        state.status_shown(&mail, "9");
        assert!(memory.status.is_some());
        state.put(&mail, memory);
    }

    #[test]
    fn another_graphtoken_of_the_same_name_starts_afresh() {
        let (state, mail, seed) = (State::default(), Key::new("ns", "mail"), Key::new("ns", "seed"));
        let mut memory = state.of(&mail, state.take(&mail), "one");
        memory.written = Some("attempt".to_owned());
        state.refer(&mail, &mut memory, vec![seed.clone()]);
        state.put(&mail, memory);
        let memory = state.of(&mail, state.take(&mail), "one");
        assert!(memory.written.is_some());
        state.put(&mail, memory);
        state.put(&mail, state.of(&mail, state.take(&mail), "two"));
        assert_eq!(state.referrers(&seed), []);
        assert!(state.take(&mail).written.is_none());
    }

    #[tokio::test]
    async fn what_the_cache_has_caught_up_with_is_not_kept_beside_it() {
        let (state, mail) = (State::default(), Key::new("ns", "mail"));
        let mut memory = state.take(&mail);
        memory.target = Some(written("7"));
        memory.status = Some(Box::new((Some("9".to_owned()), GraphTokenStatus::default())));
        state.put(&mail, memory);
        state.status_shown(&mail, "8");
        assert!(!state.concerns(&mail, Some(&seen("7"))));
        assert!(state.concerns(&mail, Some(&seen("10"))) && state.concerns(&mail, None));
        let memory = state.take(&mail);
        assert!(memory.target.is_none() && memory.status.is_some());
        state.put(&mail, memory);
        state.status_shown(&mail, "9");
        assert!(state.take(&mail).status.is_none());
    }
}
