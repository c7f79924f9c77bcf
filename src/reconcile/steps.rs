//! The steps of one reconcile: act until there is nothing to do but wait, or a task was started.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::trouble::{storage_failure, unstored};
use super::{MAX_STEPS, REPAIR_PAUSE};
use crate::api::GraphTokenStatus;
use crate::context::Context;
use crate::desired::{Desired, Grant};
use crate::failure::Failure;
use crate::observe::{self, credential_store, fill};
use crate::observed::{Identity, Observed, Published, TargetState, TargetView, Unrenderable};
use crate::plan::{Act, Exchange, Plan, Source, Why, plan};
use crate::rotation::{InHand, Running};
use crate::slot::Slot;
use crate::state::{Key, Live, Memory};
use crate::status;
use crate::store::StoreError;
use crate::target::{self, Content, Material};
use crate::target_shape::extras;

/// How the steps of a reconcile ended.
pub(super) enum Steps {
    /// There is nothing to do but to wait.
    Decided(Box<(Observed, Plan)>),
    /// A task was started, whose end enqueues the `GraphToken`.
    Started {
        /// The status as it is by now.
        status: Box<GraphTokenStatus>,
        /// When the `GraphToken` is due at the latest.
        due: Option<Timestamp>,
    },
}

impl Steps {
    pub(super) fn decided(observed: Observed, plan: Plan) -> Self {
        Self::Decided(Box::new((observed, plan)))
    }

    pub(super) fn started(observed: Observed, due: Option<Timestamp>) -> Self {
        Self::Started { status: Box::new(observed.status), due }
    }
}

/// The steps of one reconcile.
pub(super) struct Look<'a> {
    pub(super) ctx: &'a Context,
    pub(super) desired: Arc<Desired>,
    pub(super) memory: &'a mut Memory,
    /// The task that is running for a `GraphToken` of this name.
    pub(super) running: Option<Running>,
    pub(super) slot: Slot,
    published: bool,
    /// The token that was published, if it had just been acquired.
    pub(super) fresh: Option<InHand>,
    /// Whether what is written is a repair.
    pub(super) repairs: bool,
    /// Whether this ends: the status is to be written first.
    pub(super) ends: bool,
}

impl<'a> Look<'a> {
    pub(super) const fn new(
        ctx: &'a Context,
        desired: Arc<Desired>,
        memory: &'a mut Memory,
        running: Option<Running>,
        slot: Slot,
    ) -> Self {
        Self {
            ctx,
            desired,
            memory,
            running,
            slot,
            published: false,
            fresh: None,
            repairs: false,
            ends: false,
        }
    }

    /// Acts until there is nothing to do but wait, or a task was started.
    pub(super) async fn steps(&mut self, mut observed: Observed) -> Result<Steps, StoreError> {
        observed = self.tell_of_running(observed);
        let mut steps = 0;
        loop {
            let plan = plan(&self.desired, &observed, self.ctx.now());
            let too_many = steps >= MAX_STEPS || self.ends;
            match plan.act {
                _ if too_many => return Ok(Steps::decided(observed, plan)),
                Act::Wait => return Ok(Steps::decided(observed, plan)),
                ref act if let Some(left) = self.repair_waits(act, &observed) => {
                    let at = self.ctx.now().saturating_add(left).ok();
                    return Ok(Steps::decided(observed, Plan { act: Act::Wait, look_at: at, ..plan }));
                }
                // One at a time: its end enqueues this.
                Act::Exchange(_) | Act::Probe if self.running.is_some() => {
                    return Ok(Steps::decided(observed, Plan { act: Act::Wait, ..plan }));
                }
                Act::Exchange(exchange) => match self.acquire(exchange, observed, plan).await? {
                    Ok(steps) => return Ok(steps),
                    Err(unready) => observed = self.again(unready).await?,
                },
                Act::Publish if self.published => {
                    let message = "the Secret is not as it was written: see which admission webhook or controller changes it";
                    observed = self.storage_failed(observed, unstored(message));
                }
                Act::Publish => observed = self.publish(observed).await?,
                Act::Probe => match self.verify(&observed).await? {
                    Some(true) => return Ok(Steps::started(observed, plan.look_at)),
                    // The process is to exit.
                    Some(false) => return Ok(Steps::decided(observed, Plan { act: Act::Wait, ..plan })),
                    None => {
                        self.ends = true;
                        observed = self.again(observed).await?;
                    }
                },
            }
            steps += 1;
        }
    }

    /// How long a repair of the target waits, if this is one and the last was just now.
    fn repair_waits(&mut self, act: &Act, observed: &Observed) -> Option<SignedDuration> {
        if !self.is_repair(act, observed) {
            return None;
        }
        self.repairs = true;
        let left = REPAIR_PAUSE.checked_sub(self.memory.repaired?.elapsed()).filter(|left| !left.is_zero());
        left.and_then(|left| SignedDuration::try_from(left).ok())
    }

