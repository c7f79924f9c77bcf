//! The bytes of a seed → `seed::parse`.

use graphtoken::seed::{self, SeedError};
use secrecy::ExposeSecret as _;

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const MAX_TOKEN: usize = 64 * 1024;
/// No message is longer, however big the seed: five client ids at most are in it.
const MAX_MESSAGE: usize = 1200;

pub fn check(input: &[u8]) {
    let found = seed::parse(input, CLIENT);
    match &found {
        Ok(seed) => {
            let token = seed.refresh_token.expose_secret();
            assert!(super::is_graphic(token, MAX_TOKEN), "a token that no form can hold");
            assert_eq!(seed.digest, seed::digest(token));
            assert!(token.len() < 24 || seed.digest.contains(token) || !format!("{seed:?}").contains(token));
            // As the credential keeps it, and as people paste it.
            if !token.starts_with(['{', '[', '"']) {
                let alone = seed::parse(format!("{token}\r\n").as_bytes(), CLIENT);
                assert_eq!(alone.map(|alone| alone.digest), Ok(seed.digest.clone()));
            }
        }
        Err(error) => says_nothing_of(input, error),
    }
    let with_newline = seed::parse(&[input, b"\n"].concat(), CLIENT);
    let digest = |seed: seed::Seed| seed.digest;
    if input.len() < 200 * 1024 {
        assert_eq!(with_newline.map(digest).ok(), found.map(digest).ok(), "an editor's newline matters");
    }
}

/// Every value in an error is a number, or a client id of the file or the spec.
fn says_nothing_of(input: &[u8], error: &SeedError) {
    assert!(error.to_string().len() <= MAX_MESSAGE, "{error}");
    match error {
        SeedError::TooLarge { size, .. } => assert_eq!(*size, input.len()),
        SeedError::OtherClient { wanted, found } => {
            assert_eq!(wanted, CLIENT);
            assert!((1..=5).contains(&found.len()));
            let file: serde_json::Value = serde_json::from_slice(input.trim_ascii())
                .or_else(|_| serde_json::from_str(String::from_utf8_lossy(input).trim_matches(blank)))
                .expect("it was read as JSON");
            let entries = file["RefreshToken"].as_object().expect("it was read as an MSAL cache");
            for id in found.iter().filter(|id| *id != "(unnamed)") {
                assert!(super::is_graphic(id, 128));
                assert!(
                    entries.values().any(|entry| entry["client_id"] == **id),
                    "{id} is no client id of it"
                );
            }
        }
        SeedError::Empty
        | SeedError::TokenTooLarge { .. }
        | SeedError::NotText
        | SeedError::MalformedJson { .. }
        | SeedError::NotAToken
        | SeedError::NotATokenFile
        | SeedError::NoRefreshToken => {}
    }
}

fn blank(c: char) -> bool {
    c == '\u{feff}' || c.is_whitespace()
}
