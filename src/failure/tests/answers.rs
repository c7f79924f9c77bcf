//! Every answer that providers are known to give: its class, when the next attempt follows, and what a person reads.
//!
//! `answers.snap` is the table; a change of it is a change of what users see, and is to be read as such.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::grant::GrantKind::DeviceCode;
use crate::grant::{Outcome, read};
use crate::plan::tests::world::{World, now};
use crate::status::with_failure;

/// Status, Retry-After, body, as they come.
type Row = (GrantKind, u16, Option<&'static str>, Value);

fn user(error: &'static str, code: u32) -> Row {
    (RefreshToken, 400, None, entra(error, &[code]))
}

fn client(status: u16, error: &'static str, code: u32) -> Row {
    (ClientCredentials, status, None, entra(error, &[code]))
}

fn poll(error: &'static str, codes: &[u32]) -> Row {
    (DeviceCode, 400, None, entra(error, codes))
}

fn with_suberror(suberror: &str, error: &'static str, codes: &[u32]) -> Row {
    let mut body = entra(error, codes);
    body["suberror"] = json!(suberror);
    (RefreshToken, 400, None, body)
}

/// The codes of users, as Entra pairs them with errors.
fn of_users() -> Vec<Row> {
    let grant = [
        50034, 50053, 50055, 50057, 50058, 50105, 50126, 50131, 50173, 53003, 54005, 70000, 700_003, 70008,
        70043, 700_082, 700_084,
    ];
    let mut rows: Vec<Row> = grant.into_iter().map(|code| user("invalid_grant", code)).collect();
    rows.extend([
        user("interaction_required", 50076),
        user("invalid_grant", 50076),
        user("interaction_required", 50079),
        user("consent_required", 65001),
        user("invalid_grant", 65001),
        user("access_denied", 90094),
        user("login_required", 50058),
        (RefreshToken, 400, None, entra("invalid_grant", &[50076, 50173])),
        (RefreshToken, 400, None, json!({"error": "invalid_grant"})),
        with_suberror("consent_required", "invalid_grant", &[65001]),
        with_suberror("bad_token", "invalid_grant", &[70000]),
        with_suberror("client_mismatch", "invalid_grant", &[]),
        with_suberror("protection_policy_required", "invalid_grant", &[53005]),
    ]);
    rows
}

/// The codes of those who set the app up.
fn of_owners() -> Vec<Row> {
    vec![
        client(401, "invalid_client", 7_000_215),
        client(401, "invalid_client", 7_000_218),
        client(401, "invalid_client", 7_000_222),
        client(401, "invalid_client", 700_024),
        client(401, "invalid_client", 700_027),
        client(401, "invalid_client", 70002),
        client(401, "invalid_client", 70021),
        client(401, "invalid_client", 700_213),
        client(401, "unauthorized_client", 70001),
        client(400, "unauthorized_client", 700_016),
        client(400, "invalid_scope", 70011),
        client(400, "invalid_resource", 50001),
        client(400, "invalid_request", 90002),
        client(400, "invalid_request", 90014),
        client(400, "invalid_request", 90019),
        client(400, "invalid_grant", 53003),
        (ClientCredentials, 400, None, json!({"error": "invalid_tenant"})),
        (ClientCredentials, 400, None, json!({"error": "unsupported_grant_type"})),
        (ClientCredentials, 404, None, json!({})),
        (ClientCredentials, 400, None, json!({"error": "never_heard_of"})),
        (ClientCredentials, 302, None, json!(null)),
    ]
}

/// What passes by itself.
fn of_providers() -> Vec<Row> {
    let mut rows: Vec<Row> = [50033, 50087, 90006, 90012, 90024, 90033, 90090, 70012, 90061]
        .into_iter()
        .map(|code| user("invalid_grant", code))
        .collect();
    rows.extend([
        (RefreshToken, 429, None, json!({})),
        (RefreshToken, 429, Some("30"), json!({})),
        (RefreshToken, 429, Some("1.5"), json!({})),
        (RefreshToken, 429, Some("Tue, 01 Jan 2030 00:02:00 GMT"), json!({})),
        (RefreshToken, 429, Some("86400"), json!({})),
        (RefreshToken, 429, Some("soon"), json!({})),
        (RefreshToken, 503, Some("120"), json!({})),
        (RefreshToken, 400, None, entra("invalid_grant", &[50196])),
        (RefreshToken, 400, None, entra("invalid_request", &[90055])),
        (RefreshToken, 503, None, json!({})),
        (RefreshToken, 500, None, entra("server_error", &[])),
        (RefreshToken, 400, None, entra("temporarily_unavailable", &[])),
        (RefreshToken, 408, None, json!({})),
        (RefreshToken, 502, None, json!("<html>")),
        (RefreshToken, 200, None, json!({})),
        (RefreshToken, 200, None, json!({"access_token": "at", "expires_in": "0"})),
        (RefreshToken, 200, None, json!({"access_token": "at", "expires_in": 3600, "token_type": "pop"})),
    ]);
    rows
}

fn of_polls() -> Vec<Row> {
    vec![
        poll("authorization_pending", &[70016]),
        poll("slow_down", &[]),
        poll("expired_token", &[70020]),
        poll("authorization_declined", &[]),
        poll("access_denied", &[53003]),
        poll("invalid_grant", &[53003]),
        poll("bad_verification_code", &[70018]),
        poll("invalid_client", &[7_000_218]),
        (DeviceCode, 429, Some("10"), entra("authorization_pending", &[])),
        (DeviceCode, 503, None, json!({})),
    ]
}

/// When the next attempt follows a first failure, where no token is left.
fn next_attempt(failure: &Failure) -> String {
    let mut world = World::fresh();
    let before = std::mem::take(&mut world.observed.status);
    world.observed.status = with_failure(before, failure.clone(), &world.observed.inputs, now());
    let plan = world.plan();
    let at = plan.next_exchange.expect("there is a next one");
    let wait = at.duration_since(now());
    format!("{} s", wait.as_secs())
}

#[test]
fn every_known_answer_has_a_class_a_back_off_and_a_sentence() {
    let rows = [of_users(), of_owners(), of_providers(), of_polls()].concat();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut table = String::new();
    for (grant, status, retry_after, body) in &rows {
        // What is not JSON is given as a string.
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let answer = Answer { status: *status, retry_after: *retry_after, body: text.as_bytes() };
        let told = body["error"].as_str().unwrap_or("-");
        let codes = codes(body.get("error_codes"));
        let pause = retry_after.map(|text| format!(" Retry-After {text}")).unwrap_or_default();
        let _ = write!(table, "{} {status}{pause} {told} {codes:?}", grant.spec_name());
        match read(*grant, &answer, NOW) {
            Outcome::Pending { slow_down } => {
                let _ = writeln!(table, "\n    goes on polling, slow_down {slow_down}");
            }
            Outcome::Issued(_) => unreachable!("none of these has a token in it"),
            Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => {
                assert!(!failure.message.contains("s3cr3t"), "{}", failure.message);
                assert!(failure.message.len() > 20 && !failure.message.contains("AADSTS0:"));
                let next = next_attempt(&failure);
                let _ = writeln!(
                    table,
                    "\n    {} next in {next}\n    {}",
                    failure.reason.as_str(),
                    failure.message
                );
            }
        }
    }
    insta::assert_snapshot!("answers", table);
}
