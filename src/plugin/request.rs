//! `refresh` and `verify`: ask the operator by an annotation, and say what came of it.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::args::RequestArgs;
use super::cluster::{Cluster, absent, refused};
use super::say::Terminal;
use super::{Ended, Failed, failed};
use crate::api::names::ANNOTATION_REQUESTED_AT;
use crate::api::{ConditionStatus, ConditionType, GraphToken, GraphTokenStatus, Reason};
use crate::clock::Clock;

/// The field manager of what the plugin writes.
pub const MANAGER: &str = "kubectl-graphtoken";
/// How often the status is looked at.
pub const LOOK: Duration = Duration::from_millis(500);
/// An operator that is going to act has said so by then; what stands in its way until then may be told.
const GRACE: Duration = Duration::from_secs(8);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It went well; this is said of it.
    Well(String),
    /// It did not; this is why, and what to do.
    Amiss(String),
}

/// Runs `refresh`.
pub async fn refresh(
    args: &RequestArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    let answer = ask(args, cluster, terminal, clock, refreshed).await?;
    Ok(tell(&answer, terminal))
}

/// Runs `verify`.
pub async fn verify(
    args: &RequestArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    let answer = ask(args, cluster, terminal, clock, verified).await?;
    Ok(tell(&answer, terminal))
}

fn tell(answer: &Answer, terminal: &Terminal) -> Ended {
    match answer {
        Answer::Well(what) => {
            terminal.done(what);
            Ended::Well
        }
        Answer::Amiss(why) => {
            terminal.amiss(why);
            Ended::Amiss
        }
    }
}

