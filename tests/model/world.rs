//! What may happen: the Lease, the clocks, and what goes wrong.

use crate::checker::{Model, Next};
use crate::decide::{Minds, claims, sighted, stands};
use crate::state::{
    Answer, Budget, Credential, DEADLINE, DUE, FRESH, LEASE, LEASE_REQUEST, Provider, RETRY_PAUSE, Replica,
    Seen, State, Step, Token, Who,
};

/// How the provider takes a refresh token that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// It works.
    Lenient,
    /// It is refused.
    SingleUse,
    /// It is refused, and all that came of the same sign-in is revoked.
    Revoking,
}

/// Which world.
pub struct World {
    pub minds: Minds,
    pub strictness: Strictness,
    /// The generation that all is to get to.
    pub generations: u8,
    /// Whether nothing but a seed is there to begin with.
    pub fresh: bool,
    pub budget: Budget,
    /// For how many ticks a new refresh token is in memory at most; `None`: any replica may stand still at any time for any
    /// time.
    pub prompt: Option<u8>,
    /// How far the wall clock of the second replica is ahead.
    pub ahead: u8,
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "the numbers are for those who read how a promise was broken")]
pub enum Action {
    Tick,
    ClockGoesAhead(u8),
    Campaign(u8),
    LeaseWritten(u8),
    LeaseWrittenUnanswered(u8),
    LeaseHolderRemoved,
    Look(u8),
    Begin(u8),
    BeginUnanswered(u8),
    BeginAstray(u8),
    Send(u8),
    ProviderAnswers(u8),
    AnswerLost(u8),
    TimeOut(u8),
    Retry(u8),
    End(u8),
    Write(u8),
    WriteUnanswered(u8),
    WriteAstray(u8),
    ReadToSettle(u8),
    StrayWriteArrives,
    StrayRequestArrives,
    Kill(u8),
    HandOver(u8),
    StartAnew,
    NewSeed,
    ForeignSeed,
}

pub type Move = Next<State, Action>;

/// Collects what may happen next.
pub struct Nexts<'a> {
    pub from: &'a State,
    pub into: &'a mut Vec<Move>,
    /// Whether the replicas differ in anything but their names.
    pub told_apart: bool,
}

impl Nexts<'_> {
    pub fn add(&mut self, action: Action, change: impl FnOnce(&mut State, &mut Shown)) {
        let (mut state, mut notes) = (*self.from, Shown::default());
        change(&mut state, &mut notes);
        if state != *self.from || notes.broken.is_some() {
            let state = if self.told_apart { state } else { state.ordered() };
            self.into.push(Next { action, state, broken: notes.broken, notes: notes.notes });
        }
    }
}

/// What a step breaks and shows.
#[derive(Default)]
pub struct Shown {
    pub broken: Option<&'static str>,
    pub notes: Vec<&'static str>,
}

pub const fn replica(state: &mut State, i: u8) -> &mut Replica {
    &mut state.replicas[i as usize]
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let seed = Token { number: 0, family: 0 };
        let chain = Token { number: 1, family: 0 };
        let credential = Credential {
            generation: 1,
            token: Some(chain),
            age: DUE,
            adopted: 1,
            signed_in: 1,
            ..Credential::default()
        };
        State {
            lease: None,
            credential: (!self.fresh).then_some(credential),
            stray: None,
            seed,
            provider: Provider {
                issued: 2,
                used: u16::from(!self.fresh),
                revoked: 0,
                foreign: 0,
                stray: None,
            },
            sent: 0,
            replicas: [Replica::NEW; 2],
            budget: self.budget,
            excused: false,
        }
    }

    fn next(&self, state: &State, next: &mut Vec<Move>) {
        let over = state.credential.is_some_and(|c| c.generation >= self.generations)
            && state.stray.is_none()
            && state.replicas.iter().all(|r| r.step == Step::Idle);
        if over || self.is_lost(state) {
            return;
        }
        let mut nexts = Nexts { from: state, into: next, told_apart: self.ahead > 0 };
        self.time(&mut nexts);
        Self::people(&mut nexts);
        for i in [0, 1] {
            lease(&mut nexts, i);
            deaths(&mut nexts, i);
            self.exchange(&mut nexts, i);
        }
        self.strays(&mut nexts);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let steady =
            state.budget.drift == self.budget.drift && state.budget.lease_edits == self.budget.lease_edits;
        if steady && state.replicas.iter().all(|r| r.leads > 0) {
            return Some("two replicas lead at once, by clocks that run alike");
        }
        (self.is_lost(state) && !state.excused).then_some("the sign-in is lost without an excuse")
    }

    fn goal(&self, state: &State) -> bool {
        state.credential.is_some_and(|c| c.generation >= self.generations) || self.is_lost(state)
    }
}

