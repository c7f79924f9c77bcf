//! Faults on demand: what to do instead of, or around, the next fitting answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::grant;

/// A fault in the queue. The first fitting one is used up before the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which requests it meets.
    #[serde(rename = "match", default)]
    pub matching: Match,
    /// How many it meets.
    #[serde(default)]
    pub times: Times,
    /// What it does.
    pub action: Action,
}

/// Which requests a fault meets: all the members that are set must fit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Where the request goes.
    #[serde(default)]
    pub path: Endpoint,
    /// The `grant_type`, `device_code` for short; never fits a Graph request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The client that asks; on Graph, the one the token was issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// A part of the simulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// The token endpoint.
    #[default]
    Token,
    /// The device authorization endpoint, which hands out device codes.
    Device,
    /// Microsoft Graph.
    Graph,
    /// The `OpenID` configuration.
    Discovery,
}

/// How many requests a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Times {
    /// So many.
    Count(u32),
    /// All, until faults are cleared. In JSON, `"forever"`.
    Forever(Forever),
}

/// The word that [`Times::Forever`] is in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forever {
    /// Until faults are cleared.
    Forever,
}

/// What a fault does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answers this, without processing the request.
    Respond(Canned),
    /// Answers an error in Entra's own form, without processing the request.
    Error(EntraError),
    /// Waits so many milliseconds, then processes the request.
    DelayMs(u64),
    /// Never answers; the request is not processed.
    Hang,
    /// Closes the connection without an answer; the request is not processed.
    Close,
    /// Processes the request, rotation included, and closes the connection without an answer.
    AnswerLost,
    /// Answers 200 with a JSON body of about that size, without processing the request.
    HugeBody {
        /// Size in MiB.
        megabytes: u32,
    },
    /// Processes the request and lets the answer's body trickle.
    SlowBody {
        /// Bytes in each piece.
        chunk_bytes: usize,
        /// Milliseconds before each piece.
        delay_ms: u64,
    },
}

/// A ready-made answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canned {
    /// The HTTP status.
    pub status: u16,
    /// A string is sent as it is; anything else as JSON.
    #[serde(default)]
    pub body: serde_json::Value,
    /// Default: `text/html` for a string, `application/json` for anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Further headers.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// An error as Entra words it, with fresh trace ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntraError {
    /// The HTTP status; 400 by default.
    #[serde(default = "bad_request")]
    pub status: u16,
    /// The OAuth `error`.
    pub error: String,
    /// The AADSTS numbers.
    #[serde(default)]
    pub codes: Vec<u32>,
    /// The `suberror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suberror: Option<String>,
    /// A `Retry-After` header, sent as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
}

const fn bad_request() -> u16 {
    400
}

/// The faults that are still to be met, in order.
#[derive(Debug, Default)]
pub(crate) struct Queue(Vec<Fault>);

/// What a request is to the queue.
pub(crate) struct Subject<'a> {
    pub(crate) path: Endpoint,
    pub(crate) grant: Option<&'a str>,
    pub(crate) client_id: Option<&'a str>,
}

impl Fault {
    /// Meets the next token request.
    pub fn token(action: Action) -> Self {
        Self { matching: Match::default(), times: Times::default(), action }
    }

    /// Meets the next request for a device code. (Polls for its tokens are token requests.)
    pub fn device(action: Action) -> Self {
        Self::at(Endpoint::Device, action)
    }

    /// Meets the next Graph request.
    pub fn graph(action: Action) -> Self {
        Self::at(Endpoint::Graph, action)
    }

    fn at(path: Endpoint, action: Action) -> Self {
        Self { matching: Match { path, ..Match::default() }, times: Times::default(), action }
    }

    /// Meets only this `grant_type`.
    #[must_use]
    pub fn for_grant(mut self, grant: impl Into<String>) -> Self {
        self.matching.grant = Some(grant.into());
        self
    }

