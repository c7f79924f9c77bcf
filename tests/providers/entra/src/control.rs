//! The controls: what a test arranges beforehand and asks afterwards.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Client, Config, Rotation, Tenant, User};
use crate::fault::Fault;
use crate::journal::Journal;
use crate::random::digest;
use crate::state::{Standing, State, new_refresh_token};

/// A handle to a running simulator's state. Clones share it, and do not keep the server alive.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    clock: Clock,
    addr: SocketAddr,
    scheme: &'static str,
    /// Tells those who wait that the journal may have changed.
    changed: watch::Sender<()>,
}

/// A name that the simulator does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// No such application.
    Client,
    /// No such user.
    User,
    /// No such token.
    Token,
    /// No such device code in flight.
    DeviceCode,
}

/// What is known of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessTokenInfo {
    /// Neither expired nor revoked.
    pub active: bool,
    /// Seconds left; 0 when it is not active.
    pub remaining_seconds: u64,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: u64,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whom it was issued to.
    pub client_id: String,
    /// The user's object id; `None` for an app-only token.
    pub oid: Option<String>,
    /// Scopes or application permissions.
    pub scopes: Vec<String>,
}

impl Control {
    pub(crate) fn new(config: &Config, addr: SocketAddr) -> Self {
        let state = Mutex::new(State::new(config));
        let clock = config.clock.clone();
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        Self { shared: Arc::new(Shared { state, clock, addr, scheme, changed: watch::Sender::new(()) }) }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// Runs `change` on the state, and wakes whoever waits for a change.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.send_replace(());
        result
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Its address as a URL, without a slash at the end. Serves as authority and as Graph endpoint.
    pub fn url(&self) -> String {
        format!("{}://{}", self.shared.scheme, self.shared.addr)
    }

    /// Its address as the client wrote it.
    pub(crate) fn base(&self, headers: &HeaderMap) -> String {
        let host = headers.get("host").and_then(|host| host.to_str().ok());
        host.map_or_else(|| self.url(), |host| format!("{}://{host}", self.shared.scheme))
    }

    /// The token endpoint of the tenant, as `spec.endpoints.token` wants it.
    pub fn token_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/token", self.url(), self.tenant().id)
    }

    /// The tenant.
    pub fn tenant(&self) -> Tenant {
        self.read(|state| state.tenant.clone())
    }

    /// The simulator's time; advance it to let tokens expire.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    // === Refresh tokens ===

    /// Signs the first user in to the first client, and returns the refresh token.
    pub fn mint(&self) -> Result<String, Unknown> {
        self.mint_refresh_token(None, None, &[])
    }

    /// Signs a user (object id or principal name) in to a client, and returns the refresh token. `None` is the
    /// first one configured; no scopes are `Mail.ReadWrite` and `User.Read`.
    pub fn mint_refresh_token(
        &self,
        user: Option<&str>,
        client_id: Option<&str>,
        scopes: &[&str],
    ) -> Result<String, Unknown> {
        let token = new_refresh_token();
        self.seed_refresh_token(&token, user, client_id, scopes)?;
        Ok(token)
    }

    /// As [`Control::mint_refresh_token`], with a token that the caller chose.
    pub fn seed_refresh_token(
        &self,
        token: &str,
        user: Option<&str>,
        client_id: Option<&str>,
        scopes: &[&str],
    ) -> Result<(), Unknown> {
        let now = self.now_ms();
        self.with(|state| {
            let user = user.map_or_else(|| state.users.first(), |name| state.user(name));
            let oid = user.ok_or(Unknown::User)?.oid.clone();
            let client_id = client_id.unwrap_or(&state.default_client).to_owned();
            if !state.clients.contains_key(&client_id) {
                return Err(Unknown::Client);
            }
            let scopes: Vec<_> = scopes.iter().map(|&scope| scope.to_owned()).collect();
            state.sign_in(token, &client_id, &oid, &scopes, now);
            Ok(())
        })
    }

    /// As [`Control::mint`], of a single-page application: the answer to whoever sends no `Origin` is `invalid_request`,
    /// AADSTS9002327.
    pub fn mint_of_a_single_page_app(&self) -> Result<String, Unknown> {
        let token = self.mint()?;
        self.with(|state| {
            let record = state.refresh_tokens.get_mut(&digest(&token)).ok_or(Unknown::Token)?;
            record.single_page = true;
            Ok(token)
        })
    }

    /// Revokes one refresh token: `invalid_grant`, AADSTS50173.
    pub fn revoke_refresh_token(&self, token: &str) -> Result<(), Unknown> {
        self.revoke_refresh_token_by_digest(&digest(token))
    }

    /// As [`Control::revoke_refresh_token`], for a token known from the journal.
    pub fn revoke_refresh_token_by_digest(&self, sha256: &str) -> Result<(), Unknown> {
        self.with(|state| {
            let token = state.refresh_tokens.get_mut(sha256).ok_or(Unknown::Token)?;
            token.standing = Standing::Revoked;
            Ok(())
        })
    }

    /// Revokes every refresh token of a user, as a reset password does. Access tokens live on.
    pub fn revoke_user(&self, user: &str) -> Result<(), Unknown> {
        self.with(|state| {
            let oid = state.user(user).ok_or(Unknown::User)?.oid.clone();
            for token in state.refresh_tokens.values_mut().filter(|token| token.oid == oid) {
                token.standing = Standing::Revoked;
            }
            Ok(())
        })
    }

