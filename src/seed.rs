//! A seed: the refresh token that a sign-in elsewhere left behind, in whichever shape its program stored it.
//!
//! The shapes are told apart by content: a bare refresh token, a python-o365 2.0 token file or any other JSON with
//! `refresh_token` (Go oauth2), a python-o365 2.1 token file, which is an MSAL token cache. Nothing of a seed's content
//! is ever in an error.

use std::fmt::Write as _;

use secrecy::SecretString;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

#[cfg(test)]
mod tests;

/// No token file of one client comes near it; a bigger one is some other file.
const MAX_SIZE: usize = 256 * 1024;
/// Entra's refresh tokens have 1–2 KB; a form with a longer one is refused by common servers.
const MAX_TOKEN: usize = 64 * 1024;
/// How many client ids an error lists.
const MAX_LISTED: usize = 5;

/// Members by which a token file of python-o365 or MSAL is known, though it holds no refresh token.
const TOKEN_FILE_MEMBERS: [&str; 6] =
    ["refresh_token", "access_token", "RefreshToken", "AccessToken", "Account", "AppMetadata"];
/// What `jq -r .refresh_token` and its like print when there is none.
const PRINTED_NOTHING: [&str; 3] = ["null", "None", "undefined"];

/// A refresh token to start from.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The refresh token.
    pub refresh_token: SecretString,
    /// [`digest`] of the refresh token, by which a seed is recognised without keeping it.
    pub digest: String,
}

/// Why there is no refresh token in a seed. Says what to do; never says what the seed holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Nothing, or only white space.
    #[error("the seed is empty: put a refresh token or a whole token file there")]
    Empty,
    /// Too many bytes for a seed.
    #[error(
        "the seed has {size} bytes and at most {limit} are read: put only the refresh token or the token file there"
    )]
    TooLarge {
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The refresh token itself is too long.
    #[error(
        "the seed's refresh token has {size} bytes and at most {limit} are accepted: put the token there again"
    )]
    TokenTooLarge {
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the seed is not UTF-8 text: store it as UTF-8 (Windows PowerShell's > writes UTF-16)")]
    NotText,
    /// It begins like JSON and is none.
    #[error(
        "the seed begins like JSON but is not, at line {line}, column {column}: store the whole token file again, or \
         the refresh token alone"
    )]
    MalformedJson {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// A word was expected and something else found.
    #[error(
        "the seed's refresh token has spaces, line breaks or other characters in it that no refresh token has: put the \
         token alone there, or the whole token file as JSON"
    )]
    NotAToken,
    /// JSON of an unknown shape.
    #[error("the seed is JSON but no token file: it has neither refresh_token nor RefreshToken")]
    NotATokenFile,
    /// A token file without a refresh token.
    #[error(
        "the seed has no refresh token in it: the app that signs in must ask for the scope offline_access; sign in \
         again with it"
    )]
    NoRefreshToken,
    /// An MSAL cache with refresh tokens for other clients only.
    #[error(
        "the seed has refresh tokens for client {} and none for {wanted}: a refresh token works only for the client \
         that signed in, so sign in with this client or change clientId", found.join(", ")
    )]
    OtherClient {
        /// The client id of the spec.
        wanted: String,
        /// Client ids in the file.
        found: Vec<String>,
    },
}

/// Finds the refresh token of `client_id` in a seed.
pub fn parse(bytes: &[u8], client_id: &str) -> Result<Seed, SeedError> {
    if bytes.len() > MAX_SIZE {
        return Err(SeedError::TooLarge { size: bytes.len(), limit: MAX_SIZE });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SeedError::NotText)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(SeedError::Empty);
    }
    // A damaged token file must not be sent to a provider as if it were a token.
    if text.starts_with(['{', '[', '"']) { from_json(text, client_id) } else { from_token(text) }
}

/// Lowercase hex SHA-256 of a refresh token.
pub fn digest(refresh_token: &str) -> String {
    hex(&Sha256::digest(refresh_token))
}

/// Lowercase hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 6749 appendix A.17 allows a space as well, but none is issued, and here it is a sign of pasting too much.
fn from_token(text: &str) -> Result<Seed, SeedError> {
    let token = text.trim();
    if PRINTED_NOTHING.contains(&token) || token.is_empty() {
        return Err(SeedError::NoRefreshToken);
    }
    if token.len() > MAX_TOKEN {
        return Err(SeedError::TokenTooLarge { size: token.len(), limit: MAX_TOKEN });
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SeedError::NotAToken);
    }
    Ok(Seed { refresh_token: token.into(), digest: digest(token) })
}

fn from_json(text: &str, client_id: &str) -> Result<Seed, SeedError> {
    let document: Value = serde_json::from_str(text)
        .map_err(|error| SeedError::MalformedJson { line: error.line(), column: error.column() })?;
    let file = document.as_object().ok_or(SeedError::NotATokenFile)?;
    if let Some(token) = string(file, "refresh_token") {
        return from_token(token);
    }
    if let Some(entries) = file.get("RefreshToken").and_then(Value::as_object) {
        return from_token(from_msal(entries, client_id)?);
    }
    let known = TOKEN_FILE_MEMBERS.iter().any(|member| file.contains_key(*member));
    Err(if known { SeedError::NoRefreshToken } else { SeedError::NotATokenFile })
}

/// An MSAL cache may hold several refresh tokens: those of other clients, and older ones of other accounts
/// (Microsoft: "Unified schema" of the MSAL libraries' caches; `msal/token_cache.py`).
fn from_msal<'a>(entries: &'a Map<String, Value>, client_id: &str) -> Result<&'a str, SeedError> {
    let entries: Vec<_> = entries
        .values()
        .filter_map(Value::as_object)
        .filter_map(|entry| Some((entry, string(entry, "secret")?)))
        .collect();
    if entries.is_empty() {
        return Err(SeedError::NoRefreshToken);
    }
    // GUIDs are written in either case. A family's refresh token (`family_id`) might work for another client of
    // Microsoft's own, but those are nobody's client here.
    let ours = |entry: &Map<String, Value>| {
        string(entry, "client_id").is_some_and(|id| id.eq_ignore_ascii_case(client_id))
    };
    entries
        .iter()
        .filter(|(entry, _)| ours(entry))
        .max_by(|(one, _), (other, _)| modified(one).total_cmp(&modified(other)))
        .map(|(_, secret)| *secret)
        .ok_or_else(|| SeedError::OtherClient {
            wanted: client_id.to_owned(),
            found: clients(entries.iter().map(|(entry, _)| *entry)),
        })
}

/// When an entry was written; entries that do not say are the oldest.
fn modified(entry: &Map<String, Value>) -> f64 {
    let time = entry.get("last_modification_time");
    let seconds = match time {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_f64(),
        None => None,
    };
    seconds.filter(|seconds| seconds.is_finite()).unwrap_or(f64::NEG_INFINITY)
}

/// The client ids of entries for an error: bounded, and only what can be a client id.
fn clients<'a>(entries: impl Iterator<Item = &'a Map<String, Value>>) -> Vec<String> {
    let mut ids: Vec<_> = entries
        .map(|entry| {
            string(entry, "client_id").filter(|id| is_client_id(id)).unwrap_or("(unnamed)").to_owned()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MAX_LISTED);
    ids
}

/// The pattern of `spec.clientId`.
fn is_client_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

fn string<'a>(object: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    object.get(member).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}
