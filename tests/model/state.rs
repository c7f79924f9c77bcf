//! The state of the world. Ages are in ticks of a second and stop where nothing depends on them any more; versions and
//! ids, which are only ever compared with the one in the store, are kept as the answer to that comparison. So the world has
//! finitely many states though the replicas go on for ever.

use graphtoken::plan::Source;

/// How long the Lease is valid.
pub const LEASE: u8 = 4;
/// `rotation.rs`: the request's deadline, half the Lease.
pub const DEADLINE: u8 = LEASE / 2;
/// `rotation.rs`: `FRESH`.
pub const FRESH: u8 = 1;
/// `rotation.rs`: `RETRY_PAUSE`.
pub const RETRY_PAUSE: u8 = 2;
/// `leader.rs`: the deadline of a request for the Lease, a quarter of it.
pub const LEASE_REQUEST: u8 = LEASE / 4;
/// The access token's age from which on it is due; it lives twice as long.
pub const DUE: u8 = 2;

/// A process; one that died is nobody's any more, whichever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    Replica(u8),
    Dead,
    Nobody,
}

/// A refresh token: of which sign-in, and the how-manieth that was issued. The greater one is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    pub family: u8,
    pub number: u8,
}

impl Token {
    pub const fn bit(self) -> u16 {
        1 << self.number
    }
}

/// The credential Secret. Its uid and resourceVersion are in [`Exchange::current`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Credential {
    pub generation: u8,
    pub token: Option<Token>,
    /// Age of the access token.
    pub age: u8,
    /// Whose exchange brought the token, if that one is still going on.
    pub last_attempt: Option<Who>,
    pub pending: Option<Who>,
    /// Families of the seeds that were adopted.
    pub adopted: u8,
    /// When the last of them was: the number of the refresh token that it brought.
    pub signed_in: u8,
    /// Family of the seed that was refused.
    pub rejected: Option<u8>,
}

/// A rotating exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exchange {
    pub source: SentFrom,
    /// Whether the credential is as this exchange last saw or wrote it (that there is none counts too).
    pub current: bool,
    /// The generation that is spent.
    pub generation: u8,
    /// The refresh token that is sent.
    pub token: Token,
    /// Families of the seeds in the record that this one goes on from.
    pub adopted: u8,
    /// When the last of them was adopted.
    pub signed_in: u8,
    /// Whether it is the one retry.
    pub again: bool,
}

/// [`Source`], which cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SentFrom {
    Chain,
    Seed,
}

impl From<Source> for SentFrom {
    fn from(source: Source) -> Self {
        if source == Source::Seed { Self::Seed } else { Self::Chain }
    }
}

/// The provider's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Issued(Token),
    InvalidGrant,
    /// As `client_mismatch`: no new try helps, and nothing of it was used.
    InvalidConfiguration,
}

/// How far a new refresh token is from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Settling {
    /// The first try to commit, at the version of the write-ahead record.
    Commit,
    /// The store is to be read.
    Read,
    /// `settle` said: write, at the version that was read.
    Write,
    /// `settle` said: create.
    Create,
}

/// Where a replica is in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Idle,
    /// Decided and read live; the write-ahead record is on its way.
    Beginning(Exchange),
    /// The write-ahead record was answered so long ago.
    Begun(Exchange, u8),
    /// The request was sent so long ago.
    Sent(Exchange, u8),
    /// `invalid_grant` so long ago.
    Refused(Exchange, u8),
    /// Refused for good: the write-ahead record is taken away.
    Ending(Exchange),
    /// A new refresh token is in memory, for so long.
    Holding(Exchange, Token, Settling, u8),
}

/// The Lease as a replica last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    pub holder: Who,
    pub age: u8,
    /// Whether it is still at this version.
    pub current: bool,
}

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica {
    pub step: Step,
    /// `valid_until`, from now; 0: standby.
    pub leads: u8,
    pub seen: Option<Seen>,
    /// The Lease must be read before the next decision about it.
    pub stale: bool,
    /// A write of the Lease was sent so long ago.
    pub writing: Option<u8>,
    /// For how long it has seen another's write-ahead record, if it is the one that stands.
    pub stood: Option<u8>,
}

impl Replica {
    pub const NEW: Self =
        Self { step: Step::Idle, leads: 0, seen: None, stale: true, writing: None, stood: None };

    /// Whether a refresh token was sent, or came back, and is not in the store.
    pub const fn holds(&self) -> bool {
        matches!(self.step, Step::Sent(..) | Step::Holding(..))
    }

