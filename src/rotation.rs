//! One exchange from beginning to end: live read → write-ahead record → POST → commit. It runs as a task of its own that
//! nothing cancels and that shutdown awaits, so a refresh token that came back is never dropped.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::api::status::{SignInSource, SignedIn};
use crate::api::{Reason, Time};
use crate::credential::{Commit, CredentialStore, Settle, Spent, settle};
use crate::desired::{Desired, Grant};
use crate::exchange::{Provider, Received};
use crate::failure::{Answer, Failure};
use crate::grant::{
    self, Account, Issued, Outcome, Proof, TokenRequest, Warning, client_credentials, refresh_token,
};
use crate::leader::Lease;
use crate::metrics::{Metrics, TokenOutcome};
use crate::observed::{ChainClient, Credential, Pending, Record, StoredToken, TokenFacts, Tokens};
use crate::plan::{Exchange, Source, account_matches};
use crate::seed;
use crate::state::{Clock, InHand};
use crate::store::StoreError;

/// No exchange takes longer.
const MAX_DEADLINE: Duration = Duration::from_secs(15);
/// The token is sent within this time of an answered read or write that showed the record unchanged.
const FRESH: Duration = Duration::from_secs(1);
/// `invalid_grant` is sometimes passing for personal accounts: one more try after this.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause between two tries to store what an exchange brought.
const MAX_COMMIT_PAUSE: Duration = Duration::from_secs(5);
/// How many digests of adopted seeds are remembered; 64 bytes each in a Secret of at most 1 MiB.
const MAX_SEED_DIGESTS: usize = 4096;

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
}

/// An exchange to be made; it owns all it needs, for it may outlive the reconcile that began it.
pub struct Job {
    /// The leave to send, got before time is short.
    pub turn: Option<OwnedSemaphorePermit>,
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
    pub fn begin(&self, job: Job) -> tokio::sync::oneshot::Receiver<Report> {
        let (report, receiver) = tokio::sync::oneshot::channel();
        let exchanger = self.clone();
        self.tasks.spawn(async move {
            // Nobody may be there to hear it: the store has it all the same.
            let _ = report.send(exchanger.run(job).await);
        });
        receiver
    }

    /// How long a request may take: with leaders, well within a Lease.
    pub fn deadline(&self) -> Duration {
        self.lease_duration.map_or(MAX_DEADLINE, |lease| MAX_DEADLINE.min(lease / 2))
    }

