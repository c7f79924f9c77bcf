//! The decisions: nothing but calls of the real functions, with what they take made from the state.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use graphtoken::api::status::{SignInSource, SignedIn};
use graphtoken::api::{GraphTokenStatus, Reason, Time};
use graphtoken::credential::{Settle, Spent, settle};
use graphtoken::desired::{Desired, Guards};
use graphtoken::leader::{Claim, Record as LeaseRecord, Sighting, claim};
use graphtoken::observed::{
    ChainClient, Credential as ObservedCredential, CredentialState, Identity, Meta, Observed, Pending,
    ProofState, Published, Record, RejectedSignIn, SeedState, StoredToken, TargetState, TargetView,
    TokenFacts, labels,
};
use graphtoken::plan::{self, Act, PENDING_STANDS, plan};
use graphtoken::target_shape::target_annotations;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::state::{Credential, DUE, Exchange, LEASE, Seen, Token, Who};

/// Everything that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub me: u8,
    pub credential: Option<Credential>,
    pub seed: Token,
    pub stood: bool,
    /// How far this replica's wall clock is ahead.
    pub ahead: u8,
}

/// What is desired, and the plans that were asked for before.
pub struct Minds {
    desired: Desired,
    plans: RefCell<HashMap<View, Option<plan::Exchange>>>,
}

fn name(who: Who) -> String {
    match who {
        Who::Replica(i) => format!("replica {i}"),
        Who::Dead => "dead".to_owned(),
        Who::Nobody => String::new(),
    }
}

fn digest(token: Token) -> String {
    format!("refresh token {}", token.number)
}

impl Minds {
    pub fn new() -> Self {
        let spec = json!({
            "tenant": "contoso.onmicrosoft.com",
            "clientId": "11111111-2222-3333-4444-555555555555",
            "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}},
            "scopes": ["Mail.Read"],
        });
        let spec = serde_json::from_value(spec).expect("a spec");
        let desired = Desired::new("mail", &spec, &Guards::default(), &|_| None).expect("a good spec");
        Self { desired, plans: RefCell::default() }
    }

    /// The exchange that `plan` wants now.
    pub fn plan(&self, view: View) -> Option<plan::Exchange> {
        // Plans depend on none of these; without them fewer have to be made.
        let credential =
            view.credential.map(|c| Credential { generation: 0, last_attempt: None, signed_in: 0, ..c });
        let view = View { credential, ..view };
        *self.plans.borrow_mut().entry(view).or_insert_with(|| {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000);
            match plan(&self.desired, &self.observed(&view, now), now).act {
                Act::Exchange(exchange) => Some(exchange),
                Act::Wait => None,
                Act::Publish => unreachable!("the target is as the credential is: {view:?}"),
                Act::Probe => unreachable!("this token endpoint has no Graph beside it"),
            }
        })
    }

    fn observed(&self, view: &View, now: Timestamp) -> Observed {
        let identity =
            Identity { namespace: "ns".into(), name: "mail".into(), uid: "uid".into(), generation: 1 };
        let credential = view.credential.map(|credential| self.credential(&credential, view, now));
        let token = credential.as_ref().and_then(|c| c.record.token.as_ref()).map(|t| t.facts.clone());
        Observed {
            status: GraphTokenStatus::default(),
            requested_at: None,
            target: token.map_or(TargetState::Absent, |facts| self.target(facts, &identity)),
            credential: credential.map_or(CredentialState::Absent, |c| CredentialState::Present(Box::new(c))),
            seed: SeedState::Found { digest: digest(view.seed) },
            login: SeedState::Unneeded,
            poll_at: None,
            proof: ProofState::Usable,
            inputs: "inputs".into(),
            in_hand: None,
            holder: name(Who::Replica(view.me)),
            pending_stood: view.stood,
            silence: None,
            unrenderable: None,
            secret_labels: BTreeMap::new(),
            identity,
        }
    }

    fn credential(&self, credential: &Credential, view: &View, now: Timestamp) -> ObservedCredential {
        let seconds = |ticks: u8| SignedDuration::from_secs(i64::from(ticks));
        let issued_at = now - seconds(credential.age + view.ahead);
        let facts = TokenFacts {
            attempt: "attempt".into(),
            issued_for: self.desired.issued_for.clone(),
            issued_at,
            expires_at: issued_at + seconds(2 * DUE),
            refresh_at: None,
        };
        let token = StoredToken { facts, token_type: "Bearer".into(), granted_scopes: vec![] };
        let seed = |family: u8| format!("seed of sign-in {family}");
        let known = |family: u8| if view.seed.family == family { digest(view.seed) } else { seed(family) };
        ObservedCredential {
            device: None,
            meta: Meta::default(),
            record: Record {
                client: credential.token.map(|_| ChainClient::from(&self.desired.client)),
                token: credential.token.map(|_| token),
                seed_digests: (0..8).filter(|f| credential.adopted & 1 << f != 0).map(known).collect(),
                rejected_seed: credential.rejected.map(|family| RejectedSignIn {
                    digest: known(family),
                    made_with_hash: "inputs".into(),
                    time: Timestamp::UNIX_EPOCH,
                    reason: Reason::AuthorizationRequired.into(),
                    message: String::new(),
                }),
                ..Record::default()
            },
            pending: credential.pending.map(|who| Pending { attempt: "attempt".into(), holder: name(who) }),
            refresh_token_digest: credential.token.map(digest),
            has_access_token: credential.token.is_some(),
            damaged: None,
        }
    }

    /// A target that serves just this token: publishing is no part of the model.
    fn target(&self, facts: TokenFacts, identity: &Identity) -> TargetState {
        let layout = self.desired.target.layout.clone();
        let published = Published {
            facts,
            layout,
            content: String::new(),
            extras: String::new(),
            first: false,
            since: None,
        };
        let meta = Meta {
            labels: labels(&identity.name, &BTreeMap::new()),
            annotations: target_annotations(&self.desired.target, &identity.uid, &published),
            owners: vec![identity.uid.clone()],
            ..Meta::default()
        };
        TargetState::Ours(TargetView { meta, published: Some(published), intact: true })
    }
}

