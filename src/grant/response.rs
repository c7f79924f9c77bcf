//! What a token endpoint answered → what came of the exchange (RFC 6749 section 5.1; numbers may be strings at Entra).

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::{Account, GrantKind, TokenRequest};
use crate::failure::{self, Answer, Failure};

#[cfg(test)]
mod tests;

/// The longest token that is taken.
const MAX_TOKEN: usize = 64 * 1024;
/// The life of a token whose provider does not tell it.
const DEFAULT_LIFE: Duration = Duration::from_hours(1);
/// No longer than this is believed.
const MAX_LIFE: Duration = Duration::from_hours(7 * 24);
/// The bounds of `status.grantedScopes`.
const MAX_SCOPES: usize = 128;
const MAX_SCOPE: usize = 256;

/// What came of an exchange.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A usable access token.
    Issued(Box<Issued>),
    /// A refusal, or no answer.
    Refused(Failure),
    /// The user of a device code has not decided yet (RFC 8628 section 3.5).
    Pending {
        /// Whether to poll less often from now on.
        slow_down: bool,
    },
    /// A success by its status whose access token cannot be used. The refresh token that was sent may be spent all the
    /// same, so `rotated` is committed before anything else.
    Unusable {
        /// What is wrong.
        failure: Failure,
        /// The refresh token that replaces the one sent.
        rotated: Option<SecretString>,
        /// Whose it is.
        account: Option<Account>,
    },
}

/// An access token and what came with it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The access token.
    pub access_token: SecretString,
    /// `Bearer`, spelled as in RFC 6750 whatever the provider's spelling.
    pub token_type: String,
    /// How long it lives, from the moment the request was sent.
    pub expires_in: Duration,
    /// When the provider would have it refreshed; always within the life.
    pub refresh_in: Option<Duration>,
    /// The scopes granted, as the provider spelled them. Empty: those asked for (RFC 6749 section 5.1).
    pub granted_scopes: Vec<String>,
    /// The refresh token that replaces the one sent; without one, the old stays.
    pub refresh_token: Option<SecretString>,
    /// Whose token it is, where a user signed in and the provider told it.
    pub account: Option<Account>,
    /// What was odd about it.
    pub warnings: Vec<Warning>,
}

/// Something odd about an answer that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// `expires_in` is missing.
    NoLife,
    /// `expires_in` is beyond belief.
    LifeCapped,
    /// Some of `scope` could not be used.
    ScopesDropped,
    /// `refresh_token` could not be used.
    RefreshTokenDropped,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLife => "the token endpoint did not say how long the token lives; one hour is assumed",
            Self::LifeCapped => {
                "the token endpoint gave the token a life of more than seven days; seven days are assumed"
            }
            Self::ScopesDropped => {
                "the token endpoint granted scopes that are malformed or too many; they are left out"
            }
            Self::RefreshTokenDropped => {
                "the token endpoint sent a refresh token that is too long; the old one is kept"
            }
        })
    }
}

/// Reads an answer. `now` is only for a Retry-After that is a date.
pub fn read(grant: GrantKind, answer: &Answer<'_>, now: Timestamp) -> Outcome {
    if !answer.is_success() {
        if let Some(slow_down) = failure::keeps_waiting(grant, answer) {
            return Outcome::Pending { slow_down };
        }
        return Outcome::Refused(failure::classify(grant, answer, now));
    }
    let body = answer.object().unwrap_or_default();
    match issued(grant, &body) {
        Ok(issued) => Outcome::Issued(Box::new(issued)),
        Err(why) => Outcome::Unusable {
            failure: failure::unusable(grant, answer, why, now),
            rotated: refresh_token(grant, &body).ok().flatten(),
            account: account(grant, &body),
        },
    }
}

impl Outcome {
    /// Takes back what a provider might have echoed of our request: see [`Failure::masked`].
    #[must_use]
    pub fn masked(self, request: &TokenRequest) -> Self {
        match self {
            Self::Issued(mut issued) => {
                issued.mask(request);
                Self::Issued(issued)
            }
            Self::Pending { .. } => self,
            Self::Refused(failure) => Self::Refused(failure.masked(request.secrets())),
            Self::Unusable { failure, rotated, account } => {
                let secrets = request.secrets().chain(&rotated);
                Self::Unusable { failure: failure.masked(secrets), rotated, account }
            }
        }
    }
}

