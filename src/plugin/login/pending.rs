//! `login --pending`: all that wait for a person, by account, one after the other.

use std::collections::BTreeMap;

use kube::Api;
use kube::api::ListParams;

use super::one;
use crate::api::{ConditionStatus, ConditionType, GraphToken, Reason};
use crate::clock::Clock;
use crate::plugin::args::LoginArgs;
use crate::plugin::cluster::{Cluster, refused};
use crate::plugin::say::Terminal;
use crate::plugin::{Ended, Failed};

/// What is not bound to an account yet.
const ANY: &str = "any account";

/// Namespace and name.
type Named = (String, String);

/// Runs the command.
pub async fn run(
    args: &LoginArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    let (api, place): (Api<GraphToken>, _) = if args.all_namespaces {
        (Api::all(cluster.client.clone()), "all namespaces".to_owned())
    } else {
        (cluster.graphtokens(), format!("namespace {}", cluster.namespace))
    };
    let listed = api.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| refused(&format!("list graphtokens in {place}"), &error))?;
    let groups = by_account(&listed.items);
    let count: usize = groups.values().map(Vec::len).sum();
    if count == 0 {
        terminal.done(&format!("no GraphToken in {place} waits for a person"));
        return Ok(Ended::Well);
    }
    let mut ended = Ended::Well;
    let mut number = 0;
    for (account, members) in &groups {
        terminal.say(&format!("\n{account}: {}", names(members)));
        for (namespace, name) in members {
            number += 1;
            terminal.say(&format!("\n[{number}/{count}] {namespace}/{name}"));
            match one(args, name, &cluster.at(namespace), terminal, clock).await {
                Ok(Ended::Well) => {}
                Ok(Ended::Amiss) => ended = Ended::Amiss,
                // The others can be signed in to all the same.
                Err(Failed(why)) => {
                    terminal.amiss(&why);
                    ended = Ended::Amiss;
                }
            }
        }
    }
    Ok(ended)
}

fn names(members: &[Named]) -> String {
    members.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect::<Vec<_>>().join(", ")
}

/// Those that wait for a person to sign in, by the account that must.
fn by_account(graphtokens: &[GraphToken]) -> BTreeMap<String, Vec<Named>> {
    let mut groups: BTreeMap<String, Vec<Named>> = BTreeMap::new();
    for graphtoken in graphtokens.iter().filter(|graphtoken| waits(graphtoken)) {
        let bound = graphtoken.status.as_ref().and_then(|status| status.account.as_ref()?.object_id.clone());
        let account = graphtoken.spec.account.clone().or(bound);
        let account = account.map_or_else(|| ANY.to_owned(), |account| account.to_lowercase());
        let meta = &graphtoken.metadata;
        let named = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        groups.entry(account).or_default().push(named);
    }
    for members in groups.values_mut() {
        members.sort();
    }
    groups
}

fn waits(graphtoken: &GraphToken) -> bool {
    let stalled = graphtoken.status.as_ref().and_then(|status| status.condition(ConditionType::Stalled));
    stalled.is_some_and(|condition| {
        condition.status == ConditionStatus::True && condition.reason == Reason::AuthorizationRequired
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::row::tests::{condition, object};

    fn graphtoken(name: &str, account: Option<&str>, reason: &str) -> GraphToken {
        let mut object = object(&json!([condition("Stalled", "True", reason)]));
        object["metadata"]["name"] = json!(name);
        if let Some(account) = account {
            object["spec"]["account"] = json!(account);
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn they_are_grouped_by_who_must_sign_in() {
        let groups = by_account(&[
            graphtoken("b", Some("Etl@contoso.com"), "AuthorizationRequired"),
            graphtoken("a", Some("etl@contoso.com"), "AuthorizationRequired"),
            graphtoken("c", None, "AuthorizationRequired"),
            graphtoken("d", None, "InvalidConfiguration"),
        ]);
        let named = |name: &str| ("etl".to_owned(), name.to_owned());
        assert_eq!(
            groups.into_iter().collect::<Vec<_>>(),
            [
                (ANY.to_owned(), vec![named("c")]),
                ("etl@contoso.com".to_owned(), vec![named("a"), named("b")])
            ]
        );
    }
}
