//! The spec of a `GraphToken`. A field's doc comment is what `kubectl explain` prints.
//!
//! Whatever can be known without reading another object is refused by the API server: by pattern, bound, enum or CEL
//! rule here. [`crate::desired`] checks the rest. Defaults live in the code, not in the schema, so that GitOps sees no
//! drift.
#![allow(
    clippy::doc_markdown,
    reason = "doc comments are the help texts of kubectl explain, where backticks are noise"
)]

use serde::{Deserialize, Serialize};

use super::GoDuration;
#[cfg(feature = "operator")]
use super::GraphTokenStatus;
pub use super::target::{DataEntry, DeletionPolicy, Format, Target, Workload, WorkloadKind};

/// Who signs in to Microsoft Graph, how, what for, and which Secret gets the access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::CustomResource, kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    kube(
        group = "graphtoken.io",
        version = "v1alpha1",
        kind = "GraphToken",
        plural = "graphtokens",
        shortname = "gt",
        category = "graphtoken-operator",
        namespaced,
        status = "GraphTokenStatus",
        derive = "PartialEq",
        doc = "Keeps a Microsoft Graph access token fresh in a Secret that pods mount read-only.",
        validation = Rule::new("self.metadata.name.size() <= 63")
            .message("metadata.name may have at most 63 characters"),
        validation = Rule::new(
            "!(has(self.spec.target) && has(self.spec.target.secretName) ? self.spec.target.secretName : \
             self.metadata.name).matches('-graphtoken-(credential|login)$')"
        )
        .message("the target Secret's name may not end in -graphtoken-credential or -graphtoken-login: set spec.target.secretName"),
        validation = Rule::new(
            "!has(self.spec.grant.refreshToken) || self.spec.grant.refreshToken.secretRef.name != \
             (has(self.spec.target) && has(self.spec.target.secretName) ? self.spec.target.secretName : self.metadata.name)"
        )
        .message("the target may not be the seed Secret, which the operator never writes: set spec.target.secretName to another name"),
        validation = Rule::new(
            "!has(self.spec.clientAuth) || !has(self.spec.clientAuth.secretRef) || self.spec.clientAuth.secretRef.name != \
             (has(self.spec.target) && has(self.spec.target.secretName) ? self.spec.target.secretName : self.metadata.name)"
        )
        .message("the target may not be the client secret's Secret: set spec.target.secretName to another name"),
        validation = Rule::new(
            "!has(self.spec.clientAuth) || !has(self.spec.clientAuth.certificateRef) || \
             self.spec.clientAuth.certificateRef.name != \
             (has(self.spec.target) && has(self.spec.target.secretName) ? self.spec.target.secretName : self.metadata.name)"
        )
        .message("the target may not be the certificate's Secret: set spec.target.secretName to another name"),
        printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
        printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[0].reason",
            description = "The reason of Stalled where a person must act, else that of Ready"),
        printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
        printcolumn(name = "Refreshed", type_ = "date", json_path = ".status.lastRefreshTime"),
        printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Client", type_ = "string", json_path = ".spec.clientId", priority = 1),
        printcolumn(name = "Grant", type_ = "string", json_path = ".status.grant", priority = 1),
    )
)]
#[cfg_attr(
    feature = "operator",
    x_kube(
        validation = Rule::new("has(self.tenant) == has(self.clientId)")
            .message("tenant and clientId go together: set both, or leave both to a ClusterGraphClient"),
        validation = Rule::new("!has(self.clientRef) || !has(self.tenant)")
            .message("clientRef stands instead of tenant and clientId: set the one or the other"),
        validation = Rule::new("has(self.tenant) || !(has(self.cloud) || has(self.endpoints) || has(self.clientAuth))")
            .message("cloud, endpoints and clientAuth go with tenant and clientId; a ClusterGraphClient has its own"),
        validation = Rule::new("!has(self.grant.clientCredentials) || has(self.clientAuth) || !has(self.tenant)")
            .message("grant clientCredentials needs clientAuth: an app without a user must prove who it is"),
        validation = Rule::new(
            "!has(self.grant.deviceCode) || !has(self.endpoints) || !has(self.endpoints.token) || has(self.endpoints.deviceAuthorization)"
        )
        .message("grant deviceCode at an endpoint of your own needs endpoints.deviceAuthorization as well"),
        validation = Rule::new("!has(self.grant.clientCredentials) || !has(self.account)")
            .message("account has no meaning with grant clientCredentials: no user signs in"),
        validation = Rule::new(
            "!has(self.grant.clientCredentials) || !has(self.tenant) || (has(self.endpoints) && has(self.endpoints.token)) || \
             !(self.tenant.lowerAscii() in ['organizations', 'common', 'consumers'])"
        )
        .message("grant clientCredentials needs one tenant: its GUID or a verified domain"),
        validation = Rule::new(
            "!has(self.grant.clientCredentials) || !has(self.target) || !has(self.target.includeRefreshToken) || \
             !self.target.includeRefreshToken"
        )
        .message("target.includeRefreshToken has no meaning with grant clientCredentials: there is no refresh token"),
        validation = Rule::new("has(self.grant.clientCredentials) || has(self.scopes)")
            .message("scopes must say what the token is for, for example [Mail.Read]"),
        validation = Rule::new(
            "!has(self.scopes) || !self.scopes.exists(s, s == '.default' || s.endsWith('/.default')) || \
             self.scopes.all(s, s == '.default' || s.endsWith('/.default') || s in ['openid', 'profile', 'email', 'offline_access'])"
        )
        .message(".default stands for all that was consented and is not mixed with named scopes"),
        validation = Rule::new(
            "!has(self.grant.clientCredentials) || (has(self.endpoints) && has(self.endpoints.token)) || !has(self.scopes) || \
             (self.scopes.size() == 1 && self.scopes.all(s, s == '.default' || s.endsWith('/.default')))"
        )
        .message("grant clientCredentials takes one scope, .default: an app gets the permissions that an administrator consented to"),
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GraphTokenSpec {
    /// The tenant: its GUID, a verified domain, or organizations, common or consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9.-]*$"))
    )]
    pub tenant: Option<String>,
    /// The application (client) id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._~-]{1,128}$"))
    )]
    pub client_id: Option<String>,
    /// The Microsoft cloud that the tenant lives in. Default: Public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
    /// Overrides of the cloud's endpoints: private proxies and other OAuth 2.0 servers. Their hosts must be allowed by the
    /// operator's --allowed-endpoint-host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// How the client proves who it is. Absent: a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// The ClusterGraphClient that states tenant, client and proof, instead of the fields above. With neither, the one that is
    /// named default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ref: Option<ClientRef>,
    /// How the token is got. Exactly one member.
    pub grant: Grant,
    /// What the token is for. A short name such as Mail.Read gets the cloud's Graph prefix; URIs, openid, profile, email and
    /// offline_access stay as they are. Default with clientCredentials: .default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256), regex(pattern = r"^[!#-\[\]-~]+$"))),
        x_kube(merge_strategy = kube::core::ListMerge::Set)
    )]
    pub scopes: Option<Vec<String>>,
    /// The user who must be signed in: UPN or object id; another account is refused. Absent: the first account binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "operator", schemars(length(min = 1, max = 320), regex(pattern = r"^[^\s]+$")))]
    pub account: Option<String>,
    /// When the token is refreshed. Default: at half of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// Whether and how the token is tried at Microsoft Graph now and then. Default: on for users who signed in, off for apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// The Secret that pods mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// How long a delegated sign-in outlives a deleted GraphToken, so that one created again goes on with it; 0s: gone at
    /// once. Default: 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        x_kube(validation = Rule::new("duration(self) <= duration('8760h')").message("at most 8760h (a year)"))
    )]
    pub credential_retention: Option<GoDuration>,
    /// No exchange takes place while this is true. An unused refresh token still dies after 90 days. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

