//! The credential Secret: what its bytes say of the chain of refresh tokens.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Meta;
use crate::api::names::{
    ANNOTATION_DELETE_AFTER, ANNOTATION_RETENTION, ANNOTATION_UID, KEY_DEVICE, KEY_PENDING, KEY_RECORD,
    KEY_REFRESH_TOKEN, LABEL_MANAGED_BY, LABEL_NAME, MANAGER, credential_name,
};
use crate::api::status::SignedIn;
use crate::api::{Open, Reason};
use crate::desired::Client;
use crate::grant::{Account, device_code};
use crate::seed;

/// Key of the access token in the credential Secret.
pub const KEY_ACCESS_TOKEN: &str = "access_token";
/// No sentence of the operator's is longer.
const MAX_MESSAGE: usize = 768;

/// Why the Secret in the place of a `GraphToken`'s credential is not its own, if that is so, and what to do about it.
fn foreign(meta: &Meta, graphtoken: &str) -> Option<String> {
    let name = credential_name(graphtoken);
    if meta.deleting {
        return Some(format!(
            "the credential Secret {name} is being deleted; the operator goes on when it is gone"
        ));
    }
    (!meta.belongs_to(graphtoken)).then(|| {
        format!(
            "the Secret {name} is where the operator keeps the sign-in, and it is not labelled as its own; delete it, or, if \
             it is a backup of the sign-in, label it {LABEL_MANAGED_BY}={MANAGER} and {LABEL_NAME}={graphtoken}"
        )
    })
}

/// Facts about one access token; no secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenFacts {
    /// The attempt that brought it: its identity.
    pub attempt: String,
    /// [`crate::desired::Desired::issued_for`] of the spec it was got for.
    pub issued_for: String,
    /// When the request for it was sent: its life counts from here.
    pub issued_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When the provider wishes it to be refreshed (`refresh_in`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_at: Option<Timestamp>,
}

/// An access token's facts with what rendering it needs beside the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredToken {
    /// Which token.
    #[serde(flatten)]
    pub facts: TokenFacts,
    /// `Bearer`.
    pub token_type: String,
    /// The scopes as the provider spelled them.
    #[serde(default)]
    pub granted_scopes: Vec<String>,
}

/// Who a refresh token was issued to, and where: it is worth nothing to another client, and never sent to another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainClient {
    /// Tenant as the spec wrote it.
    pub tenant: String,
    /// Client id.
    pub client_id: String,
    /// Origin of the token endpoint.
    pub token_origin: String,
    /// The whole token endpoint, where it is not a Microsoft cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
}

impl ChainClient {
    /// Whether both are of one token endpoint. At Microsoft's the tenant tells, which is compared apart.
    pub fn same_server(&self, other: &Self) -> bool {
        self.token_origin == other.token_origin && self.token_url == other.token_url
    }
}

impl From<&Client> for ChainClient {
    fn from(client: &Client) -> Self {
        Self {
            tenant: client.tenant.clone(),
            client_id: client.client_id.clone(),
            token_origin: client.token_origin.clone(),
            token_url: client.own_token_url.clone(),
        }
    }
}

const FORMAT: u32 = 1;

/// The format of [`Record`], which this version writes. A record of another format is not read: a version that changes what
/// a field means, or adds one that must not be passed over, raises it. Any other new field goes to the top of the record,
/// where this version keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Format;

impl From<Format> for u32 {
    fn from(Format: Format) -> Self {
        FORMAT
    }
}

impl TryFrom<u32> for Format {
    type Error = &'static str;

    fn try_from(format: u32) -> Result<Self, Self::Error> {
        if format == FORMAT { Ok(Self) } else { Err("a record of another format") }
    }
}

/// Members that this version does not know. `Debug` does not show them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rest(Map<String, Value>);

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}

/// The credential's record: everything about the chain of refresh tokens but the tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// How it is to be read.
    pub format: Format,
    /// How many exchanges were committed.
    pub generation: u64,
    /// The attempt whose outcome was committed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<String>,
    /// Whom the refresh token was issued to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ChainClient>,
    /// The account that is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// When and by what the sign-in was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_in: Option<SignedIn>,
    /// The access token that was got last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<StoredToken>,
    /// Digests of all the seeds that were adopted.
    pub seed_digests: Vec<String>,
    /// The seed that was rejected last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_seed: Option<RejectedSignIn>,
    /// The login that was rejected last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_login: Option<RejectedSignIn>,
    /// What another version added: a commit keeps it.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A new sign-in that was rejected. It is not sent again while the spec and the client credential stay as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedSignIn {
    /// Digest of the refresh token.
    pub digest: String,
    /// Hash of the spec and the client credential under which it was rejected: see [`super::inputs`].
    pub made_with_hash: String,
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: Open<Reason>,
    /// The same in a sentence.
    pub message: String,
}

/// A device code that was issued: what people and the plan need of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// What the user enters.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// Until when.
    pub expires_at: Timestamp,
    /// Seconds between two polls.
    pub interval_seconds: u64,
    /// [`crate::desired::Desired::issued_for`] of the spec it was asked for.
    pub issued_for: String,
    /// Whether it came to its end without a sign-in.
    #[serde(default)]
    pub ended: bool,
}

