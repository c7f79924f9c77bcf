//! Whose turn it is. Pure: `now` is a parameter, and nothing here waits.
//!
//! A tenant is a namespace. Each waits in a line of its own, and a slot that is free goes to the line with the fewest at work, among
//! equals to the one that was served longest ago. So however many `GraphToken`s a namespace has, and however long its provider lets them
//! wait, another's goes next. Nor may one namespace have all slots: a part of them is free for whoever else comes. Within a line the most
//! urgent goes first.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::cache::Urgency;
use crate::state::Key;

/// One slot in so many is kept from a namespace that would have them all.
const KEPT: usize = 4;

/// Who is to be looked at when, and who is just being looked at: nobody twice at once.
pub(super) struct Queue {
    urgency: Box<dyn Fn(&Key) -> Urgency + Send>,
    slots: usize,
    at_work: usize,
    known: HashMap<Key, Place>,
    /// Who waits for a time.
    later: BTreeSet<(Instant, Key)>,
    lines: HashMap<String, Line>,
    /// The lines in which somebody waits, first the one that is served next.
    order: BTreeSet<(usize, u64, String)>,
    served: u64,
}

/// Where somebody is.
enum Place {
    /// In line, there.
    Waiting(Urgency, u64),
    /// Not in line before this.
    Later(Instant),
    /// Being looked at; and again then, whatever comes of it.
    AtWork(Option<Instant>),
}

/// Those of one namespace.
#[derive(Default)]
struct Line {
    /// Among those that are as urgent, who came first goes first.
    waiting: BTreeSet<(Urgency, u64, String)>,
    at_work: usize,
    /// When it was served last, or began to wait: a count, no time.
    since: u64,
}

impl Queue {
    /// So many may be looked at at once. How urgent somebody is, is asked when they get in line.
    pub(super) fn new(slots: usize, urgency: impl Fn(&Key) -> Urgency + Send + 'static) -> Self {
        Self {
            urgency: Box::new(urgency),
            slots,
            at_work: 0,
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

    /// Somebody is to be looked at, at that time or before.
    pub(super) fn wake(&mut self, key: Key, at: Instant) {
        match self.known.entry(key.clone()) {
            Slot::Vacant(place) => {
                place.insert(Place::Later(at));
                self.later.insert((at, key));
            }
            Slot::Occupied(mut place) => match place.get_mut() {
                // It may have become more urgent.
                Place::Waiting(urgency, came) => {
                    let waiting = (*urgency, *came, key.name.clone());
                    *place.get_mut() = Place::Later(at);
                    self.later.insert((at, key.clone()));
                    self.change(&key.namespace, |line| line.waiting.remove(&waiting));
                }
                Place::Later(known) if *known <= at => {}
                Place::Later(known) => {
                    self.later.remove(&(*known, key.clone()));
                    *known = at;
                    self.later.insert((at, key));
                }
                Place::AtWork(again) => *again = Some(again.map_or(at, |known| known.min(at))),
            },
        }
    }

    /// Takes the next one to be looked at, if one is due and a slot is free for it. [`Self::done`] gives the slot back.
    pub(super) fn next(&mut self, now: Instant) -> Option<Key> {
        self.fall_in(now);
        let (at_work, _, namespace) = self.order.first()?;
        // The fewest are at work of the first: if it has its share, so have all.
        if self.at_work >= self.slots || *at_work >= self.share() {
            return None;
        }
        let namespace = namespace.clone();
        self.served += 1;
        let served = self.served;
        let name = self.change(&namespace, |line| {
            line.since = served;
            line.at_work += 1;
            line.waiting.pop_first().map(|(_, _, name)| name)
        })?;
        self.at_work += 1;
        let key = Key { namespace, name };
        self.known.insert(key.clone(), Place::AtWork(None));
        Some(key)
    }

    /// Who was taken has been looked at, and is to be again then, if at all.
    pub(super) fn done(&mut self, key: Key, again: Option<Instant>) {
        let Some(Place::AtWork(woken)) = self.known.remove(&key) else { return };
        self.at_work -= 1;
        self.change(&key.namespace, |line| line.at_work -= 1);
        if let Some(at) = [woken, again].into_iter().flatten().min() {
            self.wake(key, at);
        }
    }

    /// When the next one is due that waits for a time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whose time has come gets in line.
    fn fall_in(&mut self, now: Instant) {
        while self.due().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.later.pop_first()
        {
            self.served += 1;
            let (since, urgency) = (self.served, (self.urgency)(&key));
            self.change(&key.namespace, |line| {
                if line.waiting.is_empty() && line.at_work == 0 {
                    line.since = since;
                }
                line.waiting.insert((urgency, since, key.name.clone()));
            });
            self.known.insert(key, Place::Waiting(urgency, since));
        }
    }

    /// Changes a line, and its place in the order accordingly.
    fn change<T>(&mut self, namespace: &str, change: impl FnOnce(&mut Line) -> T) -> T {
        let line = self.lines.entry(namespace.to_owned()).or_default();
        let place = |line: &Line| (line.at_work, line.since, namespace.to_owned());
        self.order.remove(&place(line));
        let changed = change(line);
        if !line.waiting.is_empty() {
            self.order.insert(place(line));
        } else if line.at_work == 0 {
            self.lines.remove(namespace);
        }
        changed
    }
}

#[cfg(test)]
mod tests;