// Of an optional enum's field the CRD has the help text of the type, not the field's: so these tell what the field is.

/// The Microsoft cloud that the tenant lives in: Public, USGov (US Government L4), USGovDoD (L5) or China (21Vianet).
/// Default: Public.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum Cloud {
    /// The global cloud.
    #[default]
    Public,
    /// US Government L4.
    USGov,
    /// US Government L5 (DoD).
    USGovDoD,
    /// China, operated by 21Vianet.
    China,
}

/// Overrides of the cloud's endpoints. http is accepted only with --allow-http-endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// The token endpoint, as a whole URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 9, max = 2048), regex(pattern = r"^https?://[^\s@#]+$"))
    )]
    pub token: Option<String>,
    /// The device authorization endpoint (RFC 8628), as a whole URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 9, max = 2048), regex(pattern = r"^https?://[^\s@#]+$"))
    )]
    pub device_authorization: Option<String>,
    /// Microsoft Graph, without /v1.0. With a token endpoint of your own and without this, the token is never tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 9, max = 2048), regex(pattern = r"^https?://[^\s@#?]+$"))
    )]
    pub graph: Option<String>,
}

/// How the client proves who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    x_kube(validation = Rule::new(
        "[has(self.secretRef), has(self.certificateRef), has(self.workloadIdentity)].filter(m, m).size() == 1"
    )
    .message("exactly one of secretRef, certificateRef and workloadIdentity must be set; without clientAuth the client is public"))
)]
#[serde(rename_all = "camelCase")]
pub struct ClientAuth {
    /// A client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// A certificate: a Secret with tls.crt and tls.key (RSA), as cert-manager writes them. The client signs an assertion
    /// with it (private_key_jwt, PS256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<SecretRef>,
    /// A service account whose tokens the app trusts (a federated identity credential).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
}

