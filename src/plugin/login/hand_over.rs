//! The login Secret: written, and watched until the operator has taken or refused what is in it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Desk;
use crate::api::names::{KEY_REFRESH_TOKEN, login_name};
use crate::api::status::SignedIn;
use crate::api::{Condition, ConditionStatus, ConditionType, GraphToken};
use crate::plugin::cluster::{absent, refused};
use crate::plugin::request::{LOOK, MANAGER};
use crate::plugin::{Ended, Failed, failed};

/// How long the operator may take to adopt a login: a lost Lease and a provider that is slow are in it.
const PATIENCE: Duration = Duration::from_mins(2);
/// A refusal of an earlier login stands in the status until the operator has seen this one.
const GRACE: Duration = Duration::from_secs(15);
/// How a refusal begins.
const REFUSED: &str = "the login Secret";

/// Writes the Secret and waits.
pub async fn run(desk: &Desk<'_>, name: &str, refresh_token: &SecretString) -> Result<Ended, Failed> {
    let cluster = desk.cluster;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let login = login_name(name);
    let known = cluster.graphtoken(name).await?;
    let before = stalled(&known).map(|condition| condition.message.clone());
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": login},
        "data": {KEY_REFRESH_TOKEN: base64(refresh_token)},
    });
    let params = PatchParams::apply(MANAGER).force();
    let written = secrets.patch_metadata(&login, &params, &Patch::Apply(&object)).await;
    let doing = |verb: &str| format!("{verb} secrets in namespace {}", cluster.namespace);
    let written = written.map_err(|error| refused(&doing("patch and create"), &error))?;
    let uid = written.metadata.uid.unwrap_or_default();
    desk.terminal.say(&format!("handed over by Secret {login}; waiting for the operator …"));

    let began = Instant::now();
    let mut gone = None;
    loop {
        let found = secrets.get_metadata_opt(&login).await.map_err(|error| refused(&doing("get"), &error))?;
        let there = found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid.as_str()));
        let graphtoken = cluster.graphtokens().get_opt(name).await;
        let graphtoken = graphtoken.map_err(|error| refused("get graphtokens", &error))?;
        let graphtoken = graphtoken.ok_or_else(|| absent(name, &cluster.namespace))?;
        if signed_in(&graphtoken) != signed_in(&known) && !there {
            return Ok(adopted(desk, &graphtoken));
        }
        if !there && gone.get_or_insert_with(Instant::now).elapsed() > GRACE {
            return failed(format!(
                "the Secret {login} is gone, but the operator did not take it up: somebody else deleted it; run it again"
            ));
        }
        let waited = began.elapsed();
        if let Some(why) = refusal(&graphtoken, before.as_deref(), waited > GRACE) {
            // It would keep the GraphToken Stalled, and nobody else knows what it is.
            let delete = DeleteParams {
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..DeleteParams::default()
            };
            let gone = secrets.delete(&login, &delete).await.is_ok();
            let kept = if gone { String::new() } else { format!("; delete the Secret {login}") };
            return failed(format!("the operator refused it: {why}{kept}"));
        }
        if waited > PATIENCE {
            return failed(late(&graphtoken, &login));
        }
        sleep(LOOK).await;
    }
}

fn base64(refresh_token: &SecretString) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(refresh_token.expose_secret())
}

fn stalled(graphtoken: &GraphToken) -> Option<&Condition> {
    let condition = graphtoken.status.as_ref()?.condition(ConditionType::Stalled)?;
    Some(condition).filter(|condition| condition.status == ConditionStatus::True)
}

fn signed_in(graphtoken: &GraphToken) -> Option<&SignedIn> {
    graphtoken.status.as_ref()?.signed_in.as_ref()
}

/// Why the operator refused this login, if it did.
fn refusal(graphtoken: &GraphToken, before: Option<&str>, grace: bool) -> Option<String> {
    let message = &stalled(graphtoken)?.message;
    let of_a_login = message.starts_with(REFUSED) && (grace || before != Some(message.as_str()));
    of_a_login.then(|| message.trim_start_matches("the login Secret was refused: ").to_owned())
}

fn adopted(desk: &Desk<'_>, graphtoken: &GraphToken) -> Ended {
    let status = graphtoken.status.as_ref();
    let secret = status.and_then(|status| status.secret_name.as_deref());
    let until = status.and_then(|status| status.expires_at);
    desk.terminal.done("the operator has taken up the sign-in, and keeps it from now on");
    if let (Some(secret), Some(until)) = (secret, until) {
        desk.terminal.say(&format!("  Secret {secret} has a token until {until}"));
    }
    Ended::Well
}

fn late(graphtoken: &GraphToken, login: &str) -> String {
    let says = stalled(graphtoken).map(|condition| format!(" ({})", condition.message)).unwrap_or_default();
    format!(
        "you are signed in, but the operator has not taken it up within {PATIENCE:?}{says}. The Secret {login} stays, and is taken up \
         once the operator can; what is in its way: kubectl graphtoken doctor"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::row::tests::{condition, object};

    fn refused_with(message: &str) -> GraphToken {
        let mut stalled = condition("Stalled", "True", "WrongAccount");
        stalled["message"] = json!(message);
        serde_json::from_value(object(&json!([stalled]))).unwrap()
    }

    #[test]
    fn a_refusal_is_told_from_that_of_an_earlier_login() {
        let message = "the login Secret was refused: another account signed in";
        let now = refused_with(message);
        let why = Some("another account signed in".to_owned());
        assert_eq!(refusal(&now, None, false), why);
        assert_eq!(refusal(&now, Some(message), false), None);
        assert_eq!(refusal(&now, Some(message), true), why);
        assert_eq!(refusal(&refused_with("a user must sign in"), None, true), None);
    }
}
