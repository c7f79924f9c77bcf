//! One exchange from beginning to end: live read → write-ahead record → POST → commit. It runs as a task of its own that
//! nothing cancels and that shutdown awaits, so a refresh token that came back is never dropped.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use crate::api::Reason;
use crate::api::names::KEY_REFRESH_TOKEN;
use crate::clock::Clock;
use crate::desired::{Client, Grant};
use crate::exchange::{Provider, Received, tenant_of};
use crate::failure::{Answer, Failure, NoAnswer};
use crate::grant::{
    self, Account, GrantKind, Issued, Outcome, Proof, TokenRequest, client_credentials, refresh_token,
};
use crate::leader::Lease;
use crate::metrics::{Metrics, TokenOutcome};
use crate::observed::{Credential, Pending, StoredToken, TokenFacts, Tokens};
use crate::permits::Permits;
use crate::plan::Source;
use crate::seed;
use crate::store::StoreError;
use crate::throttle::{self, Silence, Throttle};

mod acquisitions;
mod device;
mod job;
mod report;
mod turn;

pub use acquisitions::{Acquisitions, Ended, Progress, Running};
pub use job::{Job, Waiting};
pub use report::{Attempt, Finished, InHand, Report};
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
    /// What is running.
    pub acquisitions: Acquisitions,
    /// How many requests of a client may be in flight.
    pub permits: Permits,
    /// The clients that a provider asked for silence.
    pub throttle: Throttle,
}

/// Why an acquisition ended before its end.
enum Cut {
    /// What it was decided on has changed.
    Stale,
    /// Nothing may be sent now: see [`Report::NotNow`].
    NotNow,
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
    /// Starts an acquisition, unless one is running for this `GraphToken` or the process is about to exit. Returns whether it
    /// did. The result goes to the controller.
    pub fn start(&self, job: Job, waiting: Waiting) -> bool {
        let (key, uid) = (job.key(), job.identity.uid.clone());
        let exchanger = self.clone();
        self.acquisitions.start(&key, &uid, |progress| async move {
            let attempt = job.attempt();
            let report = Box::pin(exchanger.run(job, waiting, &progress)).await;
            Finished::Acquired { attempt, report }
        })
    }

    /// How long a request may take: with leaders, well within a Lease.
    pub fn deadline(&self) -> Duration {
        self.lease_duration.map_or(MAX_DEADLINE, |lease| MAX_DEADLINE.min(lease / 2))
    }

    async fn run(&self, job: Job, mut waiting: Waiting, progress: &Progress) -> Report {
        if !waiting.for_permit(&self.permits, &job).await {
            self.permits.park(&job.desired.client, progress.key(), job.urgency);
            return Report::NotNow;
        }
        waiting.slot.hold(self.provider.pace()).await;
        if !self.may_send(&job.desired.client) {
            return Report::NotNow;
        }
        let done = match job.exchange.source {
            Source::Client => self.app_only(&job, &mut waiting).await,
            Source::Chain | Source::Seed | Source::Login => self.rotate(&job, &mut waiting, progress).await,
            Source::DeviceStart => self.start_device(&job, &mut waiting).await,
            Source::DevicePoll => self.poll_device(&job, &mut waiting, progress).await,
        };
        done.unwrap_or_else(|cut| match cut {
            Cut::Stale => Report::Stale,
            Cut::NotNow => Report::NotNow,
            Cut::Failed(failure) => Report::Failed(failure),
            Cut::Storage(error) => Report::Storage(error),
        })
    }

    /// Whether a request may be sent: the Lease outlives it, the provider did not ask for silence, and the process is not about
    /// to exit.
    fn may_send(&self, client: &Client) -> bool {
        !self.acquisitions.are_stopping()
            && self.lease.outlives(self.deadline())
            && !self.throttle.silenced(client, self.clock.now())
    }

    /// Gets ready to send once more: after a response that is worth it, and with a permit of its own.
    async fn may_send_again(&self, job: &Job, waiting: &mut Waiting) -> bool {
        if !waiting.for_permit(&self.permits, job).await {
            return false;
        }
        waiting.slot.hold(self.provider.pace()).await;
        self.may_send(&job.desired.client)
    }

