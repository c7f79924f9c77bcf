//! One reconcile of one `GraphToken`: gather → plan → act → status. It waits for the API server only. What a provider has to
//! answer is a task of its own, whose result enqueues the `GraphToken` again.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;

use crate::api::{GraphToken, GraphTokenStatus, Reason};
use crate::cache::GraphTokenCache;
use crate::context::Context;
use crate::desired::{Desired, Grant};
use crate::failure::Failure;
use crate::observe::{self, credential_store, fill, sketch};
use crate::observed::{Identity, Observed, Published, TargetState, TargetView, Unrenderable};
use crate::plan::{Act, Exchange, Plan, Source, Why, plan};
use crate::restart;
use crate::rotation::{Finished, InHand, Running};
use crate::slot::Slot;
use crate::state::{Key, Live, Memory, Unsaved, Version};
use crate::status;
use crate::store::StoreError;
use crate::target::{self, Content, Material};
use crate::target_shape::extras;

mod acquired;
mod exchange;
mod say;
mod sign_in;
mod trial;
mod trouble;
mod undecided;

use say::say;
use sign_in::discard_login;
use trouble::{storage_failure, unreadable, unstored};
use undecided::undecided;

/// Publish, and a second time where the first was stale, and then a verification: more is left to the next reconcile.
const MAX_STEPS: usize = 6;
/// The next reconcile where this one found no end.
const SOON: Duration = Duration::from_secs(1);
/// The next reconcile where the API server failed, and where a Secret could not be deleted.
const STORAGE_RETRY: Duration = Duration::from_secs(5);
/// A target that was changed or deleted is written again at once, and not again before this has passed: where another
/// controller has other ideas of it, the two do not race. An app's target costs a token request each time.
const REPAIR_PAUSE: Duration = Duration::from_secs(5);
/// A timer may fire early by its granularity.
const TIMER: Duration = Duration::from_millis(5);

/// How a reconcile ended.
pub struct Reconciled {
    /// After how long the object is due again; `None`: when something changes.
    pub result: Result<Option<Duration>, Failed>,
    /// The versions of objects that it wrote: a watch that shows them shows nothing new.
    pub own: Vec<Version>,
}

/// A reconcile that failed. It is repeated after a back-off.
#[derive(Debug)]
pub struct Failed {
    /// What the API server answered.
    pub error: StoreError,
    /// When the object is due in any case: that its status is rejected does not hold up its refreshes.
    pub due: Option<Duration>,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, due: None }
    }
}

/// Reconciles a `GraphToken`.
pub async fn reconcile(key: &Key, graphtokens: &GraphTokenCache, slot: Slot, ctx: &Context) -> Reconciled {
    // In this order. What is not running any more has left its result to be taken; what ends after this enqueues the key.
    let running = ctx.exchanger.acquisitions.running(key);
    let (memory, finished) = ctx.state.take(key);
    let Some(object) = graphtokens.get(key) else {
        ctx.state.forget(key);
        return Reconciled { result: Ok(None), own: Vec::new() };
    };
    let identity = identity(kube::Resource::meta(&object));
    let mut memory = ctx.state.of(key, memory, &identity.uid);
    memory.own.clear();
    let mut finished = finished.filter(|(uid, _)| *uid == identity.uid).map(|(_, finished)| finished);
    // On the heap: many may be running at once.
    let result = match object.decoded() {
        // The garbage collector takes the target, and the credential outlives us: there is nothing to finalize.
        _ if kube::Resource::meta(&object).deletion_timestamp.is_some() => Ok(None),
        Ok(object) => {
            let started_with = (running, finished.take());
            Box::pin(pass(&object, &identity, started_with, slot, ctx, &mut memory)).await
        }
        Err(undecodable) => Box::pin(undecided::refuse(&undecodable, &identity, ctx, &mut memory)).await,
    };
    if let Some(finished) = finished {
        ctx.state.keep_finished(key, &identity.uid, finished);
    }
    let own = std::mem::take(&mut memory.own);
    if !ctx.state.put(key, memory) {
        // It was deleted meanwhile.
        ctx.state.forget(key);
        ctx.clients.forget(key);
    }
    Reconciled { result, own }
}

fn identity(meta: &ObjectMeta) -> Identity {
    Identity {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
    }
}

/// What is running, and what has ended since the last reconcile; an inner `None`: it panicked.
type Tasks = (Option<Running>, Option<Option<Finished>>);

