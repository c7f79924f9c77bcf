//! A token endpoint's refusal → a failure class, and what a person should do about it.
//!
//! The class is decided on HTTP status, `error` (RFC 6749 section 5.2) and Retry-After; AADSTS numbers and `suberror`
//! only refine it, for Microsoft changes them at will ("Microsoft Entra authentication and authorization error codes").
//! `error_description` is never read: its text names accounts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::Reason;
use crate::grant::GrantKind;

mod advice;
#[cfg(test)]
mod tests;

/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_mins(1);
/// No provider silences us for longer.
pub(crate) const MAX_PAUSE: Duration = Duration::from_hours(1);
/// Entra goes on blocking a client that it saw looping, or a tenant with too many requests, for minutes.
const LOOP_PAUSE: Duration = Duration::from_mins(5);
/// How many AADSTS numbers are kept, and how many a message shows.
const MAX_CODES: usize = 16;
const SHOWN_CODES: usize = 3;
/// How many scopes a message names.
const SHOWN_SCOPES: usize = 10;
/// What stands for a provider's string that is not of the expected form.
const INVALID: &str = "invalid";
/// What stands for a provider's string that has a secret of ours in it.
const MASKED: &str = "masked";
/// A piece of a secret this long is no coincidence.
const MIN_PIECE: usize = 16;

/// What a token endpoint answered. `Debug` does not show the body.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The Retry-After header.
    pub retry_after: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connection was made.
    Connect,
    /// The deadline passed.
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// The answer was longer than any token response.
    TooLarge,
    /// The server's certificate was not accepted, or TLS failed otherwise.
    Tls,
    /// Anything else.
    Other,
}

/// A failed exchange. It has no secret in it and no free text of the provider's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub reason: Reason,
    /// `error`, if it is of the usual form, else `invalid`.
    pub error: Option<String>,
    /// Entra's `suberror`, likewise.
    pub suberror: Option<String>,
    /// Entra's AADSTS numbers.
    pub codes: Vec<u32>,
    /// Entra's `correlation_id`.
    pub correlation_id: Option<String>,
    /// Entra's `trace_id`.
    pub trace_id: Option<String>,
    /// How long the provider asked for silence: always there with `Throttled`. Else, if it is there, after how long another
    /// attempt is worth it, though a person must act.
    pub retry_after: Option<Duration>,
    /// Whether the provider answered at all. If not, it may have worked on the request or not.
    pub answered: bool,
    /// Whether a cluster administrator must act: permissions, a quota or an admission policy stand in the way.
    pub administrator: bool,
    /// What is wrong and what to do about it. The same for the same failure: no ids and times are in it.
    pub message: String,
}