/// A Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct SecretRef {
    /// Name of the Secret.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub name: String,
}

/// A service account whose tokens prove who the client is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Name of the ServiceAccount, which must be annotated azure.workload.identity/client-id with this client id.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub service_account_name: String,
    /// The audience of its tokens. Default: what the cloud's Entra ID expects. Others must be allowed by the operator's
    /// --allowed-audience.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "operator", schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$")))]
    pub audience: Option<String>,
}

/// The ClusterGraphClient in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct ClientRef {
    /// ClusterGraphClient, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ClientKind>,
    /// Name of the ClusterGraphClient.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub name: String,
}

/// The kind of what is named. Default: ClusterGraphClient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum ClientKind {
    /// A client for many namespaces.
    #[default]
    ClusterGraphClient,
}

/// How the token is got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    x_kube(validation = Rule::new(
        "[has(self.refreshToken), has(self.deviceCode), has(self.clientCredentials)].filter(m, m).size() == 1"
    )
    .message("exactly one of refreshToken, deviceCode and clientCredentials must be set"))
)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// A user who signed in elsewhere: the refresh token that this left behind starts a chain that the operator keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<RefreshTokenGrant>,
    /// A user who signs in with a code that the status shows (RFC 8628).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_code: Option<DeviceCodeGrant>,
    /// The app itself, without a user (app-only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentialsGrant>,
}

/// The `refresh_token` grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RefreshTokenGrant {
    /// The seed: a bare refresh token, a python-o365 token file, an MSAL cache, or any JSON with refresh_token. Read only.
    pub secret_ref: SecretKeyRef,
}

/// The device authorization grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct DeviceCodeGrant {}

/// The `client_credentials` grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct ClientCredentialsGrant {}

/// A key of a Secret in the `GraphToken`'s namespace; of a `ClusterGraphClient`, in the operator's --client-namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub name: String,
    /// Key in the Secret.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))
    )]
    pub key: String,
}

/// When the token is refreshed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    x_kube(validation = Rule::new("!(has(self.renewBefore) && has(self.renewBeforePercentage))")
        .message("at most one of renewBefore and renewBeforePercentage may be set"))
)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// How long before its expiry a token is refreshed, for example 20m. From 90 % of a token's life on, half of the life is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        x_kube(validation = Rule::new("duration(self) > duration('0s') && duration(self) <= duration('168h')")
            .message("more than 0s and at most 168h"))
    )]
    pub renew_before: Option<GoDuration>,
    /// The percentage of its life that a token has left when it is refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "operator", schemars(with = "Option<i32>", range(min = 1, max = 99)))]
    pub renew_before_percentage: Option<u8>,
}

/// Whether and how the token is tried at Microsoft Graph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
pub struct Verify {
    /// How often; 0s: never. Default: 168h for users who signed in, and for apps where path is set; else 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        x_kube(validation = Rule::new(
            "duration(self) == duration('0s') || (duration(self) >= duration('1m') && duration(self) <= duration('8760h'))"
        )
        .message("0s (never), or from 1m to 8760h"))
    )]
    pub interval: Option<GoDuration>,
    /// What is asked for, below /v1.0. Default: by the first granted scope that tells, User.* /me?$select=id,
    /// Mail.* /me/mailFolders/inbox?$select=id, Files.* /me/drive?$select=id; else the token is not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 2, max = 1024), regex(pattern = r"^/[A-Za-z0-9$&'()*+,;=:@%/?._~-]+$"))
    )]
    pub path: Option<String>,
}
