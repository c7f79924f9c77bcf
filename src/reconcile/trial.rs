//! The step of a look in which the token is tried: whence it is taken, and what is noted.

use secrecy::SecretString;

use super::Look;
use crate::api::Reason;
use crate::desired::Grant;
use crate::observe::credential_store;
use crate::observed::{Observed, TokenFacts};
use crate::plan::probe::{noted, token, trial};
use crate::probe::probe;
use crate::render::access_token;
use crate::store::StoreError;
use crate::target;

impl Look<'_> {
    /// Tries the token that the target holds.
    pub(super) async fn probe(&mut self, mut observed: Observed) -> Result<Observed, StoreError> {
        let facts = token(&self.desired, &observed, self.ctx.now()).cloned();
        let Some((trial, facts)) = trial(&self.desired, &observed).zip(facts) else {
            self.ends = true;
            return Ok(observed);
        };
        let Some(token) = self.token_of(&facts, &observed).await? else {
            self.ends = true;
            return self.again(observed).await;
        };
        let verdict = probe(&self.ctx.exchanger, &observed.identity, &trial, &token).await;
        // Stored before anything is done about it, a refusal leads to one exchange whatever becomes of this process.
        self.ends = verdict.reason() == Reason::TokenRejected;
        observed.status = noted(observed.status, trial, &facts, verdict, self.ctx.now());
        Ok(observed)
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
