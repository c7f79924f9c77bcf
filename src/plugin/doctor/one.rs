//! One `GraphToken`: what its status says, and what it needs.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::Round;
use super::finding::{self, Finding};
use crate::api::spec::SecretKeyRef;
use crate::api::{ConditionStatus, ConditionType, GraphToken};
use crate::desired::ClientProof;
use crate::failure::NoAnswer;
use crate::kubeclient::describe;
use crate::plugin::client::{self, SignIn};
use crate::plugin::{Failed, login};
use crate::proof::{Held, Prover};
use crate::seed;

/// Looks at one.
pub(super) async fn look(round: &mut Round<'_>, graphtoken: &GraphToken) {
    let name = graphtoken.metadata.name.clone().unwrap_or_default();
    for finding in says(&name, graphtoken) {
        round.tell(&finding);
    }
    let by_device = graphtoken.spec.grant.device_code.is_some();
    let known =
        client::resolve(round.cluster, graphtoken, by_device, round.args.client_namespace.as_deref()).await;
    let known = match known {
        Ok(known) => known,
        Err(Failed(why)) => {
            round.tell(&Finding::bad(format!("{name}: its client is not known: {why}"), "mend that first"));
            return;
        }
    };
    reach(round, &known).await;
    if let Some(grant) = &graphtoken.spec.grant.refresh_token {
        let finding = seed(round, graphtoken, &grant.secret_ref, &known).await;
        round.tell(&finding);
    }
    if let Some(finding) = proof(round, &name, &known).await {
        round.tell(&finding);
    }
}

/// What the status says.
fn says(name: &str, graphtoken: &GraphToken) -> Vec<Finding> {
    let status = graphtoken.status.as_ref();
    let ready = status.and_then(|status| status.condition(ConditionType::Ready));
    let (Some(status), Some(ready)) = (status, ready) else {
        let todo = "is an operator running that works in this namespace (its --namespace)?";
        return vec![Finding::bad(format!("{name}: no operator has seen it yet"), todo)];
    };
    let mut found = Vec::new();
    if Some(status.observed_generation) != graphtoken.metadata.generation {
        found.push(Finding::bad(
            format!("{name}: the operator has not seen its latest change"),
            "wait a moment; if it stays so, see whether an operator works",
        ));
    }
    let holds = |kind: ConditionType| status.condition(kind).filter(|c| c.status == ConditionStatus::True);
    let refreshed = status.condition(ConditionType::Refreshed);
    if let Some(stalled) = holds(ConditionType::Stalled) {
        let what = format!("{name}: a person must act ({})", stalled.reason.as_str());
        found.push(Finding::bad(what, stalled.message.clone()));
    } else if ready.status != ConditionStatus::True {
        found.push(Finding::bad(
            format!("{name}: not ready ({})", ready.reason.as_str()),
            ready.message.clone(),
        ));
    } else if let Some(failing) = refreshed.filter(|c| c.status == ConditionStatus::False) {
        let what =
            format!("{name}: its token is good, but it cannot be refreshed ({})", failing.reason.as_str());
        found.push(Finding::bad(what, failing.message.clone()));
    } else {
        let until = status.expires_at.map(|at| format!(" until {at}")).unwrap_or_default();
        found.push(Finding::good(format!("{name}: its token is good{until}")));
    }
    let verified = status.condition(ConditionType::Verified).filter(|c| c.status == ConditionStatus::False);
    if let Some(verified) = verified {
        let what = format!("{name}: Microsoft Graph does not take it ({})", verified.reason.as_str());
        found.push(Finding::bad(what, verified.message.clone()));
    }
    found
}

/// Whether the token endpoint answers from here, and what time it is there.
async fn reach(round: &mut Round<'_>, known: &SignIn) {
    let url = known.client.token_url.clone();
    if !round.asked.insert(url.clone()) {
        return;
    }
    let host = &known.client.token_origin;
    match round.provider.date(&url, login::DEADLINE).await {
        Ok(date) => {
            round.tell(&Finding::good(format!("the token endpoint answers from here: {url}")));
            if let Some(finding) = finding::clock(host, date.as_deref(), round.clock.now()) {
                round.tell(&finding);
            }
        }
        Err(why) => {
            let todo = match why {
                NoAnswer::Tls => {
                    "its certificate is not trusted here: add the CA to the system's; for the operator: --ca-bundle"
                }
                _ => "check the network, DNS, and HTTPS_PROXY; from the cluster it may be otherwise",
            };
            round.tell(&Finding::bad(format!("the token endpoint does not answer from here: {url}"), todo));
        }
    }
}

