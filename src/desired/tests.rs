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
    Desired::new("mail", &serde_json::from_value(spec).unwrap(), guards, &|_| None)
}

fn app_only() -> Value {
    json!({"grant": {"clientCredentials": {}}, "scopes": null,
           "clientAuth": {"secretRef": {"name": "app", "key": "secret"}}})
}

fn lax() -> Guards {
    Guards {
        allowed_endpoint_hosts: vec!["idp.test".to_owned()],
        allow_http_endpoints: true,
        ..Guards::default()
    }
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
    let data =
        json!([{"key": "token", "format": "AccessToken"}, {"key": "o365_token.txt", "format": "O365"}]);
    assert_eq!(serde_json::to_value(&desired.target.data).unwrap(), data);
    assert!(desired.target.labels.is_empty() && desired.target.annotations.is_empty());
    assert!(!desired.target.include_refresh_token && desired.target.restart.is_empty());
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
#[case("https://graph.microsoft.com/token", "spec.endpoints.token: host graph.microsoft.com is not allowed")]
#[case("https://", "empty host")]
fn an_endpoint_that_is_not_allowed_is_refused(#[case] url: &str, #[case] says: &str) {
    let refused = parse(&json!({"endpoints": {"token": url}}), &lax()).unwrap_err().to_string();
    assert!(refused.contains(says), "{refused}");
}

/// Each is somewhere else than it looks, or looks like somewhere else than it is.
#[rstest]
#[case::a_user("https://idp.test@evil.test/token")]
#[case::a_user_with_a_port("https://idp.test:443@evil.test/token")]
#[case::an_encoded_user("https://idp.test%40evil.test/token")]
#[case::a_backslash(r"https://evil.test\@idp.test/token")]
#[case::a_backslash_before(r"https://evil.test\.idp.test/token")]
#[case::slashes("https:///evil.test/idp.test/token")]
#[case::no_slashes("https:evil.test/token")]
#[case::a_suffix("https://idp.test.evil.test/token")]
#[case::a_prefix("https://evil-idp.test/token")]
#[case::a_subdomain("https://evil.idp.test/token")]
#[case::a_trailing_dot("https://idp.test./token")]
#[case::an_encoded_dot("https://idp%2etest%2eevil.test/token")]
#[case::an_encoded_slash("https://evil.test%2fidp.test/token")]
#[case::an_encoded_end("https://idp.test%00.evil.test/token")]
#[case::a_line("https://idp.test\u{a}.evil.test/token")]
#[case::a_query("https://evil.test?idp.test/token")]
#[case::a_letter_of_another_alphabet("https://\u{456}dp.test/token")]
#[case::a_full_stop_of_another_script("https://evil\u{3002}idp.test/token")]
#[case::a_soft_hyphen_in_an_evil_host("https://ev\u{ad}il.test/token")]
#[case::an_address("https://127.0.0.1/token")]
#[case::an_address_as_a_number("https://2130706433/token")]
#[case::an_address_in_hexadecimal("https://0x7f.1/token")]
#[case::an_address_in_octal("https://0177.0.0.1/token")]
#[case::an_ipv6_address("https://[::1]/token")]
#[case::a_mapped_address("https://[::ffff:127.0.0.1]/token")]
#[case::metadata_of_a_cloud("https://169.254.169.254/token")]
#[case::the_api_server("https://kubernetes.default.svc/token")]
fn no_spelling_of_another_host_passes(
    #[case] url: &str,
    #[values("token", "deviceAuthorization", "graph")] member: &str,
) {
    let mut endpoints = json!({"token": "https://idp.test/token"});
    endpoints[member] = json!(url);
    let refused = parse(&json!({"endpoints": endpoints, "grant": {"deviceCode": {}}}), &lax());
    assert!(refused.is_err(), "{:?}", refused.map(|desired| desired.client));
}

/// What is allowed is what is asked: the text that was checked is read by the same parser when it is sent.
#[rstest]
#[case::upper_case("https://IDP.Test/token")]
#[case::full_width("https://\u{ff49}dp.test/token")]
#[case::encoded("https://%69dp.test/token")]
#[case::its_port("https://idp.test:8443/token")]
#[case::a_soft_hyphen("https://id\u{ad}p.test/token")]
#[case::slashes(r"https:\\idp.test\token")]
fn another_spelling_of_an_allowed_host_goes_to_that_host(#[case] url: &str) {
    let client = parse(&json!({"endpoints": {"token": url}}), &lax()).unwrap().client;
    let asked = url::Url::parse(&client.token_url).unwrap();
    assert_eq!(asked.host_str(), Some("idp.test"));
    assert_eq!(asked.origin().ascii_serialization(), client.token_origin);
}

#[rstest]
#[case::ipv6("[::1]", "https://[0:0:0:0:0:0:0:1]/token")]
#[case::idn("xn--bcher-kva.test", "https://B\u{dc}CHER.test/token")]
fn hosts_are_compared_as_the_url_standard_writes_them(#[case] allowed: &str, #[case] url: &str) {
    let guards = Guards { allowed_endpoint_hosts: vec![allowed.to_owned()], ..Guards::default() };
    assert!(parse(&json!({"endpoints": {"token": url}}), &guards).is_ok());
}

#[rstest]
#[case("token", "https://login.microsoftonline.us/x/oauth2/v2.0/token")]
#[case("deviceAuthorization", "https://login.partner.microsoftonline.cn/x/oauth2/v2.0/devicecode")]
#[case("graph", "https://dod-graph.microsoft.us")]
fn a_token_of_one_cloud_has_no_business_at_another(#[case] member: &str, #[case] url: &str) {
    let endpoints = json!({"endpoints": {member: url}, "grant": {"deviceCode": {}}});
    let refused = parse(&endpoints, &Guards::default()).unwrap_err().to_string();
    assert!(refused.contains("is of the cloud") && refused.contains("spec.cloud is Public"), "{refused}");
}

/// The API server's pattern lets less pass; this holds for any text.
#[rstest]
#[case("../../evil.test")]
#[case("/evil.test")]
#[case("//evil.test")]
#[case("@evil.test")]
#[case(":443@evil.test")]
#[case("\\\\evil.test")]
#[case("%2f%2fevil.test")]
#[case(".evil.test")]
#[case("x?y#z")]
#[case("x\r\nHost: evil.test")]
fn whatever_the_tenant_is_its_clouds_authority_is_asked(#[case] tenant: &str) {
    let client = parse(&json!({"tenant": tenant, "grant": {"deviceCode": {}}}), &lax()).unwrap().client;
    for url in [Some(client.token_url), client.device_url, client.openid_configuration].into_iter().flatten()
    {
        let asked = url::Url::parse(&url).unwrap();
        assert_eq!(asked.origin().ascii_serialization(), "https://login.microsoftonline.com");
        assert!(asked.username().is_empty() && asked.password().is_none());
    }
}

/// The API server's pattern lets less pass; this holds for any text.
#[rstest]
#[case("//evil.test/me")]
#[case("/\\evil.test/me")]
#[case("/@evil.test/me")]
#[case(":443@evil.test/me")]
#[case(".evil.test/me")]
#[case("/..//evil.test/me")]
#[case("/../../../../me")]
#[case("/%2e%2e/%2f%2fevil.test")]
#[case("/me?x=https://evil.test/#")]
#[case("/me\r\nHost: evil.test")]
fn whatever_is_asked_for_is_asked_of_graph(
    #[case] path: &str,
    #[values(None, Some("http://idp.test/graph/"))] graph: Option<&str>,
) {
    let mut patch = json!({"verify": {"interval": "1h", "path": path}});
    if let Some(graph) = graph {
        patch["endpoints"] = json!({"token": "http://idp.test/t", "graph": graph});
    }
    let probing = parse(&patch, &lax()).unwrap().probing.unwrap();
    let asked = url::Url::parse(&format!("{}{}", probing.graph, probing.path.unwrap())).unwrap();
    assert_eq!(asked.host_str(), Some(if graph.is_some() { "idp.test" } else { "graph.microsoft.com" }));
    assert!(asked.username().is_empty() && asked.password().is_none());
}

#[test]
fn http_needs_the_operators_leave() {
    let strict = Guards { allow_http_endpoints: false, ..lax() };
    let patch = json!({"endpoints": {"token": "http://idp.test/token"}});
    assert_eq!(parse(&patch, &strict).unwrap_err(), SpecError::HttpNotAllowed { field: "token" });
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
#[case(json!({"clientAuth": {"secretRef": {"name": "mail", "key": "k"}}}), "the Secret of spec.clientAuth")]
#[case(json!({"clientAuth": {"certificateRef": {"name": "mail"}}}), "the Secret of spec.clientAuth")]
#[case(json!({"clientAuth": {}}), "exactly one of secretRef, certificateRef and workloadIdentity")]
#[case(json!({"clientAuth": {"workloadIdentity": {"serviceAccountName": "etl", "audience": "other"}}}), "--allowed-audience=other")]
#[case(json!({"grant": {"deviceCode": {}}, "endpoints": {"token": "http://idp.test/t"}}), "endpoints.deviceAuthorization")]
#[case(json!({"endpoints": {"graph": "https://evil.test"}}), "spec.endpoints.graph: host evil.test")]
#[case(json!({"endpoints": {"graph": "http://graph.microsoft.com"}, "tenant": null}), "exactly one of clientRef")]
#[case(json!({"verify": {"interval": "often"}}), "verify.interval")]
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
#[case(json!({"endpoints": {"graph": "http://idp.test"}}), false)]
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

#[test]
fn a_device_code_is_asked_for_where_the_token_is() {
    let device = json!({"grant": {"deviceCode": {}}, "cloud": "China"});
    let client = parse(&device, &lax()).unwrap().client;
    let wanted = "https://login.partner.microsoftonline.cn/contoso.onmicrosoft.com/oauth2/v2.0/devicecode";
    assert_eq!(client.device_url.as_deref(), Some(wanted));
    assert_eq!(parse(&json!({}), &lax()).unwrap().client.device_url, None, "no other grant needs one");
}

#[rstest]
#[case::delegated(json!({}), Some(("https://graph.microsoft.com/v1.0", 168)))]
#[case::off(json!({"verify": {"interval": "0s"}}), None)]
#[case::other_cloud(json!({"cloud": "USGovDoD"}), Some(("https://dod-graph.microsoft.us/v1.0", 168)))]
#[case::own_token_endpoint(json!({"endpoints": {"token": "http://idp.test/t"}}), None)]
#[case::own_graph(
    json!({"endpoints": {"token": "http://idp.test/t", "graph": "http://idp.test/graph/"}, "verify": {"interval": "1h"}}),
    Some(("http://idp.test/graph/v1.0", 1))
)]
#[case::app_only({ let mut spec = app_only(); spec["verify"] = json!({"interval": "1h"}); spec }, None)]
#[case::app_only_with_a_path({ let mut spec = app_only(); spec["verify"] = json!({"path": "/users"}); spec },
    Some(("https://graph.microsoft.com/v1.0", 168)))]
