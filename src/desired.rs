//! `GraphTokenSpec` → [`Desired`]: what is to be, parsed once. Every error in a spec is born here, and later steps cannot
//! fail on it.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::api::spec::{DataEntry, DeletionPolicy, Refresh, SecretKeyRef, Verify, Workload};
use crate::api::{GoDuration, GraphTokenSpec};
use crate::grant::GrantKind;
use crate::render::RenderError;
use crate::seed::hex;

mod client;
mod target;

pub use client::{Client, ClientProof, ClusterClient, Guards, shared_client};
use client::{ClientSpec, client};
use target::target;

/// How long a delegated sign-in outlives its `GraphToken` by default.
const DEFAULT_RETENTION: &str = "168h";
/// Scopes of OpenID Connect and OAuth 2.0 itself: never prefixed with a resource.
const PROTOCOL_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// What a `GraphToken` asks for, valid by construction.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Who asks for the token, and where.
    pub client: Client,
    /// How it is got.
    pub grant: Grant,
    /// The scopes as they are sent.
    pub scopes: Vec<String>,
    /// The account that must be signed in.
    pub account: Option<String>,
    /// When the token is refreshed.
    pub refresh: RefreshPolicy,
    /// How it is tried at Microsoft Graph; `None`: never.
    pub probing: Option<Probing>,
    /// The Secret that pods mount.
    pub target: DesiredTarget,
    /// How long the credential outlives the `GraphToken`, as written.
    pub credential_retention: GoDuration,
    /// Whether exchanges are suspended.
    pub suspend: bool,
    /// Digest of tenant, client, cloud, endpoints, grant and scopes: a token got under another one is not for this spec.
    pub issued_for: String,
}

/// How the token is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// From a refresh token, first the seed's.
    RefreshToken {
        /// Where the seed is.
        seed: SecretKeyRef,
    },
    /// From a user who enters a code.
    DeviceCode,
    /// For the app itself.
    ClientCredentials,
}

impl Grant {
    /// The grant without its parameters.
    pub const fn kind(&self) -> GrantKind {
        match self {
            Self::RefreshToken { .. } => GrantKind::RefreshToken,
            Self::DeviceCode => GrantKind::DeviceCode,
            Self::ClientCredentials => GrantKind::ClientCredentials,
        }
    }
}

/// When a token is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshPolicy {
    /// With this much life left.
    Before(Duration),
    /// With this percentage of its life left (1–99).
    Percentage(u8),
}

/// How the token is tried at Microsoft Graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    /// Microsoft Graph, with `/v1.0`.
    pub graph: String,
    /// How often.
    pub interval: Duration,
    /// What is asked for; `None`: what the granted scopes tell.
    pub path: Option<String>,
}

/// The Secret that pods mount.
#[derive(Debug, Clone)]
pub struct DesiredTarget {
    /// Its name.
    pub secret_name: String,
    /// Whether it goes with the `GraphToken`.
    pub deletion_policy: DeletionPolicy,
    /// Its keys, each with a format or a template that was checked.
    pub data: Vec<DataEntry>,
    /// Labels beside the operator's own.
    pub labels: BTreeMap<String, String>,
    /// Annotations beside the operator's own.
    pub annotations: BTreeMap<String, String>,
    /// Whether the refresh token is written too.
    pub include_refresh_token: bool,
    /// Workloads to be rolled out anew when it has changed.
    pub restart: Vec<Workload>,
    /// Digest of which keys are written how.
    pub layout: String,
}

impl DesiredTarget {
    /// Whether the access token can be read from what is written.
    fn tells_the_token(&self) -> bool {
        self.data.iter().any(|entry| entry.format.is_some())
    }
}

