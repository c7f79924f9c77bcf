use super::*;

fn attempt() -> Attempt {
    Attempt::new(&[7; 48], "http://127.0.0.1:49152/".to_owned())
}

fn page(login_hint: Option<&str>) -> String {
    let scopes = ["Mail.Read".to_owned(), "offline_access".to_owned()];
    let endpoint = Url::parse("https://login.example.com/t/oauth2/v2.0/authorize").unwrap();
    attempt().page(&endpoint, &Asked { client_id: "app", scopes: &scopes, login_hint }).to_string()
}

#[test]
fn the_challenge_is_that_of_rfc_7636_appendix_b() {
    let attempt = Attempt { verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(), ..attempt() };
    let endpoint = Url::parse("https://login.example.com/authorize").unwrap();
    let page = attempt.page(&endpoint, &Asked { client_id: "app", scopes: &[], login_hint: None });
    assert!(page.as_str().contains("code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), "{page}");
}

#[test]
fn the_page_names_the_account_or_asks_for_one_and_never_the_verifier() {
    let hinted = page(Some("etl@contoso.com"));
    assert!(hinted.contains("login_hint=etl%40contoso.com") && !hinted.contains("prompt="), "{hinted}");
    assert!(hinted.contains("redirect_uri=http%3A%2F%2F127.0.0.1%3A49152%2F"), "{hinted}");
    assert!(hinted.contains("scope=Mail.Read+offline_access"), "{hinted}");
    assert!(page(None).contains("prompt=select_account"));
    assert!(!hinted.contains(attempt().verifier.expose_secret()));
    assert_eq!(attempt().verifier.expose_secret().len(), 43);
}

#[test]
fn code_and_verifier_are_secrets_of_the_form() {
    let asked = Asked { client_id: "app", scopes: &[], login_hint: None };
    let request = attempt().request(&asked, &"0.code".into(), Proof::Secret(&"proof".into()));
    let names: Vec<_> = request.form.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["client_id", "grant_type", "code", "redirect_uri", "code_verifier", "client_info", "client_secret"]
    );
    let secrets: Vec<_> = request.secrets().map(|secret| secret.expose_secret().to_owned()).collect();
    assert_eq!(secrets, ["0.code", attempt().verifier.expose_secret(), "proof"]);
}