fn the_token_is_tried_by_default_where_a_user_signed_in(
    #[case] patch: Value,
    #[case] probing: Option<(&str, u64)>,
) {
    let got = parse(&patch, &lax()).unwrap().probing;
    let got = got.as_ref().map(|probing| (probing.graph.as_str(), probing.interval.as_secs() / 3600));
    assert_eq!(got, probing);
}

#[rstest]
#[case("Public", "api://AzureADTokenExchange")]
#[case("USGov", "api://AzureADTokenExchangeUSGov")]
#[case("USGovDoD", "api://AzureADTokenExchangeUSGov")]
#[case("China", "api://AzureADTokenExchangeChina")]
fn a_service_accounts_token_has_the_clouds_audience(#[case] cloud: &str, #[case] wanted: &str) {
    let auth = json!({"workloadIdentity": {"serviceAccountName": "etl"}});
    let client = parse(&json!({"cloud": cloud, "clientAuth": auth}), &Guards::default()).unwrap().client;
    let audience = wanted.to_owned();
    assert_eq!(client.proof, ClientProof::WorkloadIdentity { service_account: "etl".to_owned(), audience });
}

/// A team's spec on a `ClusterGraphClient` that says this, for a namespace labelled team=etl.
fn on_client(client: &Value, guards: &Guards) -> Result<Desired, SpecError> {
    let spec = json!({"grant": {"deviceCode": {}}, "scopes": ["Mail.Read"]});
    let mut stated = json!({"tenant": "contoso.onmicrosoft.com", "clientId": "shared"});
    for (key, value) in client.as_object().unwrap() {
        stated[key] = value.clone();
    }
    Desired::new("mail", &serde_json::from_value(spec).unwrap(), guards, &|name| {
        (name == "default").then(|| ClusterClient {
            spec: serde_json::from_value(stated.clone()).unwrap(),
            uid: "u".to_owned(),
            generation: 3,
            namespace_labels: [("team".to_owned(), "etl".to_owned())].into(),
        })
    })
}

