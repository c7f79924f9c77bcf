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
use crate::api::names::KEY_REFRESH_TOKEN;
use crate::api::status::SignInSource;
use crate::clock::Clock;
use crate::credential::CredentialStore;
use crate::desired::{Client, Desired, Grant};
use crate::exchange::{Provider, Received};
use crate::failure::{Answer, Failure};
use crate::grant::{
    self, Account, GrantKind, Issued, Outcome, Proof, TokenRequest, Warning, client_credentials,
    refresh_token,
};
use crate::leader::Lease;
use crate::metrics::{Metrics, TokenOutcome};
use crate::observed::{Credential, Pending, StoredToken, TokenFacts, Tokens};
use crate::plan::{Exchange, Source};
use crate::proof::Prover;
use crate::seed;
use crate::store::StoreError;
use crate::throttle::{self, Silence, Throttle};

mod device;
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
/// Entra's code for an assertion whose time is over.
const ASSERTION_EXPIRED: u32 = 700_024;

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
    /// The leave to send, got before time is short, and given back with the answer: others need not wait for what is stored then.
    pub turn: Option<OwnedSemaphorePermit>,
    /// The sole right to the credential, if the grant has one.
    pub claim: Option<Claim>,
    /// What is desired.
    pub desired: Arc<Desired>,
    /// What is to be exchanged.
    pub exchange: Exchange,
    /// The credential as it was when the exchange was decided.
    pub planned_with: Option<Credential>,
    /// The digest of the seed or of the login, whichever is exchanged, likewise.
    pub seed_digest: Option<String>,
    /// The name of the login Secret.
    pub login: String,
    /// What proves who the client is.
    pub prover: Prover,
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
        /// By what a user signed in, if a sign-in was adopted by it.
        adopted: Option<SignInSource>,
        /// What was odd about the answer.
        warnings: Vec<Warning>,
    },
    /// The attempt failed.
    Failed(Failure),
    /// A new sign-in was refused, and the chain goes on without it.
    SignInRejected(Failure),
    /// A device code waits for a user.
    DeviceStarted(Box<Credential>),
    /// It still does.
    DevicePending {
        /// Whether to poll less often from now on.
        slow_down: bool,
    },
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
    /// What is sent.
    pub source: Source,
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
    Failed(Failure),
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
        let (exchanger, request, source) = (self.clone(), job.request.clone(), job.exchange.source);
        self.tasks.spawn(async move {
            // Nobody may be there to hear it: the store has it all the same.
            let _ = report.send(exchanger.run(job, &trouble).await);
        });
        InFlight { request, source, report: heard, trouble: troubled, told: false }
    }

    /// How long a request may take: with leaders, well within a Lease.
    pub fn deadline(&self) -> Duration {
        self.lease_duration.map_or(MAX_DEADLINE, |lease| MAX_DEADLINE.min(lease / 2))
    }

    async fn run(&self, mut job: Job, trouble: &watch::Sender<Option<StoreError>>) -> Report {
        let turn = job.turn.take();
        if !self.lease.outlives(self.deadline()) {
            return Report::Stale;
        }
        let done = match job.exchange.source {
            Source::Client => self.app_only(&job).await,
            Source::Chain | Source::Seed | Source::Login => self.rotate(&job, turn, trouble).await,
            Source::DeviceStart => self.start_device(&job).await,
            Source::DevicePoll => self.poll_device(&job, trouble).await,
        };
        done.unwrap_or_else(|cut| match cut {
            Cut::Stale => Report::Stale,
            Cut::Failed(failure) => Report::Failed(failure),
            Cut::Storage(error) => Report::Storage(error),
        })
    }

    async fn app_only(&self, job: &Job) -> Result<Report, Cut> {
        let client = &job.desired.client;
        let request = |proof| client_credentials::request(&client.client_id, &job.desired.scopes, proof);
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        let mut sent = self.send(job, &request(proof), Instant::now()).await?;
        if sent.found_the_assertion_expired(job)
            && let Ok(proof) = self.prove(job).await
        {
            sent = self.send(job, &request(proof), Instant::now()).await?;
        }
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
                    adopted: None,
                    warnings: issued.warnings,
                }
            }
            Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => Report::Failed(failure),
            Outcome::Pending { slow_down } => Report::DevicePending { slow_down },
        })
    }

    async fn rotate(
        &self,
        job: &Job,
        leave: Option<OwnedSemaphorePermit>,
        trouble: &watch::Sender<Option<StoreError>>,
    ) -> Result<Report, Cut> {
        let (live, tokens) = self.live(job).await?;
        let refresh_token = self.refresh_token(job, &tokens).await?;
        // Before anything is begun that would have to be recovered.
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        let attempt = uuid::Uuid::new_v4().to_string();
        let pending = Pending { attempt: attempt.clone(), holder: self.holder.clone() };
        let begun = job.store.begin(live.as_ref(), &pending).await?;
        let begun_at = Instant::now();

        let client = &job.desired.client;
        let request =
            |proof| refresh_token::request(&client.client_id, &refresh_token, &job.desired.scopes, proof);
        let mut sent = self.send(job, &request(proof), begun_at).await?;
        let pause = sent.refused_the_grant().then_some(RETRY_PAUSE);
        let pause = pause.or(sent.found_the_assertion_expired(job).then_some(Duration::ZERO));
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            // No assertion is sent twice.
            let proof = self.prove(job).await;
            // A rival may have rotated it meanwhile: then its token is used, and this one is never sent again.
            let unchanged = job.store.read().await?.is_some_and(|(now, _)| now.meta == begun.meta);
            if !unchanged {
                return Err(Cut::Stale);
            }
            if let Ok(proof) = proof {
                sent = self.send(job, &request(proof), Instant::now()).await?;
            }
        }
        drop(leave);
        let turn = Turn { job, begun: &begun, tokens: &tokens, attempt: &attempt, sent_at: sent.at, trouble };
        turn.conclude(sent.outcome, refresh_token).await
    }

    /// The refresh token to send.
    async fn refresh_token(&self, job: &Job, tokens: &Tokens) -> Result<SecretString, Cut> {
        let (name, key) = match (job.exchange.source, &job.desired.grant) {
            (Source::Chain, _) => return tokens.refresh_token.clone().ok_or(Cut::Stale),
            (Source::Login, _) => (job.login.clone(), KEY_REFRESH_TOKEN),
            (_, Grant::RefreshToken { seed }) => (seed.name.clone(), seed.key.as_str()),
            _ => return Err(Cut::Stale),
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &job.namespace);
        let secret = api.get_opt(&name).await.map_err(StoreError::from)?;
        let bytes = secret.and_then(|secret| secret.data?.remove(key)).ok_or(Cut::Stale)?;
        let parsed = seed::parse(&bytes.0, &job.desired.client.client_id).map_err(|_| Cut::Stale)?;
        if Some(&parsed.digest) == job.seed_digest.as_ref() {
            Ok(parsed.refresh_token)
        } else {
            Err(Cut::Stale)
        }
    }

    /// A client that was asked for silence keeps it: the others hear of it before the status does.
    fn heed(&self, client: &Client, failure: &Failure) {
        if let (Reason::Throttled, Some(pause)) = (failure.reason, failure.retry_after) {
            let now = self.clock.now();
            self.throttle.ask(&throttle::key(client), Silence::new(now, pause), now);
        }
    }

    /// A proof for one request.
    async fn prove<'a>(&self, job: &'a Job) -> Result<Proof<'a>, Failure> {
        job.prover.prove(&self.client, &job.desired.client, self.clock.now()).await
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
        let label_kind = match job.exchange.source {
            Source::Client => GrantKind::ClientCredentials,
            Source::DeviceStart | Source::DevicePoll => GrantKind::DeviceCode,
            Source::Chain | Source::Seed | Source::Login => GrantKind::RefreshToken,
        };
        let outcome = match received {
            Err(no_answer) => Outcome::Refused(no_answer.into()),
            Ok(Received { status, retry_after, body }) => {
                let answer =
                    Answer { status, retry_after: retry_after.as_deref(), body: body.expose_secret() };
                grant::read(kind, &answer, self.clock.now())
            }
        };
        let outcome = naming_scopes(job, outcome.masked(request));
        if let Outcome::Refused(failure) = &outcome {
            self.heed(client, failure);
        }
        self.metrics.token_request(label_kind.as_str(), label(&outcome), began.elapsed());
        Ok(Sent { attempt, at, outcome })
    }
}

