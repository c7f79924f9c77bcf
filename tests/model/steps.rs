//! One exchange, step by step, as `rotation.rs` takes it.

use graphtoken::credential::Settle;

use crate::decide::{View, settled, stands};
use crate::state::{
    Answer, Credential, DEADLINE, Exchange, FRESH, RETRY_PAUSE, SentFrom, Settling, State, Step, Stray,
    Token, Who,
};
use crate::world::{Action, Nexts, Shown, Strictness, World, replica};

impl World {
    pub fn exchange(&self, nexts: &mut Nexts, i: u8) {
        let r = nexts.from.replicas[usize::from(i)];
        let lossy = nexts.from.budget.losses > 0;
        match r.step {
            Step::Idle if r.leads > 0 => self.look(nexts, i),
            Step::Beginning(exchange) => begin(nexts, i, exchange),
            Step::Begun(exchange, age) => nexts.add(Action::Send(i), |state, notes| {
                if age <= FRESH {
                    self.send(state, notes, i, exchange);
                } else {
                    replica(state, i).step = Step::Idle;
                }
            }),
            Step::Sent(exchange, _) => {
                nexts.add(Action::ProviderAnswers(i), |state, notes| {
                    let answer = self.answer(&mut state.provider, exchange.token);
                    if answer == Answer::InvalidConfiguration {
                        notes.notes.push("a seed of another client is rejected");
                    }
                    receive(state, i, exchange, answer);
                });
                if lossy {
                    let lose = |state: &mut State| {
                        state.budget.losses -= 1;
                        state.excused = true;
                        replica(state, i).step = Step::Idle;
                    };
                    nexts.add(Action::AnswerLost(i), |state, _| {
                        lose(state);
                        self.answer(&mut state.provider, exchange.token);
                    });
                    nexts.add(Action::TimeOut(i), |state, _| {
                        lose(state);
                        state.provider.stray = Some(exchange.token);
                    });
                }
            }
            Step::Refused(exchange, age) if age >= RETRY_PAUSE => {
                nexts.add(Action::Retry(i), |state, notes| {
                    if exchange.current {
                        self.send(state, notes, i, Exchange { again: true, ..exchange });
                    } else {
                        notes.notes.push("a refusal gave way to a newer token");
                        replica(state, i).step = Step::Idle;
                    }
                });
            }
            Step::Idle | Step::Refused(..) => {}
            Step::Ending(exchange) => nexts.add(Action::End(i), |state, _| {
                replica(state, i).step = Step::Idle;
                if let Some(stored) = state.credential.filter(|_| exchange.current) {
                    let rejected = (exchange.source == SentFrom::Seed).then_some(exchange.token.family);
                    let rejected = rejected.or(stored.rejected);
                    state.store(Some(Credential { pending: None, rejected, ..stored }), Some(i));
                }
            }),
            Step::Holding(exchange, token, settling, age) => {
                hold(nexts, i, (exchange, token, settling, age));
            }
        }
    }

    fn look(&self, nexts: &mut Nexts, i: u8) {
        let credential = nexts.from.credential;
        if credential.is_some_and(|c| c.generation >= self.generations) {
            return;
        }
        nexts.add(Action::Look(i), |state, notes| {
            let r = replica(state, i);
            let foreign = credential.and_then(|c| c.pending).is_some_and(|who| who != Who::Replica(i));
            r.stood = foreign.then_some(r.stood.unwrap_or(0));
            let stood = r.stood.is_some_and(|age| age >= stands());
            let ahead = if i == 1 { self.ahead } else { 0 };
            let view = View { me: i, credential, seed: state.seed, stood, ahead };
            let Some(exchange) =
                self.minds.plan(view).filter(|_| state.replicas[usize::from(i)].leads > DEADLINE)
            else {
                return;
            };
            notes.notes.push(exchange.why.into_note());
            let source = SentFrom::from(exchange.source);
            let Credential { generation, token, adopted, signed_in, .. } = credential.unwrap_or_default();
            let token = if source == SentFrom::Seed { Some(state.seed) } else { token };
            let Some(token) = token else { return };
            let exchange =
                Exchange { source, current: true, generation, token, adopted, signed_in, again: false };
            state.forget_attempt(i);
            replica(state, i).step = Step::Beginning(exchange);
        });
    }

    /// The POST, if the Lease outlives it.
    fn send(&self, state: &mut State, notes: &mut Shown, i: u8, exchange: Exchange) {
        if replica(state, i).leads <= DEADLINE {
            replica(state, i).step = Step::Idle;
            return;
        }
        replica(state, i).step = Step::Sent(exchange, 0);
        if self.strictness == Strictness::Lenient {
            return;
        }
        // Of what is another client's nothing is spent.
        if state.provider.foreign & 1 << exchange.token.family != 0 {
            return;
        }
        if state.sent & exchange.token.bit() != 0 {
            notes.notes.push("a refresh token was sent twice");
            if !state.excused {
                notes.broken = Some("a refresh token was sent twice without an excuse");
            }
        }
        state.sent |= exchange.token.bit();
    }

    pub fn strays(&self, nexts: &mut Nexts) {
        if let Some(Stray { credential }) = nexts.from.stray {
            nexts.add(Action::StrayWriteArrives, |state, notes| {
                let before = state.credential.unwrap_or_default();
                let age = if before.token == credential.token { before.age } else { 0 };
                write(state, notes, Credential { age, ..credential }, None);
            });
        }
        if let Some(token) = nexts.from.provider.stray {
            nexts.add(Action::StrayRequestArrives, |state, _| {
                state.provider.stray = None;
                if self.strictness != Strictness::Lenient {
                    self.answer(&mut state.provider, token);
                }
            });
        }
    }
}

