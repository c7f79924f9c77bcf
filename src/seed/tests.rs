//! Shapes of seeds, and what is said of those that are none.

use proptest::prelude::*;
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;

const CLIENT: &str = "11111111-2222-3333-4444-55555555ABCD";
const TOKEN: &str = "0.AXkA-s3cr3t_refresh.token~";

fn token_in(seed: &[u8]) -> Result<String, SeedError> {
    parse(seed, CLIENT).map(|seed| seed.refresh_token.expose_secret().to_owned())
}

fn error_of(seed: &str) -> SeedError {
    parse(seed.as_bytes(), CLIENT).unwrap_err()
}

fn msal_entry(client_id: &str, secret: &str, modified: impl Into<Value>) -> Value {
    json!({
        "credential_type": "RefreshToken", "secret": secret, "home_account_id": "uid.utid",
        "environment": "login.microsoftonline.com", "client_id": client_id, "target": "Mail.Read",
        "last_modification_time": modified.into(),
    })
}

fn msal_file(entries: &[Value]) -> String {
    let entries: Map<_, _> =
        entries.iter().enumerate().map(|(n, entry)| (format!("entry-{n}"), entry.clone())).collect();
    json!({"AccessToken": {}, "Account": {}, "RefreshToken": entries}).to_string()
}

#[rstest]
#[case::as_it_is(TOKEN.to_owned())]
#[case::trailing_newline(format!("{TOKEN}\n"))]
#[case::windows_line_end(format!("  {TOKEN}\r\n"))]
#[case::byte_order_mark(format!("\u{feff}{TOKEN}"))]
fn a_bare_refresh_token_is_taken_without_the_white_space_around_it(#[case] seed: String) {
    assert_eq!(token_in(seed.as_bytes()).as_deref(), Ok(TOKEN));
}

#[rstest]
#[case::python_o365_2_0(json!({
    "token_type": "Bearer", "scope": ["Mail.Read"], "expires_in": 3599, "ext_expires_in": 3599,
    "access_token": "eyJ.a.b", "refresh_token": TOKEN, "expires_at": 1_893_456_000.25,
}))]
#[case::go_oauth2(json!({
    "access_token": "eyJ.a.b", "token_type": "Bearer", "refresh_token": TOKEN, "expiry": "2030-01-01T00:00:00Z",
}))]
#[case::minimal(json!({"refresh_token": TOKEN}))]
#[case::white_space_in_the_member(json!({"refresh_token": format!(" {TOKEN}\n")}))]
fn a_token_file_with_refresh_token_is_read(#[case] file: Value) {
    assert_eq!(token_in(file.to_string().as_bytes()).as_deref(), Ok(TOKEN));
    let pretty = format!("\u{feff}{file:#}\n");
    assert_eq!(token_in(pretty.as_bytes()).as_deref(), Ok(TOKEN));
}

#[rstest]
#[case::the_only_one(vec![msal_entry(CLIENT, TOKEN, "5")])]
#[case::client_id_in_the_other_case(vec![msal_entry(&CLIENT.to_lowercase(), TOKEN, "5")])]
#[case::newest_first(vec![msal_entry(CLIENT, TOKEN, "1893456000"), msal_entry(CLIENT, "old", "993456000")])]
#[case::newest_last(vec![msal_entry(CLIENT, "old", "993456000"), msal_entry(CLIENT, TOKEN, "1893456000")])]
#[case::times_as_numbers(vec![msal_entry(CLIENT, "old", 9), msal_entry(CLIENT, TOKEN, 10.5)])]
#[case::an_undated_one_is_oldest(vec![msal_entry(CLIENT, TOKEN, "1"), msal_entry(CLIENT, "old", Value::Null)])]
#[case::a_senseless_date_is_oldest(vec![msal_entry(CLIENT, TOKEN, "1"), msal_entry(CLIENT, "old", "NaN")])]
#[case::a_newer_one_of_another_client(vec![msal_entry(CLIENT, TOKEN, "1"), msal_entry("other", "no", "2")])]
#[case::a_newer_one_that_is_empty(vec![msal_entry(CLIENT, TOKEN, "1"), msal_entry(CLIENT, " ", "2")])]
fn of_an_msal_cache_the_newest_token_of_our_client_is_taken(#[case] entries: Vec<Value>) {
    assert_eq!(token_in(msal_file(&entries).as_bytes()).as_deref(), Ok(TOKEN));
}

