//! One look at one `GraphToken`: observe → plan → act → commit → publish → status.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use kube::core::error_boundary::InvalidObject;

use crate::api::{GraphToken, GraphTokenStatus, Reason};
use crate::context::Context;
use crate::desired::{Desired, Grant};
use crate::failure::Failure;
use crate::observe::{credential_store, fill, sketch};
use crate::observed::{Identity, Observed, Published, TargetState, TargetView, Unrenderable};
use crate::plan::{Act, Exchange, Plan, Source, Why, plan};
use crate::restart;
use crate::rotation::InHand;
use crate::state::{Key, Memory};
use crate::status;
use crate::store::StoreError;
use crate::target::{self, Content, Material};
use crate::target_shape::extras;

mod exchange;
mod say;
mod sign_in;
mod trial;
mod trouble;
mod undecided;

use say::say;
use sign_in::discard_login;
use trouble::{storage_message, unreadable};
use undecided::undecided;

/// Exchange, publish, and a second of each where the first look was stale: more is left to the next look.
const MAX_STEPS: usize = 6;
/// The next look where this one found no end.
const SOON: Duration = Duration::from_secs(1);
/// A target that was changed or deleted is written again at once, and not again before this has passed: where another
/// controller has other ideas of it, the two do not race. An app's target costs an exchange each time.
const REPAIR_PAUSE: Duration = Duration::from_secs(5);
/// A timer may fire early by its granularity.
const TIMER: Duration = Duration::from_millis(5);
/// How long a reconcile waits for an exchange beyond its deadline before it says that storing takes long.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);
/// The same once it has said so: it goes on hearing, and writes no status meanwhile.
const TOLD_PATIENCE: Duration = Duration::from_secs(30);

/// An object of the cache: what is wrong with it, if it does not decode.
pub type Read = Result<GraphToken, Box<InvalidObject>>;

/// One look at a `GraphToken`. Returns after how long it is to be looked at again; `None`: when something changes.
///
/// It is `read` from the cache after its memory was taken. For what is remembered of it goes as soon as the cache shows the same,
/// and a look that had read it before would take the older for the newest.
pub async fn reconcile(
    key: &Key,
    read: impl FnOnce() -> Option<Read>,
    ctx: &Context,
) -> Result<Option<Duration>, StoreError> {
    let memory = ctx.state.take(key);
    let object = match read() {
        Some(Ok(object)) => object,
        Some(Err(invalid)) => {
            ctx.state.put(key, memory);
            return Box::pin(undecided::refuse(&invalid, ctx)).await;
        }
        None => {
            ctx.state.forget(key);
            return Ok(None);
        }
    };
    let identity = identity(&object.metadata);
    let mut memory = ctx.state.of(key, memory, &identity.uid);
    if object.metadata.deletion_timestamp.is_some() {
        // The garbage collector takes the target, and the credential outlives us: there is nothing to finalize.
        ctx.state.put(key, memory);
        return Ok(None);
    }
    // On the heap: thousands may wait for their turn at once.
    let done = Box::pin(look(&object, &identity, ctx, &mut memory)).await;
    let changed = ctx.state.put(key, memory);
    done.map(|next| if changed { Some(Duration::ZERO) } else { next })
}

fn identity(meta: &ObjectMeta) -> Identity {
    Identity {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
    }
}

async fn look(
    object: &GraphToken,
    identity: &Identity,
    ctx: &Context,
    memory: &mut Memory,
) -> Result<Option<Duration>, StoreError> {
    let desired = match ctx.clients.desired(identity, &object.spec, &ctx.guards) {
        Ok(desired) => Arc::new(desired),
        Err(unresolved) => return undecided(object, identity, ctx, memory, unresolved).await,
    };
    let sketched = sketch(ctx, identity, object, &desired, memory);
    let before = sketched.status.clone();
    let mut look = Look { ctx, desired, memory, published: false, fresh: None, repairs: false, ends: false };
    let (observed, plan) = match fill(ctx, &look.desired, look.memory, sketched.clone()).await {
        Ok(observed) => Box::pin(look.steps(observed)).await?,
        Err(error) => (sketched.clone(), unreadable(&error)),
    };
    let mut status = status::project(&look.desired, &observed, &plan, ctx.now());
    let desired = Arc::clone(&look.desired);
    let former = retire_former_target(ctx, &desired, &observed).await;
    let login_stays = !discard_login(ctx, &observed, memory).await;
    let retry = former.is_some() || login_stays;
    status.secret_name = former.or(status.secret_name);
    say(ctx, &desired, &observed, memory).await;
    save(ctx, identity, memory, &before, status).await?;
    let restart_at = restart::see_to(ctx, &desired, &observed, memory).await;
    let next = [retry.then_some(COMMIT_PATIENCE), next_look(ctx, &plan), restart_at.map(|at| until(ctx, at))];
    Ok(next.into_iter().flatten().min())
}

