//! A test double of Microsoft Entra ID's token, device and authorization endpoints and of a little of Microsoft Graph.
//!
//! It answers as Entra does (AADSTS numbers, lenient rotation, `client_info`), issues opaque tokens, keeps a
//! [journal](Control::journal) that holds digests but no token, and meets requests with [faults](Fault). A test
//! moves its [clock](Clock) instead of waiting. It listens on loopback unless told otherwise, by HTTP or by HTTPS
//! with a [certificate](Tls), and whoever reaches it controls it: it is never part of what ships.
//!
//! Assertions are judged by that clock too: who advances it far finds those of a client whose clock stands expired.
//! [`Control::revoke_access_tokens`] ends access tokens without moving it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_simulator::{Action, Config, Fault, Simulator};
//!
//! let simulator = Simulator::start(Config::default()).await?;
//! let seed = simulator.mint()?;
//! simulator.queue_fault(Fault::token(Action::throttled("1.5")).times(2));
//! # Ok(()) }
//! ```
//!
//! # Signing in by a browser
//!
//! Whoever opens the authorization endpoint is signed in at once, as [`Control::set_browser`] says, and sent on with a code;
//! clients listen on loopback only, and public ones must send an S256 challenge (RFC 7636).
//!
//! # Control over HTTP
//!
//! The same controls are served under `/_sim`, for scripts. Bodies are JSON objects whatever their content type;
//! an unreadable one is answered 400, an unknown name 404, with `{"error": "…"}`.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /refresh-tokens` | `user?` (object id or UPN) `client_id?` `scopes?` `token?` | `refresh_token` (unless `token` was given) `sha256` |
//! | `POST /refresh-tokens/revoke` | `token` or `sha256` or `user` | |
//! | `POST /access-tokens/lookup` | `token` or `sha256` | `active`, and if it is known [`AccessTokenInfo`] |
//! | `POST /access-tokens/revoke` | `token` or `sha256` | |
//! | `POST /access-tokens/revoke-all` | | (Graph refuses what was issued so far) |
//! | `GET /device-codes` | | `device_codes`: those in flight, see [`DeviceCodeInfo`] |
//! | `POST /device-codes/approve` | `user_code` `user?` (object id or UPN) | |
//! | `POST /device-codes/decline`, `POST /device-codes/expire` | `user_code` | |
//! | `PUT /settings` | any of `token_lifetime_seconds` `refresh_in_seconds` (0: none) `numbers_as_strings` `rotation` (`lenient`, `strict`) `device_lifetime_seconds` `device_interval_seconds` (0: none is answered) `device_slow_down` `device_policy` (`allowed`, `access_denied`, `invalid_grant`) `graph_refuses` (every token) `rs256_assertions` | |
//! | `PUT /clients/{id}` | `secret?` `certificates?` `federated?` `app_roles?` | |
//! | `PUT /clients/{id}/secret` | `secret` (null: none) | |
//! | `PUT /clients/{id}/certificates` | `certificates`: PEM texts | |
//! | `PUT /clients/{id}/federated` | `federated`: each `issuer` `subject` `audience?` and either `jwks` or `jwks_url` `bearer?` `ca_pem?` | |
//! | `PUT /users/{oid}` | `upn` `consented?` | |
//! | `POST /faults` | a [`Fault`], see below | |
//! | `GET /faults`, `DELETE /faults` | | `faults`: those not used up |
//! | `POST /clock/advance` | `seconds` | `now_ms` |
//! | `GET /journal?token_from=N&device_from=N&graph_from=N` | | `counts` by grant and outcome, `token`, `device`, `graph`: see [`Journal`] |
//!
//! A fault is `{"match": {"path": "token" | "device" | "graph" | "discovery", "grant"?, "client_id"?},
//! "times": 3 | "forever", "action": …}`; by default it meets one token request. The actions:
//!
//! ```json
//! [{"respond": {"status": 502, "body": "<html>", "content_type": "text/html", "headers": [["Retry-After", "1"]]}},
//!  {"error": {"status": 400, "error": "invalid_grant", "codes": [50173], "suberror": "bad_token", "retry_after": "2.5"}},
//!  {"delay_ms": 500}, "hang", "close", "answer_lost",
//!  {"huge_body": {"megabytes": 64}}, {"slow_body": {"chunk_bytes": 16, "delay_ms": 200}}]
//! ```
//!
//! At Graph an `error` is worded as Graph words it; a claims challenge is a `respond` with the header
//! `WWW-Authenticate: Bearer error="insufficient_claims", claims="…"`.

mod answer;
mod authorize;
mod client_auth;
mod clock;
mod config;
mod control;
mod control_http;
mod device;
mod discovery;
mod fault;
mod grant;
mod graph;
mod journal;
mod random;
mod refusal;
mod scope;
mod server;
mod state;
mod tls;
mod token;
mod trace;

use std::ops::Deref;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use crate::authorize::Browser;
pub use crate::client_auth::{
    Certificate, FederatedCredential, InvalidCertificate, Jwks, TOKEN_EXCHANGE_AUDIENCE,
};
pub use crate::clock::Clock;
pub use crate::config::{
    CLIENT_ID, Client, Config, Rotation, TENANT_DOMAIN, TENANT_ID, Tenant, USER_OID, USER_UPN, User,
};
pub use crate::control::{AccessTokenInfo, Control, Unknown};
pub use crate::device::{DEVICE_LOGIN_URI, DeviceCodeInfo, DeviceFlow, DevicePolicy};
pub use crate::fault::{Action, Canned, Endpoint, EntraError, Fault, Forever, Match, Times};
pub use crate::graph::{DRIVE_FILE, DRIVE_ID};
pub use crate::journal::{AssertionEntry, Counts, DeviceEntry, GraphEntry, Journal, Outcome, TokenEntry};
pub use crate::random::{
    ACCESS_TOKEN_PREFIX, AUTHORIZATION_CODE_PREFIX, DEVICE_CODE_PREFIX, REFRESH_TOKEN_PREFIX, digest,
};
pub use crate::tls::Tls;

/// A running simulator. It derefs to its [`Control`], and stops when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    control: Control,
    server: JoinHandle<std::convert::Infallible>,
}

impl Simulator {
    /// Binds the address and serves on the current Tokio runtime.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        let tls = config.tls.as_ref().map(Tls::acceptor).transpose()?;
        let listener = TcpListener::bind(config.listen).await?;
        let control = Control::new(&config, listener.local_addr()?);
        let server = tokio::spawn(server::serve(listener, tls, server::router(control.clone())));
        Ok(Self { control, server })
    }

    /// A handle that can be cloned into other tasks.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Deref for Simulator {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}
