//! What was asked and answered. Tokens appear by digest only.

use std::collections::BTreeMap;

use serde::Serialize;

/// Every request so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Journal {
    /// Requests to the token endpoint, in order of arrival.
    pub token: Vec<TokenEntry>,
    /// Requests for device codes, in order of arrival. Polls for their tokens are token requests.
    pub device: Vec<DeviceEntry>,
    /// Requests to Graph, in order of arrival.
    pub graph: Vec<GraphEntry>,
}

/// A request to the token endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TokenEntry {
    /// When it arrived, in milliseconds since the epoch, by the simulator's clock.
    pub time_ms: u64,
    /// The tenant as the path wrote it.
    pub tenant: String,
    /// The `grant_type`; `device_code` for short.
    pub grant: String,
    /// The `client_id`.
    pub client_id: String,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// The HTTP status answered, or meant to be answered when the answer was lost.
    pub status: Option<u16>,
    /// The OAuth error answered.
    pub error: Option<String>,
    /// The AADSTS numbers answered.
    pub codes: Vec<u32>,
    /// The fault it met.
    pub fault: Option<&'static str>,
    /// The client's assertion, whatever became of it.
    pub assertion: Option<AssertionEntry>,
    /// SHA-256 of the refresh token received.
    pub received_sha256: Option<String>,
    /// SHA-256 of the device code received.
    pub device_sha256: Option<String>,
    /// SHA-256 of the refresh token issued.
    pub issued_sha256: Option<String>,
    /// SHA-256 of the access token issued.
    pub access_sha256: Option<String>,
}

/// An assertion by which a client proves itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AssertionEntry {
    /// SHA-256 of the assertion.
    pub sha256: String,
    /// Whether the very same assertion had been received before.
    pub seen_before: bool,
    /// The `alg` of its header. It and what follows is as written: nothing of it need be true.
    pub algorithm: Option<String>,
    /// The `x5t#S256` of its header, or else the `kid`.
    pub key: Option<String>,
    /// Its `iss`.
    pub issuer: Option<String>,
    /// Its `sub`.
    pub subject: Option<String>,
    /// Its `aud`.
    pub audience: Vec<String>,
    /// SHA-256 of its `jti`.
    pub jti_sha256: Option<String>,
    /// Seconds from its `nbf` to its `exp`.
    pub lifetime_seconds: Option<u64>,
}

/// A request for a device code.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceEntry {
    /// When it arrived, in milliseconds since the epoch, by the simulator's clock.
    pub time_ms: u64,
    /// The tenant as the path wrote it.
    pub tenant: String,
    /// The `client_id`.
    pub client_id: String,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// The HTTP status answered, or meant to be answered when the answer was lost.
    pub status: Option<u16>,
    /// The OAuth error answered.
    pub error: Option<String>,
    /// The AADSTS numbers answered.
    pub codes: Vec<u32>,
    /// The fault it met.
    pub fault: Option<&'static str>,
    /// SHA-256 of the device code issued.
    pub device_sha256: Option<String>,
}

/// A request to Graph.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GraphEntry {
    /// When it arrived, in milliseconds since the epoch, by the simulator's clock.
    pub time_ms: u64,
    /// The path with its query.
    pub path: String,
    /// The client that the bearer token was issued to, if it is known.
    pub client_id: Option<String>,
    /// SHA-256 of the bearer token.
    pub bearer_sha256: Option<String>,
    /// The HTTP status answered; `None` while there is none.
    pub status: Option<u16>,
    /// The fault it met.
    pub fault: Option<&'static str>,
}

/// What became of a token request, or of a request for a device code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing yet, or never: a delay, a hang, or a closed connection.
    #[default]
    Unanswered,
    /// Tokens, or a device code, were issued (the answer may have been lost: see the fault).
    Issued,
    /// Told to ask again later: nobody has entered the device code yet.
    Pending,
    /// Refused by the rules.
    Refused,
    /// Answered by a fault.
    Faulted,
}

/// How often each outcome came up.
pub type Counts = BTreeMap<Outcome, usize>;

impl Journal {
    /// Counts by grant and outcome. Requests for device codes are `device_authorization`.
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        let token = self.token.iter().map(|entry| (entry.grant.as_str(), entry.outcome));
        let device = self.device.iter().map(|entry| ("device_authorization", entry.outcome));
        let mut counts = BTreeMap::<String, Counts>::new();
        for (grant, outcome) in token.chain(device) {
            *counts.entry(grant.to_owned()).or_default().entry(outcome).or_default() += 1;
        }
        counts
    }

    /// When this device code was polled for, in order. The digest is in [`DeviceEntry::device_sha256`].
    pub fn polls(&self, device_sha256: &str) -> Vec<u64> {
        let polls = self.token.iter().filter(|entry| entry.device_sha256.as_deref() == Some(device_sha256));
        polls.map(|entry| entry.time_ms).collect()
    }

    /// How many token requests ended so, over all grants.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.token.iter().filter(|entry| entry.outcome == outcome).count()
    }
}
