//! `GraphTokenSpec` → [`Desired`]: what is to be, parsed once. Every error in a spec is born here, and later steps cannot
//! fail on it.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use url::Url;

use crate::api::names::{CREDENTIAL_SUFFIX, LOGIN_SUFFIX};
use crate::api::spec::{Cloud, DataEntry, DeletionPolicy, Format, Refresh, SecretKeyRef, Target};
use crate::api::{GoDuration, GraphTokenSpec};
use crate::grant::GrantKind;
use crate::seed::hex;

/// How long a delegated sign-in outlives its `GraphToken` by default.
const DEFAULT_RETENTION: &str = "168h";
/// Scopes of OpenID Connect and OAuth 2.0 itself: never prefixed with a resource.
const PROTOCOL_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// What the operator's settings let a spec do.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Hosts that `spec.endpoints` may name beside the known clouds; lower case, any port.
    pub allowed_endpoint_hosts: Vec<String>,
    /// Whether `spec.endpoints` may be http.
    pub allow_http_endpoints: bool,
}

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
    /// The Secret that pods mount.
    pub target: DesiredTarget,
    /// How long the credential outlives the `GraphToken`, as written.
    pub credential_retention: GoDuration,
    /// Whether exchanges are suspended.
    pub suspend: bool,
    /// Digest of tenant, client, cloud, endpoints, grant and scopes: a token got under another one is not for this spec.
    pub issued_for: String,
}

/// The client and the endpoints it talks to.
#[derive(Debug, Clone)]
pub struct Client {
    /// The tenant as written.
    pub tenant: String,
    /// The client id.
    pub client_id: String,
    /// The token endpoint.
    pub token_url: String,
    /// Its scheme, host and port: a refresh token is never sent to another one than it was got from.
    pub token_origin: String,
    /// The OpenID configuration that tells the tenant's GUID; only on Microsoft's clouds.
    pub openid_configuration: Option<String>,
    /// The authority's host, as MSAL caches spell it.
    pub environment: &'static str,
    /// How the client proves who it is.
    pub proof: ClientProof,
}

/// How the client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    /// It does not: a public client.
    Public,
    /// By a client secret.
    Secret(SecretKeyRef),
}

/// How the token is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// From a refresh token, first the seed's.
    RefreshToken {
        /// Where the seed is.
        seed: SecretKeyRef,
    },
    /// For the app itself.
    ClientCredentials,
}

impl Grant {
    /// The grant without its parameters.
    pub const fn kind(&self) -> GrantKind {
        match self {
            Self::RefreshToken { .. } => GrantKind::RefreshToken,
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

/// The Secret that pods mount.
#[derive(Debug, Clone)]
pub struct DesiredTarget {
    /// Its name.
    pub secret_name: String,
    /// Whether it goes with the `GraphToken`.
    pub deletion_policy: DeletionPolicy,
    /// Its keys.
    pub data: Vec<DataEntry>,
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
    /// The token endpoint is not a URL that can be used.
    #[error("spec.endpoints.token: {0}; write a URL such as https://login.example.com/oauth2/v2.0/token")]
    Endpoint(String),
    /// http, and the operator does not allow it.
    #[error(
        "spec.endpoints.token: http would send secrets in clear text; use https, or start the operator with \
         --allow-http-endpoints in a test"
    )]
    HttpNotAllowed,
    /// A host that the operator does not allow.
    #[error(
        "spec.endpoints.token: host {host} is not allowed; ask whoever runs the operator to add \
         --allowed-endpoint-host={host}"
    )]
    HostNotAllowed {
        /// The host.
        host: String,
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
}

