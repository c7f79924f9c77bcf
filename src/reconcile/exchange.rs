//! The step that starts an acquisition. It does not wait for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::trouble::{OTHERS_COMMIT, not_stored_yet, unstored};
use super::{Look, Steps};
use crate::api::Reason;
use crate::api::names::login_name;
use crate::cache::Urgency;
use crate::desired::Grant;
use crate::failure::Failure;
use crate::observe::credential_store;
use crate::observed::{Observed, SeedState};
use crate::permits::{Admission, Permit};
use crate::plan::{Act, Exchange, Plan, Problem, Source, made_with};
use crate::proof;
use crate::rotation::{Job, Running, Waiting};
use crate::slot::Slot;
use crate::state::Key;
use crate::store::StoreError;

/// One that waits for a permit is enqueued when one is released, and after this at the latest.
const PARKED: Duration = Duration::from_secs(30);
/// For this long the status does not speak of it.
const UNTOLD: Duration = Duration::from_secs(15);

impl Look<'_> {
    /// Starts an acquisition. An inner error: the client cannot authenticate any more with what was read a moment ago.
    pub(super) async fn acquire(
        &mut self,
        exchange: Exchange,
        observed: Observed,
        plan: Plan,
    ) -> Result<Result<Steps, Observed>, StoreError> {
        let identity = &observed.identity;
        let Ok(prover) = proof::prover(self.ctx, &self.desired.client, identity).await? else {
            return Ok(Err(observed));
        };
        let key = Key::new(&identity.namespace, &identity.name);
        let urgency = self.ctx.graphtokens.urgency(&key).unwrap_or(Urgency::New);
        let permit = match self.ctx.exchanger.permits.admit(&self.desired.client, &key, urgency) {
            Admission::Granted(permit) => Some(permit),
            Admission::Busy => None,
            Admission::Parked => return Ok(Ok(self.parked(observed, &plan))),
        };
        self.memory.parked = None;
        if self.repairs {
            self.memory.repaired = Some(Instant::now());
        }
        let (openid_configuration, tenant_id) = self.tenant(&observed);
        let job = Job {
            identity: identity.clone(),
            request: observed.requested_at.clone(),
            desired: Arc::clone(&self.desired),
            exchange,
            planned_with: observed.credential().cloned(),
            seed_digest: match (exchange.source, &observed.seed, &observed.login) {
                (Source::Seed, SeedState::Found { digest }, _)
                | (Source::Login, _, SeedState::Found { digest }) => Some(digest.clone()),
                _ => None,
            },
            inputs: observed.inputs.clone(),
            made_with: made_with(&observed, exchange.source),
            login: login_name(&identity.name),
            prover,
            store: credential_store(self.ctx, identity, &self.desired),
            secrets: Arc::clone(&self.ctx.secrets),
            openid_configuration,
            tenant_id,
            urgency,
        };
        Ok(Ok(if self.start(job, permit) {
            Steps::started(observed, plan.look_at)
        } else {
            // The process is to exit.
            Steps::decided(observed, Plan { act: Act::Wait, ..plan })
        }))
    }

    fn start(&mut self, job: Job, permit: Option<Permit>) -> bool {
        let Exchange { why, source } = job.exchange;
        let slot = std::mem::replace(&mut self.slot, Slot::none());
        tracing::debug!(
            namespace = job.identity.namespace,
            name = job.identity.name,
            ?why,
            ?source,
            "acquisition starts"
        );
        self.ctx.exchanger.start(job, Waiting { slot, permit })
    }

    /// All requests of the client that may be in flight are, and others wait before this one.
    fn parked(&mut self, observed: Observed, plan: &Plan) -> Steps {
        let now = self.ctx.now();
        let since = *self.memory.parked.get_or_insert_with(Instant::now);
        let at = now.saturating_add(PARKED).unwrap_or(Timestamp::MAX);
        let look_at = plan.look_at.map_or(at, |look_at| look_at.min(at));
        if since.elapsed() < UNTOLD {
            return Steps::started(observed, Some(look_at));
        }
        let problem = Problem::new(
            Reason::ProviderUnavailable,
            format!(
                "The token endpoint {} has not answered the requests of client {} that are in flight. The request for this \
                 GraphToken is sent when one of them ends.",
                self.desired.client.token_url, self.desired.client.client_id
            ),
        );
        let plan = Plan { act: Act::Wait, look_at: Some(look_at), problem: Some(problem), ..plan.clone() };
        Steps::decided(observed, plan)
    }

    /// Where the tenant's GUID is to be read, which an app-only answer of Entra does not tell and MSAL's cache wants; or the
    /// GUID, if it is known.
    fn tenant(&self, observed: &Observed) -> (Option<String>, Option<String>) {
        let client = &self.desired.client;
        if self.desired.grant != Grant::ClientCredentials || crate::exchange::is_guid(&client.tenant) {
            return (None, None);
        }
        let known = observed.status.account.as_ref().and_then(|account| account.tenant_id.clone());
        let same_spec = observed.served().is_some_and(|token| token.issued_for == self.desired.issued_for);
        match known.filter(|_| same_spec) {
            Some(known) if client.openid_configuration.is_some() => (None, Some(known)),
            _ => (client.openid_configuration.clone(), None),
        }
    }

    /// What a running acquisition brought cannot be stored: why.
    pub(super) fn not_stored(&self) -> Option<Failure> {
        let Running { uid, unstored: Some(error), .. } = self.running.as_ref()? else { return None };
        Some(if *uid == self.memory.uid { not_stored_yet(error) } else { unstored(OTHERS_COMMIT) })
    }

    /// That is noted once for each reason.
    pub(super) fn tell_of_running(&self, observed: Observed) -> Observed {
        let Some(failure) = self.not_stored() else { return observed };
        let known = observed.status.last_storage_failure.as_ref();
        if known.is_some_and(|known| known.message == failure.message) {
            return observed;
        }
        self.storage_failed(observed, failure)
    }
}
