//! One reconcile of one `GraphToken`: gather → plan → act → status. It waits for the API server only. What a provider has to
//! answer is a task of its own, whose result enqueues the `GraphToken` again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ObjectMeta;

use crate::api::{GraphToken, GraphTokenStatus, Reason};
use crate::cache::GraphTokenCache;
use crate::context::Context;
use crate::desired::Desired;
use crate::observe::{self, fill, sketch};
use crate::observed::{Identity, Observed};
use crate::plan::{Act, Plan};
use crate::restart;
use crate::rotation::Running;
use crate::slot::Slot;
use crate::state::{Key, Memory, Unsaved, Version};
use crate::status;
use crate::store::StoreError;
use crate::target;

mod acquired;
mod exchange;
mod say;
mod sign_in;
mod steps;
mod trial;
mod trouble;
mod undecided;

use say::say;
use sign_in::discard_login;
use steps::{Look, Steps};
use trouble::unreadable;
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
    // Before what has ended is taken: what ends between the two enqueues the key.
    let running = ctx.exchanger.acquisitions.running(key);
    let memory = ctx.state.take(key);
    let Some(object) = graphtokens.get(key) else {
        ctx.forget(key);
        return Reconciled { result: Ok(None), own: Vec::new() };
    };
    let identity = identity(kube::Resource::meta(&object));
    let mut memory = ctx.state.of(key, memory, &identity.uid);
    memory.own.clear();
    // On the heap: many may be running at once.
    let result = match object.decoded() {
        // The garbage collector takes the target, and the credential outlives us: there is nothing to finalize.
        _ if kube::Resource::meta(&object).deletion_timestamp.is_some() => Ok(None),
        Ok(object) => Box::pin(pass(&object, &identity, running, slot, ctx, &mut memory)).await,
        Err(undecodable) => Box::pin(undecided::refuse(&undecodable, &identity, ctx, &mut memory)).await,
    };
    let own = std::mem::take(&mut memory.own);
    if !ctx.state.put(key, memory) {
        // It was deleted meanwhile.
        ctx.forget(key);
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

async fn pass(
    object: &GraphToken,
    identity: &Identity,
    running: Option<Running>,
    slot: Slot,
    ctx: &Context,
    memory: &mut Memory,
) -> Result<Option<Duration>, Failed> {
    let desired = match ctx.clients.desired(identity, &object.spec, &ctx.guards) {
        Ok(desired) => Arc::new(desired),
        Err(unresolved) => return undecided(object, identity, ctx, memory, unresolved).await,
    };
    let key = Key::new(&identity.namespace, &identity.name);
    let ended = ctx.exchanger.acquisitions.take(&key, &identity.uid);
    let running = running.filter(|_| ended.is_none());
    let before = observe::announced(object.status.as_ref(), memory);
    let mut sketched = sketch(ctx, identity, object, &desired, memory);
    let mut look = Look::new(ctx, desired, memory, running, slot);
    if let Some(ended) = ended {
        let status = sketched.status.clone();
        sketched = look.apply(ended, sketched);
        // If a later step fails, this is not forgotten.
        look.memory.keep_unsaved(&status, &sketched.status);
    }
    let steps = match fill(ctx, &look.desired, look.memory, sketched.clone()).await {
        Ok(observed) => Box::pin(look.steps(observed)).await,
        Err(error) => {
            // That a new token is in memory only matters more than that a Secret cannot be read.
            let plan = look.not_stored().map_or_else(|| unreadable(identity, &error), trouble::waiting);
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
    let Identity { namespace, name: graphtoken, .. } = &observed.identity;
    tracing::info!(
        namespace, name = graphtoken, %error, secret = name, "the former target Secret could not be deleted yet"
    );
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
