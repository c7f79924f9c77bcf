//! The client of a spec, its own or a `ClusterGraphClient`'s: endpoints, and how it proves who it is.

use std::collections::BTreeMap;

use url::Url;

use super::{Grant, SpecError};
use crate::api::GraphTokenSpec;
use crate::api::client::{AllowedGrant, ClusterGraphClientSpec};
use crate::api::spec::{ClientAuth, Cloud, Endpoints, SecretKeyRef};
use crate::grant::GrantKind;

/// The `ClusterGraphClient` of a spec that states no client.
pub const DEFAULT_CLIENT: &str = "default";

/// What the operator's settings let a spec do.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Hosts that endpoints may have beside the known clouds'; lower case, any port.
    pub allowed_endpoint_hosts: Vec<String>,
    /// Whether endpoints may be http.
    pub allow_http_endpoints: bool,
    /// Audiences that service accounts' tokens may have beside the clouds'.
    pub allowed_audiences: Vec<String>,
    /// Where the Secrets and service accounts of `ClusterGraphClient`s are.
    pub client_namespace: Option<String>,
}

/// A `ClusterGraphClient` as it was found, with the labels of the namespace that asks for it.
#[derive(Debug, Clone)]
pub struct ClusterClient {
    /// Its spec.
    pub spec: ClusterGraphClientSpec,
    /// Its UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
    /// Labels of the namespace of the `GraphToken`.
    pub namespace_labels: BTreeMap<String, String>,
}

/// The client and the endpoints it talks to.
#[derive(Debug, Clone)]
pub struct Client {
    /// The tenant as written.
    pub tenant: String,
    /// The client id.
    pub client_id: String,
    /// The cloud.
    pub cloud: Cloud,
    /// The token endpoint.
    pub token_url: String,
    /// Its scheme, host and port: a refresh token is never sent to another one than it was got from.
    pub token_origin: String,
    /// The whole of it, where it is not a Microsoft cloud's: one host may serve many authorities, told apart by paths.
    pub own_token_url: Option<String>,
    /// The device authorization endpoint, with the grant that needs it.
    pub device_url: Option<String>,
    /// Microsoft Graph without `/v1.0`; `None`: not known, beside a token endpoint that is not Microsoft's.
    pub graph: Option<String>,
    /// The same, where the spec names it.
    pub own_graph: Option<String>,
    /// What a short scope gets in front.
    pub scope_prefix: &'static str,
    /// Whether the token endpoint is the cloud's own.
    pub is_microsofts: bool,
    /// The OpenID configuration that tells the tenant's GUID; only on Microsoft's clouds.
    pub openid_configuration: Option<String>,
    /// The authority's host, as MSAL caches spell it.
    pub environment: &'static str,
    /// How the client proves who it is.
    pub proof: ClientProof,
    /// Where the proof is, if not in the `GraphToken`'s namespace.
    pub secrets_namespace: Option<String>,
    /// UID and generation of the `ClusterGraphClient`.
    pub stated_by: Option<(String, String)>,
}

/// How the client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    /// It does not: a public client.
    Public,
    /// By a client secret.
    Secret(SecretKeyRef),
    /// By an assertion that is signed with the key of a certificate, in a Secret of this name.
    Certificate(String),
    /// By a token of a service account.
    WorkloadIdentity {
        /// The service account's name.
        service_account: String,
        /// The token's audience.
        audience: String,
    },
}

impl ClientProof {
    /// Whether it is made with a certificate.
    pub const fn is_certificate(&self) -> bool {
        matches!(self, Self::Certificate(_))
    }

    /// The Secret that it is in.
    pub fn secret_name(&self) -> Option<&str> {
        match self {
            Self::Secret(secret) => Some(&secret.name),
            Self::Certificate(name) => Some(name),
            Self::Public | Self::WorkloadIdentity { .. } => None,
        }
    }
}

/// The fixed facts of a cloud ("National clouds", Microsoft Entra documentation).
struct CloudFacts {
    authority: &'static str,
    graph: &'static str,
    /// Of a federated credential ("Workload identity federation", Microsoft Entra documentation).
    audience: &'static str,
}

const CLOUDS: [Cloud; 4] = [Cloud::Public, Cloud::USGov, Cloud::USGovDoD, Cloud::China];

const fn cloud_facts(cloud: Cloud) -> CloudFacts {
    match cloud {
        Cloud::Public => CloudFacts {
            authority: "login.microsoftonline.com",
            graph: "https://graph.microsoft.com",
            audience: "api://AzureADTokenExchange",
        },
        Cloud::USGov => CloudFacts {
            authority: "login.microsoftonline.us",
            graph: "https://graph.microsoft.us",
            audience: "api://AzureADTokenExchangeUSGov",
        },
        Cloud::USGovDoD => CloudFacts {
            authority: "login.microsoftonline.us",
            graph: "https://dod-graph.microsoft.us",
            audience: "api://AzureADTokenExchangeUSGov",
        },
        Cloud::China => CloudFacts {
            authority: "login.partner.microsoftonline.cn",
            graph: "https://microsoftgraph.chinacloudapi.cn",
            audience: "api://AzureADTokenExchangeChina",
        },
    }
}

