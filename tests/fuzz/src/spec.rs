//! JSON → `GraphTokenSpec` → `Desired::new`, without the API server's schema in between: an older CRD may let anything
//! through.

use std::collections::BTreeMap;

use graphtoken::api::GraphTokenSpec;
use graphtoken::api::client::ClusterGraphClientSpec;
use graphtoken::api::names::{CREDENTIAL_SUFFIX, LOGIN_SUFFIX};
use graphtoken::desired::{ClientProof, ClusterClient, Desired, Grant, Guards, RefreshPolicy, SpecError};
use graphtoken::grant::Account;
use graphtoken::render::{RenderError, TokenView, render};
use secrecy::SecretString;
use url::Url;

const NAME: &str = "mail";
const ALLOWED: &str = "idp.test";
/// What stands where people put secrets into URLs.
const HIDDEN: &str = "obviously-fake-8c1f";
/// An error is longer than this only by what it quotes of the spec.
const MAX_ADVICE: usize = 512;

pub fn check(input: &[u8]) {
    let [spec, client] = super::pieces::<2>(input);
    let Ok(spec) = serde_json::from_slice::<GraphTokenSpec>(spec) else { return };
    if let Ok(client) = serde_json::from_slice::<ClusterGraphClientSpec>(client) {
        serves_whom_it_allows(&spec, &client);
    }
    let strict = Guards::default();
    let lenient = Guards {
        allowed_endpoint_hosts: vec![ALLOWED.to_owned()],
        allow_http_endpoints: true,
        ..Guards::default()
    };
    for guards in [&strict, &lenient] {
        match Desired::new(NAME, &spec, guards, &|_| None) {
            Ok(desired) => keeps_its_promises(&spec, &desired, guards),
            // Quoted text may be escaped.
            Err(error) => assert!(error.to_string().len() <= MAX_ADVICE + 10 * input.len(), "{error}"),
        }
        hides_what_urls_hide(&spec, guards);
    }
    if let Ok(desired) = Desired::new(NAME, &spec, &strict, &|_| None) {
        let lenient =
            Desired::new(NAME, &spec, &lenient, &|_| None).expect("who allows more refuses nothing else");
        assert_eq!(lenient.issued_for, desired.issued_for);
    }
}

/// A client that is stated for many namespaces.
fn serves_whom_it_allows(spec: &GraphTokenSpec, client: &ClusterGraphClientSpec) {
    let labels = BTreeMap::from([("team".to_owned(), "etl".to_owned())]);
    let find = |_: &str| {
        let (uid, namespace_labels) = ("uid".to_owned(), labels.clone());
        Some(ClusterClient { spec: client.clone(), uid, generation: 1, namespace_labels })
    };
    for client_namespace in [None, Some("clients".to_owned())] {
        let guards = Guards { client_namespace: client_namespace.clone(), ..Guards::default() };
        let Ok(desired) = Desired::new(NAME, spec, &guards, &find) else { continue };
        goes_where_it_may(&desired, &guards);
        if desired.client.stated_by.is_none() {
            assert_eq!(desired.client.secrets_namespace, None);
            continue;
        }
        let allow = client.allow.as_ref().expect("without it nobody may");
        assert!(allow.namespace_selector.as_ref().is_some_and(|selector| selector.matches(&labels)));
        assert!(allow.grants.as_ref().is_some_and(|grants| !grants.is_empty()));
        assert_eq!(desired.client.secrets_namespace, client_namespace);
        assert!(client_namespace.is_some() || desired.client.proof == ClientProof::Public);
    }
}

fn keeps_its_promises(spec: &GraphTokenSpec, desired: &Desired, guards: &Guards) {
    goes_where_it_may(desired, guards);
    assert!(desired.credential_retention.get().is_ok());
    assert!(!matches!(desired.refresh, RefreshPolicy::Percentage(0 | 100..)));
    let target = &desired.target.secret_name;
    assert!(!target.ends_with(CREDENTIAL_SUFFIX) && !target.ends_with(LOGIN_SUFFIX));
    match &desired.grant {
        Grant::RefreshToken { seed } => {
            assert_ne!(seed.name, *target);
            assert!(desired.scopes.iter().any(|scope| scope == "offline_access"));
        }
        Grant::DeviceCode => assert!(desired.client.device_url.is_some()),
        Grant::ClientCredentials => assert_ne!(desired.client.proof, ClientProof::Public),
    }
    assert_ne!(desired.client.proof.secret_name(), Some(target.as_str()));

    // No token is got in vain for want of a template that can be rendered.
    for app_only in [false, true] {
        let rendered = render_a_token(desired, app_only);
        assert!(!matches!(rendered, Err(RenderError::Template { .. })), "{rendered:?}");
    }

    // The order of lists counts for nothing.
    let mut turned = spec.clone();
    if let Some(scopes) = &mut turned.scopes {
        scopes.reverse();
    }
    if let Some(data) = turned.target.as_mut().and_then(|target| target.data.as_mut()) {
        data.reverse();
    }
    let turned = Desired::new(NAME, &turned, guards, &|_| None).expect("it was right before");
    assert_eq!(turned.issued_for, desired.issued_for);
    assert_eq!(turned.target.layout, desired.target.layout);
}