#[test]
fn an_msal_cache_of_other_clients_is_refused_with_their_ids() {
    let entries = [msal_entry("b-client", "t1", "1"), msal_entry("a-client", "t2", "2")];
    let error = error_of(&msal_file(&entries));
    let found = vec!["a-client".to_owned(), "b-client".to_owned()];
    assert_eq!(error, SeedError::OtherClient { wanted: CLIENT.to_owned(), found });
    assert!(error.to_string().contains("a-client, b-client") && error.to_string().contains(CLIENT));
}

#[test]
fn what_stands_for_a_client_id_in_an_error_is_bounded_and_of_the_usual_form() {
    let odd = ["two words", "", "line\nbreak", &"x".repeat(129)];
    let many = (0..20).map(|n| format!("z-{n:02}"));
    let entries: Vec<_> =
        odd.into_iter().map(str::to_owned).chain(many).map(|id| msal_entry(&id, "t", "1")).collect();
    let SeedError::OtherClient { found, .. } = error_of(&msal_file(&entries)) else {
        panic!("another error")
    };
    assert_eq!(found, ["(unnamed)", "z-00", "z-01", "z-02", "z-03"]);
}

#[rstest]
#[case::nothing("")]
#[case::white_space(" \r\n\t")]
#[case::a_byte_order_mark("\u{feff}\n")]
fn an_empty_seed_is_called_empty(#[case] seed: &str) {
    assert_eq!(error_of(seed), SeedError::Empty);
}

#[rstest]
#[case::msal_without_offline_access(r#"{"AccessToken":{"k":{"secret":"eyJ"}},"Account":{}}"#)]
#[case::msal_with_none_left(r#"{"AccessToken":{},"RefreshToken":{}}"#)]
#[case::msal_with_malformed_entries(r#"{"RefreshToken":{"a":5,"b":{},"c":{"secret":5}}}"#)]
#[case::msal_of_a_wrong_type(r#"{"RefreshToken":[]}"#)]
#[case::python_o365_2_0(r#"{"access_token":"eyJ","token_type":"Bearer"}"#)]
#[case::null_member(r#"{"refresh_token":null}"#)]
#[case::empty_member(r#"{"refresh_token":""}"#)]
#[case::member_of_a_wrong_type(r#"{"refresh_token":{"a":1}}"#)]
#[case::printed_by_jq("null\n")]
#[case::printed_by_python("None")]
fn a_token_file_without_a_refresh_token_asks_for_offline_access(#[case] seed: &str) {
    let error = error_of(seed);
    assert_eq!(error, SeedError::NoRefreshToken);
    assert!(error.to_string().contains("offline_access"));
}

#[rstest]
#[case::other_object(r#"{"installed":{"client_id":"x"}}"#)]
#[case::array("[]")]
#[case::string(r#""0.AXkA""#)]
fn other_json_is_no_token_file(#[case] seed: &str) {
    assert_eq!(error_of(seed), SeedError::NotATokenFile);
}

#[rstest]
#[case::cut_off(r#"{"refresh_token":"s3cr3t"#, 1, 24)]
#[case::single_quotes("{\n  'refresh_token': 's3cr3t'}", 2, 3)]
#[case::an_ini_file("[graph]\ntoken = s3cr3t", 1, 2)]
#[case::two_documents(r#"{"refresh_token":"s3cr3t"}{}"#, 1, 27)]
fn damaged_json_is_not_taken_for_a_token(#[case] seed: &str, #[case] line: usize, #[case] column: usize) {
    assert_eq!(error_of(seed), SeedError::MalformedJson { line, column });
}

