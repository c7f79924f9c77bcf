//! What an acquisition is made from, and what it keeps taken meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::report::Attempt;
use crate::api::names::credential_name;
use crate::cache::{Epoch, SecretCache, Urgency};
use crate::credential::CredentialStore;
use crate::desired::Desired;
use crate::observed::{Credential, Identity};
use crate::permits::{Permit, Permits};
use crate::plan::Exchange;
use crate::proof::Prover;
use crate::slot::Slot;
use crate::state::Key;

/// For this long an acquisition waits for a permit. Then its key is parked, which costs less.
const PERMIT_PATIENCE: Duration = Duration::from_millis(500);

/// An acquisition to be made; it owns all it needs, for it outlives the reconcile that started it.
pub struct Job {
    /// The `GraphToken`.
    pub identity: Identity,
    /// The `graphtoken.io/requested-at` that it handles.
    pub request: Option<String>,
    /// What is desired.
    pub desired: Arc<Desired>,
    /// Hash of the spec and the client credential: see [`crate::observed::inputs`].
    pub inputs: String,
    /// Hash of all that the request is made with: see [`crate::plan::made_with`].
    pub made_with: String,
    /// What is to be sent.
    pub exchange: Exchange,
    /// The credential as it was when this was decided.
    pub planned_with: Option<Credential>,
    /// The digest of the seed or of the login that is sent.
    pub seed_digest: Option<String>,
    /// The name of the login Secret.
    pub login: String,
    /// How the client authenticates.
    pub prover: Prover,
    /// Where the refresh token lives.
    pub store: CredentialStore,
    /// The mirror that own writes of the credential go into.
    pub secrets: Arc<SecretCache>,
    /// Where the GUID of the tenant is to be read first.
    pub openid_configuration: Option<String>,
    /// The GUID of the tenant, where it is known.
    pub tenant_id: Option<String>,
    /// How urgent the `GraphToken` is, should it have to be parked.
    pub urgency: Urgency,
}

impl Job {
    pub(super) fn key(&self) -> Key {
        Key::new(&self.identity.namespace, &self.identity.name)
    }

    pub(super) fn attempt(&self) -> Attempt {
        Attempt {
            request: self.request.clone(),
            source: self.exchange.source,
            desired: Arc::clone(&self.desired),
            inputs: self.inputs.clone(),
            made_with: self.made_with.clone(),
        }
    }

    /// An own write of the credential goes into the mirror.
    pub(super) fn shown(&self, credential: &Credential, epoch: Epoch) {
        let secret = Key::new(&self.identity.namespace, &credential_name(&self.identity.name));
        self.secrets.wrote(&secret, &credential.meta, epoch);
    }
}

/// What an acquisition keeps taken until the provider has answered.
pub struct Waiting {
    /// A slot of the reconcile concurrency limit.
    pub slot: Slot,
    /// Permission to have one request in flight.
    pub permit: Option<Permit>,
}

impl Waiting {
    /// Sees to it that there is a permit. Returns whether there is one.
    pub(super) async fn for_permit(&mut self, permits: &Permits, job: &Job) -> bool {
        if self.permit.is_none() {
            let acquired = tokio::time::timeout(PERMIT_PATIENCE, permits.acquire(&job.desired.client)).await;
            self.permit = acquired.ok();
        }
        self.permit.is_some()
    }
}
