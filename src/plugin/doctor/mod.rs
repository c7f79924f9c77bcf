//! `doctor`: looks at everything that a `GraphToken` needs, and says what is wrong and what to do.

pub mod finding;
mod one;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ListParams, PostParams};

use self::finding::{Finding, Seen, Verdict};
use super::args::DoctorArgs;
use super::cluster::{Cluster, json, refused, resource};
use super::say::Terminal;
use super::{Ended, Failed, failed};
use crate::clock::Clock;
use crate::exchange::Provider;
use crate::kubeclient::describe;
use crate::leader::LEASE_NAME;

/// More are not looked at one by one.
const MOST: u32 = 50;
/// What people need who use the plugin, and for what.
const RIGHTS: [(&str, &str, &[&str], &str); 4] = [
    ("graphtoken.io", "graphtokens", &["get", "list", "watch"], "status"),
    ("graphtoken.io", "graphtokens", &["patch"], "refresh and verify"),
    ("", "secrets", &["create", "get", "patch"], "login and import"),
    ("graphtoken.io", "graphtokens", &["create"], "applying what import prints"),
];

/// What all looks share.
struct Round<'a> {
    args: &'a DoctorArgs,
    cluster: &'a Cluster,
    clock: &'a Clock,
    provider: Arc<Provider>,
    /// Endpoints that were asked already.
    asked: BTreeSet<String>,
    terminal: &'a Terminal,
    bad: usize,
}

/// Runs the command.
pub async fn run(
    args: &DoctorArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    let provider = Provider::new(10.0, Vec::new())
        .map_err(|error| Failed(format!("cannot make a client of the provider: {error}")))?;
    let provider = Arc::new(provider);
    let mut round = Round { args, cluster, clock, provider, asked: BTreeSet::new(), terminal, bad: 0 };
    match cluster.client.apiserver_version().await {
        Ok(version) => round.tell(&Finding::good(format!("the API server answers: {}", version.git_version))),
        Err(error) => return Err(refused("ask the API server for its version", &error)),
    }
    if round.crds().await {
        round.rights().await;
        round.operator().await;
        round.graphtokens().await?;
    }
    if round.bad == 0 {
        terminal.done("nothing is wrong that can be seen from here");
        Ok(Ended::Well)
    } else {
        terminal.amiss(&format!(
            "{} found",
            if round.bad == 1 { "1 problem".to_owned() } else { format!("{} problems", round.bad) }
        ));
        Ok(Ended::Amiss)
    }
}