/// Who reads that consent is missing is to know for what.
fn naming_scopes(job: &Job, outcome: Outcome) -> Outcome {
    let Outcome::Refused(failure) = outcome else { return outcome };
    let token = job.planned_with.as_ref().and_then(|credential| credential.record.token.as_ref());
    let granted = token.map(|token| token.granted_scopes.as_slice()).unwrap_or_default();
    Outcome::Refused(failure.naming_scopes(&job.desired.scopes, granted))
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

    /// It was under way for too long, as after a pause of this process: a fresh one is worth one more try.
    fn found_the_assertion_expired(&self, job: &Job) -> bool {
        matches!(&self.outcome, Outcome::Refused(failure)
            if failure.error.as_deref() == Some("invalid_client") && failure.codes.contains(&ASSERTION_EXPIRED))
            && job.prover.makes_assertions()
    }
}

fn label(outcome: &Outcome) -> TokenOutcome {
    let failure = match outcome {
        Outcome::Issued(_) => return TokenOutcome::Succeeded,
        Outcome::Pending { .. } => return TokenOutcome::Pending,
        Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => failure,
    };
    label_of(failure)
}

fn label_of(failure: &Failure) -> TokenOutcome {
    match failure.reason {
        Reason::AuthorizationRequired => TokenOutcome::AuthorizationRequired,
        Reason::WrongAccount => TokenOutcome::WrongAccount,
        Reason::InvalidConfiguration => TokenOutcome::InvalidConfiguration,
        Reason::Throttled => TokenOutcome::Throttled,
        _ => TokenOutcome::ProviderUnavailable,
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