/// Sets the annotation, and waits until the status answers it.
async fn ask(
    args: &RequestArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
    answer: fn(&GraphToken, &str, bool) -> Option<Answer>,
) -> Result<Answer, Failed> {
    let value = fresh(clock.now());
    let before = cluster.graphtoken(&args.name).await?;
    if before.spec.suspend == Some(true) {
        return failed(format!(
            "{} is suspended, and nothing is got for it: set spec.suspend to false first",
            args.name
        ));
    }
    let patch = json!({"metadata": {"annotations": {ANNOTATION_REQUESTED_AT: value}}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patched = cluster.graphtokens().patch_metadata(&args.name, &params, &Patch::Merge(&patch)).await;
    patched.map_err(|e| refused(&format!("patch graphtokens in namespace {}", cluster.namespace), &e))?;
    terminal.say(&format!("asked the operator; waiting up to {:?} …", args.timeout));

    let began = Instant::now();
    // Since the request was sent, then since it was acted on.
    let mut since = began;
    let mut acted = false;
    loop {
        let now = cluster.graphtokens().get_opt(&args.name).await;
        let now =
            now.map_err(|e| refused(&format!("get graphtokens in namespace {}", cluster.namespace), &e))?;
        let now = now.ok_or_else(|| absent(&args.name, &cluster.namespace))?;
        if !acted && handled(&now, &value) {
            (acted, since) = (true, Instant::now());
        }
        if let Some(answer) = answer(&now, &value, since.elapsed() > GRACE) {
            return Ok(answer);
        }
        if began.elapsed() > args.timeout {
            return failed(late(&now, &value, args.timeout));
        }
        sleep(LOOK).await;
    }
}

/// Whether the operator has acted on the request.
fn handled(graphtoken: &GraphToken, value: &str) -> bool {
    status(graphtoken).last_handled_request.as_deref() == Some(value)
}

fn status(graphtoken: &GraphToken) -> &GraphTokenStatus {
    static NONE: std::sync::LazyLock<GraphTokenStatus> = std::sync::LazyLock::new(GraphTokenStatus::default);
    graphtoken.status.as_ref().unwrap_or(&NONE)
}

fn late(graphtoken: &GraphToken, value: &str, timeout: Duration) -> String {
    if handled(graphtoken, value) {
        return format!("no verdict within {timeout:?}; see: kubectl graphtoken status");
    }
    format!(
        "the operator did not act on it within {timeout:?}: is one running for this namespace? kubectl graphtoken doctor tells"
    )
}

/// What came of a request for a refresh; `None`: nothing yet. `grace`: what stands in the way may be told.
fn refreshed(graphtoken: &GraphToken, value: &str, grace: bool) -> Option<Answer> {
    let status = status(graphtoken);
    if !handled(graphtoken, value) {
        return grace.then(|| in_the_way(status)).flatten();
    }
    let condition = status.condition(ConditionType::Refreshed)?;
    if let Some(code) = &status.device_code {
        return Some(Answer::Amiss(format!(
            "a user must sign in: open {} and enter the code {} before {}",
            code.verification_uri, code.user_code, code.expires_at
        )));
    }
    Some(if condition.status == ConditionStatus::True {
        let until = status.expires_at.map_or_else(String::new, |at| format!(", good until {at}"));
        let secret = status.secret_name.as_deref().unwrap_or_default();
        Answer::Well(format!("refreshed: a new token is in Secret {secret}{until}"))
    } else {
        Answer::Amiss(format!("not refreshed ({}): {}", condition.reason.as_str(), condition.message))
    })
}

/// Why a request is not acted on, where the status tells.
fn in_the_way(status: &GraphTokenStatus) -> Option<Answer> {
    let stalled = status.condition(ConditionType::Stalled).filter(|c| {
        c.status == ConditionStatus::True
            && matches!(c.reason.known(), Some(Reason::InvalidConfiguration | Reason::TargetConflict))
    });
    let held = status.condition(ConditionType::Refreshed).filter(|c| {
        matches!(c.reason.known(), Some(Reason::Throttled | Reason::Suspended))
            && c.status != ConditionStatus::True
    });
    let condition = stalled.or(held)?;
    Some(Answer::Amiss(format!("not tried ({}): {}", condition.reason.as_str(), condition.message)))
}

/// What came of a request for a trial; `None`: nothing yet.
fn verified(graphtoken: &GraphToken, value: &str, grace: bool) -> Option<Answer> {
    match refreshed(graphtoken, value, grace)? {
        Answer::Well(_) => {}
        amiss @ Answer::Amiss(_) => return Some(amiss),
    }
    let status = status(graphtoken);
    let tried = status.last_probe.as_ref().filter(|probe| probe.request.as_deref() == Some(value));
    let Some(probe) = tried else {
        // The trial follows the refresh at once, where there is one.
        return grace.then(|| {
            Answer::Amiss(
                "a new token is there, but none is tried: set spec.verify.path (and spec.endpoints.graph, with an \
                 endpoints.token of your own); see kubectl explain graphtoken.spec.verify"
                    .to_owned(),
            )
        });
    };
    // While a token that was refused is being replaced, the condition speaks of the trial before.
    let condition = status.condition(ConditionType::Verified).filter(|c| c.reason == probe.reason)?;
    Some(match condition.status {
        ConditionStatus::True => Answer::Well(format!(
            "verified at {}: Microsoft Graph took the token for {}{}",
            probe.time,
            probe.path,
            if probe.message.is_empty() { String::new() } else { format!("; {}", probe.message) }
        )),
        _ => Answer::Amiss(format!("not verified ({}): {}", condition.reason.as_str(), condition.message)),
    })
}

/// A value of the annotation that was never there before: with nanoseconds, for a second request within a second is another one.
fn fresh(now: Timestamp) -> String {
    format!("{now:.9}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::row::tests::{condition, object};
    use super::*;

    const ASKED: &str = "2026-11-23T10:15:00.000000001Z";

    fn graphtoken(conditions: &Value, also: &Value) -> GraphToken {
        let mut object = object(conditions);
        object["status"]["secretName"] = json!("mail");
        object["status"]["lastHandledRequest"] = json!(ASKED);
        for (member, value) in also.as_object().unwrap() {
            object["status"][member] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn good() -> Value {
        json!([condition("Ready", "True", "TokenValid"), condition("Refreshed", "True", "Succeeded")])
    }

    #[test]
    fn a_refresh_that_was_not_handled_yet_has_no_answer() {
        let early = graphtoken(&good(), &json!({"lastHandledRequest": "before"}));
        assert_eq!((refreshed(&early, ASKED, false), refreshed(&early, ASKED, true)), (None, None));
    }

    #[test]
    fn a_refresh_tells_what_came_of_it() {
        let well = graphtoken(&good(), &json!({}));
        let said = "refreshed: a new token is in Secret mail, good until 2026-11-23T11:00:00Z";
        assert_eq!(refreshed(&well, ASKED, false), Some(Answer::Well(said.to_owned())));
        let failed = json!([condition("Refreshed", "False", "ProviderUnavailable")]);
        let said = "not refreshed (ProviderUnavailable): Refreshed says why";
        assert_eq!(
            refreshed(&graphtoken(&failed, &json!({})), ASKED, false),
            Some(Answer::Amiss(said.to_owned()))
        );
    }

    #[test]
    fn what_stands_in_the_way_is_told_after_a_while() {
        let conditions = json!([condition("Stalled", "True", "InvalidConfiguration")]);
        let stuck = graphtoken(&conditions, &json!({"lastHandledRequest": "before"}));
        assert_eq!(refreshed(&stuck, ASKED, false), None);
        let said = "not tried (InvalidConfiguration): Stalled says why";
        assert_eq!(refreshed(&stuck, ASKED, true), Some(Answer::Amiss(said.to_owned())));
    }

    #[test]
    fn a_verdict_is_that_of_this_request() {
        let probe = |request: &str| {
            json!({"lastProbe": {
                "time": "2026-11-23T10:15:01Z", "token": "t", "reason": "Accepted", "path": "/me", "inputs": "i", "request": request,
            }})
        };
        let mut conditions = good();
        conditions.as_array_mut().unwrap().push(condition("Verified", "True", "Accepted"));
        assert_eq!(verified(&graphtoken(&conditions, &probe("before")), ASKED, false), None);
        let said = "verified at 2026-11-23T10:15:01Z: Microsoft Graph took the token for /me";
        assert_eq!(
            verified(&graphtoken(&conditions, &probe(ASKED)), ASKED, false),
            Some(Answer::Well(said.to_owned()))
        );
        let Some(Answer::Amiss(said)) = verified(&graphtoken(&good(), &json!({})), ASKED, true) else {
            panic!("nothing is tried");
        };
        assert!(said.contains("spec.verify.path"), "{said}");
    }
}
