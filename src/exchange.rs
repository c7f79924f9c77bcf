//! One POST to a token endpoint, one GET of Microsoft Graph: paced, bounded, without redirects and without a retry of their own.

use std::time::Duration;

use futures::TryFutureExt as _;
use reqwest::header::{ACCEPT, DATE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use crate::failure::NoAnswer;
use crate::grant::TokenRequest;
use crate::pace::Pacer;
use crate::verdict::Answered;

/// No honest answer of a token endpoint is longer.
const MAX_BODY: usize = 1024 * 1024;
/// What MSAL announces, so that Entra answers with 429 and Retry-After instead of an error page.
const LIB_CAPABILITY: &str = "retry-after, h429";

/// The providers, as one process may use them.
pub struct Provider {
    http: reqwest::Client,
    pacer: Pacer,
}

/// What came back, whatever it is.
pub struct Received {
    /// HTTP status.
    pub status: u16,
    /// The Retry-After header.
    pub retry_after: Option<String>,
    /// The body, whole.
    pub body: SecretSlice<u8>,
}

impl Provider {
    /// A provider client that starts at most `qps` requests a second, and trusts these CA certificates besides the system's.
    pub fn new(qps: f64, extra_roots: Vec<reqwest::Certificate>) -> Result<Self, reqwest::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("return-client-request-id", HeaderValue::from_static("true"));
        headers.insert("x-ms-lib-capability", HeaderValue::from_static(LIB_CAPABILITY));
        let http = reqwest::Client::builder()
            .user_agent(concat!("graphtoken-operator/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .tls_certs_merge(extra_roots)
            .build()?;
        Ok(Self { http, pacer: Pacer::new(qps) })
    }

    /// Waits until another request may be sent: requests of all kinds are paced together.
    pub async fn pace(&self) {
        self.pacer.acquire().await;
    }

    /// Sends the request once and reads the answer, all within the deadline.
    pub async fn post(
        &self,
        url: &str,
        request: &TokenRequest,
        request_id: &str,
        deadline: Duration,
    ) -> Result<Received, NoAnswer> {
        let form: Vec<(&str, &str)> =
            request.form.iter().map(|(name, value)| (*name, value.expose_secret())).collect();
        let sending = self
            .http
            .post(url)
            .header("client-request-id", request_id)
            .form(&form)
            .timeout(deadline)
            .send()
            .map_err(|e| no_answer(&e));
        received(sending.await?).await
    }

    /// Presents a token, and tells of the answer all but its body.
    pub async fn present(
        &self,
        url: &str,
        token: &SecretString,
        request_id: &str,
        deadline: Duration,
    ) -> Result<Answered, NoAnswer> {
        let sending = self
            .http
            .get(url)
            .bearer_auth(token.expose_secret())
            .header("client-request-id", request_id)
            .timeout(deadline)
            .send();
        let mut response = sending.await.map_err(|e| no_answer(&e))?;
        let texts = |name| {
            let values = response.headers().get_all(name).iter();
            values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect::<Vec<_>>()
        };
        let status = response.status().as_u16();
        let (challenges, retry_after) = (texts(WWW_AUTHENTICATE), texts(RETRY_AFTER).pop());
        // Read so that the connection can be used again, and for nothing else.
        let _ = bounded(&mut response).await;
        Ok(Answered { status, challenges, retry_after })
    }

    /// Asks whether anybody answers at an address, whatever it is, and what its Date header says.
    pub async fn date(&self, url: &str, deadline: Duration) -> Result<Option<String>, NoAnswer> {
        let response = self.http.get(url).timeout(deadline).send().map_err(|e| no_answer(&e)).await?;
        Ok(response.headers().get(DATE).and_then(|v| v.to_str().ok()).map(str::to_owned))
    }

    /// A tenant's `OpenID` configuration (OpenID Connect Discovery 1.0, section 4): see [`tenant_of`].
    pub async fn tenant_id(
        &self,
        openid_configuration: &str,
        deadline: Duration,
    ) -> Result<Received, NoAnswer> {
        let sending = self.http.get(openid_configuration).timeout(deadline).send();
        received(sending.await.map_err(|e| no_answer(&e))?).await
    }
}

async fn received(mut response: reqwest::Response) -> Result<Received, NoAnswer> {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = bounded(&mut response).await?;
    Ok(Received { status, retry_after, body: body.into() })
}

async fn bounded(response: &mut reqwest::Response) -> Result<Vec<u8>, NoAnswer> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| no_answer(&e))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(NoAnswer::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The tenant's GUID in an `OpenID` configuration: the first segment of the issuer's path that is one. (Entra's issuer holds it.)
pub fn tenant_of(configuration: &[u8]) -> Option<String> {
    let configuration: serde_json::Value = serde_json::from_slice(configuration).ok()?;
    let issuer = configuration.get("issuer")?.as_str()?;
    issuer.split('/').find(|segment| is_guid(segment)).map(str::to_ascii_lowercase)
}

/// Whether a text is a GUID in its usual spelling.
pub fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// rustls' error is buried in those of the connector and tells itself only by its text.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("certificate")
            || text.contains("received fatal alert")
            || text.contains("tls handshake")
        {
            return true;
        }
        source = error.source();
    }
    false
}

fn no_answer(error: &reqwest::Error) -> NoAnswer {
    if error.is_timeout() {
        NoAnswer::Timeout
    } else if is_tls(error) {
        NoAnswer::Tls
    } else if error.is_connect() {
        NoAnswer::Connect
    } else {
        NoAnswer::Closed
    }
}

#[cfg(test)]
mod tests;