    async fn run(&self, job: Job) -> Report {
        if !self.lease.outlives(self.deadline()) {
            return Report::Stale;
        }
        let done = match job.exchange.source {
            Source::Client => self.app_only(&job).await,
            Source::Chain | Source::Seed => self.rotate(&job).await,
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

    async fn rotate(&self, job: &Job) -> Result<Report, Cut> {
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
        let turn = Turn { job, begun: &begun, tokens: &tokens, attempt: &attempt, sent_at: sent.at };
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
        if seen_at.elapsed() > FRESH || !self.lease.outlives(deadline) {
            return Err(Cut::Stale);
        }
        let attempt = uuid::Uuid::new_v4().to_string();
        let (at, began) = (self.clock.now(), Instant::now());
        let received = self.provider.post(&job.desired.client.token_url, request, &attempt, deadline).await;
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

/// The latter half of a rotating exchange: an answer is there, and the write-ahead record stands.
struct Turn<'a> {
    job: &'a Job,
    begun: &'a Credential,
    tokens: &'a Tokens,
    attempt: &'a str,
    sent_at: Timestamp,
}

impl Turn<'_> {
    async fn conclude(&self, outcome: Outcome, sent: SecretString) -> Result<Report, Cut> {
        match outcome {
            Outcome::Issued(issued) => self.issued(*issued, sent).await,
            Outcome::Unusable { failure, rotated, account } => {
                if let Some(rotated) = rotated.filter(|_| self.account_problem(account.as_ref()).is_none()) {
                    let mut record = self.next_record(account);
                    record.token = self.begun.record.token.clone();
                    let access_token = self.tokens.access_token.clone();
                    self.settle(Commit { record, refresh_token: Some(rotated), access_token }).await?;
                } else {
                    self.end_without_a_token(false).await;
                }
                Ok(Report::Failed(failure))
            }
            Outcome::Refused(failure) => {
                let refused = self.job.exchange.source == Source::Seed
                    && failure.reason == Reason::AuthorizationRequired;
                if failure.answered {
                    self.end_without_a_token(refused).await;
                }
                Ok(if refused && self.chain_goes_on() {
                    Report::SeedRejected(failure)
                } else {
                    Report::Failed(failure)
                })
            }
        }
    }

    /// A token came back. Of a chain it is committed before anything is judged; a seed of another account is not adopted.
    async fn issued(&self, issued: Issued, sent: SecretString) -> Result<Report, Cut> {
        let problem = self.account_problem(issued.account.as_ref());
        let adopted_seed = self.job.exchange.source == Source::Seed;
        if adopted_seed && let Some(problem) = problem {
            self.end_without_a_token(true).await;
            return Ok(if self.chain_goes_on() {
                Report::SeedRejected(problem)
            } else {
                Report::Failed(problem)
            });
        }
        let stored = stored_token(self.job, self.attempt, &issued, self.sent_at);
        // An answer for somebody else binds nobody.
        let answered = issued.account.clone().filter(|_| problem.is_none());
        let mut record = self.next_record(answered);
        record.token = problem.is_none().then(|| stored.clone());
        let account = record.account.clone();
        let refresh_token = issued.refresh_token.clone().or(adopted_seed.then_some(sent));
        let access_token = problem.is_none().then(|| issued.access_token.clone());
        let credential = self.settle(Commit { record, refresh_token, access_token }).await?;
        if let Some(problem) = problem {
            return Ok(Report::Failed(problem));
        }
        let in_hand = InHand { stored, access_token: issued.access_token, account };
        let warnings = issued.warnings;
        Ok(Report::Issued {
            credential: Some(Box::new(credential)),
            in_hand: Box::new(in_hand),
            adopted_seed,
            warnings,
        })
    }

    /// Whether the chain that is kept is this client's and goes on if the seed is refused.
    fn chain_goes_on(&self) -> bool {
        let same_client = self
            .begun
            .record
            .client
            .as_ref()
            .is_none_or(|c| *c == ChainClient::from(&self.job.desired.client));
        self.tokens.refresh_token.is_some() && same_client
    }

    /// What is wrong with the account that the answer speaks for. The first one binds, if the spec names none.
    fn account_problem(&self, answered: Option<&Account>) -> Option<Failure> {
        let record = &self.begun.record;
        let bound = record.account.as_ref().filter(|_| self.chain_goes_on());
        let from_chain = self.job.exchange.source == Source::Chain;
        let answered = answered.or(bound.filter(|_| from_chain));
        let right = match (&self.job.desired.account, answered) {
            (Some(wanted), Some(account)) => {
                account_matches(wanted, account) || same_user(bound, account, wanted)
            }
            (Some(_), None) => false,
            (None, Some(account)) => bound.is_none_or(|bound| bound.object_id == account.object_id),
            (None, None) => true,
        };
        (!right).then(|| wrong_account(self.job.desired.account.is_some()))
    }

    fn next_record(&self, account: Option<Account>) -> Record {
        let spent = &self.begun.record;
        let mut record = Record {
            generation: spent.generation + 1,
            last_attempt: Some(self.attempt.to_owned()),
            client: Some(ChainClient::from(&self.job.desired.client)),
            account: merged(account, spent.account.clone().filter(|_| self.chain_goes_on())),
            token: None,
            ..spent.clone()
        };
        if let (Source::Seed, Some(digest)) = (self.job.exchange.source, &self.job.seed_digest) {
            record.signed_in = Some(SignedIn { time: Time::from(self.sent_at), source: SignInSource::Seed });
            record.seed_digests.push(digest.clone());
            let surplus = record.seed_digests.len().saturating_sub(MAX_SEED_DIGESTS);
            record.seed_digests.drain(..surplus);
            record.rejected_seed_digest = None;
        }
        record
    }

    /// Takes the write-ahead record away after a refusal. If that fails it stays, which costs nothing: it is our own.
    async fn end_without_a_token(&self, seed_refused: bool) {
        let mut record = self.begun.record.clone();
        if seed_refused {
            record.rejected_seed_digest.clone_from(&self.job.seed_digest);
        }
        let access_token = self.tokens.access_token.clone();
        let commit = Commit { record, refresh_token: None, access_token };
        if let Err(error) = self.job.store.commit(self.begun, &commit).await {
            tracing::debug!(%error, "the write-ahead record of a refused exchange stays until the next one");
        }
    }

    /// Stores what the exchange brought, however long that takes: until then it is in memory only.
    async fn settle(&self, commit: Commit) -> Result<Credential, Cut> {
        let spent = Spent { attempt: self.attempt.to_owned(), generation: self.begun.record.generation };
        let mut error = match self.job.store.commit(self.begun, &commit).await {
            Ok(credential) => return Ok(credential),
            Err(error) => error,
        };
        let mut pause = Duration::from_millis(200);
        loop {
            tracing::warn!(%error, "a new refresh token could not be stored yet; it is kept in memory and tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_COMMIT_PAUSE);
            error = match self.try_to_settle(&commit, &spent).await {
                Ok(Some(credential)) => return Ok(credential),
                Ok(None) => return Err(Cut::Stale),
                Err(error) => error,
            };
        }
    }

    async fn try_to_settle(&self, commit: &Commit, spent: &Spent) -> Result<Option<Credential>, StoreError> {
        let stored = self.job.store.read().await?.map(|(credential, _)| credential);
        let lives = stored.is_some() || self.job.store.graphtoken_lives().await?;
        match (settle(stored.as_ref().map(|c| &c.record), spent, lives), stored) {
            (Settle::Done, stored) => Ok(stored),
            (Settle::Write, Some(stored)) => self.job.store.commit(&stored, commit).await.map(Some),
            (Settle::Create, _) => self.job.store.recreate(&self.whole(commit)).await.map(Some),
            (Settle::Drop | Settle::Write, _) => {
                tracing::info!("a newer refresh token is stored already; this one is dropped");
                Ok(None)
            }
        }
    }

    /// A commit that stands by itself: where the answer brought no refresh token, the one that was used goes on.
    fn whole(&self, commit: &Commit) -> Commit {
        let refresh_token = commit.refresh_token.clone().or_else(|| self.tokens.refresh_token.clone());
        Commit { refresh_token, ..commit.clone() }
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

/// A later answer may leave out what an earlier one told of the same user.
fn merged(answered: Option<Account>, bound: Option<Account>) -> Option<Account> {
    match (answered, bound) {
        (Some(answered), Some(bound)) if answered.object_id == bound.object_id => Some(Account {
            tenant_id: answered.tenant_id.or(bound.tenant_id),
            guest_in: answered.guest_in.or(bound.guest_in),
            username: answered.username.or(bound.username),
            object_id: answered.object_id,
        }),
        (answered, bound) => answered.or(bound),
    }
}

/// Whether the answer, which tells no name, speaks for the bound user whose name is the wanted one.
fn same_user(bound: Option<&Account>, answered: &Account, wanted: &str) -> bool {
    bound.is_some_and(|bound| bound.object_id == answered.object_id && account_matches(wanted, bound))
}

fn wrong_account(named: bool) -> Failure {
    let expected = if named { "spec.account" } else { "the account that signed in first" };
    Failure {
        message: format!(
            "The sign-in is for another account than {expected}: sign in as {expected} and put that refresh token into the \
             seed Secret, or set spec.account to the new one's UPN or object id."
        ),
        ..Failure::of(Reason::WrongAccount)
    }
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