/// What an exchange is for, as it is shown to be possible.
trait Noted {
    fn into_note(self) -> &'static str;
}

impl Noted for graphtoken::plan::Why {
    fn into_note(self) -> &'static str {
        match self {
            Self::NewSeed => "a new seed",
            Self::Due => "a token due",
            Self::Recovery => "a recovery",
            Self::NoToken => "no token",
            Self::Requested | Self::Rejected | Self::Retry | Self::SignIn => "out of scope",
        }
    }
}

/// Step 1: the write-ahead record.
fn begin(nexts: &mut Nexts, i: u8, exchange: Exchange) {
    let begun = |state: &State| {
        let before = state.credential.unwrap_or_default();
        Credential { pending: Some(Who::Replica(i)), ..before }
    };
    nexts.add(Action::Begin(i), |state, notes| {
        replica(state, i).step = Step::Idle;
        if exchange.current {
            replica(state, i).step = Step::Begun(exchange, 0);
            let begun = begun(state);
            write(state, notes, begun, Some(i));
        }
    });
    if nexts.from.budget.losses == 0 || !exchange.current {
        return;
    }
    nexts.add(Action::BeginUnanswered(i), |state, notes| {
        state.budget.losses -= 1;
        replica(state, i).step = Step::Idle;
        let begun = begun(state);
        write(state, notes, begun, Some(i));
    });
    nexts.add(Action::BeginAstray(i), |state, _| {
        state.budget.losses -= 1;
        replica(state, i).step = Step::Idle;
        state.stray = Some(Stray { credential: begun(state) });
    });
}

fn receive(state: &mut State, i: u8, exchange: Exchange, answer: Answer) {
    replica(state, i).step = match answer {
        Answer::Issued(token) => Step::Holding(exchange, token, Settling::Commit, 0),
        Answer::InvalidGrant if exchange.again => Step::Ending(exchange),
        Answer::InvalidConfiguration => Step::Ending(exchange),
        Answer::InvalidGrant => Step::Refused(exchange, 0),
    };
    if answer == Answer::InvalidGrant {
        state.excused = true;
    }
}

/// A new refresh token is in memory: commit and settle.
fn hold(nexts: &mut Nexts, i: u8, (exchange, token, settling, age): (Exchange, Token, Settling, u8)) {
    let to = |settling: Settling, current: bool| {
        Step::Holding(Exchange { current, ..exchange }, token, settling, age)
    };
    if settling == Settling::Read {
        nexts.add(Action::ReadToSettle(i), |state, notes| {
            let rival = begun_by_another(state, i);
            let said = settled(state.credential.as_ref(), i, exchange, rival);
            let (step, note) = match said {
                Settle::Done => (Step::Idle, "settle: done"),
                Settle::Drop => (Step::Idle, "settle: drop"),
                Settle::Write => (to(Settling::Write, true), "settle: write"),
                Settle::Create => (to(Settling::Create, true), "settle: create"),
                Settle::Wait => (to(Settling::Read, false), "settle: wait"),
            };
            notes.notes.push(note);
            finish(state, i, step);
        });
        return;
    }
    let next = |state: &State| {
        let before = state.credential.unwrap_or_default();
        let seeded = exchange.source == SentFrom::Seed;
        Credential {
            generation: exchange.generation + 1,
            token: Some(token),
            age: 0,
            last_attempt: Some(Who::Replica(i)),
            pending: None,
            adopted: exchange.adopted | u8::from(seeded) << token.family,
            signed_in: if seeded { token.number } else { exchange.signed_in },
            rejected: before.rejected.filter(|_| !seeded),
        }
    };
    // The Secret may have gone meanwhile.
    let lands = exchange.current && (settling == Settling::Create || nexts.from.credential.is_some());
    nexts.add(Action::Write(i), |state, notes| {
        if lands {
            let next = next(state);
            write(state, notes, next, Some(i));
            finish(state, i, Step::Idle);
        } else {
            replica(state, i).step = to(Settling::Read, false);
        }
    });
    if nexts.from.budget.losses == 0 || !lands {
        return;
    }
    nexts.add(Action::WriteUnanswered(i), |state, notes| {
        state.budget.losses -= 1;
        replica(state, i).step = to(Settling::Read, false);
        let next = next(state);
        write(state, notes, next, None);
    });
    nexts.add(Action::WriteAstray(i), |state, _| {
        state.budget.losses -= 1;
        replica(state, i).step = to(Settling::Read, false);
        state.stray = Some(Stray { credential: next(state) });
    });
}

/// Whether the record says that another replica's exchange is under way, and it is: of one that is not, the record stands
/// unchanged until it is taken for dead.
fn begun_by_another(state: &State, i: u8) -> bool {
    let Some(Who::Replica(other)) = state.credential.and_then(|c| c.pending) else { return false };
    other != i && state.replicas[usize::from(other)].step != Step::Idle
}

fn finish(state: &mut State, i: u8, step: Step) {
    replica(state, i).step = step;
    if step == Step::Idle {
        state.forget_attempt(i);
    }
}

/// The store takes a write. Of two refresh tokens the one that was issued later is the newer.
fn write(state: &mut State, notes: &mut Shown, credential: Credential, by: Option<u8>) {
    let before = state.credential.and_then(|c| c.token);
    if before.is_some_and(|before| credential.token < Some(before)) {
        notes.broken = Some("a newer refresh token was overwritten by an older one");
    }
    let former = state.credential.map_or(0, |c| c.generation);
    if credential.generation < former {
        notes.broken = Some("a generation was overwritten by an earlier one");
    }
    if credential.generation > former && former > 0 {
        notes.notes.push(if former == 1 { "a first refresh" } else { "a second refresh" });
    }
    state.store(Some(credential), by);
}
