//! A token → the bytes of each key of the target. There is never a refresh token in them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::api::spec::{DataEntry, Format};
use crate::grant::Account;
use crate::seed::hex;

#[cfg(test)]
mod tests;

/// The token to render, and all that the formats tell of it.
#[derive(Debug, Clone, Copy)]
pub struct TokenView<'a> {
    /// The access token.
    pub access_token: &'a SecretString,
    /// How it is presented: `Bearer`.
    pub token_type: &'a str,
    /// When it was asked for.
    pub issued_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The scopes granted, as the provider spelled them; where it did not say, those asked for.
    pub granted_scopes: &'a [String],
    /// The client that got it.
    pub client_id: &'a str,
    /// The tenant that issued it: its GUID, for MSAL looks for nothing else.
    pub tenant_id: &'a str,
    /// Whose it is.
    pub account: Option<&'a Account>,
    /// Host of the authority, for example login.microsoftonline.com.
    pub environment: &'a str,
    /// Whether no user signed in.
    pub app_only: bool,
}

/// The data of the target: key → bytes.
pub fn render(entries: &[DataEntry], token: &TokenView<'_>) -> BTreeMap<String, Vec<u8>> {
    entries.iter().map(|entry| (entry.key.clone(), render_one(entry.format, token))).collect()
}

/// The access token in rendered data.
pub fn access_token(entries: &[DataEntry], data: &BTreeMap<String, Vec<u8>>) -> Option<SecretString> {
    entries.iter().find_map(|entry| {
        let bytes = data.get(&entry.key)?;
        let text = match entry.format {
            Format::AccessToken => String::from_utf8(bytes.clone()).ok()?,
            Format::O365 => {
                let cache: serde_json::Value = serde_json::from_slice(bytes).ok()?;
                let token = cache.get("AccessToken")?.as_object()?.values().next()?;
                token.get("secret")?.as_str()?.to_owned()
            }
        };
        Some(text.into())
    })
}

/// Lowercase hex SHA-256 of rendered data: tells whether somebody changed it, without keeping it.
pub fn content_digest(data: &BTreeMap<String, Vec<u8>>) -> String {
    digest(data.iter().flat_map(|(key, value)| [key.as_bytes(), value]))
}

/// Lowercase hex SHA-256 of which keys are written how: a change of it is worth rendering again. The entries' order
/// does not count, as in a list-map.
pub fn layout_digest(entries: &[DataEntry]) -> String {
    let mut entries: Vec<_> = entries.iter().map(json).collect();
    entries.sort_unstable();
    digest(entries.iter().map(Vec::as_slice))
}

/// Lengths go in front, so that no two lists look alike.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn render_one(format: Format, token: &TokenView<'_>) -> Vec<u8> {
    match format {
        // No newline: python-requests refuses a header with one in it.
        Format::AccessToken => token.access_token.expose_secret().as_bytes().to_vec(),
        Format::O365 => o365(token),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings in structs and in maps by string always serialize")
}

/// An MSAL token cache as python-o365 2.1 reads it (`msal/token_cache.py`, `O365/utils/token.py`). One access token a
/// file, for with two python-o365 takes the first.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MsalCache<'a> {
    access_token: BTreeMap<String, MsalAccessToken<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<BTreeMap<String, MsalAccount<'a>>>,
    app_metadata: BTreeMap<String, MsalAppMetadata<'a>>,
}

#[derive(Serialize)]
struct MsalAccessToken<'a> {
    /// MSAL asserts it when it drops an expired token.
    credential_type: &'static str,
    secret: &'a str,
    /// `null` has to be there for an app: absent or empty makes MSAL miss.
    home_account_id: Option<&'a str>,
    environment: &'a str,
    client_id: &'a str,
    target: &'a str,
    realm: &'a str,
    token_type: &'a str,
    cached_at: String,
    expires_on: String,
    extended_expires_on: String,
}

#[derive(Serialize)]
struct MsalAccount<'a> {
    home_account_id: &'a str,
    environment: &'a str,
    realm: &'a str,
    local_account_id: &'a str,
    /// Empty where it is unknown, as MSAL itself writes it: `null` or none makes its `get_accounts(username)` fail.
    username: &'a str,
    authority_type: &'static str,
}

#[derive(Serialize)]
struct MsalAppMetadata<'a> {
    client_id: &'a str,
    environment: &'a str,
}

/// Keys are composed and lowercased as MSAL composes them, except `AppMetadata`'s; values keep their case.
fn o365(token: &TokenView<'_>) -> Vec<u8> {
    let TokenView { client_id, tenant_id: realm, .. } = *token;
    let user = token.account.filter(|_| !token.app_only);
    let home = user.map(|user| home_account_id(user, realm));
    let home_account_id = home.as_deref();
    // MSAL lowercases what it looks for, not what it reads.
    let environment = &token.environment.to_ascii_lowercase();
    let target = &target(token.granted_scopes);
    let access_token = MsalAccessToken {
        credential_type: "AccessToken",
        secret: token.access_token.expose_secret(),
        home_account_id,
        environment,
        client_id,
        target,
        realm,
        token_type: token.token_type,
        cached_at: epoch(token.issued_at),
        expires_on: epoch(token.expires_at),
        extended_expires_on: epoch(token.expires_at),
    };
    let account = user.zip(home_account_id).map(|(user, home_account_id)| MsalAccount {
        home_account_id,
        environment,
        realm,
        local_account_id: &user.object_id,
        username: user.username.as_deref().unwrap_or_default(),
        authority_type: "MSSTS",
    });
    let home = home_account_id.unwrap_or_default();
    json(&MsalCache {
        access_token: only(key(&[home, environment, "accesstoken", client_id, realm, target]), access_token),
        account: account.map(|account| only(key(&[home, environment, realm]), account)),
        app_metadata: only(
            format!("appmetadata-{environment}-{client_id}"),
            MsalAppMetadata { client_id, environment },
        ),
    })
}

/// `<uid>.<utid>`. A server that tells no tenant has but one.
fn home_account_id(user: &Account, realm: &str) -> String {
    format!("{}.{}", user.object_id, user.tenant_id.as_deref().unwrap_or(realm))
}

/// MSAL looks scopes up sorted by code point.
fn target(scopes: &[String]) -> String {
    let mut scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    scopes.sort_unstable();
    scopes.join(" ")
}

fn key(parts: &[&str]) -> String {
    parts.join("-").to_lowercase()
}

fn only<T>(key: String, value: T) -> BTreeMap<String, T> {
    BTreeMap::from([(key, value)])
}

/// Whole seconds since the Unix epoch, as a string: MSAL's schema wants it so.
fn epoch(at: Timestamp) -> String {
    at.as_second().to_string()
}