impl Answer<'_> {
    /// Whether the status is a 2xx.
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..300)
    }

    /// The body, if it is a JSON object.
    pub(crate) fn object(&self) -> Option<Map<String, Value>> {
        match self.json()? {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// A byte-order mark or bad UTF-8 in some member must not cost a refresh token that stands beside it, nor may a member
    /// that is JSON by its grammar and no value: half a surrogate pair, a number beyond range, lists too deep. It is left out.
    fn json(&self) -> Option<Value> {
        let text = String::from_utf8_lossy(self.body);
        let text = text.trim_start_matches('\u{feff}');
        serde_json::from_str(text).ok().or_else(|| {
            let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
            let usable =
                |(name, raw): (String, Box<RawValue>)| Some((name, serde_json::from_str(raw.get()).ok()?));
            Some(Value::Object(members.into_iter().filter_map(usable).collect()))
        })
    }
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl NoAnswer {
    const fn message(self) -> &'static str {
        match self {
            Self::Connect => {
                "The token endpoint cannot be reached: check DNS, network policies and the proxy settings of the operator."
            }
            Self::Timeout => "The token endpoint did not answer in time; the operator tries again by itself.",
            Self::Closed => {
                "The connection to the token endpoint broke before the answer was there; the operator tries again by itself."
            }
            Self::TooLarge => {
                "The token endpoint's answer is too large for a token response: check that the URL is a token endpoint."
            }
            Self::Tls => {
                "No TLS connection to the token endpoint: if a proxy in between has a certificate of its own, give the \
                 operator its CA by --ca-bundle."
            }
            Self::Other => "The request to the token endpoint failed; the operator tries again by itself.",
        }
    }
}

impl From<NoAnswer> for Failure {
    fn from(why: NoAnswer) -> Self {
        Self {
            answered: why == NoAnswer::TooLarge,
            message: why.message().to_owned(),
            ..Self::of(Reason::ProviderUnavailable)
        }
    }
}

impl Failure {
    /// A failure that no provider spoke of. Its message is for the caller to write.
    pub const fn of(reason: Reason) -> Self {
        Self {
            reason,
            error: None,
            suberror: None,
            codes: Vec::new(),
            correlation_id: None,
            trace_id: None,
            retry_after: None,
            answered: false,
            administrator: false,
            message: String::new(),
        }
    }

    /// Whether it may pass without anybody's doing.
    pub const fn is_transient(&self) -> bool {
        !self.reason.needs_a_person()
    }

    /// Masks provider strings that have one of our secrets in them, or are a piece of one: some servers echo what they
    /// refuse.
    #[must_use]
    pub fn masked<'a>(mut self, secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let shown = self.shown();
        let advice = self.message.strip_suffix(shown.as_str()).unwrap_or(&self.message).to_owned();
        for secret in secrets {
            let texts = [&mut self.error, &mut self.suberror, &mut self.correlation_id, &mut self.trace_id]
                .into_iter();
            for text in texts.flatten().filter(|text| echoes(text, secret.expose_secret())) {
                MASKED.clone_into(text);
            }
        }
        self.message = advice + &self.shown();
        self
    }

    /// Names the scopes that somebody must consent to, where that is what is wrong: those that were asked for and are not
    /// among the granted ones.
    #[must_use]
    pub fn naming_scopes(mut self, asked: &[String], granted: &[String]) -> Self {
        const OF_THE_PROTOCOL: [&str; 4] = ["openid", "profile", "email", "offline_access"];
        // Providers spell them with and without the resource.
        let short = |scope: &str| scope.rsplit('/').next().unwrap_or(scope).to_ascii_lowercase();
        let granted: Vec<String> = granted.iter().map(|scope| short(scope)).collect();
        let named = asked.iter().filter(|scope| !OF_THE_PROTOCOL.contains(&scope.as_str()));
        let (all, new): (Vec<_>, Vec<_>) = (
            named.clone().map(String::as_str).collect(),
            named.filter(|scope| !granted.contains(&short(scope))).map(String::as_str).collect(),
        );
        let scopes = if new.is_empty() { all } else { new };
        if let Some(at) = self.message.to_ascii_lowercase().find(advice::THESE_SCOPES) {
            let shown = scopes.into_iter().take(SHOWN_SCOPES).collect::<Vec<_>>().join(", ");
            self.message.insert_str(at + advice::THESE_SCOPES.len(), &format!(" ({shown})"));
        }
        self
    }

    /// The end of a message: what the provider said, in its own words.
    fn shown(&self) -> String {
        let words = [&self.error, &self.suberror].into_iter().flatten().cloned();
        let codes = self.codes.iter().take(SHOWN_CODES).map(|code| format!("AADSTS{code}"));
        let said: Vec<_> = words.chain(codes).collect();
        if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
    }
}

/// What the class of a refusal is decided on.
struct Facts {
    grant: GrantKind,
    status: u16,
    /// Whether there is a Retry-After.
    pause: bool,
    json: bool,
    error: Option<String>,
    suberror: Option<String>,
    codes: Vec<u32>,
}

/// One step of the classification.
type Rule = fn(&Facts) -> Option<Reason>;

/// In this order; the first that has an answer decides. Any other 4xx is `InvalidConfiguration`.
const RULES: [Rule; 7] = [
    asks_for_a_pause,
    saw_a_loop,
    gave_no_usable_answer,
    says_it_is_unwell,
    refuses_the_client,
    refuses_the_request,
    wants_a_user,
];

/// The failure that an answer without a token is.
pub fn classify(grant: GrantKind, answer: &Answer<'_>, now: Timestamp) -> Failure {
    refusal(grant, answer, now, advice::of)
}

