//! The step that starts the verification of a token at Microsoft Graph. It does not wait for it.

use secrecy::SecretString;

use super::Look;
use crate::desired::Grant;
use crate::observe::credential_store;
use crate::observed::{Observed, TokenFacts};
use crate::plan::probe::{token, trial};
use crate::probe::probe;
use crate::render::access_token;
use crate::rotation::Finished;
use crate::slot::Slot;
use crate::state::Key;
use crate::store::StoreError;
use crate::target;

impl Look<'_> {
    /// Starts the verification of the token that the target holds. Returns whether it was started; `None`: there is no such
    /// token any more.
    pub(super) async fn verify(&mut self, observed: &Observed) -> Result<Option<bool>, StoreError> {
        let facts = token(&self.desired, observed, self.ctx.now()).cloned();
        let Some((trial, facts)) = trial(&self.desired, observed).zip(facts) else { return Ok(None) };
        let Some(token) = self.token_of(&facts, observed).await? else { return Ok(None) };
        let slot = std::mem::replace(&mut self.slot, Slot::none());
        let (exchanger, identity) = (self.ctx.exchanger.clone(), observed.identity.clone());
        let key = Key::new(&identity.namespace, &identity.name);
        let started = self.ctx.exchanger.acquisitions.start(&key, &observed.identity.uid, |_| async move {
            slot.hold(exchanger.provider.pace()).await;
            let verdict = slot.hold(probe(&exchanger, &identity, &trial, &token)).await;
            Finished::Verified { trial, facts, verdict }
        });
        Ok(Some(started))
    }

    /// The token itself; `None`: it is not there any more.
    async fn token_of(
        &self,
        facts: &TokenFacts,
        observed: &Observed,
    ) -> Result<Option<SecretString>, StoreError> {
        if let Some(fresh) = self.fresh.as_ref().filter(|t| t.stored.facts.attempt == facts.attempt) {
            return Ok(Some(fresh.access_token.clone()));
        }
        if self.desired.grant == Grant::ClientCredentials {
            let target = &self.desired.target;
            let found = target::read(&self.ctx.exchanger.client, observed, &target.secret_name).await?;
            let published = observed.target().and_then(|view| view.published.as_ref());
            return Ok(found.zip(published).and_then(|((_, data), published)| {
                let intact = target::is_intact(&self.desired, published, &data);
                if intact { access_token(&target.data, &data) } else { None }
            }));
        }
        let store = credential_store(self.ctx, &observed.identity, &self.desired);
        Ok(store.read().await?.and_then(|(credential, tokens)| {
            let stored = credential.record.token.filter(|token| token.facts.attempt == facts.attempt);
            stored.and(tokens.access_token)
        }))
    }
}