impl Issued {
    /// Scopes and ids are shown in the status, where secrets have no place.
    fn mask(&mut self, request: &TokenRequest) {
        let secrets = request.secrets().chain([&self.access_token]).chain(&self.refresh_token);
        let secrets: Vec<&str> = secrets.map(ExposeSecret::expose_secret).collect();
        let shows = |text: &String| secrets.iter().any(|secret| failure::shows(text, secret));
        let before = self.granted_scopes.len();
        self.granted_scopes.retain(|scope| !shows(scope));
        if self.granted_scopes.len() < before && !self.warnings.contains(&Warning::ScopesDropped) {
            self.warnings.push(Warning::ScopesDropped);
        }
        let ids = |account: &Account| {
            shows(&account.object_id) || account.tenant_id.iter().chain(&account.guest_in).any(shows)
        };
        if self.account.as_ref().is_some_and(ids) {
            self.account = None;
        }
    }
}

fn issued(grant: GrantKind, body: &Map<String, Value>) -> Result<Issued, &'static str> {
    let access_token = access_token(body)?;
    let token_type = token_type(body)?;
    let mut warnings = Vec::new();
    let expires_in = life(body, &mut warnings)?;
    let refresh_token = refresh_token(grant, body).unwrap_or_else(|warning| {
        warnings.push(warning);
        None
    });
    Ok(Issued {
        access_token,
        token_type,
        expires_in,
        refresh_in: seconds(body.get("refresh_in")).filter(|at| !at.is_zero() && *at < expires_in),
        granted_scopes: granted_scopes(body, &mut warnings),
        refresh_token,
        account: account(grant, body),
        warnings,
    })
}

/// An access token as it can stand in a header (RFC 6750 section 2.1).
fn access_token(body: &Map<String, Value>) -> Result<SecretString, &'static str> {
    usable_token(body.get("access_token")).ok_or("no usable access_token is in it")
}

/// One word of printable characters.
pub(super) fn usable_token(value: Option<&Value>) -> Option<SecretString> {
    let usable = |token: &&str| {
        (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    value.and_then(Value::as_str).filter(usable).map(SecretString::from)
}

fn token_type(body: &Map<String, Value>) -> Result<String, &'static str> {
    match body.get("token_type") {
        None | Some(Value::Null) => Ok("Bearer".to_owned()),
        // Pods get one spelling: the type is case-insensitive for us (RFC 6749 section 5.1), but not for every reader.
        Some(Value::String(name)) if name.eq_ignore_ascii_case("bearer") => Ok("Bearer".to_owned()),
        Some(_) => Err("its token_type is not Bearer"),
    }
}

fn life(body: &Map<String, Value>, warnings: &mut Vec<Warning>) -> Result<Duration, &'static str> {
    let told = match body.get("expires_in") {
        None | Some(Value::Null) => {
            warnings.push(Warning::NoLife);
            return Ok(DEFAULT_LIFE);
        }
        told => {
            seconds(told).filter(|life| !life.is_zero()).ok_or("its expires_in is not a positive number")?
        }
    };
    if told > MAX_LIFE {
        warnings.push(Warning::LifeCapped);
    }
    Ok(told.min(MAX_LIFE))
}

/// Seconds, as a number or a string of one. Anything beyond a `Duration` is as good as its greatest.
pub(super) fn seconds(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => failure::decimal(text)?,
        _ => return None,
    };
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Scope tokens (RFC 6749 section 3.3), in their order, without doubles.
fn granted_scopes(body: &Map<String, Value>, warnings: &mut Vec<Warning>) -> Vec<String> {
    let text = body.get("scope").and_then(Value::as_str).unwrap_or_default();
    let mut scopes: Vec<String> = Vec::new();
    let mut dropped = false;
    for scope in text.split_ascii_whitespace() {
        if scopes.iter().any(|known| known == scope) {
            continue;
        }
        if scopes.len() < MAX_SCOPES && is_scope(scope) {
            scopes.push(scope.to_owned());
        } else {
            dropped = true;
        }
    }
    if dropped {
        warnings.push(Warning::ScopesDropped);
    }
    scopes
}

fn is_scope(text: &str) -> bool {
    text.len() <= MAX_SCOPE
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

/// Taken as it is: whatever its characters, it may be the only one that still works. Only one that no Secret could hold
/// is left. An app has none: it needs none (RFC 6749 section 4.4.3).
fn refresh_token(grant: GrantKind, body: &Map<String, Value>) -> Result<Option<SecretString>, Warning> {
    let token = body.get("refresh_token").and_then(Value::as_str).unwrap_or_default();
    if !grant.is_delegated() || token.trim().is_empty() {
        return Ok(None);
    }
    if token.len() > MAX_TOKEN {
        return Err(Warning::RefreshTokenDropped);
    }
    Ok(Some(token.into()))
}

fn account(grant: GrantKind, body: &Map<String, Value>) -> Option<Account> {
    grant.is_delegated().then(|| Account::of(body)).flatten()
}
