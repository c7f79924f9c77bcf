//! Forms of the grants.

use rstest::rstest;
use secrecy::ExposeSecret;

use super::*;

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

fn scopes() -> Vec<String> {
    ["https://graph.microsoft.com/Mail.Read", "offline_access"].map(str::to_owned).to_vec()
}

fn shown(request: &TokenRequest) -> Vec<String> {
    request.form.iter().map(|(name, value)| format!("{name}={}", value.expose_secret())).collect()
}

#[test]
fn a_public_client_exchanges_its_refresh_token_without_a_proof() {
    let request = refresh_token::request(CLIENT, &"0.old".into(), &scopes(), Proof::Public);
    assert_eq!(
        shown(&request),
        [
            "client_id=11111111-2222-3333-4444-555555555555",
            "grant_type=refresh_token",
            "refresh_token=0.old",
            "scope=https://graph.microsoft.com/Mail.Read offline_access",
            "client_info=1",
        ]
    );
}

#[test]
fn a_confidential_client_adds_its_secret_as_it_is() {
    let secret = SecretString::from("a&b=c% \u{e9}");
    let request = refresh_token::request(CLIENT, &"0.old".into(), &scopes(), Proof::Secret(&secret));
    assert_eq!(shown(&request).last().unwrap(), "client_secret=a&b=c% \u{e9}");
}

#[test]
fn an_app_asks_for_its_own_token() {
    let scopes = ["https://graph.microsoft.com/.default".to_owned()];
    let request = client_credentials::request(CLIENT, &scopes, Proof::Secret(&"s".into()));
    assert_eq!(
        shown(&request),
        [
            "client_id=11111111-2222-3333-4444-555555555555",
            "grant_type=client_credentials",
            "scope=https://graph.microsoft.com/.default",
            "client_secret=s",
        ]
    );
}

#[test]
fn an_assertion_stands_with_its_type_in_place_of_a_secret() {
    let request = client_credentials::request(CLIENT, &[], Proof::Assertion("a.b.c".into()));
    assert_eq!(
        shown(&request)[2..],
        [
            "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion=a.b.c",
        ]
    );
    let secrets: Vec<_> = request.secrets().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["a.b.c"]);
}

#[test]
fn an_empty_scope_is_not_sent() {
    let request = client_credentials::request(CLIENT, &[], Proof::Public);
    assert!(request.form.iter().all(|(name, _)| *name != "scope"));
}

#[test]
fn debug_shows_names_only() {
    let request =
        refresh_token::request(CLIENT, &"0.s3cr3t".into(), &scopes(), Proof::Secret(&"s3cr3t".into()));
    assert_eq!(
        format!("{request:?}"),
        r#"["client_id", "grant_type", "refresh_token", "scope", "client_info", "client_secret"]"#
    );
    assert!(!format!("{:?}", Proof::Secret(&"s3cr3t".into())).contains("s3cr3t"));
}

#[test]
fn what_must_not_come_back_is_the_token_and_the_proof() {
    let request = refresh_token::request(CLIENT, &"0.old".into(), &scopes(), Proof::Secret(&"proof".into()));
    let secrets: Vec<_> = request.secrets().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["0.old", "proof"]);
}

#[rstest]
#[case(GrantKind::RefreshToken, "refresh_token", "refreshToken", true)]
#[case(GrantKind::ClientCredentials, "client_credentials", "clientCredentials", false)]
fn grants_have_the_names_of_the_rfc_and_of_the_spec(
    #[case] grant: GrantKind,
    #[case] rfc: &str,
    #[case] spec: &str,
    #[case] delegated: bool,
) {
    assert_eq!((grant.as_str(), grant.spec_name(), grant.is_delegated()), (rfc, spec, delegated));
}