impl Round<'_> {
    fn tell(&mut self, finding: &Finding) {
        if finding.verdict == Verdict::Bad {
            self.bad += 1;
        }
        self.terminal.print(&finding.line(self.terminal.paint()));
    }

    /// Whether the kinds are served at all.
    async fn crds(&mut self) -> bool {
        let served = self.cluster.client.list_api_group_resources("graphtoken.io/v1alpha1").await;
        let served: Vec<String> = match served {
            Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => {
                let todo = "try again, or ask whoever runs the cluster";
                self.tell(&Finding::bad(
                    format!("the API's kinds cannot be listed: {}", describe(&error)),
                    todo,
                ));
                return false;
            }
        };
        for ours in crate::crds::all() {
            let name = ours["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let plural = name.split('.').next().unwrap_or_default().to_owned();
            let finding = if served.contains(&plural) {
                let api: Api<CustomResourceDefinition> = Api::all(self.cluster.client.clone());
                match api.get(&name).await {
                    Ok(there) => finding::crd(&name, &json(&there), &ours),
                    Err(_) => {
                        Finding::good(format!("CRD {name} is served (which version, you may not read)"))
                    }
                }
            } else {
                Finding::bad(
                    format!("CRD {name} is not there"),
                    "have it installed: kubectl apply --server-side -f crds/",
                )
            };
            self.tell(&finding);
        }
        served.iter().any(|name| name == "graphtokens")
    }

    /// What the person may do.
    async fn rights(&mut self) {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.cluster.client.clone());
        let namespace = self.cluster.namespace.clone();
        for (group, resource, verbs, what_for) in RIGHTS {
            let mut lacking = Vec::new();
            let mut unknown = None;
            for verb in verbs {
                let attributes = ResourceAttributes {
                    group: Some(group.to_owned()),
                    namespace: Some(namespace.clone()),
                    resource: Some(resource.to_owned()),
                    verb: Some((*verb).to_owned()),
                    ..ResourceAttributes::default()
                };
                let review = SelfSubjectAccessReview {
                    spec: SelfSubjectAccessReviewSpec {
                        resource_attributes: Some(attributes),
                        ..SelfSubjectAccessReviewSpec::default()
                    },
                    ..SelfSubjectAccessReview::default()
                };
                match reviews.create(&PostParams::default(), &review).await {
                    Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
                    Ok(_) => lacking.push(*verb),
                    Err(error) => unknown = Some(describe(&error)),
                }
            }
            let all = format!("{} {resource} in namespace {namespace}", verbs.join(", "));
            self.tell(&match (lacking.as_slice(), unknown) {
                ([], None) => Finding::good(format!("you may {all}, for {what_for}")),
                ([], Some(why)) => {
                    Finding::unseen(format!("whether you may {all} is not known: {why}"), "try it")
                }
                (lacking, _) => Finding::bad(
                    format!("you may not {} {resource} in namespace {namespace}", lacking.join(", ")),
                    format!(
                        "without it there is no {what_for}: ask whoever runs the cluster for a Role with it"
                    ),
                ),
            });
        }
    }

    /// Whether an operator works.
    async fn operator(&mut self) {
        let wanted = self.args.operator_namespace.as_deref();
        let only = ListParams::default().fields(&format!("metadata.name={LEASE_NAME}"));
        let everywhere: Api<Lease> = Api::all(self.cluster.client.clone());
        let at = |namespace: &str| Api::<Lease>::namespaced(self.cluster.client.clone(), namespace);
        let found = match wanted {
            Some(namespace) => {
                at(namespace).get_opt(LEASE_NAME).await.map(|lease| lease.into_iter().collect())
            }
            None => match everywhere.list(&only).await {
                Ok(list) => Ok(list.items),
                // Who may not look everywhere may look here.
                Err(_) => at(&self.cluster.namespace)
                    .get_opt(LEASE_NAME)
                    .await
                    .map(|lease| lease.into_iter().collect()),
            },
        };
        let finding = match found {
            Ok(leases) => {
                let seen: Vec<Seen> = leases.into_iter().map(seen).collect();
                finding::lease(&seen, self.clock.now())
            }
            Err(error) => Finding::unseen(
                format!("whether an operator works cannot be seen: {}", describe(&error)),
                "you may not read its Lease; what it did last stands in the GraphTokens' status",
            ),
        };
        self.tell(&finding);
    }

    async fn graphtokens(&mut self) -> Result<(), Failed> {
        if let Some(name) = &self.args.name {
            let graphtoken = self.cluster.graphtoken(name).await?;
            one::look(self, &graphtoken).await;
            return Ok(());
        }
        let api: Api<kube::api::DynamicObject> =
            Api::namespaced_with(self.cluster.client.clone(), &self.cluster.namespace, &resource());
        let listed = api.list(&ListParams::default().limit(MOST)).await;
        let doing = format!("list graphtokens in namespace {}", self.cluster.namespace);
        let listed = listed.map_err(|error| refused(&doing, &error))?;
        if listed.items.is_empty() {
            self.terminal.say(&format!("there are no GraphTokens in namespace {}", self.cluster.namespace));
        }
        for object in listed.items {
            let name = object.metadata.name.clone().unwrap_or_default();
            match object.try_parse::<crate::api::GraphToken>() {
                Ok(graphtoken) => one::look(self, &graphtoken).await,
                Err(_) => self.tell(&Finding::bad(
                    format!("{name} cannot be read"),
                    "use the plugin of the operator's version, and its CRD",
                )),
            }
        }
        if listed.metadata.continue_.is_some_and(|more| !more.is_empty()) {
            return failed(format!(
                "only the first {MOST} GraphTokens were looked at; the others by their names"
            ));
        }
        Ok(())
    }
}

fn seen(lease: Lease) -> Seen {
    let spec = lease.spec.unwrap_or_default();
    Seen {
        namespace: lease.metadata.namespace.unwrap_or_default(),
        holder: spec.holder_identity,
        renewed: spec.renew_time.map(|time| time.0),
        duration: Duration::from_secs(
            spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30),
        ),
    }
}