/// Whether an answer to a poll says to go on polling, and whether more slowly (RFC 8628 section 3.5). What asks for a pause
/// or is no usable answer goes before it.
pub(crate) fn keeps_waiting(grant: GrantKind, answer: &Answer<'_>) -> Option<bool> {
    let facts = Facts::of(grant, answer);
    let otherwise =
        [asks_for_a_pause, saw_a_loop, gave_no_usable_answer].iter().any(|rule| rule(&facts).is_some());
    let slow_down = facts.error_in(&["slow_down"]);
    let waits = grant == GrantKind::DeviceCode && (slow_down || facts.error_in(&["authorization_pending"]));
    (waits && !otherwise).then_some(slow_down)
}

/// The failure that a 2xx is whose token cannot be used, and why it cannot.
pub(crate) fn unusable(grant: GrantKind, answer: &Answer<'_>, why: &str, now: Timestamp) -> Failure {
    refusal(grant, answer, now, |reason, facts| match reason {
        Reason::ProviderUnavailable => {
            format!("The token endpoint's answer cannot be used: {why}. The operator tries again by itself.")
        }
        _ => advice::of(reason, facts),
    })
}

fn refusal(
    grant: GrantKind,
    answer: &Answer<'_>,
    now: Timestamp,
    advise: impl FnOnce(Reason, &Facts) -> String,
) -> Failure {
    let json = answer.json();
    let body = json.as_ref().and_then(Value::as_object);
    let member = |name: &str| body.and_then(|body| body.get(name));
    let facts = Facts::read(grant, answer, json.is_some(), body);
    let reason = RULES.iter().find_map(|rule| rule(&facts)).unwrap_or(Reason::InvalidConfiguration);
    let mut failure = Failure {
        reason,
        retry_after: match reason {
            Reason::Throttled => Some(pause(&facts, answer.retry_after, now)),
            Reason::InvalidConfiguration if facts.federation_unknown() => Some(DEFAULT_PAUSE),
            _ => None,
        },
        correlation_id: sanitized(member("correlation_id")),
        trace_id: sanitized(member("trace_id")),
        administrator: false,
        answered: true,
        message: advise(reason, &facts),
        error: facts.error,
        suberror: facts.suberror,
        codes: facts.codes,
    };
    failure.message += &failure.shown();
    failure
}

impl Facts {
    fn of(grant: GrantKind, answer: &Answer<'_>) -> Self {
        let json = answer.json();
        Self::read(grant, answer, json.is_some(), json.as_ref().and_then(Value::as_object))
    }

    fn read(grant: GrantKind, answer: &Answer<'_>, json: bool, body: Option<&Map<String, Value>>) -> Self {
        let member = |name: &str| body.and_then(|body| body.get(name));
        Self {
            grant,
            status: answer.status,
            pause: answer.retry_after.is_some(),
            json,
            error: sanitized(member("error")),
            suberror: sanitized(member("suberror")),
            codes: codes(member("error_codes")),
        }
    }

    fn error_in(&self, errors: &[&str]) -> bool {
        self.error.as_deref().is_some_and(|error| errors.contains(&error))
    }

    fn code_in(&self, codes: &[u32]) -> bool {
        self.codes.iter().any(|code| codes.contains(code))
    }

    const fn is_redirect(&self) -> bool {
        matches!(self.status, 300..400)
    }

    /// A federated credential is known some minutes after it was made, and nothing tells us that it was.
    fn federation_unknown(&self) -> bool {
        self.code_in(&[70021, 700_211, 700_212, 700_213])
    }

    /// `LoopDetected` and `TenantThrottlingError`.
    fn loop_detected(&self) -> bool {
        self.code_in(&[50196, 90055])
    }
}

/// A server error with a Retry-After is an overload (RFC 9110 section 15.6.4).
fn asks_for_a_pause(facts: &Facts) -> Option<Reason> {
    (facts.status == 429 || (facts.status >= 500 && facts.pause)).then_some(Reason::Throttled)
}

/// Entra's loop detection comes as `invalid_grant`, though a new sign-in would not help.
fn saw_a_loop(facts: &Facts) -> Option<Reason> {
    facts.loop_detected().then_some(Reason::Throttled)
}

/// What is not JSON does not come from a token endpoint but from something in between; a 2xx that gets here has no
/// usable token.
fn gave_no_usable_answer(facts: &Facts) -> Option<Reason> {
    let stranger = !facts.json && !facts.is_redirect();
    (matches!(facts.status, 0..300 | 408 | 500..) || stranger).then_some(Reason::ProviderUnavailable)
}

