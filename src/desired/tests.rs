use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn parse(patch: &Value, guards: &Guards) -> Result<Desired, SpecError> {
    let mut spec = json!({
        "tenant": "contoso.onmicrosoft.com",
        "clientId": "11111111-2222-3333-4444-555555555555",
        "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}},
        "scopes": ["Mail.Read"],
    });
    for (key, value) in patch.as_object().unwrap() {
        spec[key] = value.clone();
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(key);
        }
    }
    Desired::new("mail", &serde_json::from_value(spec).unwrap(), guards)
}

fn app_only() -> Value {
    json!({"grant": {"clientCredentials": {}}, "scopes": null,
           "clientAuth": {"secretRef": {"name": "app", "key": "secret"}}})
}

fn lax() -> Guards {
    Guards { allowed_endpoint_hosts: vec!["idp.test".to_owned()], allow_http_endpoints: true }
}

#[test]
fn defaults_are_what_the_contract_says() {
    let desired = parse(&json!({}), &Guards::default()).unwrap();
    assert_eq!(
        desired.client.token_url,
        "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"
    );
    assert_eq!(
        desired.scopes,
        ["https://graph.microsoft.com/Mail.Read", "openid", "profile", "offline_access"]
    );
    assert_eq!(desired.refresh, RefreshPolicy::Percentage(50));
    assert_eq!(desired.target.secret_name, "mail");
    assert_eq!(desired.target.deletion_policy, DeletionPolicy::Delete);
    assert_eq!(desired.target.data, default_data());
    assert_eq!(desired.credential_retention.get(), Ok(Duration::from_hours(168)));
    assert!(!desired.suspend);
}

#[rstest]
#[case("Public", "login.microsoftonline.com", "https://graph.microsoft.com")]
#[case("USGov", "login.microsoftonline.us", "https://graph.microsoft.us")]
#[case("USGovDoD", "login.microsoftonline.us", "https://dod-graph.microsoft.us")]
#[case("China", "login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn")]
fn each_cloud_has_its_own_hosts(#[case] cloud: &str, #[case] authority: &str, #[case] graph: &str) {
    let desired = parse(&json!({"cloud": cloud}), &Guards::default()).unwrap();
    assert_eq!(desired.client.environment, authority);
    assert_eq!(desired.client.token_origin, format!("https://{authority}"));
    assert_eq!(desired.scopes[0], format!("{graph}/Mail.Read"));
}

#[rstest]
#[case("User.Read", "https://graph.microsoft.com/User.Read")]
#[case(".default", "https://graph.microsoft.com/.default")]
#[case("https://graph.microsoft.com/User.Read", "https://graph.microsoft.com/User.Read")]
#[case("api://11111111-2222/thing", "api://11111111-2222/thing")]
#[case("00000003-0000-0000-c000-000000000000/.default", "00000003-0000-0000-c000-000000000000/.default")]
#[case("email", "email")]
#[case("offline_access", "offline_access")]
fn only_short_names_get_the_graph_prefix(#[case] written: &str, #[case] sent: &str) {
    let desired = parse(&json!({"scopes": [written]}), &Guards::default()).unwrap();
    assert_eq!(desired.scopes[0], sent);
    assert_eq!(desired.scopes.iter().filter(|s| *s == "offline_access").count(), 1);
}

#[test]
fn another_server_is_asked_for_offline_access_and_nothing_more() {
    let patch = json!({"endpoints": {"token": "http://idp.test:8080/token"}, "scopes": ["openid"]});
    let desired = parse(&patch, &lax()).unwrap();
    assert_eq!(desired.scopes, ["openid", "offline_access"]);
    assert_eq!(desired.client.token_origin, "http://idp.test:8080");
    assert_eq!(desired.client.openid_configuration, None);
}

#[test]
fn an_app_asks_for_default_and_never_for_offline_access() {
    assert_eq!(parse(&app_only(), &lax()).unwrap().scopes, ["https://graph.microsoft.com/.default"]);
}

#[rstest]
#[case("https://evil.test/token", "--allowed-endpoint-host=evil.test")]
#[case("https://IDP.test.evil/token", "idp.test.evil is not allowed")]
#[case("https://idp.test@evil.test/token", "user, password or fragment")]
#[case("ftp://idp.test/token", "neither https nor http")]
#[case("https://", "empty host")]
fn an_endpoint_that_is_not_allowed_is_refused(#[case] url: &str, #[case] says: &str) {
    let refused = parse(&json!({"endpoints": {"token": url}}), &lax()).unwrap_err().to_string();
    assert!(refused.contains(says), "{refused}");
}

#[test]
fn http_needs_the_operators_leave() {
    let strict = Guards { allow_http_endpoints: false, ..lax() };
    let patch = json!({"endpoints": {"token": "http://idp.test/token"}});
    assert_eq!(parse(&patch, &strict).unwrap_err(), SpecError::HttpNotAllowed);
    assert!(parse(&patch, &lax()).is_ok());
    // A known cloud is allowed without being listed, but not in clear text.
    let patch = json!({"endpoints": {"token": "https://login.microsoftonline.com/x/oauth2/v2.0/token"}});
    assert!(parse(&patch, &Guards::default()).is_ok());
}

#[rstest]
#[case(json!({"grant": {}}), "exactly one of")]
#[case(json!({"grant": {"clientCredentials": {}}}), "clientAuth is needed")]
#[case(json!({"scopes": null}), "scopes is needed")]
#[case(json!({"target": {"secretName": "seed"}}), "the seed Secret")]
#[case(json!({"target": {"secretName": "x-graphtoken-credential"}}), "reserved")]
#[case(json!({"clientAuth": {"secretRef": {"name": "mail", "key": "k"}}}), "the client secret's Secret")]
#[case(json!({"credentialRetention": "7d"}), "credentialRetention")]
#[case(json!({"refresh": {"renewBefore": "x"}}), "refresh.renewBefore")]
#[case(json!({"refresh": {"renewBefore": "5m", "renewBeforePercentage": 5}}), "exactly one of")]
fn a_bad_spec_is_refused_and_says_where(#[case] patch: Value, #[case] says: &str) {
    let refused = parse(&patch, &lax()).unwrap_err().to_string();
    assert!(refused.contains(says), "{refused}");
}

#[rstest]
#[case(json!({"tenant": "fabrikam.onmicrosoft.com"}), false)]
#[case(json!({"clientId": "other"}), false)]
#[case(json!({"cloud": "USGov"}), false)]
#[case(json!({"endpoints": {"token": "http://idp.test/token"}}), false)]
#[case(json!({"scopes": ["Mail.Read", "User.Read"]}), false)]
#[case(json!({"account": "a@b.c"}), true)]
#[case(json!({"suspend": true}), true)]
#[case(json!({"target": {"secretName": "other"}}), true)]
#[case(json!({"refresh": {"renewBefore": "5m"}}), true)]
fn a_token_is_for_one_tenant_client_cloud_endpoint_grant_and_scopes(
    #[case] patch: Value,
    #[case] same: bool,
) {
    let before = parse(&json!({}), &lax()).unwrap().issued_for;
    assert_eq!(parse(&patch, &lax()).unwrap().issued_for == before, same);
}

#[test]
fn the_order_of_scopes_does_not_matter() {
    let one = parse(&json!({"scopes": ["Mail.Read", "User.Read"]}), &lax()).unwrap();
    let other = parse(&json!({"scopes": ["User.Read", "Mail.Read"]}), &lax()).unwrap();
    assert_eq!(one.issued_for, other.issued_for);
}
