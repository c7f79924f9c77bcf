//! Status, Retry-After and body of a token endpoint's answer → `grant::read`. An input is the status in its first line,
//! the header in its second, and the body.

use std::time::Duration;

use graphtoken::api::Reason;
use graphtoken::failure::{Answer, Failure};
use graphtoken::grant::{Account, GrantKind, Issued, Outcome, Proof, device_code, read, refresh_token};
use graphtoken::verdict::{Answered, Verdict};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::IgnoredAny;
use serde_json::Value;

/// The refresh token that is sent; in `dictionaries/response`, so that answers echo it.
const SENT: &str = "1.Obviously-Fake-Refresh-Token-5d0c";
/// Free text of the provider's; in the dictionary too.
const SPOKEN: &str = "text of the provider";
/// The refresh token that comes back beside odd members.
const ROTATED: &str = "1.Obviously-Fake-Rotated-Token";
const MAX_TOKEN: usize = 64 * 1024;
const MAX_LIFE: Duration = Duration::from_hours(7 * 24);
const MAX_PAUSE: Duration = Duration::from_hours(1);
const MAX_MESSAGE: usize = 1024;

pub fn check(input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (status, retry_after, body) = (line(), line(), line());
    let status = std::str::from_utf8(status).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(200);
    let retry_after = std::str::from_utf8(retry_after).ok().filter(|text| !text.is_empty());
    let answer = Answer { status, retry_after, body };
    for grant in [GrantKind::RefreshToken, GrantKind::DeviceCode, GrantKind::ClientCredentials] {
        // The time counts only for a date in Retry-After.
        let times = if retry_after.is_some() { 3 } else { 1 };
        for now in [super::now(), Timestamp::MIN, Timestamp::MAX].into_iter().take(times) {
            let outcome = read(grant, &answer, now);
            let refused = matches!(outcome, Outcome::Refused(_) | Outcome::Pending { .. });
            assert_eq!(refused, !answer.is_success());
            assert!(grant == GrantKind::DeviceCode || !matches!(outcome, Outcome::Pending { .. }));
            keeps_the_rotated_token(grant, &answer, &outcome);
            holds(grant, &outcome);
            reveals_nothing(outcome);
        }
    }
    starts_a_sign_in_that_can_be_shown(&answer);
    has_a_verdict(&answer);
    odd_members_cost_no_token(body);
}

/// Whatever Microsoft Graph answers.
fn has_a_verdict(answer: &Answer<'_>) {
    let challenge = String::from_utf8_lossy(answer.body).into_owned();
    let answered = Answered {
        status: answer.status,
        challenges: vec![challenge.clone()],
        retry_after: answer.retry_after.map(str::to_owned),
    };
    for now in [super::now(), Timestamp::MIN, Timestamp::MAX] {
        let verdict = Verdict::of(&answered, now);
        assert!(!matches!(verdict, Verdict::Throttled(Some(pause)) if pause > MAX_PAUSE));
        let message = verdict.message("/me");
        assert!(message.len() <= MAX_MESSAGE && (challenge.len() < 24 || !message.contains(&challenge)));
    }
}

/// What people are to type and open.
fn starts_a_sign_in_that_can_be_shown(answer: &Answer<'_>) {
    let request = device_code::authorization("client", &["Mail.Read".to_owned()], Proof::Public);
    match device_code::read(answer, super::now(), &request) {
        Ok(code) => {
            assert!(answer.is_success() && super::is_graphic(code.device_code.expose_secret(), MAX_TOKEN));
            assert!(
                (1..=64).contains(&code.user_code.len()) && !code.user_code.chars().any(char::is_control)
            );
            assert!(
                super::is_graphic(&code.verification_uri, 512) && code.verification_uri.starts_with("http")
            );
            assert!(!code.interval.is_zero() && !code.expires_in.is_zero() && code.expires_in <= MAX_LIFE);
        }
        Err(failure) => is_bounded(&failure),
    }
}

fn holds(grant: GrantKind, outcome: &Outcome) {
    let account = match outcome {
        Outcome::Issued(issued) => {
            is_usable(issued);
            &issued.account
        }
        Outcome::Refused(failure) => {
            is_bounded(failure);
            &None
        }
        Outcome::Unusable { failure, account, .. } => {
            is_bounded(failure);
            account
        }
        Outcome::Pending { .. } => &None,
    };
    assert!(account.is_none() || grant.is_delegated());
    account.as_ref().into_iter().for_each(is_account);
}