/// Codes that Microsoft's page calls transient, though they come with any `error`.
fn says_it_is_unwell(facts: &Facts) -> Option<Reason> {
    const PASSING: [u32; 9] = [50033, 50087, 90006, 90012, 90024, 90033, 90090, 70012, 90061];
    let unwell = facts.error_in(&["temporarily_unavailable", "server_error"]) || facts.code_in(&PASSING);
    unwell.then_some(Reason::ProviderUnavailable)
}

fn refuses_the_client(facts: &Facts) -> Option<Reason> {
    facts.error_in(&["invalid_client"]).then_some(Reason::InvalidConfiguration)
}

/// A redirect is never followed with a secret in the form: the URL in the spec is wrong.
fn refuses_the_request(facts: &Facts) -> Option<Reason> {
    const ERRORS: [&str; 6] = [
        "unauthorized_client",
        "invalid_tenant",
        "invalid_resource",
        "invalid_scope",
        "invalid_request",
        "unsupported_grant_type",
    ];
    (facts.error_in(&ERRORS) || facts.is_redirect()).then_some(Reason::InvalidConfiguration)
}

/// Errors of OIDC Core section 3.1.2.6 and RFC 8628 section 3.5, and Microsoft's own.
fn wants_a_user(facts: &Facts) -> Option<Reason> {
    const ERRORS: [&str; 7] = [
        "interaction_required",
        "consent_required",
        "login_required",
        "access_denied",
        "authorization_declined",
        "expired_token",
        "invalid_grant",
    ];
    // No sign-in helps where the refresh token is another client's or a policy demands what no operator has.
    let hopeless =
        matches!(facts.suberror.as_deref(), Some("client_mismatch" | "protection_policy_required"));
    let reason = if hopeless || !facts.grant.is_delegated() {
        Reason::InvalidConfiguration
    } else {
        Reason::AuthorizationRequired
    };
    // A code that the server forgot: a new one helps.
    let forgotten = facts.grant == GrantKind::DeviceCode && facts.error_in(&["bad_verification_code"]);
    (forgotten || facts.error_in(&ERRORS)).then_some(reason)
}

/// A provider's string of the form `[A-Za-z0-9_.-]{1,64}`, else `invalid`; `None` if it says nothing.
fn sanitized(value: Option<&Value>) -> Option<String> {
    let text = value.and_then(Value::as_str).filter(|text| !text.is_empty())?;
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let kept = if text.len() <= 64 && text.bytes().all(usual) { text } else { INVALID };
    Some(kept.to_owned())
}

/// AADSTS numbers; as strings too, as Entra does with other numbers.
fn codes(value: Option<&Value>) -> Vec<u32> {
    let code = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    value.and_then(Value::as_array).into_iter().flatten().filter_map(code).take(MAX_CODES).collect()
}

/// Whether a text that people see has a secret in it. One of a few characters is found in anything.
pub(crate) fn shows(text: &str, secret: &str) -> bool {
    const SHORTEST: usize = 8;
    secret.len() >= SHORTEST && text.contains(secret)
}

fn echoes(text: &str, secret: &str) -> bool {
    !secret.is_empty() && (text.contains(secret) || (text.len() >= MIN_PIECE && secret.contains(text)))
}

fn pause(facts: &Facts, retry_after: Option<&str>, now: Timestamp) -> Duration {
    let asked = retry_after.and_then(|text| read_retry_after(text, now)).unwrap_or(DEFAULT_PAUSE);
    // Of an answer that asks for a pause by itself, rule 1 takes the length at its word.
    let said = facts.pause && asks_for_a_pause(facts).is_some();
    let least = if facts.loop_detected() && !said { LOOP_PAUSE } else { Duration::ZERO };
    asked.max(least).min(MAX_PAUSE)
}

/// Seconds or an HTTP-date (RFC 9110 section 10.2.3); fractions of seconds occur too.
pub(crate) fn read_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Some(seconds) = decimal(text) {
        return Some(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_PAUSE));
    }
    let wait: SignedDuration = http_date(text.trim())?.duration_since(now);
    // A date that has passed means: now.
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

/// The three forms of an HTTP-date that a recipient must accept (RFC 9110 section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    const FORMS: [&str; 3] =
        ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let time = FORMS.iter().find_map(|form| DateTime::strptime(form, text).ok())?;
    TimeZone::UTC.to_timestamp(time).ok()
}

/// A plain decimal number: no sign, no exponent, no `inf`.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}
