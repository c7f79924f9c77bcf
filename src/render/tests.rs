//! What pods read.

use insta::assert_json_snapshot;
use rstest::rstest;

use super::*;

const OID: &str = "AAAAAAAA-0000-0000-0000-00000000000a";
const TENANT: &str = "BBBBBBBB-0000-0000-0000-00000000000b";
const CLIENT: &str = "CCCCCCCC-0000-0000-0000-00000000000c";

/// What a view of a token borrows.
struct Token {
    secret: SecretString,
    scopes: Vec<String>,
    account: Option<Account>,
    app_only: bool,
}

impl Token {
    fn delegated() -> Self {
        Self {
            secret: "eyJ.at".into(),
            scopes: ["User.Read", "Mail.ReadWrite", "email"].map(str::to_owned).to_vec(),
            account: Some(Account {
                guest_in: None,
                object_id: OID.to_owned(),
                tenant_id: Some(TENANT.to_owned()),
                username: Some("svc@contoso.example".to_owned()),
            }),
            app_only: false,
        }
    }

    fn app_only() -> Self {
        let scopes = vec!["https://graph.microsoft.com/.default".to_owned()];
        Self { scopes, account: None, app_only: true, ..Self::delegated() }
    }

    fn view(&self) -> TokenView<'_> {
        TokenView {
            access_token: &self.secret,
            refresh_token: None,
            token_type: "Bearer",
            issued_at: Timestamp::constant(1_893_452_400, 900_000_000),
            expires_at: Timestamp::constant(1_893_456_000, 900_000_000),
            granted_scopes: &self.scopes,
            client_id: CLIENT,
            tenant_id: TENANT,
            account: self.account.as_ref(),
            environment: "login.microsoftonline.com",
            app_only: self.app_only,
        }
    }

    fn rendered(&self, format: Format) -> Vec<u8> {
        rendered(format, &self.view())
    }

    fn o365(&self) -> serde_json::Value {
        serde_json::from_slice(&self.rendered(Format::O365)).unwrap()
    }
}

fn entry(key: &str, format: Format) -> DataEntry {
    DataEntry { key: key.to_owned(), format: Some(format), template: None }
}

fn from_template(key: &str, template: &str) -> DataEntry {
    DataEntry { key: key.to_owned(), format: None, template: Some(template.to_owned()) }
}

fn rendered(format: Format, token: &TokenView<'_>) -> Vec<u8> {
    render(&[entry("f", format)], token).unwrap().remove("f").unwrap()
}

#[test]
fn the_access_token_is_written_alone_and_without_a_newline() {
    let data = render(&[entry("token", Format::AccessToken)], &Token::delegated().view()).unwrap();
    assert_eq!(data, BTreeMap::from([("token".to_owned(), b"eyJ.at".to_vec())]));
}

#[rstest]
#[case::delegated(Token::delegated())]
#[case::app_only(Token::app_only())]
fn the_access_token_is_found_in_what_was_rendered(
    #[case] token: Token,
    #[values(Format::AccessToken, Format::O365, Format::OAuth2, Format::AuthorizationHeader)] format: Format,
) {
    let entries = [from_template("e", "x"), entry("f", format)];
    let mut data = render(&entries, &token.view()).unwrap();
    assert_eq!(access_token(&entries, &data).unwrap().expose_secret(), "eyJ.at");
    data.insert("f".to_owned(), vec![0xff]);
    assert!(access_token(&entries, &data).is_none());
    assert!(access_token(&entries, &BTreeMap::new()).is_none());
}

#[test]
fn every_entry_has_its_key() {
    let entries =
        [entry("b", Format::O365), entry("a", Format::AccessToken), entry("c", Format::AccessToken)];
    let data = render(&entries, &Token::delegated().view()).unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(data["a"], data["c"]);
    assert!(render(&[], &Token::delegated().view()).unwrap().is_empty());
}