#[rstest]
#[case::two_words("refresh_token: s3cr3t")]
#[case::two_lines("s3cr3t\ns3cr3t")]
#[case::not_ascii("s3cr3t\u{e9}")]
#[case::control_character("s3\u{0}cr3t")]
#[case::in_a_file(r#"{"refresh_token":"s3cr3t s3cr3t"}"#)]
fn a_refresh_token_is_one_word_of_printable_ascii(#[case] seed: &str) {
    assert_eq!(error_of(seed), SeedError::NotAToken);
}

#[test]
fn utf_16_is_not_text() {
    let utf16: Vec<u8> = "\u{feff}0.AX".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(parse(&utf16, CLIENT).unwrap_err(), SeedError::NotText);
}

#[test]
fn sizes_are_bounded_and_named() {
    assert!(token_in(&vec![b'a'; MAX_TOKEN]).is_ok());
    let error = parse(&vec![b'a'; MAX_TOKEN + 1], CLIENT).unwrap_err();
    assert_eq!(error, SeedError::TokenTooLarge { size: 65_537, limit: 65_536 });
    let error = parse(&vec![b' '; 1 << 20], CLIENT).unwrap_err();
    assert_eq!(error, SeedError::TooLarge { size: 1_048_576, limit: 262_144 });
    assert!(error.to_string().contains("1048576") && error.to_string().contains("262144"));
    assert_eq!(parse(&vec![b' '; MAX_SIZE], CLIENT).unwrap_err(), SeedError::Empty);
}

#[test]
fn the_digest_is_of_the_token_and_not_of_its_shape() {
    // printf %s abc | sha256sum
    assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let bare = parse(b"abc\n", CLIENT).unwrap();
    let file = parse(br#"{"refresh_token":"abc"}"#, CLIENT).unwrap();
    assert_eq!(bare.digest, digest("abc"));
    assert_eq!(file.digest, bare.digest);
}

#[test]
fn debug_does_not_show_the_token() {
    assert!(!format!("{:?}", parse(TOKEN.as_bytes(), CLIENT).unwrap()).contains("s3cr3t"));
}

#[rstest]
#[case(r#"{"refresh_token":"s3cr3t"#)]
#[case("refresh_token: s3cr3t")]
#[case(r#"{"s3cr3t":1}"#)]
#[case(r#"["s3cr3t"]"#)]
#[case(r#"{"refresh_token":"s3cr3t\u0000"}"#)]
#[case(r#"{"RefreshToken":{"s3cr3t":{"client_id":"other","secret":"s3cr3t","target":"s3cr3t"}}}"#)]
fn no_error_shows_what_the_seed_holds(#[case] seed: &str) {
    let error = error_of(seed);
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes: Vec<u8>, client_id: String) {
        let _ = parse(&bytes, &client_id);
    }

    #[test]
    fn any_text_that_looks_like_json_is_parsed_without_a_panic(text in r#"[\[{"]("(refresh_token|RefreshToken|secret)"|[:,{}\[\]" ]|[a-z0-9.-]{0,9}){0,20}"#) {
        let _ = parse(text.as_bytes(), CLIENT);
    }

    #[test]
    fn a_token_survives_any_of_its_shapes(token in "[!#-Z^-z|~]{1,200}") {
        prop_assume!(!PRINTED_NOTHING.contains(&token.as_str()));
        let file = json!({"refresh_token": token}).to_string();
        let cache = msal_file(&[msal_entry(CLIENT, &token, "1")]);
        for seed in [token.clone(), file, cache] {
            prop_assert_eq!(token_in(seed.as_bytes()), Ok(token.clone()));
        }
    }
}
