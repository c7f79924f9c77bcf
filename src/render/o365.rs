//! The O365 file: an MSAL token cache.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{TokenView, json};
use crate::grant::Account;

/// An MSAL token cache as python-o365 2.1 reads it (`msal/token_cache.py`, `O365/utils/token.py`). One access token a
/// file, for with two python-o365 takes the first.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MsalCache<'a> {
    access_token: BTreeMap<String, MsalAccessToken<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<BTreeMap<String, MsalAccount<'a>>>,
    app_metadata: BTreeMap<String, MsalAppMetadata<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<BTreeMap<String, MsalRefreshToken<'a>>>,
}

#[derive(Serialize)]
struct MsalRefreshToken<'a> {
    credential_type: &'static str,
    secret: &'a str,
    home_account_id: Option<&'a str>,
    environment: &'a str,
    client_id: &'a str,
    target: &'a str,
    last_modification_time: String,
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
pub(super) fn o365(token: &TokenView<'_>) -> Vec<u8> {
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
    let refresh_token = token.refresh_token.map(|refresh_token| {
        let entry = MsalRefreshToken {
            credential_type: "RefreshToken",
            secret: refresh_token.expose_secret(),
            home_account_id,
            environment,
            client_id,
            target,
            last_modification_time: epoch(token.issued_at),
        };
        // It is good in every tenant: the realm's place is empty.
        only(key(&[home, environment, "refreshtoken", client_id, "", target]), entry)
    });
    json(&MsalCache {
        access_token: only(key(&[home, environment, "accesstoken", client_id, realm, target]), access_token),
        account: account.map(|account| only(key(&[home, environment, realm]), account)),
        app_metadata: only(
            format!("appmetadata-{environment}-{client_id}"),
            MsalAppMetadata { client_id, environment },
        ),
        refresh_token,
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