    async fn app_only(&self, job: &Job, waiting: &mut Waiting) -> Result<Report, Cut> {
        let tenant_id = self.tenant_id(job, waiting).await.map_err(Cut::Failed)?;
        let client = &job.desired.client;
        let request = |proof| client_credentials::request(&client.client_id, &job.desired.scopes, proof);
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        let mut sent = self.send(job, waiting, &request(proof), Instant::now()).await?;
        if sent.found_the_assertion_expired(job)
            && self.may_send_again(job, waiting).await
            && let Ok(proof) = self.prove(job).await
        {
            sent = self.send(job, waiting, &request(proof), Instant::now()).await?;
        }
        Ok(match sent.outcome {
            Outcome::Issued(issued) => {
                let stored = stored_token(job, &sent.attempt, &issued, sent.at);
                let account = tenant_id.map(|tenant| Account {
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

    /// The GUID of the tenant, which an app-only answer of Entra does not tell and MSAL's cache wants.
    async fn tenant_id(&self, job: &Job, waiting: &mut Waiting) -> Result<Option<String>, Failure> {
        let Some(url) = &job.openid_configuration else { return Ok(job.tenant_id.clone()) };
        let asked = self.provider.tenant_id(url, self.deadline());
        let received = waiting.slot.hold(asked).await.map_err(Failure::from);
        let failure = match received {
            Ok(Received { status, retry_after, body }) => {
                if let Some(tenant_id) = tenant_of(body.expose_secret()) {
                    return Ok(Some(tenant_id));
                }
                let answer =
                    Answer { status, retry_after: retry_after.as_deref(), body: body.expose_secret() };
                let kind = job.desired.grant.kind();
                match grant::read(kind, &answer, self.clock.now()) {
                    Outcome::Refused(failure) => failure,
                    _ => Failure::of(Reason::ProviderUnavailable),
                }
            }
            Err(failure) => failure,
        };
        self.heed(&job.desired.client, &failure);
        Err(Failure {
            message: format!(
                "The tenant's GUID, which the O365 file needs, could not be read from {url}. Set spec.tenant to the GUID, or find                  out why the operator cannot read it: {}",
                failure.message
            ),
            ..failure
        })
    }

    async fn rotate(&self, job: &Job, waiting: &mut Waiting, progress: &Progress) -> Result<Report, Cut> {
        let (live, tokens) = self.live(job).await?;
        let refresh_token = self.refresh_token(job, &tokens).await?;
        // Before anything is begun that would have to be recovered.
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        if !self.may_send(&job.desired.client) {
            return Err(Cut::NotNow);
        }
        let attempt = uuid::Uuid::new_v4().to_string();
        let pending = Pending { attempt: attempt.clone(), holder: self.holder.clone() };
        let epoch = job.secrets.epoch(&job.identity.namespace);
        let begun = job.store.begin(live.as_ref(), &pending).await?;
        let begun_at = Instant::now();
        job.shown(&begun, epoch);

        let client = &job.desired.client;
        let request =
            |proof| refresh_token::request(&client.client_id, &refresh_token, &job.desired.scopes, proof);
        let mut sent = self.send(job, waiting, &request(proof), begun_at).await?;
        let pause = sent.refused_the_grant().then_some(RETRY_PAUSE);
        let pause = pause.or(sent.found_the_assertion_expired(job).then_some(Duration::ZERO));
        if let Some(pause) = pause {
            waiting.slot.release();
            tokio::time::sleep(pause).await;
            if self.may_send_again(job, waiting).await {
                // No assertion is sent twice.
                let proof = self.prove(job).await;
                // A rival may have rotated it meanwhile: then its token is used, and this one is never sent again.
                let unchanged = job.store.read().await?.is_some_and(|(now, _)| {
                    now.pending == begun.pending && now.refresh_token_digest == begun.refresh_token_digest
                });
                if !unchanged {
                    return Err(Cut::Stale);
                }
                if let Ok(proof) = proof {
                    sent = self.send(job, waiting, &request(proof), Instant::now()).await?;
                }
            }
        }
        let (sent_at, slot) = (sent.at, &waiting.slot);
        let turn = Turn { job, begun: &begun, tokens: &tokens, attempt: &attempt, sent_at, progress, slot };
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
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &job.identity.namespace);
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

    /// Sends a request. The permit is released when the response has been read.
    async fn post(
        &self,
        waiting: &mut Waiting,
        url: &str,
        request: &TokenRequest,
        request_id: &str,
    ) -> Result<Received, NoAnswer> {
        let permit = waiting.permit.take();
        let received = waiting.slot.hold(self.provider.post(url, request, request_id, self.deadline())).await;
        drop(permit);
        received
    }

    /// A proof for one request.
    async fn prove<'a>(&self, job: &'a Job) -> Result<Proof<'a>, Failure> {
        job.prover.prove(&self.client, &job.desired.client, self.clock.now()).await
    }

    /// Sends the request if the Lease outlives it and what it rests on was seen a moment ago: a process that was paused
    /// in between sends nothing.
    async fn send(
        &self,
        job: &Job,
        waiting: &mut Waiting,
        request: &TokenRequest,
        seen_at: Instant,
    ) -> Result<Sent, Cut> {
        let client = &job.desired.client;
        if seen_at.elapsed() > FRESH {
            return Err(Cut::Stale);
        }
        if !self.may_send(client) {
            return Err(Cut::NotNow);
        }
        let attempt = uuid::Uuid::new_v4().to_string();
        let (at, began) = (self.clock.now(), Instant::now());
        let received = self.post(waiting, &client.token_url, request, &attempt).await;
        // A device-code grant refreshes like any other: only a poll may be told to wait.
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
                grant::read(label_kind, &answer, self.clock.now())
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