async fn pass(
    object: &GraphToken,
    identity: &Identity,
    (running, finished): Tasks,
    slot: Slot,
    ctx: &Context,
    memory: &mut Memory,
) -> Result<Option<Duration>, Failed> {
    let desired = match ctx.clients.desired(identity, &object.spec, &ctx.guards) {
        Ok(desired) => Arc::new(desired),
        Err(unresolved) => {
            if let Some(finished) = finished {
                ctx.state.keep_finished(
                    &Key::new(&identity.namespace, &identity.name),
                    &identity.uid,
                    finished,
                );
            }
            return undecided(object, identity, ctx, memory, unresolved).await;
        }
    };
    let before = observe::announced(object.status.as_ref(), memory);
    let mut sketched = sketch(ctx, identity, object, &desired, memory);
    let mut look = Look {
        ctx,
        desired,
        memory,
        running,
        slot,
        published: false,
        fresh: None,
        repairs: false,
        ends: false,
    };
    if let Some(finished) = finished {
        let status = sketched.status.clone();
        sketched = look.apply(finished, sketched);
        // Whatever fails from here on, this is not forgotten.
        look.memory.keep_unsaved(&status, &sketched.status);
    }
    let steps = match fill(ctx, &look.desired, look.memory, sketched.clone()).await {
        Ok(observed) => Box::pin(look.steps(observed)).await,
        Err(error) => {
            // That a new token is in memory only matters more than that a Secret cannot be read.
            let plan = look.unstored().map_or_else(|| unreadable(identity, &error), trouble::waiting);
            Ok(Steps::decided(sketched.clone(), plan))
        }
    };
    let (observed, plan) = match steps {
        Ok(Steps::Decided(decided)) => *decided,
        Ok(Steps::Started { status, due }) => {
            // It is written with what comes of the task.
            look.memory.keep_unsaved(&sketched.status, &status);
            return Ok(due.map(|at| until(ctx, at)));
        }
        Err(error @ (StoreError::Conflict | StoreError::Gone)) => return Err(error.into()),
        Err(error) => (sketched, unreadable(identity, &error)),
    };
    let desired = Arc::clone(&look.desired);
    conclude(ctx, &desired, memory, &before, (observed, plan)).await
}

/// What follows the steps: the Secrets that are no longer needed, events, the status, rollout restarts.
async fn conclude(
    ctx: &Context,
    desired: &Desired,
    memory: &mut Memory,
    before: &GraphTokenStatus,
    (observed, plan): (Observed, Plan),
) -> Result<Option<Duration>, Failed> {
    let mut status = status::project(desired, &observed, &plan, ctx.now());
    let former = retire_former_target(ctx, desired, &observed).await;
    let login_stays = !discard_login(ctx, &observed, memory).await;
    let retry = former.is_some() || login_stays;
    status.secret_name = former.or(status.secret_name);
    say(ctx, desired, &observed, memory);
    let saved = save(ctx, &observed.identity, memory, before, status).await;
    // A status that is rejected, as by the CRD of another version, holds up no workload.
    let restart_at = restart::see_to(ctx, desired, &observed, memory).await;
    let restart_due = restart_at.map(|at| until(ctx, at));
    match saved {
        Ok(changed) => {
            let next = [
                retry.then_some(STORAGE_RETRY),
                changed.then_some(Duration::ZERO),
                next_look(ctx, &plan),
                restart_due,
            ];
            Ok(next.into_iter().flatten().min())
        }
        Err(error) => {
            let planned = plan.look_at.filter(|_| plan.act == Act::Wait).map(|at| until(ctx, at));
            Err(Failed { error, due: [planned, restart_due].into_iter().flatten().min() })
        }
    }
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
            Some(STORAGE_RETRY)
        }
        (Act::Wait, None, _) => None,
        _ => Some(SOON),
    }
}

/// A look before its time would be one for nothing.
fn until(ctx: &Context, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(ctx.now())).unwrap_or_default() + TIMER
}

/// Writes the status if it differs, and says in events what changed. Returns whether others changed the object meanwhile.
async fn save(
    ctx: &Context,
    identity: &Identity,
    memory: &mut Memory,
    before: &GraphTokenStatus,
    status: GraphTokenStatus,
) -> Result<bool, StoreError> {
    if *before == status && memory.unsaved.is_none() {
        return Ok(false);
    }
    ctx.events.changed(identity, before, &status);
    // Kept even if it cannot be written: failure counts hold back the next attempt while the API server is away.
    memory.unsaved = Some(Box::new(Unsaved { announced: Some(status.clone()), status: status.clone() }));
    let key = Key::new(&identity.namespace, &identity.name);
    let epoch = ctx.graphtokens.epoch(&key);
    let written = status::write(&ctx.exchanger.client, identity, &status).await?;
    memory.unsaved = None;
    memory.own.push(written.version());
    Ok(ctx.graphtokens.wrote(&key, &written, epoch))
}

/// How the steps of a reconcile ended.
enum Steps {
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
    fn decided(observed: Observed, plan: Plan) -> Self {
        Self::Decided(Box::new((observed, plan)))
    }

    fn started(observed: Observed, due: Option<Timestamp>) -> Self {
        Self::Started { status: Box::new(observed.status), due }
    }
}

/// The steps of one reconcile.
struct Look<'a> {
    ctx: &'a Context,
    desired: Arc<Desired>,
    memory: &'a mut Memory,
    /// The task that is running for a `GraphToken` of this name.
    running: Option<Running>,
    slot: Slot,
    published: bool,
    /// The token that was published, if it had just been acquired.
    fresh: Option<InHand>,
    /// Whether what is written is a repair.
    repairs: bool,
    /// Whether this ends: the status is to be written first.
    ends: bool,
}

impl Look<'_> {
    /// Acts until there is nothing to do but wait, or a task was started.
    async fn steps(&mut self, mut observed: Observed) -> Result<Steps, StoreError> {
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
                Act::Probe => {
                    if self.verify(&observed).await? {
                        return Ok(Steps::started(observed, plan.look_at));
                    }
                    self.ends = true;
                    observed = self.again(observed).await?;
                }
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

    fn storage_failed(&self, mut observed: Observed, failure: Failure) -> Observed {
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