/// The `ClusterGraphClient` that a spec is on; `None`: it states its client itself, or contradicts itself.
pub fn shared_client(spec: &GraphTokenSpec) -> Option<&str> {
    let inline = spec.tenant.is_some() || spec.client_id.is_some();
    (!inline).then(|| spec.client_ref.as_ref().map_or(DEFAULT_CLIENT, |reference| &reference.name))
}

/// A client as it is stated, here or by a `ClusterGraphClient`.
pub(super) struct ClientSpec {
    tenant: String,
    client_id: String,
    cloud: Cloud,
    endpoints: Endpoints,
    pub(super) client_auth: Option<ClientAuth>,
    secrets_namespace: Option<String>,
    stated_by: Option<(String, String)>,
}

impl ClientSpec {
    /// The client of a spec, if it may be used.
    pub(super) fn of(
        spec: &GraphTokenSpec,
        grant: GrantKind,
        guards: &Guards,
        clients: &dyn Fn(&str) -> Option<ClusterClient>,
    ) -> Result<Self, SpecError> {
        match (&spec.client_ref, &spec.tenant, &spec.client_id) {
            (None, Some(tenant), Some(client_id)) => Ok(Self {
                tenant: tenant.clone(),
                client_id: client_id.clone(),
                cloud: spec.cloud.unwrap_or_default(),
                endpoints: spec.endpoints.clone().unwrap_or_default(),
                client_auth: spec.client_auth.clone(),
                secrets_namespace: None,
                stated_by: None,
            }),
            (reference, None, None) => {
                let name = reference.as_ref().map_or(DEFAULT_CLIENT, |reference| &reference.name);
                let found = clients(name).ok_or_else(|| SpecError::ClientAbsent { name: name.to_owned() })?;
                Self::shared(name, found, grant, guards)
            }
            _ => Err(SpecError::ExactlyOne {
                field: "clientRef",
                members: "clientRef, and tenant with clientId,",
            }),
        }
    }

    fn shared(
        name: &str,
        found: ClusterClient,
        grant: GrantKind,
        guards: &Guards,
    ) -> Result<Self, SpecError> {
        if let Err(rule) = allowed(&found, grant) {
            return Err(SpecError::ClientNotAllowed { name: name.to_owned(), rule });
        }
        let ClusterClient { spec, uid, generation, .. } = found;
        if spec.client_auth.is_some() && guards.client_namespace.is_none() {
            return Err(SpecError::NoClientNamespace { name: name.to_owned() });
        }
        Ok(Self {
            tenant: spec.tenant,
            client_id: spec.client_id,
            cloud: spec.cloud.unwrap_or_default(),
            endpoints: spec.endpoints.unwrap_or_default(),
            client_auth: spec.client_auth,
            secrets_namespace: guards.client_namespace.clone(),
            stated_by: Some((uid, generation.to_string())),
        })
    }
}

/// Which rule of a client refuses, if one does.
fn allowed(found: &ClusterClient, grant: GrantKind) -> Result<(), String> {
    let Some(allow) = &found.spec.allow else {
        return Err("spec.allow is absent, so nobody may use it".to_owned());
    };
    let Some(selector) = &allow.namespace_selector else {
        return Err("spec.allow.namespaceSelector is absent, so no namespace may use it".to_owned());
    };
    if !selector.matches(&found.namespace_labels) {
        return Err("spec.allow.namespaceSelector does not select this namespace by its labels".to_owned());
    }
    let named = allow.grants.iter().flatten().any(|allowed| {
        let kind = match allowed {
            AllowedGrant::RefreshToken => GrantKind::RefreshToken,
            AllowedGrant::DeviceCode => GrantKind::DeviceCode,
            AllowedGrant::ClientCredentials => GrantKind::ClientCredentials,
        };
        kind == grant
    });
    if named { Ok(()) } else { Err(format!("spec.allow.grants does not name {}", grant.spec_name())) }
}

