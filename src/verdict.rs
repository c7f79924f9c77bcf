//! What Microsoft Graph's answer to a trial says of the token. Status and headers tell; no body is ever read.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::Reason;
use crate::failure::{MAX_PAUSE, NoAnswer, read_retry_after};

/// An answer, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The WWW-Authenticate headers.
    pub challenges: Vec<String>,
    /// The Retry-After header.
    pub retry_after: Option<String>,
}

/// What a trial says of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Accepted,
    /// It was taken, and does not permit what was asked for.
    PermissionMissing,
    /// It was refused.
    Rejected,
    /// What was asked for is wrong: with this status. Nothing is known of the token.
    Failed(u16),
    /// Not now: for so long, if that was said.
    Throttled(Option<Duration>),
    /// The service is unwell: it answered this status.
    Unwell(u16),
    /// There is no answer.
    Unanswered(NoAnswer),
}

impl Verdict {
    /// The verdict of an answer.
    pub fn of(answered: &Answered, now: Timestamp) -> Self {
        let pause = answered.retry_after.as_deref();
        let pause = pause.and_then(|text| read_retry_after(text, now)).map(|pause| pause.min(MAX_PAUSE));
        match answered.status {
            200..300 => Self::Accepted,
            401 => Self::Rejected,
            // A claims challenge: the token is wanting, not the permission.
            403 if answered.challenges.iter().any(|challenge| wants_claims(challenge)) => Self::Rejected,
            403 => Self::PermissionMissing,
            429 | 509 => Self::Throttled(pause),
            500.. if pause.is_some() => Self::Throttled(pause),
            // Request Timeout says nothing of what was asked for.
            status @ (0..200 | 408 | 500..) => Self::Unwell(status),
            status => Self::Failed(status),
        }
    }

    /// The reason in the condition `Verified`.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Accepted | Self::PermissionMissing => Reason::Accepted,
            Self::Rejected => Reason::TokenRejected,
            Self::Failed(_) => Reason::ProbeFailed,
            Self::Throttled(_) => Reason::Throttled,
            Self::Unwell(_) | Self::Unanswered(_) => Reason::ProviderUnavailable,
        }
    }

    /// The name in metrics and events.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::PermissionMissing => "PermissionMissing",
            other => other.reason().as_str(),
        }
    }

    /// What is wrong, and what to do about it; empty where nothing is.
    pub fn message(self, path: &str) -> String {
        match self {
            Self::Accepted => String::new(),
            Self::PermissionMissing => format!(
                "Microsoft Graph took the token, which lacks the permission for {path} (403): grant the client that permission, \
                 or set spec.verify.path to what the token may read"
            ),
            Self::Rejected => "Microsoft Graph refused the token, and the one that was got in its place too: see in the \
                               tenant's sign-in logs which policy refuses it; the operator tries again within an hour, and \
                               at once with a new value of the annotation graphtoken.io/requested-at"
                .to_owned(),
            Self::Failed(status) => format!(
                "Microsoft Graph answered {status} to {path}, which says nothing of the token: set spec.verify.path to what the \
                 token may read, or spec.verify.interval to 0s; see also spec.endpoints.graph, if it is set"
            ),
            Self::Throttled(_) => {
                "Microsoft Graph asked for a pause; the operator tries the token again by itself".to_owned()
            }
            Self::Unwell(status) => format!(
                "Microsoft Graph answered {status}; the operator tries the token again by itself"
            ),
            Self::Unanswered(why) => unanswered(why).to_owned(),
        }
    }
}

const fn unanswered(why: NoAnswer) -> &'static str {
    match why {
        NoAnswer::Connect => {
            "Microsoft Graph cannot be reached: check DNS, network policies and the proxy settings of the operator; it tries \
             the token again by itself"
        }
        NoAnswer::Tls => {
            "No TLS connection to Microsoft Graph: if a proxy in between has a certificate of its own, give the operator its CA \
             by --ca-bundle; it tries the token again by itself"
        }
        NoAnswer::Timeout | NoAnswer::Closed | NoAnswer::TooLarge | NoAnswer::Other => {
            "Microsoft Graph did not answer; the operator tries the token again by itself"
        }
    }
}

