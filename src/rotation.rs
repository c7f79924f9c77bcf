//! One exchange from beginning to end: live read → write-ahead record → POST → commit. It runs as a task of its own that
//! nothing cancels and that shutdown awaits, so a refresh token that came back is never dropped.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::api::Reason;
use crate::clock::Clock;
use crate::credential::CredentialStore;
use crate::desired::{Desired, Grant};
use crate::exchange::{Provider, Received};
use crate::failure::{Answer, Failure};
use crate::grant::{
    self, Account, Issued, Outcome, Proof, TokenRequest, Warning, client_credentials, refresh_token,
};
use crate::leader::Lease;
use crate::metrics::{Metrics, TokenOutcome};
use crate::observed::{Credential, Pending, StoredToken, TokenFacts, Tokens};
use crate::plan::{Exchange, Source};
use crate::seed;
use crate::store::StoreError;
use crate::throttle::{self, Silence, Throttle};

mod in_use;
mod turn;

pub use in_use::{Claim, InUse};
use turn::Turn;

/// No exchange takes longer.
const MAX_DEADLINE: Duration = Duration::from_secs(15);
/// The token is sent within this time of an answered read or write that showed the record unchanged.
const FRESH: Duration = Duration::from_secs(1);
/// `invalid_grant` is sometimes passing for personal accounts: one more try after this.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What exchanges are made with.
#[derive(Clone)]
pub struct Exchanger {
    /// The token endpoints.
    pub provider: Arc<Provider>,
    /// The API server.
    pub client: kube::Client,
    /// The wall clock.
    pub clock: Clock,
    /// Leadership.
    pub lease: Lease,
    /// The Lease's length, if leaders are elected.
    pub lease_duration: Option<Duration>,
    /// Counters.
    pub metrics: Metrics,
    /// This process, as it signs write-ahead records.
    pub holder: String,
    /// The tasks that shutdown awaits.
    pub tasks: TaskTracker,
    /// The credentials of which an exchange is under way.
    pub in_use: InUse,
    /// The clients that a provider asked for silence.
    pub throttle: Throttle,
}

/// An exchange to be made; it owns all it needs, for it may outlive the reconcile that began it.
pub struct Job {
    /// The `graphtoken.io/requested-at` that it makes good.
    pub request: Option<String>,
    /// The leave to send, got before time is short.
    pub turn: Option<OwnedSemaphorePermit>,
    /// The sole right to the credential, if the grant has one.
    pub claim: Option<Claim>,
    /// What is desired.
    pub desired: Arc<Desired>,
    /// What is to be exchanged.
    pub exchange: Exchange,
    /// The credential as it was when the exchange was decided.
    pub planned_with: Option<Credential>,
    /// The seed's digest, likewise.
    pub seed_digest: Option<String>,
    /// The client secret.
    pub client_secret: Option<SecretString>,
    /// Where the refresh token lives.
    pub store: CredentialStore,
    /// The namespace of the seed.
    pub namespace: String,
    /// The GUID of the tenant, where it was asked for beforehand.
    pub tenant_id: Option<String>,
}

/// An access token that was got and not published yet, with what rendering it needs.
#[derive(Debug)]
pub struct InHand {
    /// Which token.
    pub stored: StoredToken,
    /// The token itself.
    pub access_token: SecretString,
    /// Whom it speaks for.
    pub account: Option<Account>,
}

/// What came of an exchange.
#[derive(Debug)]
pub enum Report {
    /// A token.
    Issued {
        /// The credential as committed; `None` for app-only tokens.
        credential: Option<Box<Credential>>,
        /// The token, to be published.
        in_hand: Box<InHand>,
        /// Whether a seed was adopted by it.
        adopted_seed: bool,
        /// What was odd about the answer.
        warnings: Vec<Warning>,
    },
    /// The attempt failed.
    Failed(Failure),
    /// The seed was refused, and the chain goes on without it.
    SeedRejected(Failure),
    /// What it was decided on has changed: read again and decide again.
    Stale,
    /// The store failed before anything was sent.
    Storage(StoreError),
}

/// An exchange under way.
#[derive(Debug)]
pub struct InFlight {
    /// The `graphtoken.io/requested-at` that it makes good.
    pub request: Option<String>,
    /// What comes of it.
    pub report: oneshot::Receiver<Report>,
    /// Why the latest try to store what it brought failed.
    pub trouble: watch::Receiver<Option<StoreError>>,
    /// Whether the status tells of that trouble.
    pub told: bool,
}

