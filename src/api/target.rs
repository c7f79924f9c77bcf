//! `spec.target`: the Secret that pods mount, and who is restarted for it.
#![allow(
    clippy::doc_markdown,
    reason = "doc comments are the help texts of kubectl explain, where backticks are noise"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A label's or an annotation's key, as Kubernetes has it: an optional DNS name and a slash, then at most 63 characters.
#[cfg(feature = "operator")]
const QUALIFIED_KEYS: &str = "self.all(k, k.size() <= 317 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))";
#[cfg(feature = "operator")]
const QUALIFIED_KEYS_MESSAGE: &str =
    "a key is a name of at most 63 characters, with a DNS name and a slash in front if you like";
/// Keys that are the operator's, or Kubernetes' own.
#[cfg(feature = "operator")]
const FREE_KEYS: &str = "self.all(k, !k.matches('^(graphtoken[.]io|([^/]*[.])?kubernetes[.]io)/'))";
#[cfg(feature = "operator")]
const FREE_KEYS_MESSAGE: &str = "keys of graphtoken.io, kubernetes.io and *.kubernetes.io are reserved";

/// The Secret that pods mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of the Secret. Default: the GraphToken's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub secret_name: Option<String>,
    /// Labels of the Secret beside the operator's own, which win. Keys of graphtoken.io and of (*.)kubernetes.io are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"})),
        x_kube(validation = Rule::new(QUALIFIED_KEYS).message(QUALIFIED_KEYS_MESSAGE), validation = Rule::new(FREE_KEYS).message(FREE_KEYS_MESSAGE))
    )]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the Secret beside the operator's own. Keys of graphtoken.io and of (*.)kubernetes.io are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096})),
        x_kube(validation = Rule::new(QUALIFIED_KEYS).message(QUALIFIED_KEYS_MESSAGE), validation = Rule::new(FREE_KEYS).message(FREE_KEYS_MESSAGE))
    )]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What becomes of the Secret when the GraphToken goes. Default: Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Whether pods get the refresh token too, in the formats O365 and OAuth2. Pods that use it rotate it behind the operator's
    /// back, and cannot write back what they got: leave it out unless a library refuses to start without one. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_refresh_token: Option<bool>,
    /// The Secret's keys. Default: token (AccessToken) and o365_token.txt (O365).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 32)),
        x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["key".into()]))
    )]
    pub data: Option<Vec<DataEntry>>,
    /// Workloads of this namespace that are rolled out anew when the token changed, for they read it where no change is seen: from
    /// the environment, or once when they start. Only those whose pod template references the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(max = 16)),
        x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["kind".into(), "name".into()]))
    )]
    pub restart: Option<Vec<Workload>>,
}

/// A workload of the `GraphToken`'s namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub struct Workload {
    /// Deployment, StatefulSet or DaemonSet.
    pub kind: WorkloadKind,
    /// Name of the workload.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub name: String,
}

/// A kind of workload that can be rolled out anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
}

/// What becomes of the Secret when the GraphToken goes: Delete, or Retain: it stays as it is, and nobody refreshes it any
/// more. Default: Delete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// It is deleted with it.
    #[default]
    Delete,
    /// It stays as it is; nobody refreshes it any more.
    Retain,
}

/// One key of the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    x_kube(validation = Rule::new("has(self.format) != has(self.template)")
        .message("exactly one of format and template must be set"))
)]
pub struct DataEntry {
    /// Key in the Secret, and so the file's name in the pod.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$")),
        x_kube(validation = Rule::new("self != '.' && !self.startsWith('..')")
            .message("a key may not be . or begin with .., for the kubelet refuses such a file"))
    )]
    pub key: String,
    /// How the token is written; see [`Format`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// A text of your own around the token, in Jinja's syntax: {{ access_token }}, token_type, expires_at (RFC 3339), expires_on
    /// (seconds since 1970), scopes, tenant, client_id, account_id; if, for over scopes, and the filter json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "operator", schemars(length(min = 1, max = 16384)))]
    pub template: Option<String>,
}

/// How the token is written: AccessToken (the token alone, without a newline), O365 (the token file of python-o365 2.1 and
/// later, an MSAL cache), OAuth2 (JSON for Go's oauth2, rclone and python-o365 2.0) or AuthorizationHeader (the line
/// Authorization: Bearer …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum Format {
    /// The access token and nothing else, without a newline.
    AccessToken,
    /// The token file of python-o365 2.1 and later, which is an MSAL token cache.
    O365,
    /// JSON that Go's oauth2, rclone and python-o365 2.0 read.
    OAuth2,
    /// A whole header line, Authorization: Bearer …, as curl -H @file takes it.
    AuthorizationHeader,
}