fn render_a_token(desired: &Desired, app_only: bool) -> Result<BTreeMap<String, Vec<u8>>, RenderError> {
    let account = Account { object_id: "oid".to_owned(), tenant_id: None, guest_in: None, username: None };
    let access_token = SecretString::from("t");
    let token = TokenView {
        access_token: &access_token,
        refresh_token: None,
        token_type: "Bearer",
        issued_at: super::now(),
        expires_at: super::now(),
        granted_scopes: if app_only { &[] } else { &desired.scopes },
        client_id: &desired.client.client_id,
        tenant_id: &desired.client.tenant,
        account: Some(&account).filter(|_| !app_only),
        environment: desired.client.environment,
        app_only,
    };
    render(&desired.target.data, &token)
}

/// A refresh token or a client secret is sent to no other server than the settings allow.
fn goes_where_it_may(desired: &Desired, guards: &Guards) {
    let client = &desired.client;
    for other in [&client.device_url, &client.graph].into_iter().flatten() {
        let url = Url::parse(other).expect("a URL");
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        assert!(bare || client.is_microsofts);
        assert!(url.scheme() == "https" || (url.scheme() == "http" && guards.allow_http_endpoints));
        let host = url.host_str().expect("a host").to_ascii_lowercase();
        let microsofts =
            ["microsoftonline.com", "microsoftonline.us", "microsoftonline.cn", "graph.microsoft.com"];
        let microsofts =
            microsofts.into_iter().chain(["graph.microsoft.us", "microsoftgraph.chinacloudapi.cn"]);
        let known = microsofts.into_iter().any(|known| host.ends_with(known));
        assert!(known || guards.allowed_endpoint_hosts.contains(&host), "{host}");
    }
    let url = Url::parse(&client.token_url).expect("a URL");
    assert_eq!(url.origin().ascii_serialization(), client.token_origin);
    assert!(
        url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
            || client.is_microsofts
    );
    assert!(url.scheme() == "https" || (url.scheme() == "http" && guards.allow_http_endpoints));
    let host = url.host_str().expect("a host").to_ascii_lowercase();
    let microsoft =
        ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"];
    assert!(microsoft.contains(&host.as_str()) || guards.allowed_endpoint_hosts.contains(&host), "{host}");
    if let Some(openid) = &client.openid_configuration {
        assert!(client.is_microsofts);
        let openid = Url::parse(openid).expect("a URL");
        assert_eq!(openid.origin().ascii_serialization(), client.token_origin);
    }
}

/// Users, passwords, queries and fragments of a URL are in no error.
fn hides_what_urls_hide(spec: &GraphTokenSpec, guards: &Guards) {
    let token = spec.endpoints.as_ref().and_then(|endpoints| endpoints.token.as_deref());
    let Some(mut url) = token.and_then(|token| Url::parse(token).ok()) else { return };
    // An error may well quote the rest of the spec, and a fuzzer puts anything there, this word too.
    let rest = serde_json::to_string(spec).expect("it came from JSON");
    let word = (0..u32::MAX)
        .map(|n| format!("{HIDDEN}-{n}"))
        .find(|word| !rest.contains(word) && !url.as_str().contains(word))
        .expect("an input is finite");
    let hidden: [fn(&mut Url, &str); 3] = [
        |url, word| url.set_query(Some(word)),
        |url, word| url.set_fragment(Some(word)),
        |url, word| {
            // A scheme without hosts takes neither.
            let _ = url.set_username(word);
            let _ = url.set_password(Some(word));
        },
    ];
    for hide in hidden {
        hide(&mut url, &word);
        let mut spec = spec.clone();
        spec.endpoints.as_mut().expect("there is one").token = Some(url.to_string());
        let error: Option<SpecError> = Desired::new(NAME, &spec, guards, &|_| None).err();
        assert!(error.is_none_or(|error| !error.to_string().contains(&word)));
    }
}