/// What is wrong with a spec, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The API server holds what this version of the operator cannot read.
    #[error(
        "the object cannot be read ({0}): the CRD and the operator are of different versions; apply the CRD of this one"
    )]
    Undecodable(String),
    /// A duration that does not parse.
    #[error("spec.{field}: {problem}")]
    Duration {
        /// The field's path.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An endpoint is not a URL that can be used.
    #[error(
        "spec.endpoints.{field}: {problem}; write a URL such as https://login.example.com/oauth2/v2.0/token"
    )]
    Endpoint {
        /// The member of `spec.endpoints`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// http, and the operator does not allow it.
    #[error(
        "spec.endpoints.{field}: http would send secrets in clear text; use https, or start the operator with \
         --allow-http-endpoints in a test"
    )]
    HttpNotAllowed {
        /// The member of `spec.endpoints`.
        field: &'static str,
    },
    /// A host that the operator does not allow.
    #[error(
        "spec.endpoints.{field}: host {host} is not allowed; ask whoever runs the operator to add \
         --allowed-endpoint-host={host}"
    )]
    HostNotAllowed {
        /// The member of `spec.endpoints`.
        field: &'static str,
        /// The host.
        host: String,
    },
    /// An audience that the operator does not allow.
    #[error(
        "spec.clientAuth.workloadIdentity.audience: {audience} is not allowed; leave it out for the cloud's, or ask whoever \
         runs the operator to add --allowed-audience={audience}"
    )]
    AudienceNotAllowed {
        /// The audience.
        audience: String,
    },
    /// No client is stated and none is there.
    #[error(
        "spec.clientRef: the ClusterGraphClient {name} is not there; set spec.tenant and spec.clientId, or ask the platform \
         team which ClusterGraphClient to name (kubectl get clustergraphclients)"
    )]
    ClientAbsent {
        /// The name.
        name: String,
    },
    /// The API server holds a client that this version of the operator cannot read.
    #[error(
        "spec.clientRef: the ClusterGraphClient {name} cannot be read ({problem}): the CRD and the operator are of different \
         versions; ask whoever runs the operator to apply the CRD of this one"
    )]
    ClientUndecodable {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No client is stated, and the operator has no others.
    #[error(
        "spec.clientRef: this operator serves no ClusterGraphClients, such as {name}: it works in single namespaces and has \
         no --client-namespace; set spec.tenant and spec.clientId, or ask whoever runs the operator to set --client-namespace"
    )]
    ClientsNotServed {
        /// The name.
        name: String,
    },
    /// The client is not for this `GraphToken`.
    #[error(
        "spec.clientRef: the ClusterGraphClient {name} does not allow this: {rule}; ask the platform team that owns it"
    )]
    ClientNotAllowed {
        /// The name.
        name: String,
        /// The rule that refused.
        rule: String,
    },
    /// What the client refers to cannot be read.
    #[error(
        "spec.clientRef: the ClusterGraphClient {name} has a proof, and the operator knows no namespace to read it from; ask \
         whoever runs the operator to set --client-namespace"
    )]
    NoClientNamespace {
        /// The name.
        name: String,
    },
    /// None or several members of a choice.
    #[error("spec.{field}: exactly one of {members} must be set")]
    ExactlyOne {
        /// The field's path.
        field: &'static str,
        /// Its members.
        members: &'static str,
    },
    /// A grant without something it needs.
    #[error("spec.{field} is needed with grant {grant}")]
    Needed {
        /// The field's path.
        field: &'static str,
        /// The grant's name in the spec.
        grant: &'static str,
    },
    /// The target's name is taken by another use.
    #[error("spec.target.secretName: {name} is {taken_by}; choose another name for the target")]
    TargetName {
        /// The name.
        name: String,
        /// By what.
        taken_by: &'static str,
    },
    /// A label or an annotation that the target may not have.
    #[error("spec.target.{field}: {key} {problem}")]
    TargetMetadata {
        /// `labels` or `annotations`.
        field: &'static str,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A key that a Secret may not have, or that is there twice.
    #[error("spec.target.data: key {key} {problem}")]
    TargetKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// What is to be written cannot be.
    #[error(transparent)]
    Target(#[from] RenderError),
    /// A refresh token for pods where there is none.
    #[error(
        "spec.target.includeRefreshToken has no meaning with grant clientCredentials: there is no refresh token; leave it out"
    )]
    NoRefreshToken,
}

impl Desired {
    /// Parses the spec of the `GraphToken` called `name`. `clients` finds a `ClusterGraphClient` by its name.
    pub fn new(
        name: &str,
        spec: &GraphTokenSpec,
        guards: &Guards,
        clients: &dyn Fn(&str) -> Option<ClusterClient>,
    ) -> Result<Self, SpecError> {
        let grant = grant(spec)?;
        let stated = ClientSpec::of(spec, grant.kind(), guards, clients)?;
        if grant == Grant::ClientCredentials && stated.client_auth.is_none() {
            return Err(SpecError::Needed { field: "clientAuth", grant: grant.kind().spec_name() });
        }
        let client = client(&stated, &grant, guards)?;
        let scopes = scopes(spec, &grant, &client)?;
        let issued_for = issued_for(&client, &grant, &scopes);
        let retention = spec.credential_retention.clone();
        let retention = retention.unwrap_or_else(|| GoDuration(DEFAULT_RETENTION.to_owned()));
        duration("credentialRetention", &retention)?;
        let target = target(name, spec.target.as_ref(), &grant, &client, &scopes)?;
        let probing = probing(spec.verify.as_ref(), &grant, &client)?;
        Ok(Self {
            // An app's token is kept in the target alone, and cannot be had back from a template.
            probing: probing.filter(|_| grant.kind().is_delegated() || target.tells_the_token()),
            target,
            refresh: refresh(spec.refresh.as_ref())?,
            account: spec.account.clone(),
            credential_retention: retention,
            suspend: spec.suspend.unwrap_or(false),
            client,
            grant,
            scopes,
            issued_for,
        })
    }
}

