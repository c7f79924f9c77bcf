//! What the simulator knows: applications, users and tokens. Tokens are kept by digest.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use crate::authorize::{AuthorizationCode, Browser};
use crate::client_auth::Assertions;
use crate::clock::millis;
use crate::config::{Client, Config, Rotation, Tenant, User};
use crate::device::{DeviceCode, DeviceFlow};
use crate::fault::Queue;
use crate::journal::Journal;
use crate::random::{self, ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX, digest};

/// See [`default_scopes`].
const DEFAULT_SCOPES: [&str; 2] = ["Mail.ReadWrite", "User.Read"];

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tenant: Tenant,
    pub(crate) settings: Settings,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) users: Vec<User>,
    pub(crate) refresh_tokens: HashMap<String, RefreshToken>,
    pub(crate) access_tokens: HashMap<String, AccessToken>,
    pub(crate) device_codes: HashMap<String, DeviceCode>,
    pub(crate) authorization_codes: HashMap<String, AuthorizationCode>,
    pub(crate) browser: Browser,
    pub(crate) assertions: Assertions,
    pub(crate) faults: Queue,
    pub(crate) journal: Journal,
    pub(crate) default_client: String,
    families: u64,
}

/// What may change while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) token_lifetime: Duration,
    pub(crate) refresh_in: Option<Duration>,
    pub(crate) refresh_token_lifetime: Duration,
    pub(crate) numbers_as_strings: bool,
    pub(crate) rotation: Rotation,
    pub(crate) device: DeviceFlow,
    pub(crate) graph_refuses: bool,
    pub(crate) rs256_assertions: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct RefreshToken {
    pub(crate) client_id: String,
    pub(crate) oid: String,
    pub(crate) scopes: Vec<String>,
    /// All tokens that stem from one sign-in.
    pub(crate) family: u64,
    pub(crate) last_used_ms: u64,
    pub(crate) standing: Standing,
    /// Whether a single-page application signed in: such a token is redeemed in a browser only.
    pub(crate) single_page: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Live,
    /// Used, under strict rotation.
    Spent,
    Revoked,
}

#[derive(Clone, Debug)]
pub(crate) struct AccessToken {
    pub(crate) client_id: String,
    /// The user's object id; `None` is an app-only token.
    pub(crate) oid: Option<String>,
    /// Scopes, or app roles.
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_ms: u64,
    pub(crate) revoked: bool,
}

impl Settings {
    /// A number as answers spell it.
    pub(crate) fn number(&self, number: u64) -> Value {
        if self.numbers_as_strings { json!(number.to_string()) } else { json!(number) }
    }
}

impl State {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            tenant: config.tenant.clone(),
            settings: Settings {
                token_lifetime: config.token_lifetime,
                refresh_in: config.refresh_in,
                refresh_token_lifetime: config.refresh_token_lifetime,
                numbers_as_strings: config.numbers_as_strings,
                rotation: config.rotation,
                device: config.device,
                graph_refuses: false,
                rs256_assertions: config.rs256_assertions,
            },
            clients: config.clients.iter().map(|client| (client.id.clone(), client.clone())).collect(),
            users: config.users.clone(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
            device_codes: HashMap::new(),
            authorization_codes: HashMap::new(),
            browser: Browser::default(),
            assertions: Assertions::default(),
            faults: Queue::default(),
            journal: Journal::default(),
            default_client: config.clients.first().map(|client| client.id.clone()).unwrap_or_default(),
            families: 0,
        }
    }

    /// By object id or principal name.
    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.oid == name || user.upn.eq_ignore_ascii_case(name))
    }

    /// Whether the path's tenant is this one, or any organisation's.
    pub(crate) fn knows_tenant(&self, tenant: &str) -> bool {
        is_multi_tenant(tenant)
            || tenant.eq_ignore_ascii_case(&self.tenant.id)
            || tenant.eq_ignore_ascii_case(&self.tenant.domain)
    }

    /// Records `token` as the first of a new sign-in.
    pub(crate) fn sign_in(&mut self, token: &str, client_id: &str, oid: &str, scopes: &[String], now: u64) {
        self.families += 1;
        let scopes = if scopes.is_empty() { default_scopes() } else { scopes.to_vec() };
        self.refresh_tokens.insert(
            digest(token),
            RefreshToken {
                client_id: client_id.to_owned(),
                oid: oid.to_owned(),
                scopes,
                family: self.families,
                last_used_ms: now,
                standing: Standing::Live,
                single_page: false,
            },
        );
    }

    /// A new refresh token of the same sign-in.
    pub(crate) fn successor(&mut self, of: &RefreshToken, now: u64) -> String {
        let token = new_refresh_token();
        let record = RefreshToken { last_used_ms: now, standing: Standing::Live, ..of.clone() };
        self.refresh_tokens.insert(digest(&token), record);
        token
    }

    /// A new access token.
    pub(crate) fn access_token(
        &mut self,
        client_id: &str,
        oid: Option<&str>,
        scopes: &[String],
        now: u64,
    ) -> String {
        let token = random::token(ACCESS_TOKEN_PREFIX);
        let record = AccessToken {
            client_id: client_id.to_owned(),
            oid: oid.map(str::to_owned),
            scopes: scopes.to_vec(),
            expires_ms: now.saturating_add(millis(self.settings.token_lifetime)),
            revoked: false,
        };
        self.access_tokens.insert(digest(&token), record);
        token
    }

    pub(crate) fn revoke_family(&mut self, family: u64) {
        for token in self.refresh_tokens.values_mut().filter(|token| token.family == family) {
            token.standing = Standing::Revoked;
        }
    }
}

/// What a sign-in is for, when nothing else is said.
pub(crate) fn default_scopes() -> Vec<String> {
    DEFAULT_SCOPES.map(str::to_owned).to_vec()
}

/// Tenants in a path that name no directory.
pub(crate) fn is_multi_tenant(tenant: &str) -> bool {
    matches!(tenant, "common" | "organizations")
}

pub(crate) fn new_refresh_token() -> String {
    random::token(REFRESH_TOKEN_PREFIX)
}