#[test]
fn a_users_o365_file_is_an_msal_cache_with_the_account() {
    assert_json_snapshot!(Token::delegated().o365(), @r#"
    {
      "AccessToken": {
        "aaaaaaaa-0000-0000-0000-00000000000a.bbbbbbbb-0000-0000-0000-00000000000b-login.microsoftonline.com-accesstoken-cccccccc-0000-0000-0000-00000000000c-bbbbbbbb-0000-0000-0000-00000000000b-mail.readwrite user.read email": {
          "cached_at": "1893452400",
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "credential_type": "AccessToken",
          "environment": "login.microsoftonline.com",
          "expires_on": "1893456000",
          "extended_expires_on": "1893456000",
          "home_account_id": "AAAAAAAA-0000-0000-0000-00000000000a.BBBBBBBB-0000-0000-0000-00000000000b",
          "realm": "BBBBBBBB-0000-0000-0000-00000000000b",
          "secret": "eyJ.at",
          "target": "Mail.ReadWrite User.Read email",
          "token_type": "Bearer"
        }
      },
      "Account": {
        "aaaaaaaa-0000-0000-0000-00000000000a.bbbbbbbb-0000-0000-0000-00000000000b-login.microsoftonline.com-bbbbbbbb-0000-0000-0000-00000000000b": {
          "authority_type": "MSSTS",
          "environment": "login.microsoftonline.com",
          "home_account_id": "AAAAAAAA-0000-0000-0000-00000000000a.BBBBBBBB-0000-0000-0000-00000000000b",
          "local_account_id": "AAAAAAAA-0000-0000-0000-00000000000a",
          "realm": "BBBBBBBB-0000-0000-0000-00000000000b",
          "username": "svc@contoso.example"
        }
      },
      "AppMetadata": {
        "appmetadata-login.microsoftonline.com-CCCCCCCC-0000-0000-0000-00000000000c": {
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "environment": "login.microsoftonline.com"
        }
      }
    }
    "#);
}

#[test]
fn an_apps_o365_file_has_a_null_account_id() {
    assert_json_snapshot!(Token::app_only().o365(), @r#"
    {
      "AccessToken": {
        "-login.microsoftonline.com-accesstoken-cccccccc-0000-0000-0000-00000000000c-bbbbbbbb-0000-0000-0000-00000000000b-https://graph.microsoft.com/.default": {
          "cached_at": "1893452400",
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "credential_type": "AccessToken",
          "environment": "login.microsoftonline.com",
          "expires_on": "1893456000",
          "extended_expires_on": "1893456000",
          "home_account_id": null,
          "realm": "BBBBBBBB-0000-0000-0000-00000000000b",
          "secret": "eyJ.at",
          "target": "https://graph.microsoft.com/.default",
          "token_type": "Bearer"
        }
      },
      "AppMetadata": {
        "appmetadata-login.microsoftonline.com-CCCCCCCC-0000-0000-0000-00000000000c": {
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "environment": "login.microsoftonline.com"
        }
      }
    }
    "#);
}

#[test]
fn a_user_whom_the_provider_did_not_name_has_no_account_entry() {
    let token = Token { account: None, ..Token::delegated() };
    assert_json_snapshot!(token.o365(), @r#"
    {
      "AccessToken": {
        "-login.microsoftonline.com-accesstoken-cccccccc-0000-0000-0000-00000000000c-bbbbbbbb-0000-0000-0000-00000000000b-mail.readwrite user.read email": {
          "cached_at": "1893452400",
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "credential_type": "AccessToken",
          "environment": "login.microsoftonline.com",
          "expires_on": "1893456000",
          "extended_expires_on": "1893456000",
          "home_account_id": null,
          "realm": "BBBBBBBB-0000-0000-0000-00000000000b",
          "secret": "eyJ.at",
          "target": "Mail.ReadWrite User.Read email",
          "token_type": "Bearer"
        }
      },
      "AppMetadata": {
        "appmetadata-login.microsoftonline.com-CCCCCCCC-0000-0000-0000-00000000000c": {
          "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
          "environment": "login.microsoftonline.com"
        }
      }
    }
    "#);
}

#[test]
fn an_app_has_no_account_entry_whatever_is_known() {
    let token = Token { app_only: true, ..Token::delegated() };
    let file = token.o365();
    assert!(file.get("Account").is_none() && !file.to_string().contains(OID));
}

#[test]
fn an_account_without_tenant_and_name_has_the_realm_and_an_empty_name() {
    let account = Account { object_id: "Sub".to_owned(), tenant_id: None, guest_in: None, username: None };
    let file = Token { account: Some(account), ..Token::delegated() }.o365();
    let entries = file["Account"].as_object().unwrap();
    let (key, entry) = entries.iter().next().unwrap();
    assert_eq!(*key, format!("sub.{0}-login.microsoftonline.com-{0}", TENANT.to_lowercase()));
    assert_eq!(entry["home_account_id"], format!("Sub.{TENANT}"));
    assert_eq!(entry["username"], "");
}

#[test]
fn a_guests_account_keeps_its_home_tenant() {
    let mut token = Token::delegated();
    token.account.as_mut().unwrap().tenant_id = Some("Home".to_owned());
    let file = token.o365();
    let entry = file["AccessToken"].as_object().unwrap().values().next().unwrap();
    assert_eq!((&entry["home_account_id"], &entry["realm"]), (&format!("{OID}.Home").into(), &TENANT.into()));
}

#[test]
fn the_environment_is_in_lower_case_as_msal_looks_it_up() {
    let token = Token::delegated();
    let view = TokenView { environment: "Login.Microsoftonline.US", ..token.view() };
    let text = String::from_utf8(rendered(Format::O365, &view)).unwrap();
    assert!(text.contains("login.microsoftonline.us") && !text.contains("Login.Microsoftonline"));
}

/// Members in one order whatever the features of `serde_json`: a new order would rewrite every target.
#[test]
fn the_o365_file_is_the_same_bytes_every_time() {
    let bytes = Token::app_only().rendered(Format::O365);
    insta::assert_snapshot!(String::from_utf8(bytes).unwrap(), @r#"{"AccessToken":{"-login.microsoftonline.com-accesstoken-cccccccc-0000-0000-0000-00000000000c-bbbbbbbb-0000-0000-0000-00000000000b-https://graph.microsoft.com/.default":{"credential_type":"AccessToken","secret":"eyJ.at","home_account_id":null,"environment":"login.microsoftonline.com","client_id":"CCCCCCCC-0000-0000-0000-00000000000c","target":"https://graph.microsoft.com/.default","realm":"BBBBBBBB-0000-0000-0000-00000000000b","token_type":"Bearer","cached_at":"1893452400","expires_on":"1893456000","extended_expires_on":"1893456000"}},"AppMetadata":{"appmetadata-login.microsoftonline.com-CCCCCCCC-0000-0000-0000-00000000000c":{"client_id":"CCCCCCCC-0000-0000-0000-00000000000c","environment":"login.microsoftonline.com"}}}"#);
}

#[test]
fn debug_shows_neither_token_nor_name() {
    let shown = format!("{:?}", Token::delegated().view());
    assert!(shown.contains(OID) && !shown.contains("eyJ.at") && !shown.contains("svc@"), "{shown}");
}

fn data(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

#[test]
fn the_content_digest_stays_what_it_is() {
    // A change of it would rewrite every target. printf '\0\0\0\0\0\0\0\1a\0\0\0\0\0\0\0\2bc' | sha256sum
    assert_eq!(
        content_digest(&data(&[("a", "bc")])),
        "3fafa1cf2f19a7c1129beb20cf0983f73a489a221fc0dd2f16d1be292d089205"
    );
}

#[rstest]
#[case::value(&[("a", "bd")])]
#[case::key(&[("b", "bc")])]
#[case::boundary_of_key_and_value(&[("ab", "c")])]
#[case::one_more(&[("a", "bc"), ("d", "")])]
#[case::none(&[])]
fn the_content_digest_changes_with_any_of_the_content(#[case] other: &[(&str, &str)]) {
    assert_ne!(content_digest(&data(other)), content_digest(&data(&[("a", "bc")])));
}

#[test]
fn the_layout_digest_tells_keys_and_formats_but_not_their_order() {
    let (token, file) = (entry("a", Format::AccessToken), entry("b", Format::O365));
    let digest = layout_digest(&[token.clone(), file.clone()], false);
    assert_eq!(layout_digest(&[file.clone(), token.clone()], false), digest);
    let others = [
        vec![token.clone()],
        vec![token.clone(), entry("b", Format::AccessToken)],
        vec![token.clone(), from_template("b", "O365")],
        vec![entry("c", Format::AccessToken), file.clone()],
        vec![],
    ];
    for other in others {
        assert_ne!(layout_digest(&other, false), digest);
    }
    assert_ne!(layout_digest(&[token.clone(), file], true), digest);
    let template = |text| layout_digest(&[token.clone(), from_template("b", text)], false);
    assert_ne!(template("{{ scopes }}"), template("{{ tenant }}"));
}

/// The bytes that Go's oauth2, rclone and python-o365 2.0 were seen to take.
#[test]
fn the_oauth2_file_is_one_object_for_all_its_readers() {
    let bytes = String::from_utf8(Token::delegated().rendered(Format::OAuth2)).unwrap();
    assert_eq!(
        bytes,
        r#"{"access_token":"eyJ.at","token_type":"Bearer","expiry":"2030-01-01T00:00:00Z","expires_at":1893456000,"scope":"User.Read Mail.ReadWrite email"}"#
    );
}

#[test]
fn the_header_is_a_line_that_curl_takes() {
    assert_eq!(Token::app_only().rendered(Format::AuthorizationHeader), b"Authorization: Bearer eyJ.at\n");
}

#[test]
fn a_refresh_token_is_written_where_it_is_asked_for() {
    let (token, refresh) = (Token::delegated(), SecretString::from("1.refresh"));
    let view = TokenView { refresh_token: Some(&refresh), ..token.view() };
    assert_eq!(
        String::from_utf8(rendered(Format::OAuth2, &view)).unwrap(),
        r#"{"access_token":"eyJ.at","token_type":"Bearer","refresh_token":"1.refresh","expiry":"2030-01-01T00:00:00Z","expires_at":1893456000,"scope":"User.Read Mail.ReadWrite email"}"#
    );
    let file: serde_json::Value = serde_json::from_slice(&rendered(Format::O365, &view)).unwrap();
    assert_json_snapshot!(file["RefreshToken"], @r#"
    {
      "aaaaaaaa-0000-0000-0000-00000000000a.bbbbbbbb-0000-0000-0000-00000000000b-login.microsoftonline.com-refreshtoken-cccccccc-0000-0000-0000-00000000000c--mail.readwrite user.read email": {
        "client_id": "CCCCCCCC-0000-0000-0000-00000000000c",
        "credential_type": "RefreshToken",
        "environment": "login.microsoftonline.com",
        "home_account_id": "AAAAAAAA-0000-0000-0000-00000000000a.BBBBBBBB-0000-0000-0000-00000000000b",
        "last_modification_time": "1893452400",
        "secret": "1.refresh",
        "target": "Mail.ReadWrite User.Read email"
      }
    }
    "#);
    for format in [Format::AccessToken, Format::AuthorizationHeader] {
        assert!(!String::from_utf8(rendered(format, &view)).unwrap().contains("1.refresh"));
    }
    let template = [from_template("f", "{{ access_token }}")];
    assert_eq!(render(&template, &view).unwrap()["f"], b"eyJ.at");
}

#[test]
fn no_more_is_rendered_than_a_secret_may_hold() {
    let token = Token { secret: "t".repeat(MAX_BYTES / 4).into(), ..Token::delegated() };
    let entries: Vec<_> = ["a", "b", "c", "d"].map(|key| entry(key, Format::AccessToken)).into();
    assert!(render(&entries, &token.view()).is_ok());
    let one_more = [&entries[..], &[from_template("e", "x")]].concat();
    assert_eq!(render(&one_more, &token.view()), Err(RenderError::TooLarge));
    let long = [from_template("a", &"{{ access_token }}".repeat(5))];
    assert_eq!(render(&long, &token.view()), Err(RenderError::TooLarge));
    let header = [&entries[..3], &[entry("d", Format::AuthorizationHeader)]].concat();
    assert_eq!(render(&header, &token.view()), Err(RenderError::TooLarge));
}

#[test]
fn an_error_names_the_key_and_the_place_and_never_the_token() {
    // It takes an engine's fault to get here: what is checked can be rendered.
    let broken = [from_template("graph.env", "a\n{{ access_token - 2 }}")];
    let error = render(&broken, &Token::delegated().view()).unwrap_err().to_string();
    assert!(error.contains("key graph.env") && error.contains("line 2"), "{error}");
    assert!(!error.contains("eyJ"), "{error}");
}