/// Why an exchange ended before its end.
enum Cut {
    Stale,
    Storage(StoreError),
}

impl From<StoreError> for Cut {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict | StoreError::Gone => Self::Stale,
            other => Self::Storage(other),
        }
    }
}

impl Exchanger {
    /// Begins an exchange as a task of its own.
    pub fn begin(&self, job: Job) -> InFlight {
        let (report, heard) = oneshot::channel();
        let (trouble, troubled) = watch::channel(None);
        let (exchanger, request) = (self.clone(), job.request.clone());
        self.tasks.spawn(async move {
            // Nobody may be there to hear it: the store has it all the same.
            let _ = report.send(exchanger.run(job, &trouble).await);
        });
        InFlight { request, report: heard, trouble: troubled, told: false }
    }

    /// How long a request may take: with leaders, well within a Lease.
    pub fn deadline(&self) -> Duration {
        self.lease_duration.map_or(MAX_DEADLINE, |lease| MAX_DEADLINE.min(lease / 2))
    }

    async fn run(&self, job: Job, trouble: &watch::Sender<Option<StoreError>>) -> Report {
        if !self.lease.outlives(self.deadline()) {
            return Report::Stale;
        }
        let done = match job.exchange.source {
            Source::Client => self.app_only(&job).await,
            Source::Chain | Source::Seed => self.rotate(&job, trouble).await,
        };
        done.unwrap_or_else(|cut| match cut {
            Cut::Stale => Report::Stale,
            Cut::Storage(error) => Report::Storage(error),
        })
    }

    async fn app_only(&self, job: &Job) -> Result<Report, Cut> {
        let request =
            client_credentials::request(&job.desired.client.client_id, &job.desired.scopes, job.proof());
        let sent = self.send(job, &request, Instant::now()).await?;
        Ok(match sent.outcome {
            Outcome::Issued(issued) => {
                let stored = stored_token(job, &sent.attempt, &issued, sent.at);
                let account = job.tenant_id.clone().map(|tenant| Account {
                    object_id: String::new(),
                    tenant_id: Some(tenant),
                    guest_in: None,
                    username: None,
                });
                let in_hand = InHand { stored, access_token: issued.access_token.clone(), account };
                Report::Issued {
                    credential: None,
                    in_hand: Box::new(in_hand),
                    adopted_seed: false,
                    warnings: issued.warnings,
                }
            }
            Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => Report::Failed(failure),
        })
    }

    async fn rotate(&self, job: &Job, trouble: &watch::Sender<Option<StoreError>>) -> Result<Report, Cut> {
        let live = job.store.read().await?;
        let (live, tokens) = live.map_or((None, Tokens::default()), |(c, tokens)| (Some(c), tokens));
        if version(live.as_ref()) != version(job.planned_with.as_ref()) {
            return Err(Cut::Stale);
        }
        let refresh_token = self.refresh_token(job, &tokens).await?;
        let attempt = uuid::Uuid::new_v4().to_string();
        let pending = Pending { attempt: attempt.clone(), holder: self.holder.clone() };
        let begun = job.store.begin(live.as_ref(), &pending).await?;
        let begun_at = Instant::now();

        let client = &job.desired.client;
        let request =
            refresh_token::request(&client.client_id, &refresh_token, &job.desired.scopes, job.proof());
        let mut sent = self.send(job, &request, begun_at).await?;
        if sent.refused_the_grant() {
            tokio::time::sleep(RETRY_PAUSE).await;
            // A rival may have rotated it meanwhile: then its token is used, and this one is never sent again.
            let unchanged = job.store.read().await?.is_some_and(|(now, _)| now.meta == begun.meta);
            if !unchanged {
                return Err(Cut::Stale);
            }
            sent = self.send(job, &request, Instant::now()).await?;
        }
        let turn = Turn { job, begun: &begun, tokens: &tokens, attempt: &attempt, sent_at: sent.at, trouble };
        turn.conclude(sent.outcome, refresh_token).await
    }

