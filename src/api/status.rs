//! The status of a `GraphToken`: what is, for people and for the operator after a restart.

#![cfg_attr(
    feature = "operator",
    expect(dead_code, reason = "the schema is derived from a copy of GraphTokenStatus")
)]

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, ConditionType, Open, Reason, Time, Word};

/// The observed state of a `GraphToken`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct GraphTokenStatus {
    /// The generation of the spec that this status speaks of; -1 until the operator has seen it.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Ready`, `Refreshed`, `Verified` where tokens are tried, and `Stalled` or `Reconciling` while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "operator", x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()])))]
    pub conditions: Vec<Condition>,
    /// The Secret that pods mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The target Secret as the operator last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetVersion>,
    /// When the access token now in the target expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When the last successful exchange took place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh_time: Option<Time>,
    /// When the next exchange is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_time: Option<Time>,
    /// How many exchanges have succeeded.
    #[serde(default)]
    #[cfg_attr(feature = "operator", schemars(with = "i64"))]
    pub refresh_count: u64,
    /// Estimate of when an unused refresh token dies: last use + 90 days. Delegated grants only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_expires_at: Option<Time>,
    /// When and by what the present sign-in was made. Delegated grants only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_in: Option<SignedIn>,
    /// Who the token speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountStatus>,
    /// When the token was last tried at Microsoft Graph and accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_time: Option<Time>,
    /// The latest trial of a token at Microsoft Graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<LastProbe>,
    /// The sign-in that waits for a user. Gone once it is made or the code has run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_code: Option<DeviceCodeStatus>,
    /// The scopes that the provider granted, as it spelled them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted_scopes: Vec<String>,
    /// Failed attempts since the last success.
    #[serde(default)]
    #[cfg_attr(feature = "operator", schemars(with = "i64"))]
    pub consecutive_failures: u32,
    /// The latest failed token request. Gone after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// The latest failure to read or write a Secret, or another object of the API server. Gone after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_storage_failure: Option<LastStorageFailure>,
    /// Echo of the annotation `graphtoken.io/requested-at` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
    /// The grant in use, by the name of its member of `spec.grant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The status as it was read, if there is more in it than this version knows.
    #[serde(skip)]
    pub original: Option<Box<Value>>,
}

impl GraphTokenStatus {
    /// The condition of a type, if it is there.
    pub fn condition(&self, type_: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }
}

/// Identity of the target as the operator last wrote it: a restart sees edits without reading the Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetVersion {
    /// `metadata.uid` of the Secret.
    pub uid: String,
    /// `metadata.resourceVersion` of the Secret.
    pub resource_version: String,
}

/// How the present sign-in was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SignedIn {
    /// When it was made.
    pub time: Time,
    /// What brought it: `Seed` (the Secret of `spec.grant.refreshToken`), `DeviceCode` (a user entered the code), or `Login` (the
    /// Secret `<name>-graphtoken-login`), or a word of another version.
    pub source: Open<SignInSource>,
}

/// What brought the present refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignInSource {
    /// The Secret named by `spec.grant.refreshToken`.
    Seed,
    /// A user entered the code of `status.deviceCode`.
    DeviceCode,
    /// The Secret `<name>-graphtoken-login`.
    Login,
}

impl Word for SignInSource {
    const SCHEMA: (&str, u32) = Reason::SCHEMA;

    fn word(self) -> &'static str {
        match self {
            Self::Seed => "Seed",
            Self::DeviceCode => "DeviceCode",
            Self::Login => "Login",
        }
    }
}

/// Who a token speaks for: ids only, never a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// Object id of the user; absent for app-only tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// Id of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// A device code that waits for a user (RFC 8628 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceCodeStatus {
    /// The code that the user enters.
    pub user_code: String,
    /// The page to enter it at.
    pub verification_uri: String,
    /// Until when it can be entered.
    pub expires_at: Time,
}

/// The latest trial of a token at Microsoft Graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LastProbe {
    /// When it took place.
    pub time: Time,
    /// Which token was tried, by the attempt that brought it: not the token.
    pub token: String,
    /// What came of it, by the same word as the condition `Verified` has.
    pub reason: Open<Reason>,
    /// What was asked for, below `/v1.0`.
    pub path: String,
    /// A digest of what was asked for, where, and with a token for which spec: a change of it is worth a new trial.
    pub inputs: String,
    /// What is wrong and what to do about it; empty where nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Until when Microsoft Graph asked for silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
    /// Trials in a row that told nothing.
    #[serde(default)]
    #[cfg_attr(feature = "operator", schemars(with = "i64"))]
    pub inconclusive: u32,
    /// The token that was refused first, by the attempt that brought it. It is replaced once; until one is accepted, no other is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_token: Option<String>,
    /// The request (`graphtoken.io/requested-at`) that had been handled by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// The latest failed token request. Provider strings in it are bounded and masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// When it took place.
    pub time: Time,
    /// Why, by the same word as the condition `Refreshed` has.
    pub reason: Open<Reason>,
    /// The provider's `error` (RFC 6749 section 5.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Entra's `suberror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suberror: Option<String>,
    /// Entra's AADSTS numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "operator", schemars(with = "Vec<i64>"))]
    pub codes: Vec<u32>,
    /// Entra's `correlation_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Entra's `trace_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Until when the provider asked for silence, or when another attempt is worth it though a person must act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
    /// A digest of token URL and client id: all that share them are silent so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttles: Option<String>,
    /// What is wrong and what to do about it.
    pub message: String,
    /// A digest of what the attempt was made with (spec, referenced Secrets, request): a change of it is worth a new attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
}

/// The latest failure of the API server. It says nothing of the latest token request, whose failure stays beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LastStorageFailure {
    /// When it took place.
    pub time: Time,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Whether a cluster administrator must act: permissions, a quota or an admission policy stand in the way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub administrator_must_act: bool,
    /// A digest of what the attempt was made with (spec, referenced Secrets, request): a change of it is worth a new attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
}
