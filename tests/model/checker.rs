//! Breadth-first search through every state of a small world, without a dependency: the usual crates for it bring a web
//! explorer along, and have no "from every state … can still be reached".

use std::collections::{BTreeSet, HashMap};
use std::fmt::{Debug, Write as _};
use std::hash::{Hash, Hasher};

use crate::mixer::Mixer;

/// A world that moves by actions.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Action: Clone + Debug;

    fn initial(&self) -> Self::State;
    /// All that may happen next.
    fn next(&self, state: &Self::State, next: &mut Vec<Next<Self::State, Self::Action>>);
    /// The promise that a state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// What must be within reach from every state.
    fn goal(&self, state: &Self::State) -> bool;
}

/// A step from one state to another.
pub struct Next<S, A> {
    pub action: A,
    pub state: S,
    /// The promise that this step breaks.
    pub broken: Option<&'static str>,
    /// What it shows to be possible.
    pub notes: Vec<&'static str>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// The longest shortest way to a state.
    pub depth: usize,
    /// Everything that was shown to be possible.
    pub notes: BTreeSet<&'static str>,
    /// A broken promise, and the shortest way there.
    pub broken: Option<String>,
}

/// Explores all that is within reach, up to the first broken promise.
pub fn explore<M: Model>(model: &M) -> Found {
    let mut search = Search::<M>::default();
    let mut found = Found::default();
    search.add(model.initial(), None);
    let mut next = Vec::new();
    let mut at = 0;
    while at < search.states.len() {
        let state = search.states[at].clone();
        if let Some(promise) = model.broken(&state) {
            found.broken = Some(search.story(promise, at, None));
            break;
        }
        model.next(&state, &mut next);
        for Next { action, state, broken, notes } in next.drain(..) {
            found.notes.extend(notes);
            if let Some(promise) = broken {
                found.broken = Some(search.story(promise, at, Some(&format!("{action:?}\n  {state:?}"))));
                break;
            }
            let to = search.add(state, Some((at, action)));
            search.edges.push(to);
        }
        if found.broken.is_some() {
            break;
        }
        search.ends.push(search.edges.len());
        at += 1;
    }
    (found.states, found.steps) = (search.states.len(), search.edges.len());
    found.depth = search.way(search.states.len() - 1).len();
    if found.broken.is_none()
        && let Some(stuck) = search.stuck(model)
    {
        found.broken = Some(search.story("nothing good is within reach any more", stuck, None));
    }
    found
}

struct Search<M: Model> {
    states: Vec<M::State>,
    index: HashMap<u64, u32>,
    from: Vec<Option<(u32, M::Action)>>,
    /// The steps of all states, one after another, and where those of each end.
    edges: Vec<u32>,
    ends: Vec<usize>,
}

impl<M: Model> Default for Search<M> {
    fn default() -> Self {
        Self { states: vec![], index: HashMap::default(), from: vec![], edges: vec![], ends: vec![] }
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than four thousand million states")
}

impl<M: Model> Search<M> {
    /// The state's number: each is kept once. States whose hashes collide take the next free place.
    fn add(&mut self, state: M::State, from: Option<(usize, M::Action)>) -> u32 {
        let mut hasher = Mixer::default();
        state.hash(&mut hasher);
        let mut hash = hasher.finish();
        while let Some(&known) = self.index.get(&hash) {
            if self.states[known as usize] == state {
                return known;
            }
            hash = hash.wrapping_add(1);
        }
        let new = id(self.states.len());
        self.index.insert(hash, new);
        self.states.push(state);
        self.from.push(from.map(|(from, action)| (id(from), action)));
        new
    }

    fn way(&self, mut at: usize) -> Vec<usize> {
        let mut way = Vec::new();
        while let Some((from, _)) = &self.from[at] {
            way.push(at);
            at = *from as usize;
        }
        way.reverse();
        way
    }

    fn story(&self, promise: &str, at: usize, last: Option<&str>) -> String {
        let mut story = format!("{promise}\n  {:?}\n", self.states[0]);
        for step in self.way(at) {
            let Some((_, action)) = &self.from[step] else { continue };
            let _ = writeln!(story, "{action:?}\n  {:?}", self.states[step]);
        }
        story + last.unwrap_or_default()
    }

    /// A state from which no goal can be reached, if there is one: the goals are followed backwards.
    fn stuck(&self, model: &M) -> Option<usize> {
        let mut starts = vec![0_u32; self.states.len() + 1];
        for &to in &self.edges {
            starts[to as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let (mut free, mut back) = (starts.clone(), vec![0_u32; self.edges.len()]);
        let mut begin = 0;
        for (from, &end) in self.ends.iter().enumerate() {
            for &to in &self.edges[begin..end] {
                back[free[to as usize] as usize] = id(from);
                free[to as usize] += 1;
            }
            begin = end;
        }
        let mut good: Vec<bool> = self.states.iter().map(|state| model.goal(state)).collect();
        let mut todo: Vec<usize> = (0..good.len()).filter(|i| good[*i]).collect();
        while let Some(at) = todo.pop() {
            for &from in &back[starts[at] as usize..starts[at + 1] as usize] {
                if !std::mem::replace(&mut good[from as usize], true) {
                    todo.push(from as usize);
                }
            }
        }
        good.iter().position(|good| !good)
    }
}