    /// Whether this writes the target again though neither a new token nor a new spec asks for it.
    fn is_repair(&self, act: &Act, observed: &Observed) -> bool {
        let Some(written) = self.memory.written.as_ref().filter(|_| !self.published) else {
            return false;
        };
        let token = observed.credential().and_then(|c| c.record.token.as_ref()).map(|token| &token.facts);
        let newest = observed.in_hand.as_ref().or(token).map(|token| &token.attempt);
        let again = match act {
            Act::Publish => newest.is_none() || newest == Some(written),
            Act::Exchange(exchange) => {
                *exchange == (Exchange { why: Why::NoToken, source: Source::Client }) && newest.is_none()
            }
            Act::Wait | Act::Probe => false,
        };
        let same_spec = observed.status.observed_generation == observed.identity.generation;
        again && same_spec
    }

    async fn again(&mut self, observed: Observed) -> Result<Observed, StoreError> {
        self.memory.read_live = Live { credential: true, target: true };
        fill(self.ctx, &self.desired, self.memory, observed).await
    }

    pub(super) fn storage_failed(&self, mut observed: Observed, failure: Failure) -> Observed {
        let Identity { namespace, name, .. } = &observed.identity;
        tracing::warn!(namespace, name, problem = failure.message, "a Secret could not be read or written");
        observed.status = status::with_failure(observed.status, failure, &observed.inputs, self.ctx.now());
        observed
    }

    async fn publish(&mut self, mut observed: Observed) -> Result<Observed, StoreError> {
        let content = match self.content(&observed).await? {
            None => return self.again(observed).await,
            Some(Ok(mut content)) => {
                content.published = self.dated(content.published, &observed);
                content
            }
            Some(Err(unrenderable)) => {
                self.memory.unrenderable = Some(Box::new(unrenderable.clone()));
                observed.unrenderable = Some(unrenderable);
                return Ok(observed);
            }
        };
        let client = &self.ctx.exchanger.client;
        let epoch = self.ctx.secrets.epoch(&observed.identity.namespace);
        match target::publish(client, &self.desired, &observed, &content).await {
            Ok(meta) => {
                self.published = true;
                self.memory.written = Some(content.published.facts.attempt.clone());
                let secret = Key::new(&observed.identity.namespace, &self.desired.target.secret_name);
                observe::wrote(self.ctx, self.memory, &secret, &meta, epoch);
                self.memory.checked = Some(Box::new((meta.resource_version.clone(), true)));
                let view = TargetView { meta, published: Some(content.published), intact: true };
                if self.repairs {
                    self.memory.repaired = Some(tokio::time::Instant::now());
                }
                self.fresh = self.memory.in_hand.take().map(|in_hand| *in_hand);
                observed.in_hand = None;
                observed.target = TargetState::Ours(view);
                status::forget_storage_failure(&mut observed.status);
                Ok(observed)
            }
            Err(StoreError::Conflict | StoreError::Gone) => self.again(observed).await,
            Err(error) => Ok(self.storage_failed(observed, storage_failure(&error))),
        }
    }

    /// What the target is to hold: the token just got, the one in the credential, or, where only metadata was changed, what
    /// it holds already. `None`: it is not there any more.
    async fn content(
        &self,
        observed: &Observed,
    ) -> Result<Option<Result<Content, Unrenderable>>, StoreError> {
        let in_hand = self.memory.in_hand.as_deref();
        let in_hand = in_hand.filter(|token| token.stored.facts.issued_for == self.desired.issued_for);
        // Where pods get the refresh token too, both come from the credential, as they were committed.
        if let Some(in_hand) = in_hand.filter(|_| !self.desired.target.include_refresh_token) {
            return Ok(Some(self.rendered(Material {
                stored: &in_hand.stored,
                access_token: &in_hand.access_token,
                refresh_token: None,
                account: in_hand.account.as_ref(),
            })));
        }
        let identity = &observed.identity;
        if self.desired.grant == Grant::ClientCredentials {
            let name = &self.desired.target.secret_name;
            let found = target::read(&self.ctx.exchanger.client, observed, name).await?;
            let published = observed.target().and_then(|view| view.published.clone());
            return Ok(found.zip(published).map(|((_, mut data), published)| {
                data.retain(|key, _| self.desired.target.data.iter().any(|entry| entry.key == *key));
                let published = Published { extras: extras(&self.desired.target), ..published };
                Ok(Content { published, data })
            }));
        }
        let store = credential_store(self.ctx, identity, &self.desired);
        let Some((credential, tokens)) = store.read().await? else { return Ok(None) };
        let stored = credential.record.token.as_ref();
        Ok(stored.zip(tokens.access_token.as_ref()).map(|(stored, access_token)| {
            self.rendered(Material {
                stored,
                access_token,
                refresh_token: tokens.refresh_token.as_ref(),
                account: credential.record.account.as_ref(),
            })
        }))
    }

    /// Since when the target holds this content, and whether it ever held another.
    fn dated(&self, published: Published, observed: &Observed) -> Published {
        let before = observed.target().and_then(|view| view.published.as_ref());
        match before.filter(|before| before.content == published.content) {
            Some(same) => Published { first: same.first, since: same.since, ..published },
            None => Published {
                first: observed.target().is_none() && observed.status.refresh_count <= 1,
                since: Some(self.ctx.now()),
                ..published
            },
        }
    }

    fn rendered(&self, material: Material<'_>) -> Result<Content, Unrenderable> {
        Content::render(&self.desired, material).map_err(|error| Unrenderable {
            attempt: material.stored.facts.attempt.clone(),
            layout: self.desired.target.layout.clone(),
            message: error.to_string(),
        })
    }
}
