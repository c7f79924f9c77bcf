//! The grants: one file each makes the form of a token request; [`response`] reads what comes back.

use std::fmt;

use secrecy::SecretString;

pub mod account;
#[cfg(feature = "operator")]
pub mod assertion;
pub mod authorization_code;
pub mod client_credentials;
pub mod device_code;
pub mod refresh_token;
pub mod response;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use response::{Issued, Outcome, Warning, read};

/// Form parameters whose values are secrets of ours.
const SECRET_PARAMETERS: [&str; 6] =
    ["refresh_token", "device_code", "code", "code_verifier", "client_secret", "client_assertion"];

/// `client_assertion_type` (RFC 7523 section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How a token is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantKind {
    /// A user signed in elsewhere; the refresh token is exchanged.
    RefreshToken,
    /// A user enters a code (RFC 8628); afterwards the refresh token is exchanged.
    DeviceCode,
    /// The app itself, without a user.
    ClientCredentials,
}

impl GrantKind {
    /// `grant_type` on the wire.
    pub const fn grant_type(self) -> &'static str {
        match self {
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::RefreshToken | Self::ClientCredentials => self.as_str(),
        }
    }

    /// The metrics' label: the name in RFC 6749, or a short one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::DeviceCode => "device_code",
            Self::ClientCredentials => "client_credentials",
        }
    }

    /// The member of `spec.grant`.
    pub const fn spec_name(self) -> &'static str {
        match self {
            Self::RefreshToken => "refreshToken",
            Self::DeviceCode => "deviceCode",
            Self::ClientCredentials => "clientCredentials",
        }
    }

    /// Whether the token speaks for a user.
    pub const fn is_delegated(self) -> bool {
        match self {
            Self::RefreshToken | Self::DeviceCode => true,
            Self::ClientCredentials => false,
        }
    }
}

/// How the client proves who it is, in one request. It is no copy: an assertion is sent once.
#[derive(Debug)]
pub enum Proof<'a> {
    /// Not at all: a public client.
    Public,
    /// By a client secret in the form (RFC 6749 section 2.3.1).
    Secret(&'a SecretString),
    /// By a signed assertion (RFC 7523 section 2.2).
    Assertion(SecretString),
}

/// The form of a token request, in the order it is sent. `Debug` shows the parameters' names only.
#[derive(Clone)]
pub struct TokenRequest {
    /// Names and values, not yet encoded.
    pub form: Vec<(&'static str, SecretString)>,
}

impl TokenRequest {
    fn new(client_id: &str, grant: GrantKind) -> Self {
        Self { form: Vec::new() }.with("client_id", client_id).with("grant_type", grant.grant_type())
    }

    fn with(mut self, name: &'static str, value: impl Into<SecretString>) -> Self {
        self.form.push((name, value.into()));
        self
    }

    /// Adds the scopes (RFC 6749 section 3.3). A request without any leaves the parameter out: it may not be empty.
    fn with_scopes(self, scopes: &[String]) -> Self {
        if scopes.is_empty() { self } else { self.with("scope", scopes.join(" ")) }
    }

    fn with_proof(self, proof: Proof<'_>) -> Self {
        match proof {
            Proof::Public => self,
            Proof::Secret(secret) => self.with("client_secret", secret.clone()),
            Proof::Assertion(assertion) => {
                self.with("client_assertion_type", JWT_BEARER).with("client_assertion", assertion)
            }
        }
    }

    /// What must not come back in anything that people see.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.form.iter().filter(|(name, _)| SECRET_PARAMETERS.contains(name)).map(|(_, value)| value)
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.form.iter().map(|(name, _)| name)).finish()
    }
}