/// Whether a challenge (RFC 9110 section 11.6.1) has the parameter `error="insufficient_claims"`.
fn wants_claims(challenge: &str) -> bool {
    let mut quoted = false;
    let parameters = challenge.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    parameters.into_iter().any(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else { return false };
        // The scheme stands before the first name.
        let name = name.split_whitespace().next_back().unwrap_or_default();
        name.eq_ignore_ascii_case("error") && value.trim().trim_matches('"') == "insufficient_claims"
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const CLAIMS: &str = r#"Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ==""#;
    const INVALID: &str =
        r#"Bearer realm="", error="invalid_token", error_description="x, error=insufficient_claims""#;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    fn verdict(status: u16, challenges: &[&str], retry_after: Option<&str>) -> Verdict {
        let challenges = challenges.iter().map(|text| (*text).to_owned()).collect();
        Verdict::of(&Answered { status, challenges, retry_after: retry_after.map(str::to_owned) }, now())
    }

    #[rstest]
    #[case::ok(200, Verdict::Accepted)]
    #[case::no_content(204, Verdict::Accepted)]
    #[case::partial(206, Verdict::Accepted)]
    #[case::early(103, Verdict::Unwell(103))]
    #[case::redirect(302, Verdict::Failed(302))]
    #[case::bad_request(400, Verdict::Failed(400))]
    #[case::unauthorized(401, Verdict::Rejected)]
    #[case::payment(402, Verdict::Failed(402))]
    #[case::forbidden(403, Verdict::PermissionMissing)]
    #[case::not_found(404, Verdict::Failed(404))]
    #[case::time_out(408, Verdict::Unwell(408))]
    #[case::gone(410, Verdict::Failed(410))]
    #[case::too_many(429, Verdict::Throttled(None))]
    #[case::internal(500, Verdict::Unwell(500))]
    #[case::bad_gateway(502, Verdict::Unwell(502))]
    #[case::unavailable(503, Verdict::Unwell(503))]
    #[case::gateway_time_out(504, Verdict::Unwell(504))]
    #[case::bandwidth(509, Verdict::Throttled(None))]
    fn each_status_has_one_verdict(#[case] status: u16, #[case] says: Verdict) {
        assert_eq!(verdict(status, &[], None), says);
    }

    #[rstest]
    #[case::seconds("120", Some(120_000))]
    #[case::a_fraction("1.5", Some(1_500))]
    #[case::a_date("Mon, 23 Nov 2026 10:02:00 GMT", Some(120_000))]
    #[case::a_date_that_has_passed("Mon, 23 Nov 2026 09:00:00 GMT", Some(0))]
    #[case::more_than_an_hour("86400", Some(3_600_000))]
    #[case::nonsense("soon", None)]
    fn a_pause_is_obeyed_up_to_an_hour(
        #[case] text: &str,
        #[case] millis: Option<u64>,
        #[values(429, 503, 509, 500)] status: u16,
    ) {
        let pause = millis.map(Duration::from_millis);
        let said = verdict(status, &[], Some(text));
        if pause.is_none() && matches!(status, 500 | 503) {
            assert_eq!(said, Verdict::Unwell(status));
        } else {
            assert_eq!(said, Verdict::Throttled(pause));
        }
    }

    #[rstest]
    #[case::unauthorized(401, &[CLAIMS], Verdict::Rejected)]
    #[case::forbidden(403, &[CLAIMS], Verdict::Rejected)]
    #[case::another_spelling(403, &["Bearer Error = insufficient_claims , claims=\"x\""], Verdict::Rejected)]
    #[case::alone(403, &["Bearer error=\"insufficient_claims\""], Verdict::Rejected)]
    #[case::the_second_header(403, &["Negotiate", CLAIMS], Verdict::Rejected)]
    #[case::only_described(403, &[INVALID], Verdict::PermissionMissing)]
    #[case::another_error(403, &["Bearer error=\"insufficient_scope\""], Verdict::PermissionMissing)]
    #[case::no_error(403, &["Bearer", "", "=,=\",\""], Verdict::PermissionMissing)]
    fn a_claims_challenge_is_a_refusal(
        #[case] status: u16,
        #[case] challenges: &[&str],
        #[case] says: Verdict,
    ) {
        assert_eq!(verdict(status, challenges, None), says);
    }

    #[rstest]
    #[case(Verdict::PermissionMissing, &["lacks the permission for /me/drive", "spec.verify.path"])]
    #[case(Verdict::Rejected, &["refused the token", "requested-at"])]
    #[case(Verdict::Failed(404), &["404 to /me/drive", "spec.verify.path", "spec.verify.interval"])]
    #[case(Verdict::Unwell(502), &["502", "by itself"])]
    #[case(Verdict::Throttled(None), &["pause", "by itself"])]
    #[case(Verdict::Unanswered(NoAnswer::Connect), &["DNS", "by itself"])]
    #[case(Verdict::Unanswered(NoAnswer::Tls), &["--ca-bundle", "by itself"])]
    #[case(Verdict::Unanswered(NoAnswer::Timeout), &["did not answer", "by itself"])]
    fn a_message_says_what_to_do(#[case] verdict: Verdict, #[case] says: &[&str]) {
        let message = verdict.message("/me/drive");
        assert!(says.iter().all(|said| message.contains(said)), "{message}");
    }
}