/// Once the new target serves pods, the one that `spec.target.secretName` named before would only grow stale. Returns its
/// name if it could not be deleted: the status goes on to name it, so that it is tried again.
async fn retire_former_target(ctx: &Context, desired: &Desired, observed: &Observed) -> Option<String> {
    let former = observed.status.secret_name.as_ref().filter(|name| **name != desired.target.secret_name);
    let name = former.filter(|_| observed.served().is_some())?;
    let meta = ctx.secrets.get(&observed.identity.namespace, name)?;
    let error = target::retire(&ctx.exchanger.client, observed, name, meta).await.err()?;
    tracing::info!(%error, secret = name, "the former target could not be deleted yet");
    Some(name.clone())
}

/// How long the next look may wait; `None`: until something changes.
fn next_look(ctx: &Context, plan: &Plan) -> Option<Duration> {
    match (&plan.act, plan.look_at, &plan.problem) {
        (Act::Wait, Some(at), _) => Some(until(ctx, at)),
        (Act::Wait, None, Some(problem)) if problem.reason == Reason::StorageUnavailable => {
            Some(COMMIT_PATIENCE)
        }
        (Act::Wait, None, _) => None,
        _ => Some(SOON),
    }
}

/// A look before its time would be one for nothing.
fn until(ctx: &Context, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(ctx.now())).unwrap_or_default() + TIMER
}

/// Writes the status if it differs, and says in events what changed.
async fn save(
    ctx: &Context,
    identity: &Identity,
    memory: &mut Memory,
    before: &GraphTokenStatus,
    status: GraphTokenStatus,
) -> Result<(), StoreError> {
    let unsaved = matches!(memory.status.as_deref(), Some((None, _)));
    if *before == status && !unsaved {
        return Ok(());
    }
    ctx.events.changed(identity, before, &status).await;
    // Kept even if it cannot be written: failure counts hold back the next attempt while the API server is away.
    memory.status = Some(Box::new((None, status)));
    if let Some((version, status)) = memory.status.as_deref_mut() {
        *version = Some(status::write(&ctx.exchanger.client, identity, status).await?);
    }
    Ok(())
}

/// The steps of one look.
struct Look<'a> {
    ctx: &'a Context,
    desired: Arc<Desired>,
    memory: &'a mut Memory,
    published: bool,
    /// The token that was published, if it had just been got.
    fresh: Option<InHand>,
    /// Whether what is written is a repair.
    repairs: bool,
    /// Whether this look ends: the status is to be written first, or somebody else's exchange of the credential is to end.
    ends: bool,
}

impl Look<'_> {
    /// Acts until there is nothing to do but wait.
    async fn steps(&mut self, mut observed: Observed) -> Result<(Observed, Plan), StoreError> {
        if let Some(in_flight) = self.memory.in_flight.take() {
            observed = Box::pin(self.hear(*in_flight, observed)).await?;
        }
        let mut steps = 0;
        loop {
            let plan = plan(&self.desired, &observed, self.ctx.now());
            let too_many = steps >= MAX_STEPS || self.ends || self.memory.in_flight.is_some();
            match plan.act {
                _ if too_many => return Ok((observed, plan)),
                Act::Wait => return Ok((observed, plan)),
                ref act if let Some(left) = self.repair_waits(act, &observed) => {
                    let at = self.ctx.now().saturating_add(left).ok();
                    return Ok((observed, Plan { act: Act::Wait, look_at: at, ..plan }));
                }
                Act::Exchange(exchange) => {
                    observed = Box::pin(self.exchange(exchange, observed)).await?;
                }
                Act::Publish if self.published => {
                    let message = "the Secret is not as it was written: see which admission webhook or controller changes it";
                    observed = self.storage_failed(observed, message.to_owned());
                }
                Act::Publish => observed = self.publish(observed).await?,
                Act::Probe => observed = Box::pin(self.probe(observed)).await?,
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
        self.memory.read_live = true;
        fill(self.ctx, &self.desired, self.memory, observed).await
    }

    fn storage_failed(&self, mut observed: Observed, message: String) -> Observed {
        let failure = Failure { message, ..Failure::of(Reason::StorageUnavailable) };
        tracing::warn!(message = failure.message, "storage failed");
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
        match target::publish(client, &self.desired, &observed, &content).await {
            Ok(meta) => {
                self.published = true;
                self.memory.written = Some(content.published.facts.attempt.clone());
                let view = TargetView { meta, published: Some(content.published), intact: true };
                let now = tokio::time::Instant::now();
                self.memory.target = Some(Box::new((view.clone(), now)));
                if self.repairs {
                    self.memory.repaired = Some(now);
                }
                self.memory.checked = None;
                self.fresh = self.memory.in_hand.take().map(|in_hand| *in_hand);
                observed.in_hand = None;
                observed.target = TargetState::Ours(view);
                let healed =
                    |failure: &crate::api::status::LastFailure| failure.reason == Reason::StorageUnavailable;
                if observed.status.last_failure.as_ref().is_some_and(healed) {
                    status::forget_failures(&mut observed.status);
                }
                Ok(observed)
            }
            Err(StoreError::Conflict | StoreError::Gone) => self.again(observed).await,
            Err(error) => Ok(self.storage_failed(observed, storage_message(&error))),
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