fn is_usable(issued: &Issued) {
    assert!(super::is_graphic(issued.access_token.expose_secret(), MAX_TOKEN));
    assert_eq!(issued.token_type, "Bearer");
    assert!(!issued.expires_in.is_zero() && issued.expires_in <= MAX_LIFE, "{:?}", issued.expires_in);
    assert!(issued.refresh_in.is_none_or(|at| !at.is_zero() && at < issued.expires_in));
    let scopes = &issued.granted_scopes;
    assert!(scopes.len() <= 128 && scopes.iter().all(|scope| super::is_graphic(scope, 256)));
    assert!(issued.warnings.len() <= 4);
    let debug = format!("{issued:?}");
    let secrets = [Some(&issued.access_token), issued.refresh_token.as_ref()];
    for secret in secrets.into_iter().flatten().map(SecretString::expose_secret) {
        // The provider may name a scope, or a person, as it names a token.
        let named = format!("{:?}{:?}", issued.granted_scopes, issued.account).contains(secret);
        assert!(secret.len() < 24 || named || !debug.contains(secret));
    }
}

fn is_account(account: &Account) {
    assert!(super::is_graphic(&account.object_id, 255));
    for id in [&account.tenant_id, &account.guest_in].into_iter().flatten() {
        assert!(super::is_graphic(id, 255));
    }
    if let Some(name) = &account.username {
        assert!(name.chars().count() <= 320 && !name.chars().any(|c| c.is_control() || c.is_whitespace()));
        let named = account.object_id.contains(name.as_str())
            || account.tenant_id.as_ref().is_some_and(|id| id.contains(name.as_str()));
        assert!(named || name.len() < 24 || !format!("{account:?}").contains(name.as_str()));
    }
}

/// What stands in a status: strings of `[A-Za-z0-9_.-]{1,64}`, a few numbers, one sentence of ours.
fn is_bounded(failure: &Failure) {
    let strings = [&failure.error, &failure.suberror, &failure.correlation_id, &failure.trace_id];
    for text in strings.into_iter().flatten() {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        assert!((1..=64).contains(&text.len()) && text.bytes().all(usual), "{text:?}");
    }
    assert!(failure.codes.len() <= 16 && failure.answered);
    assert!(failure.reason != Reason::Throttled || failure.retry_after.is_some());
    let may_pause = matches!(failure.reason, Reason::Throttled | Reason::InvalidConfiguration);
    assert!(may_pause || failure.retry_after.is_none());
    assert!(failure.retry_after.is_none_or(|pause| pause <= MAX_PAUSE));
    assert!((1..=MAX_MESSAGE).contains(&failure.message.len()) && !failure.message.contains('\n'));
    assert!(!format!("{failure:?}").contains(SPOKEN), "{failure:?}");
}

/// An answer that echoes the refresh token we sent does not bring it into a failure.
fn reveals_nothing(outcome: Outcome) {
    let request =
        refresh_token::request("client", &SecretString::from(SENT), &["Mail.Read".to_owned()], Proof::Public);
    match outcome.masked(&request) {
        Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => {
            is_bounded(&failure);
            assert!(!format!("{failure:?}").contains(SENT), "{failure:?}");
        }
        Outcome::Issued(_) | Outcome::Pending { .. } => {}
    }
}

/// The refresh token that came with a success, whatever else is wrong with it: the one that was sent may be spent.
fn keeps_the_rotated_token(grant: GrantKind, answer: &Answer<'_>, outcome: &Outcome) {
    let body = String::from_utf8_lossy(answer.body);
    let Ok(body) = serde_json::from_str::<Value>(body.trim_start_matches('\u{feff}')) else { return };
    let sent = body["refresh_token"].as_str();
    let sent = sent.filter(|token| !token.trim().is_empty() && token.len() <= MAX_TOKEN);
    let wanted = sent.filter(|_| answer.is_success() && grant.is_delegated());
    assert_eq!(rotated(outcome), wanted);
}

fn rotated(outcome: &Outcome) -> Option<&str> {
    let token = match outcome {
        Outcome::Issued(issued) => issued.refresh_token.as_ref(),
        Outcome::Unusable { rotated, .. } => rotated.as_ref(),
        Outcome::Refused(_) | Outcome::Pending { .. } => None,
    };
    token.map(SecretString::expose_secret)
}

/// Whatever is JSON by its grammar, though no program could hold its value, may stand beside a refresh token.
fn odd_members_cost_no_token(odd: &[u8]) {
    let odd = String::from_utf8_lossy(odd);
    if serde_json::from_str::<IgnoredAny>(&odd).is_err() {
        return;
    }
    let bodies = [
        format!(r#"{{"refresh_token": "{ROTATED}", "odd": {odd}}}"#),
        format!(r#"{{"odd": {odd}, "refresh_token": "{ROTATED}"}}"#),
    ];
    for body in bodies {
        let answer = Answer { status: 200, retry_after: None, body: body.as_bytes() };
        let outcome = read(GrantKind::RefreshToken, &answer, super::now());
        assert_eq!(rotated(&outcome), Some(ROTATED), "the answer's refresh token is lost");
    }
}