async fn secret(round: &Round<'_>, name: &str) -> Result<Option<Secret>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(round.cluster.client.clone(), &round.cluster.namespace);
    api.get_opt(name).await
}

async fn seed(
    round: &Round<'_>,
    graphtoken: &GraphToken,
    reference: &SecretKeyRef,
    known: &SignIn,
) -> Finding {
    let name = graphtoken.metadata.name.as_deref().unwrap_or_default();
    let SecretKeyRef { name: secret_name, key } = reference;
    let signed_in = graphtoken.status.as_ref().is_some_and(|status| status.signed_in.is_some());
    let place = format!("{name}: its seed, Secret {secret_name}, key {key},");
    let found = match secret(round, secret_name).await {
        Ok(found) => found,
        Err(error) => {
            return Finding::unseen(
                format!("{place} cannot be seen: {}", describe(&error)),
                "you may not read it",
            );
        }
    };
    let bytes = found.and_then(|secret| secret.data.unwrap_or_default().remove(key));
    match bytes {
        None if signed_in => {
            Finding::good(format!("{place} is gone, and not needed: the operator keeps the sign-in"))
        }
        None => Finding::bad(
            format!("{place} is not there"),
            format!(
                "kubectl graphtoken import FILE --name {name} --secret {secret_name}, or kubectl graphtoken login {name}"
            ),
        ),
        Some(bytes) => match seed::parse(&bytes.0, &known.client.client_id) {
            Ok(_) => Finding::good(format!("{place} holds a refresh token")),
            Err(error) => Finding::bad(format!("{place} cannot be used"), error.to_string()),
        },
    }
}

async fn proof(round: &Round<'_>, name: &str, known: &SignIn) -> Option<Finding> {
    if known.client.proof == ClientProof::Public {
        return None;
    }
    Some(match known.prover(round.cluster).await {
        Ok(Prover::Held(Held::Certificate(certificate))) => match certificate.problem(round.clock.now()) {
            Some(problem) => Finding::bad(format!("{name}: the client's certificate"), problem.to_string()),
            None => Finding::good(format!(
                "{name}: the client's certificate is good until {}",
                certificate.not_after()
            )),
        },
        Ok(Prover::ServiceAccount { name: account, .. }) => {
            Finding::good(format!("{name}: the client proves itself by service account {account}"))
        }
        Ok(_) => Finding::good(format!("{name}: the client's secret is there")),
        Err(Failed(why)) => Finding::bad(format!("{name}: the client's proof"), why),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::doctor::finding::Verdict;
    use crate::plugin::row::tests::{condition, object};

    fn verdicts(conditions: &Value) -> Vec<(Verdict, String)> {
        let mut object = object(conditions);
        object["metadata"]["generation"] = json!(1);
        let graphtoken = serde_json::from_value(object).unwrap();
        says("mail", &graphtoken).into_iter().map(|found| (found.verdict, found.what)).collect()
    }

    #[test]
    fn a_status_is_told_in_one_line_and_a_refused_token_in_another() {
        let good = condition("Ready", "True", "TokenValid");
        let said = verdicts(&json!([good]));
        assert_eq!(said, [(Verdict::Good, "mail: its token is good until 2026-11-23T11:00:00Z".to_owned())]);
        let said = verdicts(&json!([good, condition("Verified", "False", "ProbeFailed")]));
        assert_eq!(said[1].1, "mail: Microsoft Graph does not take it (ProbeFailed)");
        let said = verdicts(&json!([good, condition("Stalled", "True", "WrongAccount")]));
        assert_eq!(said, [(Verdict::Bad, "mail: a person must act (WrongAccount)".to_owned())]);
        let said = verdicts(&json!([good, condition("Refreshed", "False", "Throttled")]));
        assert!(said[0].1.contains("cannot be refreshed (Throttled)"));
        assert!(verdicts(&json!([]))[0].1.contains("no operator has seen it"));
    }
}