    pub const fn exchange(&mut self) -> Option<&mut Exchange> {
        match &mut self.step {
            Step::Idle => None,
            Step::Beginning(x)
            | Step::Begun(x, _)
            | Step::Sent(x, _)
            | Step::Refused(x, _)
            | Step::Ending(x)
            | Step::Holding(x, ..) => Some(x),
        }
    }
}

/// A write that its sender gave up and that may still arrive, as long as it is at the present version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stray {
    pub credential: Credential,
}

/// What the provider knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Provider {
    pub issued: u8,
    /// Refresh tokens that were used; a strict provider accepts none of them again.
    pub used: u16,
    /// Families that were revoked.
    pub revoked: u8,
    /// Families of another client.
    pub foreign: u8,
    /// A request that its sender gave up and that may still arrive.
    pub stray: Option<Token>,
}

/// How much may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Processes killed.
    pub crashes: u8,
    /// Requests or answers lost.
    pub losses: u8,
    /// Ticks by which one replica's clock goes ahead of all others.
    pub drift: u8,
    /// Processes ended in good order, the Lease given back.
    pub handovers: u8,
    /// The Lease's holder removed by hand.
    pub lease_edits: u8,
    /// The credential deleted by hand, and a new sign-in put into the seed Secret.
    pub new_starts: u8,
    /// New sign-ins put into the seed Secret.
    pub seeds: u8,
    /// Sign-ins of another client put there.
    pub foreign_seeds: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub lease: Option<Who>,
    pub credential: Option<Credential>,
    pub stray: Option<Stray>,
    /// What is in the seed Secret.
    pub seed: Token,
    pub provider: Provider,
    /// Refresh tokens that were sent.
    pub sent: u16,
    pub replicas: [Replica; 2],
    pub budget: Budget,
    /// Whether something happened that excuses a refresh token being sent twice, or lost.
    pub excused: bool,
}

impl State {
    /// Another version of the credential is in the store: no other's knowledge of it is current. `stray` writes can no longer land.
    pub fn store(&mut self, credential: Option<Credential>, by: Option<u8>) {
        // Every write takes a write-ahead record away or puts a new one there.
        self.replicas.iter_mut().for_each(|r| r.stood = None);
        self.credential = credential;
        self.stray = None;
        for (i, replica) in (0..).zip(&mut self.replicas) {
            if let Some(exchange) = replica.exchange() {
                exchange.current = Some(i) == by;
            }
        }
    }

    /// Another version of the Lease is there.
    pub fn store_lease(&mut self, holder: Who) {
        self.lease = Some(holder);
        for seen in self.replicas.iter_mut().filter_map(|r| r.seen.as_mut()) {
            seen.current = false;
        }
    }

    /// An exchange of this replica is over, or another begins: `lastAttempt` speaks of none that goes on.
    pub fn forget_attempt(&mut self, i: u8) {
        let of_mine = |c: &mut Credential| {
            c.last_attempt = c.last_attempt.map(|who| if who == Who::Replica(i) { Who::Dead } else { who });
        };
        self.credential.iter_mut().for_each(of_mine);
        self.stray.iter_mut().for_each(|stray| of_mine(&mut stray.credential));
    }

    /// The same with the replicas in one order: which is which makes no difference.
    pub fn ordered(mut self) -> Self {
        if self.replicas[0] <= self.replicas[1] {
            return self;
        }
        self.replicas.swap(0, 1);
        let rename = |who: &mut Who| {
            if let Who::Replica(i) = who {
                *i = 1 - *i;
            }
        };
        self.lease.iter_mut().for_each(rename);
        self.replicas.iter_mut().filter_map(|r| r.seen.as_mut()).for_each(|seen| rename(&mut seen.holder));
        let stray = self.stray.as_mut().map(|stray| &mut stray.credential);
        for credential in self.credential.iter_mut().chain(stray) {
            credential.pending.iter_mut().chain(&mut credential.last_attempt).for_each(rename);
        }
        self
    }

    /// A process ended; another one takes its place.
    pub fn replace(&mut self, i: u8) {
        self.forget_attempt(i);
        let bury = |who: &mut Who| {
            if *who == Who::Replica(i) {
                *who = Who::Dead;
            }
        };
        self.replicas[usize::from(i)] = Replica::NEW;
        self.lease.iter_mut().for_each(bury);
        self.replicas.iter_mut().filter_map(|r| r.seen.as_mut()).for_each(|seen| bury(&mut seen.holder));
        let stray = self.stray.as_mut().map(|stray| &mut stray.credential);
        for credential in self.credential.iter_mut().chain(stray) {
            credential.pending.iter_mut().for_each(bury);
        }
    }
}