impl World {
    /// Whether the provider accepts a refresh token.
    pub fn accepts(&self, provider: Provider, token: Token) -> bool {
        if provider.foreign & 1 << token.family != 0 {
            return false;
        }
        self.strictness == Strictness::Lenient
            || (provider.used & token.bit() == 0 && provider.revoked & 1 << token.family == 0)
    }

    /// The provider's answer to a refresh token.
    pub fn answer(&self, provider: &mut Provider, token: Token) -> Answer {
        if provider.foreign & 1 << token.family != 0 {
            return Answer::InvalidConfiguration;
        }
        if !self.accepts(*provider, token) {
            if self.strictness == Strictness::Revoking {
                provider.revoked |= 1 << token.family;
            }
            return Answer::InvalidGrant;
        }
        provider.used |= token.bit();
        provider.issued += 1;
        Answer::Issued(Token { number: provider.issued - 1, family: token.family })
    }

    /// Whether no refresh token that the provider would accept is anywhere, or on its way.
    pub fn is_lost(&self, state: &State) -> bool {
        let adopted = state.credential.is_some_and(|c| c.adopted & 1 << state.seed.family != 0);
        let held = state.replicas.iter().filter_map(|replica| match replica.step {
            Step::Holding(_, token, ..) => Some(token),
            _ => None,
        });
        let stored = state.credential.iter().chain(state.stray.as_ref().map(|s| &s.credential));
        let mut all = stored.filter_map(|c| c.token).chain(held).chain((!adopted).then_some(state.seed));
        !all.any(|token| self.accepts(state.provider, token))
    }

    fn time(&self, nexts: &mut Nexts) {
        let waits = |r: &Replica| match r.step {
            // A provider that answers, answers in time; one that does not is a loss.
            Step::Sent(_, age) => age >= DEADLINE,
            Step::Holding(.., age) => self.prompt.is_some_and(|most| age >= most),
            _ => false,
        };
        if !nexts.from.replicas.iter().any(waits) {
            nexts.add(Action::Tick, |state, _| {
                state.credential.iter_mut().for_each(|c| c.age = (c.age + 1).min(DUE));
                self.clock(state, 0);
                self.clock(state, 1);
            });
        }
        for i in [0, 1] {
            if nexts.from.budget.drift > 0 {
                nexts.add(Action::ClockGoesAhead(i), |state, _| {
                    state.budget.drift -= 1;
                    self.clock(state, i);
                });
            }
        }
    }

    /// One replica's clock goes on.
    fn clock(&self, state: &mut State, i: u8) {
        let r = replica(state, i);
        r.leads = r.leads.saturating_sub(1);
        r.seen = r.seen.map(|seen| Seen { age: (seen.age + 1).min(LEASE), ..seen });
        r.stood = r.stood.map(|age| (age + 1).min(stands()));
        match &mut r.writing {
            Some(age) if *age < LEASE_REQUEST => *age += 1,
            Some(_) => (r.writing, r.stale) = (None, true),
            None => {}
        }
        match &mut r.step {
            Step::Begun(_, age) => *age = (*age + 1).min(FRESH + 1),
            Step::Sent(_, age) => *age = (*age + 1).min(DEADLINE),
            Step::Refused(_, age) => *age = (*age + 1).min(RETRY_PAUSE),
            Step::Holding(.., age) => *age += u8::from(self.prompt.is_some()),
            Step::Idle | Step::Beginning(_) | Step::Ending(_) => {}
        }
        if r.leads == 0 {
            // The term is over, and with it what it kept in memory, but for an exchange.
            r.stood = None;
            if r.holds() && self.prompt.is_none() {
                state.excused = true;
            }
        }
    }