    // === Access tokens ===

    /// Makes Graph refuse an access token.
    pub fn revoke_access_token(&self, token: &str) -> Result<(), Unknown> {
        self.revoke_access_token_by_digest(&digest(token))
    }

    /// As [`Control::revoke_access_token`], for a token known from the journal.
    pub fn revoke_access_token_by_digest(&self, sha256: &str) -> Result<(), Unknown> {
        self.with(|state| {
            state.access_tokens.get_mut(sha256).ok_or(Unknown::Token)?.revoked = true;
            Ok(())
        })
    }

    /// Makes Graph refuse every access token issued so far, long before it expires; the next ones work.
    pub fn revoke_access_tokens(&self) {
        self.with(|state| state.access_tokens.values_mut().for_each(|token| token.revoked = true));
    }

    /// Makes Graph refuse every access token, however new, or stop doing so.
    pub fn set_graph_refuses(&self, refuses: bool) {
        self.with(|state| state.settings.graph_refuses = refuses);
    }

    /// What is known of an access token; `None` if it was never issued here.
    pub fn access_token(&self, token: &str) -> Option<AccessTokenInfo> {
        self.access_token_by_digest(&digest(token))
    }

    /// As [`Control::access_token`], for a token known from the journal.
    pub fn access_token_by_digest(&self, sha256: &str) -> Option<AccessTokenInfo> {
        let now = self.now_ms();
        self.read(|state| {
            let token = state.access_tokens.get(sha256)?;
            let active = !token.revoked && token.expires_ms > now;
            Some(AccessTokenInfo {
                active,
                remaining_seconds: if active { (token.expires_ms - now) / 1_000 } else { 0 },
                expires_ms: token.expires_ms,
                revoked: token.revoked,
                client_id: token.client_id.clone(),
                oid: token.oid.clone(),
                scopes: token.scopes.clone(),
            })
        })
    }

    /// Whether this access token is neither unknown, expired nor revoked.
    pub fn is_active(&self, token: &str) -> bool {
        self.access_token(token).is_some_and(|info| info.active)
    }

    // === Settings ===

    /// From now on, access tokens live this long.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.with(|state| state.settings.token_lifetime = lifetime);
    }

    /// From now on, `refresh_in` is this.
    pub fn set_refresh_in(&self, refresh_in: Option<Duration>) {
        self.with(|state| state.settings.refresh_in = refresh_in);
    }

    /// From now on, numbers in answers are strings, or not.
    pub fn set_numbers_as_strings(&self, strings: bool) {
        self.with(|state| state.settings.numbers_as_strings = strings);
    }

    /// From now on, used refresh tokens are treated so.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.with(|state| state.settings.rotation = rotation);
    }

    /// From now on, certificate assertions may be signed by RS256 too, or not.
    pub fn set_rs256_assertions(&self, allowed: bool) {
        self.with(|state| state.settings.rs256_assertions = allowed);
    }

    /// Registers an application, or replaces the one of the same id.
    pub fn put_client(&self, client: Client) {
        self.with(|state| state.clients.insert(client.id.clone(), client));
    }

    /// Changes a registered application: its certificates, for instance.
    pub fn change_client(&self, client_id: &str, change: impl FnOnce(&mut Client)) -> Result<(), Unknown> {
        self.with(|state| state.clients.get_mut(client_id).map(change).ok_or(Unknown::Client))
    }

    /// Sets a client's secret; `None` takes it away.
    pub fn set_client_secret(&self, client_id: &str, secret: Option<&str>) -> Result<(), Unknown> {
        self.change_client(client_id, |client| client.secret = secret.map(str::to_owned))
    }

    /// Adds a user, or replaces the one of the same object id.
    pub fn put_user(&self, user: User) {
        self.with(|state| match state.users.iter_mut().find(|known| known.oid == user.oid) {
            Some(known) => *known = user,
            None => state.users.push(user),
        });
    }

    // === Faults ===

    /// Queues a fault behind the others.
    pub fn queue_fault(&self, fault: Fault) {
        self.with(|state| state.faults.push(fault));
    }

    /// Forgets all faults. Requests already hanging go on hanging.
    pub fn clear_faults(&self) {
        self.with(|state| state.faults.clear());
    }

    /// The faults that were not used up.
    pub fn pending_faults(&self) -> Vec<Fault> {
        self.read(|state| state.faults.pending().to_vec())
    }

    // === Journal ===

    /// Everything asked and answered so far.
    pub fn journal(&self) -> Journal {
        self.read(|state| state.journal.clone())
    }

    /// Waits until the journal is as wanted. Give it a time-out.
    pub async fn journal_until(&self, wanted: impl Fn(&Journal) -> bool) -> Journal {
        let mut changes = self.shared.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(journal) = self.read(|state| wanted(&state.journal).then(|| state.journal.clone())) {
                return journal;
            }
            // The sender lives in `self`, so this can only end with a change.
            let _ = changes.changed().await;
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "unknown client",
            Self::User => "unknown user",
            Self::Token => "unknown token",
            Self::DeviceCode => "unknown device code",
        })
    }
}

impl std::error::Error for Unknown {}