/// The client with its endpoints, if the operator's settings allow them.
pub(super) fn client(stated: &ClientSpec, grant: &Grant, guards: &Guards) -> Result<Client, SpecError> {
    let facts = cloud_facts(stated.cloud);
    let endpoints = &stated.endpoints;
    let tenant_url = format!("https://{}/{}", facts.authority, stated.tenant);
    let own = |url: &String| guarded("token", url, stated.cloud, guards);
    let own = endpoints.token.as_ref().map(own).transpose()?;
    let token_origin = match &own {
        Some(url) => url.origin().ascii_serialization(),
        None => format!("https://{}", facts.authority),
    };
    let graph = graph(stated, &facts, guards)?;
    Ok(Client {
        token_url: endpoints.token.clone().unwrap_or_else(|| format!("{tenant_url}/oauth2/v2.0/token")),
        token_origin,
        own_token_url: own.filter(|url| url.host_str() != Some(facts.authority)).map(String::from),
        device_url: device_url(stated, grant, &tenant_url, guards)?,
        own_graph: graph.clone().filter(|_| endpoints.graph.is_some()),
        graph,
        scope_prefix: facts.graph,
        is_microsofts: endpoints.token.is_none(),
        openid_configuration: endpoints
            .token
            .is_none()
            .then(|| format!("{tenant_url}/v2.0/.well-known/openid-configuration")),
        environment: facts.authority,
        proof: proof(stated.client_auth.as_ref(), &facts, guards)?,
        tenant: stated.tenant.clone(),
        client_id: stated.client_id.clone(),
        cloud: stated.cloud,
        secrets_namespace: stated.secrets_namespace.clone(),
        stated_by: stated.stated_by.clone(),
    })
}

fn device_url(
    stated: &ClientSpec,
    grant: &Grant,
    tenant_url: &str,
    guards: &Guards,
) -> Result<Option<String>, SpecError> {
    let endpoints = &stated.endpoints;
    let url = match (&endpoints.device_authorization, &endpoints.token) {
        (Some(url), _) => {
            guarded("deviceAuthorization", url, stated.cloud, guards)?;
            url.clone()
        }
        (None, None) => format!("{tenant_url}/oauth2/v2.0/devicecode"),
        (None, Some(_)) if *grant == Grant::DeviceCode => {
            return Err(SpecError::Needed {
                field: "endpoints.deviceAuthorization",
                grant: grant.kind().spec_name(),
            });
        }
        (None, Some(_)) => return Ok(None),
    };
    Ok((*grant == Grant::DeviceCode).then_some(url))
}

fn graph(stated: &ClientSpec, facts: &CloudFacts, guards: &Guards) -> Result<Option<String>, SpecError> {
    let endpoints = &stated.endpoints;
    match (&endpoints.graph, &endpoints.token) {
        (Some(url), _) => {
            guarded("graph", url, stated.cloud, guards)?;
            Ok(Some(url.trim_end_matches('/').to_owned()))
        }
        (None, None) => Ok(Some(facts.graph.to_owned())),
        (None, Some(_)) => Ok(None),
    }
}

fn proof(auth: Option<&ClientAuth>, facts: &CloudFacts, guards: &Guards) -> Result<ClientProof, SpecError> {
    let Some(auth) = auth else { return Ok(ClientProof::Public) };
    match (&auth.secret_ref, &auth.certificate_ref, &auth.workload_identity) {
        (Some(secret), None, None) => Ok(ClientProof::Secret(secret.clone())),
        (None, Some(certificate), None) => Ok(ClientProof::Certificate(certificate.name.clone())),
        (None, None, Some(identity)) => {
            let audience = identity.audience.clone().unwrap_or_else(|| facts.audience.to_owned());
            let known = CLOUDS.iter().any(|cloud| cloud_facts(*cloud).audience == audience);
            if !known && !guards.allowed_audiences.contains(&audience) {
                return Err(SpecError::AudienceNotAllowed { audience });
            }
            let service_account = identity.service_account_name.clone();
            Ok(ClientProof::WorkloadIdentity { service_account, audience })
        }
        _ => Err(SpecError::ExactlyOne {
            field: "clientAuth",
            members: "secretRef, certificateRef and workloadIdentity",
        }),
    }
}

/// An endpoint that the spec names, if the operator's settings allow it.
fn guarded(field: &'static str, endpoint: &str, cloud: Cloud, guards: &Guards) -> Result<Url, SpecError> {
    let wrong = |problem: String| SpecError::Endpoint { field, problem };
    let url = Url::parse(endpoint).map_err(|e| wrong(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong("a user, password or fragment has no place in it".to_owned()));
    }
    match url.scheme() {
        "https" => {}
        "http" if guards.allow_http_endpoints => {}
        "http" => return Err(SpecError::HttpNotAllowed { field }),
        other => return Err(wrong(format!("scheme {other} is neither https nor http"))),
    }
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    // Who signs in there and who is asked there are not the same: a refresh token has no business at Microsoft Graph. Nor
    // has a token of one cloud at another.
    let is_of = |cloud: &Cloud| match field {
        "graph" => cloud_facts(*cloud).graph.strip_prefix("https://").is_some_and(|graph| graph == host),
        _ => cloud_facts(*cloud).authority == host,
    };
    if is_of(&cloud) || guards.allowed_endpoint_hosts.contains(&host) {
        return Ok(url);
    }
    match CLOUDS.iter().find(|cloud| is_of(cloud)) {
        Some(theirs) => Err(wrong(format!("{host} is of the cloud {theirs:?}, and spec.cloud is {cloud:?}"))),
        None => Err(SpecError::HostNotAllowed { field, host }),
    }
}
