//! What a person reads of a refusal: what is wrong, and what to do about it.
//!
//! The most telling source goes first: AADSTS number, `suberror`, `error`, class. A row counts only for its class, so
//! that nobody is told to sign in where a setting is wrong. Meanings: Microsoft, "Microsoft Entra authentication and
//! authorization error codes".

use super::Facts;
use crate::api::Reason;
use crate::grant::GrantKind;

/// What is wrong, and what to do about it.
type Advice = (&'static str, &'static str);

const SIGN_IN: &str = "sign in again and put the new refresh token into the seed Secret";
/// How the advice on consent speaks of scopes; only that on consent does.
pub(super) const THESE_SCOPES: &str = "these scopes";
/// The same where the operator asks for the sign-in itself.
const NEW_CODE: &str =
    "ask for a new code by a new value of the annotation graphtoken.io/requested-at, and sign in with it";

pub(super) fn of(reason: Reason, facts: &Facts) -> String {
    let by_device = || for_device(reason, facts);
    let code = || facts.codes.iter().find_map(|code| by_code(reason, *code));
    let suberror = || facts.suberror.as_deref().and_then(|suberror| by_suberror(reason, suberror));
    let error = || facts.error.as_deref().and_then(|error| by_error(reason, error));
    let said = match by_device().or_else(code).or_else(suberror).or_else(error) {
        Some((wrong, todo)) => format!("{wrong}: {todo}."),
        None => by_class(reason, facts),
    };
    if facts.grant == GrantKind::DeviceCode { in_terms_of_codes(&said) } else { said }
}

/// What a poll may be told, and a refresh may not.
fn for_device(reason: Reason, facts: &Facts) -> Option<Advice> {
    if facts.grant != GrantKind::DeviceCode || reason != Reason::AuthorizationRequired {
        return None;
    }
    if facts.code_in(&[53003, 530_032, 530_035, 530_036]) {
        return Some((
            "A Conditional Access policy blocks this sign-in, perhaps all sign-ins by device code",
            "have an administrator exempt the account or the app, or use grant refreshToken with a refresh token of a \
             sign-in in a browser, or grant clientCredentials",
        ));
    }
    Some(match facts.error.as_deref() {
        Some("authorization_declined" | "access_denied") => ("The user declined the sign-in", NEW_CODE),
        Some("expired_token") => ("The code ran out before anybody entered it", NEW_CODE),
        Some("bad_verification_code") => ("The code is not known any more, or was used", NEW_CODE),
        _ => return None,
    })
}

/// There is no seed Secret to put a refresh token into.
fn in_terms_of_codes(said: &str) -> String {
    ["the new", "the", "that", "its"].iter().fold(said.to_owned(), |said, which| {
        let seeded = format!(" and put {which} refresh token into the seed Secret");
        said.replace(
            &seeded,
            " with a new code, which a new value of the annotation graphtoken.io/requested-at asks for",
        )
    })
}

fn by_code(reason: Reason, code: u32) -> Option<Advice> {
    match reason {
        Reason::AuthorizationRequired => for_user(code),
        Reason::InvalidConfiguration => for_owner(code),
        _ => None,
    }
}

#[expect(clippy::unreadable_literal, reason = "AADSTS numbers are searched for as people see them")]
fn for_user(code: u32) -> Option<Advice> {
    Some(match code {
        50034 => (
            "The account does not exist in this tenant",
            "check spec.tenant, or sign in with an account of it and put the refresh token into the seed Secret",
        ),
        50053 => {
            ("The account, or the address it comes from, is blocked", "have an administrator unblock it")
        }
        50055 | 50144 => (
            "The account's password has expired",
            "set a new one, sign in again and put the new refresh token into the seed Secret",
        ),
        50057 => ("The account is disabled", "have an administrator enable it, or sign in with another"),
        50072 | 50074 | 50076 | 50078 | 50079 | 53004 => ("Multi-factor authentication is required", SIGN_IN),
        50105 => (
            "The account is not assigned to the app",
            "have an administrator assign it (Enterprise applications, Users and groups)",
        ),
        50097 | 50131 | 53000 | 53001 | 53002 | 53003 | 530032 | 530035 | 700003 => (
            "A Conditional Access policy blocks this sign-in",
            "have an administrator exempt the account or the app, or sign in again in a way that meets the policy and put \
             the new refresh token into the seed Secret",
        ),
        50132 | 50133 | 50173 => ("The sign-in was revoked, for example by a new password", SIGN_IN),
        65001 | 65004 | 90008 => {
            ("Nobody has consented to these scopes", "consent, then sign in again with them")
        }
        90094 | 90095 => (
            "These scopes need an administrator's consent",
            "have an administrator grant it (App registrations, API permissions), then sign in again",
        ),
        70000 => ("The refresh token is not valid", SIGN_IN),
        70008 | 700082 => ("The refresh token expired for want of use", SIGN_IN),
        70043 => ("A sign-in frequency policy ended the sign-in", SIGN_IN),
        700084 => (
            "The refresh token is a single-page app's and lived for 24 hours",
            "sign in by the platform Web or Mobile and desktop of the app registration, and put that refresh token into \
             the seed Secret",
        ),
        9002313 => ("The refresh token is malformed", "put the whole of it into the seed Secret"),
        _ => return None,
    })
}

