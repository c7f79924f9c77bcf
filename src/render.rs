//! A token → the bytes of each key of the target. A refresh token is in them only where the spec asks for that.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::api::spec::{DataEntry, Format};
use crate::grant::Account;
use crate::seed::hex;

mod o365;
pub mod template;

use template::TemplateError;

/// The most that a Secret may hold (`MaxSecretSize` of the Kubernetes API).
pub const MAX_BYTES: usize = 1024 * 1024;

/// The token to render, and all that the formats tell of it.
#[derive(Debug, Clone, Copy)]
pub struct TokenView<'a> {
    /// The access token.
    pub access_token: &'a SecretString,
    /// The refresh token, where pods are to have it.
    pub refresh_token: Option<&'a SecretString>,
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

/// Why a token cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// A template is at fault.
    #[error("spec.target.data, key {key}: template {error}")]
    Template {
        /// The key.
        key: String,
        /// What is wrong with it, and where.
        error: TemplateError,
    },
    /// All keys together are more than a Secret may hold.
    #[error(
        "spec.target.data: what is to be written is larger than the 1 MiB that a Secret may hold; write fewer keys, or less in a template"
    )]
    TooLarge,
}

/// The data of the target: key → bytes.
pub fn render(
    entries: &[DataEntry],
    token: &TokenView<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, RenderError> {
    let mut data = BTreeMap::new();
    let mut left = MAX_BYTES;
    for entry in entries {
        let bytes = match (entry.format, &entry.template) {
            (Some(format), _) => render_format(format, token),
            (None, Some(source)) => template::render(source, token, left)
                .map_err(|error| RenderError::Template { key: entry.key.clone(), error })?
                .ok_or(RenderError::TooLarge)?,
            // `Desired` has no such entry.
            (None, None) => continue,
        };
        left = left.checked_sub(bytes.len()).ok_or(RenderError::TooLarge)?;
        data.insert(entry.key.clone(), bytes);
    }
    Ok(data)
}

/// The access token in rendered data, where a format of ours tells it.
pub fn access_token(entries: &[DataEntry], data: &BTreeMap<String, Vec<u8>>) -> Option<SecretString> {
    entries.iter().find_map(|entry| {
        let bytes = data.get(&entry.key)?;
        let json = || serde_json::from_slice::<serde_json::Value>(bytes).ok();
        let text = match entry.format? {
            Format::AccessToken => String::from_utf8(bytes.clone()).ok()?,
            Format::O365 => {
                let cache = json()?;
                let token = cache.get("AccessToken")?.as_object()?.values().next()?;
                token.get("secret")?.as_str()?.to_owned()
            }
            Format::OAuth2 => json()?.get("access_token")?.as_str()?.to_owned(),
            Format::AuthorizationHeader => {
                std::str::from_utf8(bytes).ok()?.trim_end().rsplit_once(' ')?.1.to_owned()
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
pub fn layout_digest(entries: &[DataEntry], with_refresh_token: bool) -> String {
    let mut entries: Vec<_> = entries.iter().map(json).collect();
    entries.sort_unstable();
    let refresh_token = with_refresh_token.then_some(&b"refresh token"[..]);
    digest(entries.iter().map(Vec::as_slice).chain(refresh_token))
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

fn render_format(format: Format, token: &TokenView<'_>) -> Vec<u8> {
    let access_token = token.access_token.expose_secret();
    match format {
        // No newline: python-requests refuses a header with one in it.
        Format::AccessToken => access_token.as_bytes().to_vec(),
        Format::O365 => o365::o365(token),
        Format::OAuth2 => oauth2(token),
        Format::AuthorizationHeader => {
            format!("Authorization: {} {access_token}\n", token.token_type).into_bytes()
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings in structs and in maps by string always serialize")
}

/// One object for many readers: Go's oauth2 and rclone take `expiry`, python-o365 2.0 a numeric `expires_at`. No
/// `expires_in`, which Go's oauth2 takes for no end at all and python-o365 counts from when it reads it.
#[derive(Serialize)]
struct OAuth2Token<'a> {
    access_token: &'a str,
    token_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    expiry: String,
    expires_at: i64,
    scope: String,
}

fn oauth2(token: &TokenView<'_>) -> Vec<u8> {
    json(&OAuth2Token {
        access_token: token.access_token.expose_secret(),
        token_type: token.token_type,
        refresh_token: token.refresh_token.map(ExposeSecret::expose_secret),
        expiry: rfc3339(token.expires_at),
        expires_at: token.expires_at.as_second(),
        scope: token.granted_scopes.join(" "),
    })
}

/// In whole seconds, as every reader takes it.
fn rfc3339(at: Timestamp) -> String {
    crate::api::Time::from(at).to_string()
}

#[cfg(test)]
mod tests;
