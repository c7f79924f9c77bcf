//! The client of a `GraphToken`, as whoever signs in must speak for it: endpoints, scopes, and its proof.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use url::{Host, Url};

use super::cluster::{Cluster, refused};
use super::{Failed, failed};
use crate::api::spec::{DeviceCodeGrant, Endpoints, Grant};
use crate::api::{ClusterGraphClient, GraphToken, GraphTokenSpec};
use crate::certificate::{ClientCertificate, KEY_CERTIFICATE, KEY_PRIVATE_KEY};
use crate::desired::{Client, ClientProof, Desired, Guards, shared_client};
use crate::proof::{Held, Prover, usable_secret};

/// What a sign-in needs to know of a `GraphToken`.
pub struct SignIn {
    /// The client and its endpoints.
    pub client: Client,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// `spec.account`.
    pub account: Option<String>,
    /// The account that is bound, by its object id.
    pub bound: Option<String>,
    /// The namespace of the client's Secrets, where it is known.
    home: Option<String>,
}

/// A `GraphToken`'s client, for a person who signs in.
pub async fn of(
    cluster: &Cluster,
    graphtoken: &GraphToken,
    by_device: bool,
    client_namespace: Option<&str>,
) -> Result<SignIn, Failed> {
    let name = graphtoken.metadata.name.as_deref().unwrap_or_default();
    if graphtoken.spec.grant.client_credentials.is_some() {
        return failed(format!(
            "{name} speaks for an app, and nobody signs in to it; what is wrong: kubectl graphtoken doctor {name}"
        ));
    }
    resolve(cluster, graphtoken, by_device, client_namespace).await
}

/// A `GraphToken`'s client, with what a `ClusterGraphClient` states where the spec states nothing.
pub async fn resolve(
    cluster: &Cluster,
    graphtoken: &GraphToken,
    by_device: bool,
    client_namespace: Option<&str>,
) -> Result<SignIn, Failed> {
    let name = graphtoken.metadata.name.as_deref().unwrap_or_default();
    let mut spec = graphtoken.spec.clone();
    let mut home = Some(cluster.namespace.clone());
    if let Some(shared) = shared_client(&spec) {
        let shared = shared.to_owned();
        let stated = shared_spec(cluster, &shared).await?;
        home = client_namespace.map(str::to_owned);
        (spec.tenant, spec.client_id) = (Some(stated.tenant), Some(stated.client_id));
        (spec.cloud, spec.endpoints, spec.client_auth) = (stated.cloud, stated.endpoints, stated.client_auth);
        spec.client_ref = None;
    }
    if by_device {
        // The endpoint comes with the grant.
        spec.grant = Grant { device_code: Some(DeviceCodeGrant {}), ..Grant::default() };
    }
    let guards = guards(&spec).map_err(Failed)?;
    let desired = Desired::new(name, &spec, &guards, &|_| None)
        .map_err(|error| Failed(format!("the spec of {name} cannot be used: {error}")))?;
    let bound = graphtoken.status.as_ref().and_then(|status| status.account.as_ref()?.object_id.clone());
    Ok(SignIn {
        client: desired.client,
        scopes: desired.scopes,
        // What is set decides; what is bound, where nothing is set.
        bound: bound.filter(|_| desired.account.is_none()),
        account: desired.account,
        home,
    })
}

async fn shared_spec(cluster: &Cluster, name: &str) -> Result<crate::api::ClusterGraphClientSpec, Failed> {
    let api: Api<ClusterGraphClient> = Api::all(cluster.client.clone());
    let found = api.get_opt(name).await.map_err(|e| refused("get clustergraphclients", &e))?;
    found.map(|client| client.spec).ok_or_else(|| {
        Failed(format!(
            "the spec names no client of its own, and the ClusterGraphClient {name} is not there: kubectl get clustergraphclients"
        ))
    })
}