    fn people(nexts: &mut Nexts) {
        let Budget { lease_edits, new_starts, seeds, foreign_seeds, .. } = nexts.from.budget;
        if lease_edits > 0 && nexts.from.lease.is_some() {
            nexts.add(Action::LeaseHolderRemoved, |state, _| {
                state.budget.lease_edits -= 1;
                state.excused = true;
                state.store_lease(Who::Nobody);
            });
        }
        let sign_in_anew = |state: &mut State| {
            state.seed = Token { number: state.provider.issued, family: state.seed.family + 1 };
            state.provider.issued += 1;
        };
        if new_starts > 0 && nexts.from.credential.is_some() {
            nexts.add(Action::StartAnew, |state, _| {
                state.budget.new_starts -= 1;
                state.excused = true;
                state.store(None, None);
                sign_in_anew(state);
            });
        }
        if seeds > 0 {
            nexts.add(Action::NewSeed, |state, _| {
                state.budget.seeds -= 1;
                sign_in_anew(state);
            });
        }
        if foreign_seeds > 0 {
            nexts.add(Action::ForeignSeed, |state, _| {
                state.budget.foreign_seeds -= 1;
                sign_in_anew(state);
                state.provider.foreign |= 1 << state.seed.family;
            });
        }
    }
}

fn lease(nexts: &mut Nexts, i: u8) {
    let mut r = nexts.from.replicas[usize::from(i)];
    if let Some(age) = r.writing {
        let current = r.seen.map_or(nexts.from.lease.is_none(), |seen| seen.current);
        nexts.add(Action::LeaseWritten(i), |state, notes| {
            r.writing = None;
            r.stale = !current;
            if current {
                state.store_lease(Who::Replica(i));
                r.seen = Some(Seen { holder: Who::Replica(i), age: 0, current: true });
                r.leads = LEASE - age;
            }
            *replica(state, i) = r;
            if state.replicas.iter().all(|r| r.leads > 0) {
                notes.notes.push("two leaders");
            }
        });
        if nexts.from.budget.losses > 0 && current {
            nexts.add(Action::LeaseWrittenUnanswered(i), |state, _| {
                state.budget.losses -= 1;
                state.store_lease(Who::Replica(i));
                (replica(state, i).writing, replica(state, i).stale) = (None, true);
            });
        }
    } else if r.leads < LEASE {
        nexts.add(Action::Campaign(i), |state, _| {
            if r.stale {
                r.seen = state.lease.map(|holder| sighted(r.seen, holder));
                r.stale = false;
            }
            if claims(r.seen, i) {
                r.writing = Some(0);
            } else {
                (r.stale, r.leads, r.stood) = (true, 0, None);
            }
            *replica(state, i) = r;
        });
    }
}

fn deaths(nexts: &mut Nexts, i: u8) {
    let r = nexts.from.replicas[usize::from(i)];
    if nexts.from.budget.crashes > 0 && r != Replica::NEW {
        nexts.add(Action::Kill(i), |state, notes| {
            state.budget.crashes -= 1;
            if r.holds() {
                state.excused = true;
                notes.notes.push("killed while holding");
            }
            if let Step::Sent(exchange, _) = r.step {
                state.provider.stray = Some(exchange.token);
            }
            state.replace(i);
        });
    }
    let may_give_back = r.leads > 0 && r.step == Step::Idle && r.seen.is_some_and(|seen| seen.current);
    if nexts.from.budget.handovers > 0 && may_give_back && r.writing.is_none() {
        nexts.add(Action::HandOver(i), |state, _| {
            state.budget.handovers -= 1;
            state.replace(i);
            state.store_lease(Who::Nobody);
        });
    }
}
