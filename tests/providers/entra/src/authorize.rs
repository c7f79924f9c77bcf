//! The authorization endpoint: signs a user in at once, as a browser with a session does, and sends the code to where the client
//! listens (RFC 6749 section 4.1; RFC 7636).

use std::time::Duration;

use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::answer::Processed;
use crate::clock::millis;
use crate::control::{Control, Unknown};
use crate::random::{self, digest};
use crate::refusal::Refusal;
use crate::scope::Scopes;
use crate::state::State;
use crate::token::TokenRequest;

/// How long a code can be redeemed: Entra's.
const LIFETIME: Duration = Duration::from_mins(10);

/// What the person in front of the browser does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Browser {
    /// Signs in as the user of the `login_hint`, else as the first one configured.
    #[default]
    SignsIn,
    /// Signs in as the user of this object id, whatever the hint says.
    SignsInAs(String),
    /// Declines: `access_denied`.
    Declines,
}

/// A code that waits to be redeemed. It is kept by its digest.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizationCode {
    pub(crate) client_id: String,
    pub(crate) oid: String,
    pub(crate) redirect_uri: String,
    /// The `code_challenge`, of method S256.
    pub(crate) challenge: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_ms: u64,
    pub(crate) redeemed: bool,
}

impl Control {
    /// The authorization endpoint of the tenant.
    pub fn authorization_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/authorize", self.url(), self.tenant().id)
    }

    /// From now on, this is what the person in front of the browser does.
    pub fn set_browser(&self, browser: Browser) -> Result<(), Unknown> {
        self.with(|state| {
            if let Browser::SignsInAs(oid) = &browser
                && state.user(oid).is_none()
            {
                return Err(Unknown::User);
            }
            state.browser = browser;
            Ok(())
        })
    }
}

impl AuthorizationCode {
    /// Whether a `code_verifier` is the one that the client began with (RFC 7636 section 4.6).
    pub(crate) fn verifies(&self, verifier: Option<&str>) -> bool {
        match (&self.challenge, verifier) {
            (None, None) => true,
            (Some(challenge), Some(verifier)) => {
                URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == *challenge
            }
            _ => false,
        }
    }
}

/// A redirect is sent only to where the client may listen; whatever is wrong before that is shown as a page.
pub(crate) async fn endpoint(
    Shared(control): Shared<Control>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let base = control.base(&headers);
    let request = TokenRequest::of_query(tenant, base, query.as_deref().unwrap_or_default());
    let now = control.now_ms();
    control.with(|state| respond(state, &request, now)).send()
}

fn respond(state: &mut State, request: &TokenRequest, now: u64) -> Processed {
    let redirect_uri = match may_be_answered(state, request) {
        Ok(redirect_uri) => redirect_uri.to_owned(),
        Err(refusal) => return page(&refusal),
    };
    let answer = match sign_in(state, request, &redirect_uri, now) {
        Ok(code) => vec![("code", code)],
        Err(error) => {
            let number = error.codes.first().map(|code| format!("AADSTS{code}: ")).unwrap_or_default();
            vec![("error", error.error), ("error_description", format!("{number}{}", error.message))]
        }
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(answer);
    if let Some(state) = request.param("state") {
        query.append_pair("state", state);
    }
    let separator = if redirect_uri.contains('?') { '&' } else { '?' };
    let location = format!("{redirect_uri}{separator}{}", query.finish());
    let mut found = Processed::json(302, &Value::Null);
    found.headers.push(("Location".to_owned(), location));
    found
}

fn page(refusal: &Refusal) -> Processed {
    Processed::json(
        refusal.status,
        &serde_json::json!({"error": refusal.error, "error_codes": refusal.codes, "message": refusal.message}),
    )
}

/// Where the answer goes: every client of the simulator is registered for loopback, on any port (RFC 8252 section 7.3).
fn may_be_answered<'a>(state: &State, request: &'a TokenRequest) -> Result<&'a str, Refusal> {
    if !state.knows_tenant(&request.tenant) {
        return Err(Refusal::unknown_tenant(&request.tenant));
    }
    let client_id = request.required("client_id")?;
    if !state.clients.contains_key(client_id) {
        return Err(Refusal::unknown_client(client_id, &state.tenant.domain));
    }
    let redirect_uri = request.required("redirect_uri")?;
    let host = redirect_uri.strip_prefix("http://").unwrap_or_default();
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    if matches!(host, "127.0.0.1" | "localhost" | "[::1]") {
        Ok(redirect_uri)
    } else {
        Err(Refusal::redirect_uri_unknown())
    }
}

fn sign_in(
    state: &mut State,
    request: &TokenRequest,
    redirect_uri: &str,
    now: u64,
) -> Result<String, Refusal> {
    if request.required("response_type")? != "code" {
        return Err(Refusal::response_type_unsupported());
    }
    Scopes::parse(Some(request.required("scope")?))?;
    let challenge = request.param("code_challenge");
    if challenge.is_some() && request.param("code_challenge_method") != Some("S256") {
        return Err(Refusal::challenge_method());
    }
    let client_id = request.required("client_id")?;
    let public = state.clients.get(client_id).is_some_and(|client| !client.is_confidential());
    if public && challenge.is_none() {
        return Err(Refusal::missing_parameter("code_challenge"));
    }
    let oid = user(state, request.param("login_hint"))?;
    let code = random::authorization_code();
    state.authorization_codes.insert(
        digest(&code),
        AuthorizationCode {
            client_id: client_id.to_owned(),
            oid,
            redirect_uri: redirect_uri.to_owned(),
            challenge: challenge.map(str::to_owned),
            scopes: request.scopes(),
            expires_ms: now.saturating_add(millis(LIFETIME)),
            redeemed: false,
        },
    );
    Ok(code)
}

/// Who signs in.
fn user(state: &State, hint: Option<&str>) -> Result<String, Refusal> {
    let user = match &state.browser {
        Browser::Declines => None,
        Browser::SignsInAs(oid) => state.user(oid),
        Browser::SignsIn => hint.and_then(|hint| state.user(hint)).or(state.users.first()),
    };
    user.map(|user| user.oid.clone()).ok_or_else(Refusal::sign_in_declined)
}