/// How long another's write-ahead record must have stood.
pub fn stands() -> u8 {
    ticks(PENDING_STANDS)
}

fn ticks(duration: Duration) -> u8 {
    u8::try_from(duration.as_secs()).expect("a few seconds")
}

fn signed_in(number: u8) -> Option<Time> {
    let time = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(number.into());
    (number > 0).then(|| Time::from(time))
}

/// What `settle` says to an exchange of replica `me`; `rival`: another one's exchange is under way.
pub fn settled(stored: Option<&Credential>, me: u8, exchange: Exchange, rival: bool) -> Settle {
    let attempt = |who: Who| if who == Who::Replica(me) { "mine".to_owned() } else { name(who) };
    let record = stored.map(|stored| Record {
        generation: stored.generation.into(),
        last_attempt: stored.last_attempt.map(attempt),
        signed_in: signed_in(stored.signed_in)
            .map(|time| SignedIn { time, source: SignInSource::Seed.into() }),
        ..Record::default()
    });
    let mine = Spent {
        attempt: "mine".to_owned(),
        generation: exchange.generation.into(),
        signed_in: signed_in(exchange.signed_in),
    };
    settle(record.as_ref(), &mine, rival, true)
}

/// Now, by any replica's clock: far enough from its beginning.
const NOW: Duration = Duration::from_secs(1000);

fn sighting(seen: Seen) -> Sighting<Duration> {
    let version = if seen.current { "present" } else { "former" };
    let duration = Duration::from_secs(LEASE.into());
    let record = LeaseRecord { holder: name(seen.holder), version: version.into(), duration };
    Sighting { record, since: NOW.saturating_sub(Duration::from_secs(seen.age.into())) }
}

/// The Lease after one more read of it.
pub fn sighted(previous: Option<Seen>, holder: Who) -> Seen {
    let present = sighting(Seen { holder, age: 0, current: true });
    let next = Sighting::next(previous.map(sighting), present.record, NOW);
    Seen { holder, age: ticks(NOW.saturating_sub(next.since)), current: true }
}

/// Whether replica `me` is to write the Lease.
pub fn claims(seen: Option<Seen>, me: u8) -> bool {
    let claim = claim(seen.map(sighting).as_ref(), &name(Who::Replica(me)), NOW);
    !matches!(claim, Claim::Wait { .. })
}