#[expect(clippy::unreadable_literal, reason = "AADSTS numbers are searched for as people see them")]
fn for_owner(code: u32) -> Option<Advice> {
    Some(match code {
        50001 | 500011 | 650057 => (
            "The scopes' resource is unknown in this tenant",
            "check spec.scopes, spec.cloud and the app's API permissions",
        ),
        50194 | 9001023 | 90124 | 90130 => (
            "The app cannot be used with this tenant alias",
            "put the tenant's GUID or domain into spec.tenant",
        ),
        53003 | 530032 => (
            "A Conditional Access policy blocks this app",
            "have an administrator exempt it, or the addresses that the cluster comes from",
        ),
        70001 | 7000112 => ("The app is disabled", "have an administrator enable it"),
        70002 => ("The client's proof was not accepted", "check spec.clientAuth and the Secret it refers to"),
        70011 | 28002 | 28003 | 700022 | 700023 => (
            "The scopes are not valid",
            "check spec.scopes: each of one resource, spelled as in the Microsoft Graph permissions reference",
        ),
        700011 | 700016 => ("The app is not in this tenant", "check spec.clientId and spec.tenant"),
        7000215 => (
            "The client secret is wrong",
            "put the secret's value, not its id, into the Secret that spec.clientAuth refers to",
        ),
        7000222 => (
            "The client secret has expired",
            "make a new one and put its value into the Secret that spec.clientAuth refers to",
        ),
        70021 | 700211 | 700212 | 700213 => (
            "No federated credential of the app matches the service account's token",
            "check issuer, subject (system:serviceaccount:NAMESPACE:NAME) and audience in the app registration (Certificates & \
             secrets, Federated credentials); one just made is known after some minutes",
        ),
        700024 => (
            "The assertion was not valid at the time it arrived",
            "set the clock of the node that the operator runs on",
        ),
        700027 | 5002723 => (
            "The signature is not that of a certificate of the app",
            "register the certificate that spec.clientAuth refers to (App registrations, Certificates & secrets)",
        ),
        7000218 => (
            "The app must prove who it is",
            "set spec.clientAuth, or allow public client flows in the app registration (Authentication)",
        ),
        700025 => ("The app is a public client", "remove spec.clientAuth"),
        9002326 | 9002327 => (
            "The refresh token is a single-page app's and works in a browser only",
            "sign in by the platform Web or Mobile and desktop of the app registration",
        ),
        90002 | 90038 | 50049 => ("The tenant was not found", "check spec.tenant and spec.cloud"),
        90019 | 50059 | 50128 => {
            ("The tenant was not recognised", "put its GUID or a verified domain into spec.tenant")
        }
        _ => return None,
    })
}

fn by_suberror(reason: Reason, suberror: &str) -> Option<Advice> {
    use Reason::{AuthorizationRequired, InvalidConfiguration};
    Some(match (reason, suberror) {
        (InvalidConfiguration, "client_mismatch") => (
            "The refresh token belongs to another client",
            "check spec.clientId, or sign in with this client and put its refresh token into the seed Secret",
        ),
        (InvalidConfiguration, "protection_policy_required") => (
            "A Conditional Access policy demands a managed app",
            "have an administrator exempt the account or the app",
        ),
        (AuthorizationRequired, "consent_required") => {
            ("Nobody has consented to these scopes", "consent, then sign in again with them")
        }
        _ => return None,
    })
}

fn by_error(reason: Reason, error: &str) -> Option<Advice> {
    use Reason::{AuthorizationRequired, InvalidConfiguration};
    Some(match (reason, error) {
        (InvalidConfiguration, "invalid_client") => (
            "The app is unknown or could not prove who it is",
            "check spec.clientId, spec.clientAuth and the Secret it refers to",
        ),
        (InvalidConfiguration, "unauthorized_client") => (
            "The app may not use this grant",
            "check spec.clientId, spec.tenant and what the app registration allows",
        ),
        (InvalidConfiguration, "invalid_tenant") => {
            ("The tenant was not accepted", "check spec.tenant and spec.cloud")
        }
        (InvalidConfiguration, "invalid_scope" | "invalid_resource") => {
            ("The scopes were not accepted", "check spec.scopes and the app's API permissions")
        }
        (InvalidConfiguration, "unsupported_grant_type") => {
            ("The token endpoint does not know this grant", "check spec.grant and spec.endpoints.token")
        }
        (AuthorizationRequired, "consent_required") => {
            ("Nobody has consented to these scopes", "consent, then sign in again with them")
        }
        (AuthorizationRequired, "invalid_grant") => ("The refresh token is not valid any more", SIGN_IN),
        _ => return None,
    })
}

fn by_class(reason: Reason, facts: &Facts) -> String {
    let status = facts.status;
    match reason {
        Reason::Throttled => {
            format!(
                "The provider asked for a pause (HTTP {status}); the operator waits and goes on by itself."
            )
        }
        Reason::ProviderUnavailable => unavailable(facts),
        Reason::AuthorizationRequired => format!("The provider wants a user to sign in: {SIGN_IN}."),
        _ if facts.is_redirect() => format!(
            "The token endpoint answered with a redirect (HTTP {status}), which is not followed: put the final URL into \
             spec.endpoints.token."
        ),
        _ => {
            let more = match facts.grant {
                GrantKind::RefreshToken => "the seed Secret",
                GrantKind::DeviceCode => "what the app registration allows",
                GrantKind::ClientCredentials => "the permissions of the app",
            };
            format!(
                "The provider refused the request (HTTP {status}): check spec.tenant, spec.clientId, spec.clientAuth, \
                 spec.scopes and {more}."
            )
        }
    }
}

fn unavailable(facts: &Facts) -> String {
    let status = facts.status;
    if facts.json || status == 408 || status >= 500 {
        return format!("The token endpoint failed (HTTP {status}); the operator tries again by itself.");
    }
    format!(
        "The token endpoint's answer is not JSON (HTTP {status}); the operator tries again by itself. If it lasts, check \
         spec.tenant, spec.endpoints.token and any proxy in between."
    )
}