    /// The refresh token to send.
    async fn refresh_token(&self, job: &Job, tokens: &Tokens) -> Result<SecretString, Cut> {
        let Grant::RefreshToken { seed } = &job.desired.grant else { return Err(Cut::Stale) };
        if job.exchange.source == Source::Chain {
            return tokens.refresh_token.clone().ok_or(Cut::Stale);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &job.namespace);
        let secret = api.get_opt(&seed.name).await.map_err(StoreError::from)?;
        let bytes = secret.and_then(|secret| secret.data?.remove(&seed.key)).ok_or(Cut::Stale)?;
        let parsed = seed::parse(&bytes.0, &job.desired.client.client_id).map_err(|_| Cut::Stale)?;
        if Some(&parsed.digest) == job.seed_digest.as_ref() {
            Ok(parsed.refresh_token)
        } else {
            Err(Cut::Stale)
        }
    }

    /// Sends the request if the Lease outlives it and what it rests on was seen a moment ago: a process that was paused
    /// in between sends nothing.
    async fn send(&self, job: &Job, request: &TokenRequest, seen_at: Instant) -> Result<Sent, Cut> {
        let deadline = self.deadline();
        let client = &job.desired.client;
        let silenced = self.throttle.silenced(client, self.clock.now());
        if silenced || seen_at.elapsed() > FRESH || !self.lease.outlives(deadline) {
            return Err(Cut::Stale);
        }
        let attempt = uuid::Uuid::new_v4().to_string();
        let (at, began) = (self.clock.now(), Instant::now());
        let received = self.provider.post(&client.token_url, request, &attempt, deadline).await;
        let kind = job.desired.grant.kind();
        let outcome = match received {
            Err(no_answer) => Outcome::Refused(no_answer.into()),
            Ok(Received { status, retry_after, body }) => {
                let answer =
                    Answer { status, retry_after: retry_after.as_deref(), body: body.expose_secret() };
                grant::read(kind, &answer, self.clock.now())
            }
        };
        let outcome = outcome.masked(request);
        if let Outcome::Refused(Failure { retry_after: Some(pause), .. }) = &outcome {
            // The others hear of it before the status does.
            let now = self.clock.now();
            self.throttle.ask(&throttle::key(client), Silence::new(now, *pause), now);
        }
        self.metrics.token_request(kind.as_str(), label(&outcome), began.elapsed());
        Ok(Sent { attempt, at, outcome })
    }
}

struct Sent {
    attempt: String,
    at: Timestamp,
    outcome: Outcome,
}

impl Sent {
    fn refused_the_grant(&self) -> bool {
        matches!(&self.outcome, Outcome::Refused(failure)
            if failure.reason == Reason::AuthorizationRequired && failure.error.as_deref() == Some("invalid_grant"))
    }
}

fn label(outcome: &Outcome) -> TokenOutcome {
    let failure = match outcome {
        Outcome::Issued(_) => return TokenOutcome::Succeeded,
        Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => failure,
    };
    match failure.reason {
        Reason::AuthorizationRequired => TokenOutcome::AuthorizationRequired,
        Reason::WrongAccount => TokenOutcome::WrongAccount,
        Reason::InvalidConfiguration => TokenOutcome::InvalidConfiguration,
        Reason::Throttled => TokenOutcome::Throttled,
        _ => TokenOutcome::ProviderUnavailable,
    }
}

impl Job {
    fn proof(&self) -> Proof<'_> {
        self.client_secret.as_ref().map_or(Proof::Public, Proof::Secret)
    }
}

fn version(credential: Option<&Credential>) -> Option<(&str, &str)> {
    credential.map(|c| (c.meta.uid.as_str(), c.meta.resource_version.as_str()))
}

fn stored_token(job: &Job, attempt: &str, issued: &Issued, sent_at: Timestamp) -> StoredToken {
    let after = |life: Duration| {
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::ZERO);
        sent_at.saturating_add(life).unwrap_or(sent_at)
    };
    StoredToken {
        facts: TokenFacts {
            attempt: attempt.to_owned(),
            issued_for: job.desired.issued_for.clone(),
            issued_at: sent_at,
            expires_at: after(issued.expires_in),
            refresh_at: issued.refresh_in.map(after),
        },
        token_type: issued.token_type.clone(),
        granted_scopes: if issued.granted_scopes.is_empty() {
            job.desired.scopes.clone()
        } else {
            issued.granted_scopes.clone()
        },
    }
}
