//! Which object is reconciled next. Pure: `now` is a parameter, and nothing here waits.
//!
//! A tenant is a namespace. Each has a line of its own, and a free slot goes to the line that has the fewest slots, among
//! equals to the one that was served longest ago. So however many `GraphToken`s a namespace has, another namespace is served
//! next. One namespace never has all slots: a part of them is free for others. Within a line the most urgent goes first.
//!
//! A reconcile that fails is repeated after 2 s, doubling to 60 s; the jitter only shortens a wait, by up to a quarter. One
//! that succeeds starts from 2 s again.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Urgency;
use crate::state::{Key, Version};

/// One slot in so many is kept from a namespace that would have them all.
const KEPT: usize = 4;

/// The first wait after a failed reconcile, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// What is reconciled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A `GraphToken`.
    GraphToken(Key),
    /// A credential Secret that has no `GraphToken` any more.
    Credential(Key),
}

impl Item {
    pub(crate) fn namespace(&self) -> &str {
        let (Self::GraphToken(key) | Self::Credential(key)) = self;
        &key.namespace
    }
}

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well. It is due again then; `None`: when something changes.
    Well(Option<Instant>),
    /// It failed. It is repeated after a back-off, or at this time if that is earlier.
    Failed(Option<Instant>),
    /// It panicked, which is a defect of ours.
    Panicked,
}

/// What is reconciled when, and what is being reconciled: nothing twice at once.
pub(super) struct Queue {
    urgency: Box<dyn Fn(&Item) -> Urgency + Send>,
    slots: usize,
    taken: usize,
    known: HashMap<Item, Entry>,
    /// What is due at a time.
    later: BTreeSet<(Instant, Item)>,
    lines: HashMap<String, Line>,
    /// The lines in which something is due, first the one that is served next.
    order: BTreeSet<(usize, u64, String)>,
    served: u64,
}

/// One item.
struct Entry {
    place: Place,
    /// Failed reconciles in a row.
    failures: u32,
}

/// Where an item is.
enum Place {
    /// In line, there.
    Waiting(Urgency, u64),
    /// Not in line before this.
    Later(Instant),
    /// Being reconciled.
    Reconciling {
        /// It is due again then, however it ends.
        again: Option<Instant>,
        /// The versions of its objects that a watch showed meanwhile. Whether they are its own writes it can tell when it
        /// ends and not before: a watch may be faster than the response to the write.
        seen: Vec<Version>,
    },
}

/// The items of one namespace.
#[derive(Default)]
struct Line {
    /// Among equally urgent ones, the first that came goes first.
    waiting: BTreeSet<(Urgency, u64, Item)>,
    /// How many slots it has.
    taken: usize,
    /// When it was served last, or began to wait: a count, no time.
    since: u64,
}

impl Queue {
    /// With this many slots. How urgent an item is, is asked when it gets in line.
    pub(super) fn new(slots: usize, urgency: impl Fn(&Item) -> Urgency + Send + 'static) -> Self {
        Self {
            urgency: Box::new(urgency),
            slots,
            taken: 0,
            known: HashMap::new(),
            later: BTreeSet::new(),
            lines: HashMap::new(),
            order: BTreeSet::new(),
            served: 0,
        }
    }

    /// How many of the slots one namespace may have.
    const fn share(&self) -> usize {
        let share = self.slots - self.slots.div_ceil(KEPT);
        if share == 0 { 1 } else { share }
    }

    /// An item is due at that time or before.
    pub(super) fn enqueue(&mut self, item: Item, at: Instant) {
        match self.known.entry(item.clone()) {
            Slot::Vacant(entry) => {
                entry.insert(Entry { place: Place::Later(at), failures: 0 });
                self.later.insert((at, item));
            }
            Slot::Occupied(mut entry) => match &mut entry.get_mut().place {
                // It keeps its place in line, and may have become more urgent.
                Place::Waiting(known, came) => {
                    let (before, came) = (*known, *came);
                    let urgency = (self.urgency)(&item);
                    *known = urgency;
                    let namespace = item.namespace().to_owned();
                    self.change(&namespace, |line| {
                        line.waiting.remove(&(before, came, item.clone()));
                        line.waiting.insert((urgency, came, item));
                    });
                }
                Place::Later(known) if *known <= at => {}
                Place::Later(known) => {
                    self.later.remove(&(*known, item.clone()));
                    *known = at;
                    self.later.insert((at, item));
                }
                Place::Reconciling { again, .. } => *again = Some(again.map_or(at, |known| known.min(at))),
            },
        }
    }

