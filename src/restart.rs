//! Workloads that read the token where no change of it is seen (the environment, a `subPath` mount, a start-up) are rolled out
//! anew when it changed: by an annotation on their pod template, as `kubectl rollout restart` does it.
//!
//! The annotation says for which content of the target that was, so that one change rolls a workload once, whichever process
//! sees to it and whatever becomes of that process meanwhile. Nothing is watched: one read a workload and token, and one write.

use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::json;

use crate::api::names::MANAGER;
use crate::api::spec::{Workload, WorkloadKind};
use crate::context::Context;
use crate::desired::Desired;
use crate::events::EventReason;
use crate::observed::Observed;
use crate::plan::plus;
use crate::state::{Memory, Restart};
use crate::store::StoreError;

mod decide;

pub use decide::MIN_INTERVAL;
use decide::{Change, Mark, Seen, Verdict, decide};

/// A workload that changes all the time is read again so often at once.
const MAX_CONFLICTS: usize = 3;
/// The next try after the API server failed.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// The next try after it refused: somebody has to grant the right first.
const REFUSED_RETRY: SignedDuration = SignedDuration::from_mins(5);

/// What came of one look at a workload.
enum Outcome {
    /// It was rolled out anew.
    Rolled,
    /// There is nothing to be done for this content.
    Done,
    /// It is to be looked at again then.
    Later(Timestamp),
    /// It does not reference the target.
    Foreign,
    /// It is not there.
    Missing,
    /// The API server failed, or refused.
    Failed(StoreError),
}

/// Sees to the workloads of a `GraphToken` whose target serves a token. Returns when it is worth another look.
pub async fn see_to(
    ctx: &Context,
    desired: &Desired,
    observed: &Observed,
    memory: &mut Memory,
) -> Option<Timestamp> {
    let workloads = &desired.target.restart;
    memory.restarts.retain(|workload, _| workloads.contains(workload));
    let published = observed.target().filter(|view| view.intact).and_then(|view| view.published.as_ref())?;
    let change = Change {
        target: &desired.target.secret_name,
        content: &published.content,
        since: published.since.unwrap_or(published.facts.issued_at),
        is_first: published.first,
    };
    for workload in workloads {
        let now = ctx.now();
        let known = memory.restarts.get(workload).filter(|handled| handled.content == *change.content);
        if known.is_some_and(|handled| handled.again.is_none_or(|at| at > now)) {
            continue;
        }
        let outcome = look(ctx, observed, workload, &change).await;
        let now = ctx.now();
        let again = match &outcome {
            Outcome::Rolled | Outcome::Done | Outcome::Foreign | Outcome::Missing => None,
            Outcome::Later(at) => Some(*at),
            Outcome::Failed(error) => {
                Some(plus(now, if error.is_transient() { RETRY } else { REFUSED_RETRY }))
            }
        };
        say(ctx, desired, observed, memory, workload, &outcome);
        let handled = Restart { content: change.content.to_owned(), again };
        memory.restarts.insert(workload.clone(), handled);
    }
    memory.restarts.values().filter_map(|handled| handled.again).min()
}

async fn look(ctx: &Context, observed: &Observed, workload: &Workload, change: &Change<'_>) -> Outcome {
    for _ in 0..MAX_CONFLICTS {
        match try_once(ctx, observed, workload, change).await {
            Err(StoreError::Conflict) => {}
            Err(StoreError::Gone) => return Outcome::Missing,
            Err(error) => return Outcome::Failed(error),
            Ok(outcome) => return outcome,
        }
    }
    Outcome::Failed(StoreError::Conflict)
}

async fn try_once(
    ctx: &Context,
    observed: &Observed,
    workload: &Workload,
    change: &Change<'_>,
) -> Result<Outcome, StoreError> {
    let identity = &observed.identity;
    let client = ctx.exchanger.client.clone();
    let api: Api<DynamicObject> = Api::namespaced_with(client, &identity.namespace, &resource(workload.kind));
    let found = api.get(&workload.name).await?;
    let key = mark_key(&identity.name);
    let seen = Seen::of(&found, change.target, &key);
    let now = ctx.now();
    match decide(&seen, change, now) {
        Verdict::Done => Ok(Outcome::Done),
        Verdict::Foreign => Ok(Outcome::Foreign),
        Verdict::Later(at) => Ok(Outcome::Later(at)),
        Verdict::Roll => {
            let mark = Mark::new(now, change.content);
            // At the version that was judged: a template that was changed meanwhile may not reference the target any more.
            let patch = json!({
                "metadata": {"uid": seen.uid, "resourceVersion": seen.resource_version},
                "spec": {"template": {"metadata": {"annotations": {key: mark.to_string()}}}},
            });
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            api.patch_metadata(&workload.name, &params, &Patch::Merge(&patch)).await?;
            Ok(Outcome::Rolled)
        }
    }
}

/// Key of the annotation on a pod template; each `GraphToken` has one of its own.
fn mark_key(graphtoken: &str) -> String {
    format!("restart.graphtoken.io/{graphtoken}")
}

fn resource(kind: WorkloadKind) -> ApiResource {
    let (kind, plural) = match kind {
        WorkloadKind::Deployment => ("Deployment", "deployments"),
        WorkloadKind::StatefulSet => ("StatefulSet", "statefulsets"),
        WorkloadKind::DaemonSet => ("DaemonSet", "daemonsets"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", kind), plural)
}

fn say(
    ctx: &Context,
    desired: &Desired,
    observed: &Observed,
    memory: &mut Memory,
    workload: &Workload,
    outcome: &Outcome,
) {
    let (identity, events) = (&observed.identity, &ctx.events);
    let secret = &desired.target.secret_name;
    let what = format!("{:?} {}", workload.kind, workload.name);
    let trouble = match outcome {
        Outcome::Later(_) => return,
        Outcome::Rolled => {
            events.normal(
                identity,
                EventReason::Restarted,
                &format!("{what} is rolled out anew: Secret {secret} changed"),
            );
            None
        }
        Outcome::Done => None,
        Outcome::Missing => Some((
            EventReason::RestartMissing,
            format!(
                "{what} is not there, so it is not restarted; create it, or take it out of spec.target.restart"
            ),
        )),
        Outcome::Foreign => Some((
            EventReason::RestartRefused,
            format!(
                "{what} is not restarted, for its pod template does not reference Secret {secret}; reference it in env, envFrom \
                 or a volume, or take it out of spec.target.restart"
            ),
        )),
        Outcome::Failed(error) => Some((
            EventReason::RestartFailed,
            format!("{what} could not be restarted: {error}; the operator tries again by itself"),
        )),
    };
    // Said once, until it is another trouble or none.
    let of_this = format!("restart of {what}: ");
    let now = trouble.as_ref().map(|(reason, _)| format!("{of_this}{}", reason.as_str()));
    let news = now.as_ref().is_some_and(|now| !memory.said.contains(now));
    memory.said.retain(|said| !said.starts_with(&of_this));
    memory.said.extend(now);
    if let Some((reason, note)) = trouble.filter(|_| news) {
        events.warning(identity, reason, &note);
    }
}