fn duration(field: &'static str, value: &GoDuration) -> Result<Duration, SpecError> {
    value.get().map_err(|problem| SpecError::Duration { field, problem })
}

fn grant(spec: &GraphTokenSpec) -> Result<Grant, SpecError> {
    let asked = &spec.grant;
    match (&asked.refresh_token, &asked.device_code, &asked.client_credentials) {
        (Some(refresh_token), None, None) => {
            Ok(Grant::RefreshToken { seed: refresh_token.secret_ref.clone() })
        }
        (None, Some(_), None) => Ok(Grant::DeviceCode),
        (None, None, Some(_)) => Ok(Grant::ClientCredentials),
        _ => Err(SpecError::ExactlyOne {
            field: "grant",
            members: "refreshToken, deviceCode and clientCredentials",
        }),
    }
}

fn scopes(spec: &GraphTokenSpec, grant: &Grant, client: &Client) -> Result<Vec<String>, SpecError> {
    let graph = client.scope_prefix;
    let wanted: Vec<&str> = match (&spec.scopes, grant) {
        (Some(scopes), _) => scopes.iter().map(String::as_str).collect(),
        (None, Grant::ClientCredentials) => vec![".default"],
        (None, _) => return Err(SpecError::Needed { field: "scopes", grant: grant.kind().spec_name() }),
    };
    let mut sent: Vec<String> = wanted.into_iter().map(|scope| prefixed(scope, graph)).collect();
    if *grant != Grant::ClientCredentials {
        // Without offline_access no new refresh token comes back; openid and profile are what MSAL sends to Microsoft,
        // and tell who signed in.
        let own: &[&str] =
            if client.is_microsofts { &["openid", "profile", "offline_access"] } else { &["offline_access"] };
        for scope in own {
            if !sent.iter().any(|s| s == scope) {
                sent.push((*scope).to_owned());
            }
        }
    }
    Ok(sent)
}

/// A short name gets the Graph prefix; URIs (and `<app id>/.default`) and protocol scopes stay as they are.
fn prefixed(scope: &str, graph: &str) -> String {
    let whole = scope.contains('/') || scope.contains(':') || PROTOCOL_SCOPES.contains(&scope);
    if whole { scope.to_owned() } else { format!("{graph}/{scope}") }
}

fn issued_for(client: &Client, grant: &Grant, scopes: &[String]) -> String {
    let mut sorted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let cloud = format!("{:?}", client.cloud);
    let parts = [&*client.tenant, &*client.client_id, &*cloud, &*client.token_url, grant.kind().as_str()];
    // A token is tried only at the Graph for which it was got.
    let graph = client.own_graph.as_ref().map(|graph| format!("graph {graph}"));
    let mut hash = Sha256::new();
    for part in parts.into_iter().chain(sorted).chain(graph.as_deref()) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
}

/// A week, for users who signed in; an app's token can be tried nowhere without a permission for it.
fn probing(verify: Option<&Verify>, grant: &Grant, client: &Client) -> Result<Option<Probing>, SpecError> {
    const WEEK: Duration = Duration::from_hours(7 * 24);
    let asked = verify.and_then(|verify| verify.interval.as_ref());
    let path = verify.and_then(|verify| verify.path.clone());
    let interval = match asked {
        Some(interval) => duration("verify.interval", interval)?,
        None if grant.kind().is_delegated() || path.is_some() => WEEK,
        None => Duration::ZERO,
    };
    let graph = client.graph.clone().filter(|_| !interval.is_zero());
    // Nothing can be asked for that every app may read.
    let graph = graph.filter(|_| grant.kind().is_delegated() || path.is_some());
    Ok(graph.map(|graph| Probing { graph: format!("{graph}/v1.0"), interval, path }))
}

fn refresh(refresh: Option<&Refresh>) -> Result<RefreshPolicy, SpecError> {
    let Some(refresh) = refresh else { return Ok(RefreshPolicy::Percentage(50)) };
    match (&refresh.renew_before, refresh.renew_before_percentage) {
        (Some(_), Some(_)) => {
            Err(SpecError::ExactlyOne { field: "refresh", members: "renewBefore and renewBeforePercentage" })
        }
        (Some(before), None) => Ok(RefreshPolicy::Before(duration("refresh.renewBefore", before)?)),
        (None, percentage) => Ok(RefreshPolicy::Percentage(percentage.unwrap_or(50).clamp(1, 99))),
    }
}

#[cfg(test)]
mod tests;
