//! The search for secrets where none may be: logs, events, statuses, metadata, metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_simulator::{ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX};
use k8s_openapi::api::core::v1::Secret;

/// So much of a value's beginning is searched for: a message may have been cut.
const BEGINNING: usize = 20;
/// Shorter values are found everywhere.
const SHORTEST: usize = 8;
/// The keys that hold a token bare, in the Secrets that the operator writes.
const TOKEN_KEYS: [&str; 3] = ["token", "access_token", "refresh_token"];

/// Every secret value that a test met, and what it was. Clones share it.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeMap<String, String>>>);

/// A place in which a secret was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Leak {
    /// In what.
    pub place: String,
    /// What it is.
    pub secret: String,
    /// The line up to where it begins.
    pub before: String,
}

impl Secrets {
    /// Notes a value that may show up nowhere.
    pub fn note(&self, what: &str, value: &str) {
        if value.len() >= SHORTEST {
            self.0.lock().unwrap().entry(value.to_owned()).or_insert_with(|| what.to_owned());
        }
    }

    /// Notes the tokens in a Secret that the operator wrote.
    pub fn note_tokens(&self, secret: &Secret) {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        for (key, value) in secret.data.iter().flatten().filter(|(key, _)| TOKEN_KEYS.contains(&key.as_str()))
        {
            self.note(&format!("Secret {name}, key {key}"), &String::from_utf8_lossy(&value.0));
        }
    }

    /// What is to be searched for.
    pub fn search(&self) -> Search {
        let values = self.0.lock().unwrap();
        let known = values.iter().map(|(value, what)| (value.as_str(), what.as_str()));
        let prefixes = [(ACCESS_TOKEN_PREFIX, "an access token"), (REFRESH_TOKEN_PREFIX, "a refresh token")];
        // Every token of the simulator begins with a prefix, which is looked for anyway.
        let simulated = |value: &str| prefixes.iter().any(|(prefix, _)| value.starts_with(prefix));
        let known = known.filter(|(value, _)| !simulated(value));
        let mut needles = Vec::new();
        for (value, what) in prefixes.into_iter().chain(known) {
            let beginning = &value.as_bytes()[..value.len().min(BEGINNING)];
            needles.push((String::from_utf8_lossy(beginning).into_owned(), what.to_owned()));
            needles.extend(encoded(beginning).map(|text| (text, format!("{what}, in base64"))));
        }
        Search(needles)
    }
}

/// What bytes look like in base64, wherever they stand in what is encoded: a group is three bytes.
fn encoded(bytes: &[u8]) -> impl Iterator<Item = String> {
    (0..3).map(|skipped| {
        let rest = &bytes[skipped..];
        STANDARD.encode(&rest[..rest.len() - rest.len() % 3])
    })
}

/// Texts to be found, and what each is.
pub struct Search(Vec<(String, String)>);

impl Search {
    /// The first place in a text at which each secret shows.
    pub fn in_text(&self, place: &str, text: &str) -> Vec<Leak> {
        let leak = |(needle, secret): &(String, String)| {
            let at = text.find(needle.as_str())?;
            let (before, _) = text.split_at(at);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Some(Leak { place: place.to_owned(), secret: secret.clone(), before: line.to_owned() })
        };
        self.0.iter().filter_map(leak).collect()
    }
}

#[test]
fn the_search_finds_a_secret_bare_cut_and_encoded() {
    let value = "M.C507_BAY.-CiQ*a!k9Zr8mP2vX7";
    let secrets = Secrets::default();
    secrets.note("the seed", value);
    let search = secrets.search();
    let found =
        |text: &str| search.in_text("a log", text).iter().any(|leak| leak.secret.starts_with("the seed"));
    assert!(found(&format!("level=INFO it was {value} that failed")));
    assert!(found(&format!("it was {}…", &value[..22])));
    for offset in ["", "x", "xy"] {
        assert!(found(&STANDARD.encode(format!("{offset}{value}"))), "at offset {}", offset.len());
    }
    assert!(!found("it was M.C507_BAY that failed"));
    assert_eq!(search.in_text("a log", "Authorization: Bearer SimAccess.Ab3").len(), 1);
}