    /// Meets only this client.
    #[must_use]
    pub fn for_client(mut self, client_id: impl Into<String>) -> Self {
        self.matching.client_id = Some(client_id.into());
        self
    }

    /// Meets so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Times::Count(times);
        self
    }

    /// Meets every request until faults are cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.times = Times::Forever(Forever::Forever);
        self
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl Action {
    /// Answers a status with a JSON body.
    pub fn json(status: u16, body: serde_json::Value) -> Self {
        Self::Respond(Canned { status, body, content_type: None, headers: Vec::new() })
    }

    /// Answers a status with a body that is not JSON, as a proxy does.
    pub fn html(status: u16, body: &str) -> Self {
        Self::Respond(Canned { status, body: body.into(), content_type: None, headers: Vec::new() })
    }

    /// Answers 429 with this `Retry-After`.
    pub fn throttled(retry_after: &str) -> Self {
        Self::Error(EntraError {
            status: 429,
            error: "temporarily_unavailable".to_owned(),
            codes: vec![90_055],
            suberror: None,
            retry_after: Some(retry_after.to_owned()),
        })
    }

    /// Answers 400 with this OAuth error and AADSTS number.
    pub fn error(error: &str, code: u32) -> Self {
        Self::Error(EntraError {
            status: 400,
            error: error.to_owned(),
            codes: vec![code],
            suberror: None,
            retry_after: None,
        })
    }

    /// Answers a redirect to another address.
    pub fn redirect(location: &str) -> Self {
        Self::Respond(Canned {
            status: 302,
            body: serde_json::Value::Null,
            content_type: None,
            headers: vec![("Location".to_owned(), location.to_owned())],
        })
    }

    /// Answers as Graph does when the token lacks a claim that a policy wants by now: 401 as a rule, at times 403.
    pub fn claims_challenge(status: u16) -> Self {
        let claims = STANDARD.encode(r#"{"access_token":{"nbf":{"essential":true,"value":"1795392000"}}}"#);
        let challenge = format!(
            r#"Bearer realm="", error="insufficient_claims", claims="{claims}", cc_type="authcontext""#
        );
        let code = "InvalidAuthenticationToken";
        Self::Respond(Canned {
            status,
            body: json!({"error": {"code": code, "message": "Continuous access evaluation asks for claims."}}),
            content_type: None,
            headers: vec![("WWW-Authenticate".to_owned(), challenge)],
        })
    }

    /// Answers `slow_down`, as to a device code that is polled for too often.
    pub fn slow_down() -> Self {
        Self::Error(EntraError {
            status: 400,
            error: "slow_down".to_owned(),
            codes: Vec::new(),
            suberror: None,
            retry_after: None,
        })
    }

    /// Its name in the journal.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Respond(_) => "respond",
            Self::Error(_) => "error",
            Self::DelayMs(_) => "delay_ms",
            Self::Hang => "hang",
            Self::Close => "close",
            Self::AnswerLost => "answer_lost",
            Self::HugeBody { .. } => "huge_body",
            Self::SlowBody { .. } => "slow_body",
        }
    }
}

impl Match {
    fn fits(&self, subject: &Subject<'_>) -> bool {
        let same = |wanted: Option<&str>, is: Option<&str>| wanted.is_none() || wanted == is;
        self.path == subject.path
            && same(self.grant.as_deref().map(grant::name), subject.grant)
            && same(self.client_id.as_deref(), subject.client_id)
    }
}

impl Queue {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn pending(&self) -> &[Fault] {
        &self.0
    }

    /// The action of the first fitting fault, which is thereby used once.
    pub(crate) fn take(&mut self, subject: &Subject<'_>) -> Option<Action> {
        self.0.retain(|fault| fault.times != Times::Count(0));
        let fault = self.0.iter_mut().find(|fault| fault.matching.fits(subject))?;
        let action = fault.action.clone();
        if let Times::Count(left) = &mut fault.times {
            *left -= 1;
        }
        self.0.retain(|fault| fault.times != Times::Count(0));
        Some(action)
    }
}
