//! Requests as a client of Entra and Graph makes them.

use entra_simulator::{CLIENT_ID, Clock, Config, Simulator};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use serde_json::{Value, json};

/// A time like any other: 2026-11-23T00:00:00Z.
pub(crate) const NOW_MS: u64 = 1_795_392_000_000;
pub(crate) const TENANT: &str = "contoso.onmicrosoft.com";
pub(crate) const SCOPE: &str = "Mail.ReadWrite User.Read offline_access";

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// The default configuration, but with a clock that stands still.
pub(crate) fn config() -> Config {
    Config { clock: Clock::fixed(NOW_MS), ..Config::default() }
}

pub(crate) async fn start(config: Config) -> Simulator {
    Simulator::start(config).await.expect("loopback has a free port")
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .build()
        .expect("a client without TLS can be built")
}

/// Posts a form to the tenant's token endpoint. An error is a connection that gave no answer.
pub(crate) async fn try_token(
    simulator: &Simulator,
    tenant: &str,
    form: &[(&str, &str)],
) -> Result<Answer, reqwest::Error> {
    let url = format!("{}/{tenant}/oauth2/v2.0/token", simulator.url());
    Answer::read(client().post(url).form(form).send().await?).await
}

pub(crate) async fn token(simulator: &Simulator, tenant: &str, form: &[(&str, &str)]) -> Answer {
    try_token(simulator, tenant, form).await.expect("the token endpoint answers")
}

pub(crate) fn refresh_form<'a>(refresh_token: &'a str, scope: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("refresh_token", refresh_token),
        ("scope", scope),
    ]
}

/// Redeems a refresh token for the default client.
pub(crate) async fn refresh(simulator: &Simulator, refresh_token: &str, scope: &str) -> Answer {
    token(simulator, TENANT, &refresh_form(refresh_token, scope)).await
}

/// An access token of the default user with these scopes.
pub(crate) async fn access_token(simulator: &Simulator, scope: &str) -> String {
    let seed = simulator.mint().expect("the default user and client are known");
    refresh(simulator, &seed, scope).await.string("access_token")
}

pub(crate) async fn graph(simulator: &Simulator, path: &str, bearer: Option<&str>) -> Answer {
    let mut request = client().get(format!("{}/v1.0{path}", simulator.url()));
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    Answer::read(request.send().await.expect("Graph answers")).await.expect("Graph's answer ends")
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the answer is JSON")
    }

    pub(crate) fn string(&self, member: &str) -> String {
        self.json()[member].as_str().expect("the member is a string").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Status, `error` and numbers, to compare in one go.
    pub(crate) fn refusal(&self) -> (u16, Value, Value) {
        let body = self.json();
        (self.status, body["error"].clone(), body["error_codes"].clone())
    }
}

pub(crate) fn refused(status: u16, error: &str, code: u32) -> (u16, Value, Value) {
    (status, json!(error), json!([code]))
}