    /// A watch shows another version of an object that concerns an item.
    pub(super) fn changed(&mut self, item: Item, version: Version, now: Instant) {
        match self.known.get_mut(&item) {
            Some(Entry { place: Place::Reconciling { seen, .. }, .. }) => seen.push(version),
            _ => self.enqueue(item, now),
        }
    }

    /// Takes the next item to be reconciled, if one is due and a slot is free for it. [`Self::done`] tells that it has been;
    /// [`Self::release`] gives the slot back.
    pub(super) fn next(&mut self, now: Instant) -> Option<Item> {
        self.fall_in(now);
        let (taken, _, namespace) = self.order.first()?;
        // The first has the fewest: if it has its share, so have all.
        if self.taken >= self.slots || *taken >= self.share() {
            return None;
        }
        let namespace = namespace.clone();
        self.served += 1;
        let served = self.served;
        let item = self.change(&namespace, |line| {
            line.since = served;
            line.taken += 1;
            line.waiting.pop_first().map(|(_, _, item)| item)
        })?;
        self.taken += 1;
        if let Some(entry) = self.known.get_mut(&item) {
            entry.place = Place::Reconciling { again: None, seen: Vec::new() };
        }
        Some(item)
    }

    /// An item has been reconciled; `own` are the versions that this wrote. Returns when it is due again, if it is.
    pub(super) fn done(&mut self, item: Item, ended: Ended, own: &[Version], now: Instant) {
        let Some(Entry { place: Place::Reconciling { again, seen }, failures }) = self.known.remove(&item)
        else {
            return;
        };
        let foreign = seen.iter().any(|version| !own.contains(version)).then_some(now);
        let (failures, next) = match ended {
            Ended::Well(next) => (0, next),
            Ended::Failed(due) => {
                let again = now + backoff(&item, failures);
                (failures.saturating_add(1), Some(due.map_or(again, |due| due.min(again))))
            }
            Ended::Panicked => (failures.saturating_add(1), Some(now + BACKOFF.1)),
        };
        if let Some(at) = [again, foreign, next].into_iter().flatten().min() {
            self.known.insert(item.clone(), Entry { place: Place::Later(at), failures });
            self.later.insert((at, item));
        }
    }

    /// A slot that [`Self::next`] took is free again.
    pub(super) fn release(&mut self, namespace: &str) {
        self.taken = self.taken.saturating_sub(1);
        self.change(namespace, |line| line.taken = line.taken.saturating_sub(1));
    }

    /// When the next item is due that waits for a time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whether an item is due: in line, or since a moment ago.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.order.is_empty() || self.due().is_some_and(|at| at <= now)
    }

    /// What waits for a time, is in line or is being reconciled.
    pub(super) fn items(&self) -> Vec<Item> {
        self.known.keys().cloned().collect()
    }

    /// Forgets all that is not being reconciled: the process is to exit.
    pub(super) fn clear(&mut self) {
        self.known.retain(|_, entry| matches!(entry.place, Place::Reconciling { .. }));
        self.later.clear();
        self.order.clear();
        self.lines.values_mut().for_each(|line| line.waiting.clear());
        self.lines.retain(|_, line| line.taken > 0);
    }

    /// What is due gets in line.
    fn fall_in(&mut self, now: Instant) {
        while self.due().is_some_and(|at| at <= now)
            && let Some((_, item)) = self.later.pop_first()
        {
            self.served += 1;
            let (since, urgency) = (self.served, (self.urgency)(&item));
            self.change(item.namespace(), |line| {
                if line.waiting.is_empty() && line.taken == 0 {
                    line.since = since;
                }
                line.waiting.insert((urgency, since, item.clone()));
            });
            if let Some(entry) = self.known.get_mut(&item) {
                entry.place = Place::Waiting(urgency, since);
            }
        }
    }

    /// Changes a line, and its place in the order accordingly.
    fn change<T>(&mut self, namespace: &str, change: impl FnOnce(&mut Line) -> T) -> T {
        let line = self.lines.entry(namespace.to_owned()).or_default();
        let place = |line: &Line| (line.taken, line.since, namespace.to_owned());
        self.order.remove(&place(line));
        let changed = change(line);
        if !line.waiting.is_empty() {
            self.order.insert(place(line));
        } else if line.taken == 0 {
            self.lines.remove(namespace);
        }
        changed
    }
}

/// How long to wait after a failure, if there were `failures` before it in a row.
fn backoff(item: &Item, failures: u32) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(1 << failures.min(16)).min(BACKOFF.1);
    let mut hasher = DefaultHasher::new();
    (item, failures).hash(&mut hasher);
    let shortened = u32::try_from(hasher.finish() % 251).unwrap_or_default();
    doubled.saturating_sub(doubled / 1000 * shortened)
}

#[cfg(test)]
mod tests;
