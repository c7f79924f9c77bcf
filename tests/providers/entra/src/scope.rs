//! The `scope` parameter.

use crate::refusal::Refusal;

const DEFAULT: &str = ".default";
const OFFLINE_ACCESS: &str = "offline_access";
const OPENID: &str = "openid";

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    /// The resource's scopes, spelled as asked.
    pub(crate) named: Vec<String>,
    /// The prefix of a `.default`, spelled as asked.
    pub(crate) default_of: Option<String>,
    /// `openid`, `profile`, `email`: answered as asked.
    pub(crate) identity: Vec<String>,
    /// Whether a refresh token is wanted.
    pub(crate) offline_access: bool,
}

impl Scopes {
    /// Without a `scope` everything of the sign-in is meant, a refresh token included.
    pub(crate) fn parse(parameter: Option<&str>) -> Result<Self, Refusal> {
        let Some(text) = parameter else {
            return Ok(Self { offline_access: true, ..Self::default() });
        };
        let mut scopes = Self::default();
        for scope in text.split_ascii_whitespace() {
            match scope {
                OFFLINE_ACCESS => scopes.offline_access = true,
                OPENID | "profile" | "email" => scopes.identity.push(scope.to_owned()),
                _ => match scope.strip_suffix(DEFAULT) {
                    Some(prefix) => scopes.default_of = Some(prefix.to_owned()),
                    None => scopes.named.push(scope.to_owned()),
                },
            }
        }
        if scopes.default_of.is_some() && !scopes.named.is_empty() {
            return Err(Refusal::default_mixed_with_named(text));
        }
        Ok(scopes)
    }

    pub(crate) fn openid(&self) -> bool {
        self.identity.iter().any(|scope| scope == OPENID)
    }
}

/// A scope's name without its resource: every cloud has a Graph of its own.
pub(crate) fn short_name(scope: &str) -> &str {
    scope.rsplit('/').next().unwrap_or(scope)
}