/// The same as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredDevice {
    #[serde(flatten)]
    device: Device,
    /// Absent once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_code: Option<String>,
}

impl Device {
    /// As it is stored.
    pub fn to_json(&self, device_code: Option<&SecretString>) -> String {
        let device_code = device_code.map(|code| code.expose_secret().to_owned());
        serde_json::json!(StoredDevice { device: self.clone(), device_code }).to_string()
    }

    /// Whether a user may still enter it, for this spec.
    pub fn waits(&self, issued_for: &str, now: Timestamp) -> bool {
        !self.ended && self.issued_for == issued_for && self.expires_at > now
    }
}

/// The write-ahead record: an exchange that was begun, and perhaps not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// The attempt.
    pub attempt: String,
    /// The process that began it.
    pub holder: String,
}

/// The credential Secret without its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The Secret's metadata.
    pub meta: Meta,
    /// The record; empty if the Secret has none.
    pub record: Record,
    /// An exchange that was begun.
    pub pending: Option<Pending>,
    /// A device code that was issued.
    pub device: Option<Device>,
    /// Digest of the refresh token, if there is one.
    pub refresh_token_digest: Option<String>,
    /// Whether the access token is there.
    pub has_access_token: bool,
    /// The key of what does not parse. Then nothing is known of the sign-in, which is not to say that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// The tokens of a credential Secret.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// The refresh token of the chain.
    pub refresh_token: Option<SecretString>,
    /// The access token that was got last.
    pub access_token: Option<SecretString>,
    /// The device code in flight.
    pub device_code: Option<SecretString>,
}

/// Understands a credential Secret. Whatever was done to it by hand or by a restore, what can be used is used: a
/// refresh token without a record is a chain of unknown history. A record that does not parse is none of these: see
/// [`Credential::unusable`].
pub fn credential(meta: Meta, data: &BTreeMap<String, Vec<u8>>) -> (Credential, Tokens) {
    let text = |key: &str| {
        let text = std::str::from_utf8(data.get(key)?).ok()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let mut damaged = None;
    let mut record: Record = parsed(data, KEY_RECORD, &mut damaged).unwrap_or_default();
    // Ours are short; it becomes a condition. The note itself stays, or the sign-in would be sent again.
    for rejected in [&mut record.rejected_seed, &mut record.rejected_login].into_iter().flatten() {
        rejected.message.truncate(rejected.message.floor_char_boundary(MAX_MESSAGE));
    }
    let pending = parsed(data, KEY_PENDING, &mut damaged);
    let device: Option<StoredDevice> = parsed(data, KEY_DEVICE, &mut damaged);
    let shown = |stored: &StoredDevice| {
        device_code::can_be_shown(&stored.device.user_code, &stored.device.verification_uri)
    };
    let device = device.filter(shown);
    let (device, device_code) =
        device.map_or((None, None), |stored| (Some(stored.device), stored.device_code));
    let refresh_token = text(KEY_REFRESH_TOKEN);
    let access_token = text(KEY_ACCESS_TOKEN);
    let credential = Credential {
        meta,
        record,
        pending,
        device,
        refresh_token_digest: refresh_token.as_deref().map(seed::digest),
        has_access_token: access_token.is_some(),
        damaged,
    };
    let tokens = Tokens {
        refresh_token: refresh_token.map(SecretString::from),
        access_token: access_token.map(SecretString::from),
        device_code: device_code.map(SecretString::from),
    };
    (credential, tokens)
}

fn parsed<T: DeserializeOwned>(
    data: &BTreeMap<String, Vec<u8>>,
    key: &str,
    damaged: &mut Option<String>,
) -> Option<T> {
    let parsed = serde_json::from_slice(data.get(key)?).ok();
    if parsed.is_none() {
        damaged.get_or_insert_with(|| key.to_owned());
    }
    parsed
}

impl Credential {
    /// Why it is neither to be used nor to be written, if that is so, and what to do about it. What it holds never counts as
    /// absent then: a seed that was used before would be sent again.
    pub fn unusable(&self, graphtoken: &str) -> Option<String> {
        let damaged = |key: &String| {
            let name = credential_name(graphtoken);
            format!(
                "{key} in Secret {name} was written by another version of the operator, or is damaged: nothing is sent until it \
                 can be read. Run the version that wrote it, or restore the Secret from a backup. If neither is possible, \
                 delete the Secret and sign in again: kubectl graphtoken login {graphtoken}"
            )
        };
        foreign(&self.meta, graphtoken).or_else(|| self.damaged.as_ref().map(damaged))
    }

    /// The UID of the `GraphToken` that wrote it last.
    pub fn owner_uid(&self) -> Option<&str> {
        self.meta.annotations.get(ANNOTATION_UID).map(String::as_str)
    }

    /// How long it outlives its `GraphToken`, as the annotation says.
    pub fn retention(&self) -> Option<&str> {
        self.meta.annotations.get(ANNOTATION_RETENTION).map(String::as_str)
    }

    /// Whether it was marked for deletion, its `GraphToken` being gone.
    pub fn marked_for_deletion(&self) -> bool {
        self.meta.annotations.contains_key(ANNOTATION_DELETE_AFTER)
    }
}