impl Desired {
    /// Parses the spec of the `GraphToken` called `name`.
    pub fn new(name: &str, spec: &GraphTokenSpec, guards: &Guards) -> Result<Self, SpecError> {
        let grant = grant(spec)?;
        let client = client(spec, guards)?;
        let scopes = scopes(spec, &grant)?;
        let issued_for = issued_for(spec, &client, &grant, &scopes);
        let retention = spec.credential_retention.clone();
        let retention = retention.unwrap_or_else(|| GoDuration(DEFAULT_RETENTION.to_owned()));
        duration("credentialRetention", &retention)?;
        Ok(Self {
            target: target(name, spec.target.as_ref(), &grant, &client)?,
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
    let needed = |field| SpecError::Needed { field, grant: GrantKind::ClientCredentials.spec_name() };
    match (&spec.grant.refresh_token, &spec.grant.client_credentials) {
        (Some(refresh_token), None) => Ok(Grant::RefreshToken { seed: refresh_token.secret_ref.clone() }),
        (None, Some(_)) if spec.client_auth.is_none() => Err(needed("clientAuth")),
        (None, Some(_)) => Ok(Grant::ClientCredentials),
        _ => Err(SpecError::ExactlyOne { field: "grant", members: "refreshToken and clientCredentials" }),
    }
}

/// The fixed facts of a cloud ("National clouds", Microsoft Entra documentation).
struct CloudFacts {
    authority: &'static str,
    graph: &'static str,
}

const fn cloud_facts(cloud: Cloud) -> CloudFacts {
    match cloud {
        Cloud::Public => {
            CloudFacts { authority: "login.microsoftonline.com", graph: "https://graph.microsoft.com" }
        }
        Cloud::USGov => {
            CloudFacts { authority: "login.microsoftonline.us", graph: "https://graph.microsoft.us" }
        }
        Cloud::USGovDoD => {
            CloudFacts { authority: "login.microsoftonline.us", graph: "https://dod-graph.microsoft.us" }
        }
        Cloud::China => CloudFacts {
            authority: "login.partner.microsoftonline.cn",
            graph: "https://microsoftgraph.chinacloudapi.cn",
        },
    }
}

fn client(spec: &GraphTokenSpec, guards: &Guards) -> Result<Client, SpecError> {
    let authority = cloud_facts(spec.cloud.unwrap_or_default()).authority;
    let tenant_url = format!("https://{authority}/{}", spec.tenant);
    let (token_url, openid_configuration) = match &spec.endpoints {
        Some(endpoints) => (endpoints.token.clone(), None),
        None => (
            format!("{tenant_url}/oauth2/v2.0/token"),
            Some(format!("{tenant_url}/v2.0/.well-known/openid-configuration")),
        ),
    };
    let token_origin = match &spec.endpoints {
        Some(_) => guarded_origin(&token_url, guards)?,
        None => format!("https://{authority}"),
    };
    let proof = match &spec.client_auth {
        None => ClientProof::Public,
        Some(auth) => ClientProof::Secret(auth.secret_ref.clone()),
    };
    Ok(Client {
        tenant: spec.tenant.clone(),
        client_id: spec.client_id.clone(),
        token_url,
        token_origin,
        openid_configuration,
        environment: authority,
        proof,
    })
}

/// The origin of an endpoint that the spec names, if the operator's settings allow it.
fn guarded_origin(endpoint: &str, guards: &Guards) -> Result<String, SpecError> {
    let url = Url::parse(endpoint).map_err(|e| SpecError::Endpoint(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(SpecError::Endpoint("a user, password or fragment has no place in it".to_owned()));
    }
    match url.scheme() {
        "https" => {}
        "http" if guards.allow_http_endpoints => {}
        "http" => return Err(SpecError::HttpNotAllowed),
        other => return Err(SpecError::Endpoint(format!("scheme {other} is neither https nor http"))),
    }
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let known = [Cloud::Public, Cloud::USGov, Cloud::China].map(|c| cloud_facts(c).authority);
    if !known.contains(&host.as_str()) && !guards.allowed_endpoint_hosts.contains(&host) {
        return Err(SpecError::HostNotAllowed { host });
    }
    Ok(url.origin().ascii_serialization())
}

fn scopes(spec: &GraphTokenSpec, grant: &Grant) -> Result<Vec<String>, SpecError> {
    let graph = cloud_facts(spec.cloud.unwrap_or_default()).graph;
    let wanted: Vec<&str> = match (&spec.scopes, grant) {
        (Some(scopes), _) => scopes.iter().map(String::as_str).collect(),
        (None, Grant::ClientCredentials) => vec![".default"],
        (None, _) => return Err(SpecError::Needed { field: "scopes", grant: grant.kind().spec_name() }),
    };
    let mut sent: Vec<String> = wanted.into_iter().map(|scope| prefixed(scope, graph)).collect();
    if *grant != Grant::ClientCredentials {
        // Without offline_access no new refresh token comes back; openid and profile are what MSAL sends to Microsoft,
        // and tell who signed in.
        let own: &[&str] = if spec.endpoints.is_none() {
            &["openid", "profile", "offline_access"]
        } else {
            &["offline_access"]
        };
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

fn issued_for(spec: &GraphTokenSpec, client: &Client, grant: &Grant, scopes: &[String]) -> String {
    let mut sorted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let cloud = format!("{:?}", spec.cloud.unwrap_or_default());
    let parts = [&*client.tenant, &*client.client_id, &*cloud, &*client.token_url, grant.kind().as_str()];
    let mut hash = Sha256::new();
    for part in parts.into_iter().chain(sorted) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
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

fn target(
    name: &str,
    target: Option<&Target>,
    grant: &Grant,
    client: &Client,
) -> Result<DesiredTarget, SpecError> {
    let secret_name = target.and_then(|t| t.secret_name.clone()).unwrap_or_else(|| name.to_owned());
    let taken = |taken_by| Err(SpecError::TargetName { name: secret_name.clone(), taken_by });
    if secret_name.ends_with(CREDENTIAL_SUFFIX) || secret_name.ends_with(LOGIN_SUFFIX) {
        return taken("reserved for the operator's own Secrets");
    }
    if matches!(grant, Grant::RefreshToken { seed } if seed.name == secret_name) {
        return taken("the seed Secret, which the operator never writes");
    }
    if matches!(&client.proof, ClientProof::Secret(secret) if secret.name == secret_name) {
        return taken("the client secret's Secret, which the operator never writes");
    }
    Ok(DesiredTarget {
        deletion_policy: target.and_then(|t| t.deletion_policy).unwrap_or_default(),
        data: target.and_then(|t| t.data.clone()).unwrap_or_else(default_data),
        secret_name,
    })
}

fn default_data() -> Vec<DataEntry> {
    vec![
        DataEntry { key: "token".to_owned(), format: Format::AccessToken },
        DataEntry { key: "o365_token.txt".to_owned(), format: Format::O365 },
    ]
}

#[cfg(test)]
mod tests;
