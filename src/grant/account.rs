//! Whose token it is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// OIDC Core section 2: a `sub` has at most 255 ASCII characters. Entra's ids are GUIDs.
const MAX_ID: usize = 255;
/// The bound of `spec.account`.
const MAX_USERNAME: usize = 320;

/// The user that a token speaks for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Entra's object id; at other servers the subject.
    pub object_id: String,
    /// The tenant's GUID, where the provider told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The tenant that the token was issued in, where it is not the user's own: the user is a guest there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_in: Option<String>,
    /// The sign-in name, where the provider told it. Personal data: in Secrets only, never in a log, event or status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("object_id", &self.object_id)
            .field("tenant_id", &self.tenant_id)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// From `client_info`, else from the ID token.
    ///
    /// `client_info` is MSAL's: base64url JSON `{uid, utid}`, the home account. The ID token's signature need not be
    /// checked, for it came from the token endpoint itself (OIDC Core section 3.1.3.7, item 6).
    pub(super) fn of(response: &Map<String, Value>) -> Option<Self> {
        let info = text(response, "client_info").and_then(object).unwrap_or_default();
        let claims = text(response, "id_token").and_then(payload).unwrap_or_default();
        let username = username(&claims);
        let tenant_id = id(&claims, "tid");
        if let Some(object_id) = id(&info, "uid") {
            let home = id(&info, "utid").or_else(|| tenant_id.clone());
            let guest_in = tenant_id.filter(|tenant| home.as_ref() != Some(tenant));
            return Some(Self { object_id, tenant_id: home, guest_in, username });
        }
        if let Some(object_id) = id(&claims, "oid") {
            return Some(Self { object_id, tenant_id, guest_in: None, username });
        }
        // Not Entra: a `tid` there would be something else.
        id(&claims, "sub").map(|object_id| Self { object_id, tenant_id: None, guest_in: None, username })
    }
}

/// `preferred_username` as Entra has it, `upn` as AD FS 2019 has it (`msal/token_cache.py`, `_get_username`).
fn username(claims: &Map<String, Value>) -> Option<String> {
    let usable = |name: &&str| {
        (1..=MAX_USERNAME).contains(&name.chars().count())
            && !name.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    ["preferred_username", "upn"]
        .iter()
        .find_map(|claim| text(claims, claim).filter(usable))
        .map(str::to_owned)
}

/// An id as it may stand in a status: bounded printable ASCII.
fn id(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let usable =
        |id: &&str| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    text(claims, name).filter(usable).map(str::to_owned)
}

/// The claims of a JWT in compact form (RFC 7519 section 3), unchecked.
fn payload(jwt: &str) -> Option<Map<String, Value>> {
    jwt.split('.').nth(1).and_then(object)
}

/// A JSON object in base64url, padded or not.
fn object(encoded: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn text<'a>(object: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    object.get(member).and_then(Value::as_str)
}