/// What the operator allows is for the operator to say. A person's browser and this process send nothing in clear text beyond
/// this machine, and nothing to two parties of which one could be a thief.
fn guards(spec: &GraphTokenSpec) -> Result<Guards, String> {
    let mut guards = Guards { allow_http_endpoints: true, ..Guards::default() };
    if let Some(audience) =
        spec.client_auth.as_ref().and_then(|auth| auth.workload_identity.as_ref()?.audience.clone())
    {
        guards.allowed_audiences.push(audience);
    }
    let none = Endpoints::default();
    let endpoints = spec.endpoints.as_ref().unwrap_or(&none);
    let urls = [&endpoints.token, &endpoints.device_authorization];
    let urls: Vec<Url> = urls.into_iter().flatten().filter_map(|url| Url::parse(url).ok()).collect();
    for url in &urls {
        if url.scheme() == "http" && !is_loopback(url) {
            return Err(format!("{} would be asked in clear text: use https in spec.endpoints", host(url)));
        }
    }
    if let [one, other] = urls.as_slice()
        && one.origin() != other.origin()
    {
        return Err(format!(
            "spec.endpoints names two servers, {} and {}: a code of the one would be shown to the other; both must be on the same \
             host to sign in from here",
            host(one),
            host(other)
        ));
    }
    let graph = endpoints.graph.as_deref().and_then(|url| Url::parse(url).ok());
    guards.allowed_endpoint_hosts = urls.iter().chain(&graph).map(host).collect();
    Ok(guards)
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_ascii_lowercase()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl SignIn {
    /// The page's address: that which is given, else the token endpoint's neighbour.
    pub fn authorization_endpoint(&self, given: Option<&Url>) -> Result<Url, Failed> {
        if let Some(url) = given {
            if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)) {
                return Ok(url.clone());
            }
            return failed("--authorization-endpoint must be an https URL");
        }
        let neighbour =
            self.client.token_url.strip_suffix("/token").map(|start| format!("{start}/authorize"));
        neighbour.and_then(|url| Url::parse(&url).ok()).ok_or_else(|| {
            Failed(
                "the authorization endpoint cannot be told from spec.endpoints.token: name it by --authorization-endpoint, or \
                 sign in with --device"
                    .to_owned(),
            )
        })
    }

    /// The sign-in name that the page may be filled with.
    pub fn login_hint(&self) -> Option<&str> {
        self.account.as_deref().filter(|account| account.contains('@'))
    }

    /// Who must sign in, in words.
    pub fn wanted(&self) -> Option<String> {
        let bound = self.bound.as_ref().map(|id| format!("the account with object id {id}"));
        self.account.clone().or(bound)
    }

    /// Whether an account is the one that must sign in, as the operator will judge it.
    pub fn takes(&self, account: Option<&crate::grant::Account>) -> bool {
        let wanted = self.account.as_deref().or(self.bound.as_deref());
        wanted
            .is_none_or(|wanted| account.is_some_and(|account| crate::plan::account_matches(wanted, account)))
    }

    /// What the client proves itself with, where the person may read it.
    pub async fn prover(&self, cluster: &Cluster) -> Result<Prover, Failed> {
        let home = match (&self.client.proof, &self.home) {
            (ClientProof::Public, _) => return Ok(Prover::Public),
            (_, Some(home)) => home,
            (_, None) => {
                return failed(
                    "the ClusterGraphClient proves itself by something in the operator's --client-namespace: name that by \
                 --client-namespace, if you may read it; if not, have spec.grant be deviceCode, for which the operator proves it",
                );
            }
        };
        let (name, what) = match &self.client.proof {
            ClientProof::Public => return Ok(Prover::Public),
            ClientProof::WorkloadIdentity { service_account, audience } => {
                return Ok(Prover::ServiceAccount {
                    namespace: home.clone(),
                    name: service_account.clone(),
                    audience: audience.clone(),
                });
            }
            ClientProof::Secret(secret) => (&secret.name, "client secret"),
            ClientProof::Certificate(name) => (name, "certificate"),
        };
        let api: Api<Secret> = Api::namespaced(cluster.client.clone(), home);
        let found = api.get_opt(name).await.map_err(|error| {
            let Failed(why) = refused(&format!("get Secret {name} in namespace {home}"), &error);
            Failed(format!(
                "the client proves itself by the {what} in it, without which nobody can sign in from here: {why}; or have \
                 spec.grant be deviceCode, for which the operator proves it"
            ))
        })?;
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        let bytes = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        let unusable =
            |why: String| Failed(format!("the {what} in Secret {name} of namespace {home}: {why}"));
        match &self.client.proof {
            ClientProof::Secret(secret) => {
                let held = usable_secret(bytes(&secret.key)).map(|secret| Prover::Held(Held::Secret(secret)));
                held.ok_or_else(|| unusable(format!("key {} does not hold one; put it there", secret.key)))
            }
            _ => ClientCertificate::parse(bytes(KEY_CERTIFICATE), bytes(KEY_PRIVATE_KEY))
                .map(|held| Prover::Held(Held::Certificate(Arc::new(held))))
                .map_err(|error| unusable(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(endpoints: &Value) -> Result<Guards, String> {
        let spec = json!({"grant": {"deviceCode": {}}, "endpoints": endpoints});
        guards(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn nothing_is_sent_in_clear_text_beyond_this_machine() {
        assert!(judged(&json!({"token": "http://127.0.0.1:8080/token"})).is_ok());
        assert!(judged(&json!({"token": "https://login.corp/token"})).is_ok());
        let clear = judged(&json!({"token": "http://login.corp/token"}));
        assert!(clear.unwrap_err().contains("login.corp would be asked in clear text"));
    }

    #[test]
    fn a_device_code_of_one_server_is_not_redeemed_at_another() {
        let urls =
            |token: &str| json!({"token": token, "deviceAuthorization": "https://login.corp/devicecode"});
        assert!(judged(&urls("https://login.corp/token")).is_ok());
        assert!(judged(&urls("https://thief.example/token")).unwrap_err().contains("two servers"));
    }
}