#[test]
fn a_client_that_is_stated_once_serves_those_whom_it_allows() {
    let allow = json!({"namespaceSelector": {"matchLabels": {"team": "etl"}}, "grants": ["deviceCode"]});
    let auth = json!({"secretRef": {"name": "mail", "key": "secret"}});
    let guards = Guards { client_namespace: Some("clients".to_owned()), ..Guards::default() };
    let desired = on_client(&json!({"allow": allow, "clientAuth": auth}), &guards).unwrap();
    assert_eq!(desired.client.client_id, "shared");
    assert_eq!(desired.client.secrets_namespace.as_deref(), Some("clients"));
    assert_eq!(desired.client.stated_by, Some(("u".to_owned(), "3".to_owned())));
    assert_eq!(desired.target.secret_name, "mail", "its Secrets are in another namespace");
}

#[rstest]
#[case::nobody(json!({}), "spec.allow is absent")]
#[case::no_namespace(json!({"allow": {"grants": ["deviceCode"]}}), "spec.allow.namespaceSelector is absent")]
#[case::another_team(
    json!({"allow": {"namespaceSelector": {"matchLabels": {"team": "web"}}, "grants": ["deviceCode"]}}),
    "does not select this namespace"
)]
#[case::another_grant(json!({"allow": {"namespaceSelector": {}, "grants": ["refreshToken"]}}), "does not name deviceCode")]
#[case::no_grant(json!({"allow": {"namespaceSelector": {}}}), "does not name deviceCode")]
#[case::no_namespace_for_secrets(
    json!({"allow": {"namespaceSelector": {}, "grants": ["deviceCode"]}, "clientAuth": {"certificateRef": {"name": "c"}}}),
    "--client-namespace"
)]
fn a_refusal_says_which_rule_refused(#[case] client: Value, #[case] says: &str) {
    let refused = on_client(&client, &Guards::default()).unwrap_err().to_string();
    assert!(refused.contains(says) && refused.contains("ClusterGraphClient default"), "{refused}");
}

#[test]
fn without_a_client_the_default_one_is_named() {
    let refused = parse(&json!({"tenant": null, "clientId": null}), &lax()).unwrap_err().to_string();
    assert!(refused.contains("ClusterGraphClient default is not there"), "{refused}");
}
