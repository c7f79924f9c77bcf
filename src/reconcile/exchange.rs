//! The part of a look that gets a token: beginning an exchange, waiting for it, taking in what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::sign_in::sign_in_event;
use super::trouble::{OTHERS_COMMIT, not_stored_yet, storage_message};
use super::{COMMIT_PATIENCE, Look, TOLD_PATIENCE};
use crate::api::Reason;
use crate::api::names::login_name;
use crate::api::status::AccountStatus;
use crate::desired::Grant;
use crate::events::EventReason;
use crate::failure::Failure;
use crate::observe::{credential_store, poll_at};
use crate::observed::{Credential, CredentialState, Observed, SeedState};
use crate::plan::{Exchange, Source};
use crate::proof;
use crate::rotation::{InFlight, InHand, Job, Report};
use crate::state::KeptCredential;
use crate::status;
use crate::store::StoreError;

impl Look<'_> {
    pub(super) async fn exchange(
        &mut self,
        exchange: Exchange,
        mut observed: Observed,
    ) -> Result<Observed, StoreError> {
        let identity = observed.identity.clone();
        let Ok(prover) = proof::prover(self.ctx, &self.desired.client, &identity).await? else {
            // It was usable when the exchange was decided.
            return self.again(observed).await;
        };
        let tenant_id = match self.tenant_id(&observed).await {
            Ok(tenant_id) => tenant_id,
            Err(failure) => {
                observed.status =
                    status::with_failure(observed.status, failure, &observed.inputs, self.ctx.now());
                return Ok(observed);
            }
        };
        tracing::debug!(why = ?exchange.why, source = ?exchange.source, "exchange");
        let request = observed.requested_at.clone();
        let claim = match self.desired.grant {
            Grant::ClientCredentials => None,
            Grant::RefreshToken { .. } | Grant::DeviceCode => {
                let claim = self.ctx.exchanger.in_use.claim(&identity.namespace, &identity.name);
                let Ok(claim) = tokio::time::timeout(self.patience() + COMMIT_PATIENCE, claim).await else {
                    self.ends = true;
                    return Ok(self.storage_failed(observed, OTHERS_COMMIT.to_owned()));
                };
                Some(claim)
            }
        };
        let turn = self.ctx.exchanger.provider.admit(&self.desired.client).await;
        observed.silence = self.ctx.exchanger.throttle.silence(&self.desired.client, self.ctx.now());
        if observed.silence.is_some_and(|silence| silence.until > self.ctx.now()) {
            // It was asked for while this one waited for its turn: decide again.
            return Ok(observed);
        }
        let in_flight = self.ctx.exchanger.begin(Job {
            request,
            turn,
            claim,
            desired: Arc::clone(&self.desired),
            exchange,
            planned_with: observed.credential().cloned(),
            seed_digest: match (exchange.source, &observed.seed, &observed.login) {
                (Source::Seed, SeedState::Found { digest }, _)
                | (Source::Login, _, SeedState::Found { digest }) => Some(digest.clone()),
                _ => None,
            },
            login: login_name(&identity.name),
            prover,
            store: credential_store(self.ctx, &identity, &self.desired),
            namespace: identity.namespace.clone(),
            tenant_id,
        });
        Box::pin(self.hear(in_flight, observed)).await
    }

    /// The GUID of the tenant, which an app-only answer of Entra does not tell and MSAL's cache wants.
    async fn tenant_id(&self, observed: &Observed) -> Result<Option<String>, Failure> {
        let client = &self.desired.client;
        if self.desired.grant != Grant::ClientCredentials || crate::exchange::is_guid(&client.tenant) {
            return Ok(None);
        }
        let known = observed.status.account.as_ref().and_then(|account| account.tenant_id.clone());
        let same_spec = observed.served().is_some_and(|token| token.issued_for == self.desired.issued_for)
            && known.is_some();
        match &client.openid_configuration {
            None => Ok(None),
            Some(_) if same_spec => Ok(known),
            Some(url) => {
                let deadline = self.ctx.exchanger.deadline();
                let answered = self.ctx.exchanger.provider.tenant_id(url, deadline).await;
                answered.map(Some).map_err(|no_answer| Failure {
                    message: format!(
                        "the tenant's GUID, which the O365 file needs, could not be read from {url}: set spec.tenant to the GUID, or                          see why the operator cannot reach it ({})",
                        Failure::from(no_answer).message
                    ),
                    ..Failure::of(Reason::ProviderUnavailable)
                })
            }
        }
    }

    /// How long one live read and one write before the request, the request and a retry of it may take.
    fn patience(&self) -> Duration {
        self.ctx.exchanger.deadline() * 2
    }

    /// Waits for an exchange, and takes in what came of it.
    pub(super) async fn hear(
        &mut self,
        mut in_flight: InFlight,
        mut observed: Observed,
    ) -> Result<Observed, StoreError> {
        let InFlight { report, trouble, told, .. } = &mut in_flight;
        let patience = async {
            if *told {
                return tokio::time::sleep(TOLD_PATIENCE).await;
            }
            // That a write was refused is told soon; that nothing is known yet is told late.
            let _ = tokio::time::timeout(self.patience(), trouble.wait_for(Option::is_some)).await;
            tokio::time::sleep(COMMIT_PATIENCE).await;
        };
        tokio::select! {
            biased;
            heard = report => match heard {
                Ok(report) => {
                    // Made good by this exchange, or by the retry of one that failed.
                    if !matches!(report, Report::Stale) {
                        observed.status.last_handled_request.clone_from(&in_flight.request);
                    }
                    let source = in_flight.source;
                    self.take_in(report, source, observed).await
                }
                Err(_) => Ok(self.storage_failed(observed, "the exchange broke off; see the operator's log".to_owned())),
            },
            () = patience => {
                let message = not_stored_yet(in_flight.trouble.borrow().as_ref());
                in_flight.told = true;
                self.memory.in_flight = Some(Box::new(in_flight));
                Ok(self.storage_failed(observed, message))
            }
        }
    }

    async fn take_in(
        &mut self,
        report: Report,
        source: Source,
        mut observed: Observed,
    ) -> Result<Observed, StoreError> {
        let identity = observed.identity.clone();
        match report {
            Report::Issued { credential, in_hand, adopted, warnings } => {
                for warning in warnings {
                    if self.memory.said.insert(format!("{warning:?}")) {
                        self.ctx
                            .events
                            .warning(&identity, EventReason::OddAnswer, &warning.to_string())
                            .await;
                    }
                }
                if let Some(source) = adopted {
                    let (reason, note) = sign_in_event(source);
                    self.ctx.events.normal(&identity, reason, note).await;
                }
                tracing::info!(
                    namespace = identity.namespace, name = identity.name,
                    expires_at = %in_hand.stored.facts.expires_at, "token issued"
                );
                self.issued(credential, &in_hand, &mut observed);
                self.memory.in_hand = Some(in_hand);
                // What was published before in this look, as after an outage, was another token.
                self.published = false;
                Ok(observed)
            }
            Report::Failed(failure) => {
                if let Some(polls) = self.memory.polls.as_mut().filter(|_| source == Source::DevicePoll) {
                    polls.made(false, self.ctx.now());
                }
                tracing::info!(
                    namespace = identity.namespace, name = identity.name, reason = failure.reason.as_str(),
                    error = failure.error, codes = ?failure.codes, correlation_id = failure.correlation_id,
                    "exchange failed"
                );
                let (client, now) = (&self.desired.client, self.ctx.now());
                observed.status =
                    status::with_refusal(observed.status, failure, client, &observed.inputs, now);
                if let Some(failure) = &observed.status.last_failure {
                    self.ctx.exchanger.throttle.note(failure, now);
                }
                self.again(observed).await
            }
            Report::SignInRejected(failure) => {
                let (reason, what) = match source {
                    Source::Login => (EventReason::LoginRejected, "login"),
                    _ => (EventReason::SeedRejected, "seed"),
                };
                let note = format!(
                    "the {what} was refused, and the sign-in that is kept goes on: {}",
                    failure.message
                );
                self.ctx.events.warning(&identity, reason, &note).await;
                self.again(observed).await
            }
            Report::DeviceStarted(credential) => {
                let note = "a user is to sign in: the status of this GraphToken has the page (deviceCode.verificationUri) and \
                            the code to enter there (deviceCode.userCode)";
                self.ctx.events.normal(&identity, EventReason::DeviceCodeIssued, note).await;
                status::forget_failures(&mut observed.status);
                self.memory.credential = Some(KeptCredential::new(&credential));
                observed.credential = CredentialState::Present(credential);
                observed.poll_at = poll_at(self.ctx, &observed, self.memory);
                Ok(observed)
            }
            Report::DevicePending { slow_down } => {
                if let Some(polls) = &mut self.memory.polls {
                    polls.made(slow_down, self.ctx.now());
                    observed.poll_at = Some(polls.next);
                }
                status::forget_failures(&mut observed.status);
                Ok(observed)
            }
            Report::Stale => self.again(observed).await,
            Report::Storage(error) => Ok(self.storage_failed(observed, storage_message(&error))),
        }
    }

    fn issued(&mut self, credential: Option<Box<Credential>>, in_hand: &InHand, observed: &mut Observed) {
        let status = std::mem::take(&mut observed.status);
        let mut status = status::with_token(status, &in_hand.stored);
        status.refresh_count += 1;
        status::forget_failures(&mut status);
        if let Some(credential) = credential {
            self.memory.credential = Some(KeptCredential::new(&credential));
            observed.credential = CredentialState::Present(credential);
        } else {
            let tenant_id = in_hand.account.as_ref().and_then(|account| account.tenant_id.clone());
            status.account = tenant_id.map(|id| AccountStatus { object_id: None, tenant_id: Some(id) });
            observed.in_hand = Some(in_hand.stored.facts.clone());
        }
        observed.status = status;
    }
}
