//! A token file → the refresh token in it and what it tells of its client, tenant and scopes. Pure, and no error quotes the file.
//!
//! The shapes are those of [`crate::seed`], which finds the token; here is read what surrounds it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::api::spec::Cloud;
use crate::seed::{self, Seed, SeedError};

/// Scopes of the protocol, which the operator adds by itself.
const PROTOCOL_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];
/// What stands in front of Microsoft Graph's scopes, by cloud.
const GRAPHS: [&str; 4] = [
    "https://graph.microsoft.com/",
    "https://graph.microsoft.us/",
    "https://dod-graph.microsoft.us/",
    "https://microsoftgraph.chinacloudapi.cn/",
];
/// The tenant of personal accounts, and how a spec names it.
const CONSUMERS: (&str, &str) = ("9188040d-6c67-4c5b-b112-36a304b66dad", "consumers");
/// The bounds of `spec.scopes`.
const MAX_SCOPES: usize = 64;
const MAX_SCOPE: usize = 256;

/// What a file holds.
#[derive(Debug, Clone)]
pub struct TokenFile {
    /// What kind of file it is, in words.
    pub kind: &'static str,
    /// The refresh token.
    pub seed: Seed,
    /// The client that signed in.
    pub client_id: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The cloud, where it is not the global one.
    pub cloud: Option<Cloud>,
    /// What the sign-in was for: short names for Microsoft Graph's scopes, without the protocol's.
    pub scopes: Vec<String>,
}

/// Why a file cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// There is no refresh token in it.
    #[error("{0}")]
    Seed(#[from] SeedError),
    /// Several clients signed in.
    #[error("the file has refresh tokens of several clients; choose one: --client-id={}", .0.join(" or --client-id="))]
    SeveralClients(Vec<String>),
}

/// Reads a file, for this client if one is named.
pub fn read(bytes: &[u8], client_id: Option<&str>) -> Result<TokenFile, TokenFileError> {
    let text = String::from_utf8_lossy(bytes);
    let document: Option<Value> = serde_json::from_str(text.trim_start_matches('\u{feff}').trim()).ok();
    match document.as_ref().and_then(Value::as_object) {
        Some(file)
            if file.get("refresh_token").is_none_or(|token| !token.is_string())
                && file.get("RefreshToken").is_some_and(Value::is_object) =>
        {
            from_msal(bytes, file, client_id)
        }
        Some(file) => from_json(bytes, file, client_id),
        None => {
            let seed = seed::parse(bytes, client_id.unwrap_or_default())?;
            let client_id = client_id.map(str::to_owned);
            Ok(TokenFile {
                kind: "a bare refresh token",
                seed,
                client_id,
                tenant: None,
                cloud: None,
                scopes: Vec::new(),
            })
        }
    }
}

fn from_msal(
    bytes: &[u8],
    file: &Map<String, Value>,
    client_id: Option<&str>,
) -> Result<TokenFile, TokenFileError> {
    let entries = |kind: &str| -> Vec<&Map<String, Value>> {
        let found = file.get(kind).and_then(Value::as_object);
        found.into_iter().flat_map(Map::values).filter_map(Value::as_object).collect()
    };
    let refresh_tokens = entries("RefreshToken");
    let mut clients: Vec<&str> = refresh_tokens.iter().filter_map(|entry| id(entry, "client_id")).collect();
    clients.sort_unstable();
    clients.dedup();
    let client_id = match (client_id, clients.as_slice()) {
        (Some(wanted), _) => wanted,
        (None, [only]) => only,
        (None, []) => "",
        (None, several) => {
            return Err(TokenFileError::SeveralClients(several.iter().map(|id| (*id).to_owned()).collect()));
        }
    };
    let seed = seed::parse(bytes, client_id)?;
    let ours = |entry: &&&Map<String, Value>| {
        id(entry, "client_id").is_some_and(|id| id.eq_ignore_ascii_case(client_id))
    };
    // Of several accounts the seed is the one that signed in last: the entry that holds it tells which.
    let entry = refresh_tokens
        .iter()
        .filter(ours)
        .find(|entry| text(entry, "secret").is_some_and(|secret| seed::digest(secret.trim()) == seed.digest));
    let account = entry.and_then(|entry| text(entry, "home_account_id"));
    let access_tokens = entries("AccessToken");
    let access = access_tokens
        .iter()
        .filter(ours)
        .find(|other| account.is_none() || text(other, "home_account_id") == account);
    let home = account.and_then(|account| account.split('.').nth(1)).filter(|tenant| is_tenant(tenant));
    let tenant = access.and_then(|entry| text(entry, "realm")).filter(|realm| is_tenant(realm)).or(home);
    let scopes = [entry, access].into_iter().flatten().find_map(|entry| text(entry, "target"));
    let host = entry.and_then(|entry| text(entry, "environment")).unwrap_or_default();
    Ok(TokenFile {
        kind: "a token cache of MSAL or python-o365 2.1",
        seed,
        client_id: (!client_id.is_empty()).then(|| client_id.to_owned()),
        tenant: tenant.map(named),
        cloud: cloud(host),
        scopes: scopes.map(|scopes| short(scopes.split_ascii_whitespace())).unwrap_or_default(),
    })
}

/// python-o365 2.0, Go's `oauth2`, rclone, and what else has `refresh_token`.
fn from_json(
    bytes: &[u8],
    file: &Map<String, Value>,
    client_id: Option<&str>,
) -> Result<TokenFile, TokenFileError> {
    let seed = seed::parse(bytes, client_id.unwrap_or_default())?;
    // What the tokens say is taken for a proposal, which a person reads before it is applied.
    let id_token = text(file, "id_token").and_then(claims).unwrap_or_default();
    let access = text(file, "access_token").and_then(claims).unwrap_or_default();
    let client = id(file, "client_id").or_else(|| id(&id_token, "aud")).or_else(|| id(&access, "appid"));
    let tenant = [&id_token, &access].into_iter().find_map(|claims| text(claims, "tid"));
    let scopes = match file.get("scope").or_else(|| file.get("scopes")) {
        Some(Value::String(scopes)) => short(scopes.split([' ', ','])),
        Some(Value::Array(scopes)) => short(scopes.iter().filter_map(Value::as_str)),
        _ => text(&access, "scp").map(|scopes| short(scopes.split(' '))).unwrap_or_default(),
    };
    Ok(TokenFile {
        kind: "a token file with refresh_token (python-o365 2.0, Go, rclone)",
        seed,
        client_id: client_id.or(client).map(str::to_owned),
        tenant: tenant.filter(|tenant| is_tenant(tenant)).map(named),
        cloud: text(&id_token, "iss").or_else(|| text(&access, "iss")).and_then(|issuer| {
            cloud(issuer.trim_start_matches("https://").split('/').next().unwrap_or_default())
        }),
        scopes,
    })
}

/// Scopes as a spec has them. `.default` goes with no other.
fn short<'a>(scopes: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    for scope in scopes {
        let scope = GRAPHS.iter().find_map(|graph| scope.strip_prefix(graph)).unwrap_or(scope);
        let usable = (1..=MAX_SCOPE).contains(&scope.len())
            && scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        let known = named.iter().any(|known| known == scope) || PROTOCOL_SCOPES.contains(&scope);
        if usable && !known && named.len() < MAX_SCOPES {
            named.push(scope.to_owned());
        }
    }
    if named.iter().any(|scope| is_default(scope)) {
        named.retain(|scope| is_default(scope));
        named.truncate(1);
    }
    named
}

fn is_default(scope: &str) -> bool {
    scope == ".default" || scope.ends_with("/.default")
}

fn cloud(host: &str) -> Option<Cloud> {
    match host {
        "login.microsoftonline.us" | "login.usgovcloudapi.net" => Some(Cloud::USGov),
        "login.partner.microsoftonline.cn" | "login.chinacloudapi.cn" => Some(Cloud::China),
        _ => None,
    }
}

fn named(tenant: &str) -> String {
    let (guid, name) = CONSUMERS;
    if tenant.eq_ignore_ascii_case(guid) { name.to_owned() } else { tenant.to_owned() }
}

/// The pattern of `spec.tenant`.
fn is_tenant(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

/// A client id, of the pattern of `spec.clientId`.
fn id<'a>(object: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    let usable = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
    };
    text(object, member).filter(usable)
}

fn text<'a>(object: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    object.get(member).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

/// The claims of a JWT, unchecked. Microsoft's access tokens need not be JWTs.
fn claims(jwt: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
    const TENANT: &str = "aaaabbbb-0000-cccc-1111-dddd2222eeee";

    fn msal(clients: &[&str]) -> Value {
        let mut file = json!({"AccessToken": {}, "RefreshToken": {}});
        for client in clients {
            file["RefreshToken"][format!("r-{client}")] = json!({
                "client_id": client, "secret": format!("0.secret-of-{client}"), "environment": "login.microsoftonline.us",
                "home_account_id": format!("uid.{TENANT}"),
                "target": "https://graph.microsoft.us/Mail.Read openid profile offline_access https://graph.microsoft.us/User.Read",
            });
        }
        file
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn an_msal_cache_tells_client_tenant_cloud_and_scopes() {
        let file = read(msal(&[CLIENT]).to_string().as_bytes(), None).unwrap();
        assert_eq!(file.seed.refresh_token.expose_secret(), format!("0.secret-of-{CLIENT}"));
        assert_eq!(file.client_id.as_deref(), Some(CLIENT));
        assert_eq!(file.tenant.as_deref(), Some(TENANT));
        assert_eq!(file.cloud, Some(Cloud::USGov));
        assert_eq!(file.scopes, ["Mail.Read", "User.Read"]);
    }

    #[test]
    fn of_several_clients_one_is_chosen() {
        let file = msal(&[CLIENT, "another"]).to_string();
        let Err(error) = read(file.as_bytes(), None) else { panic!("which one?") };
        assert_eq!(error, TokenFileError::SeveralClients(vec![CLIENT.to_owned(), "another".to_owned()]));
        let chosen = read(file.as_bytes(), Some("another")).unwrap();
        assert_eq!(chosen.seed.refresh_token.expose_secret(), "0.secret-of-another");
        assert!(matches!(read(file.as_bytes(), Some("a third")), Err(TokenFileError::Seed(_))));
    }

    #[test]
    fn a_file_of_o365_2_0_tells_what_its_tokens_say() {
        let file = json!({
            "token_type": "Bearer", "refresh_token": "0.old", "scope": ["Mail.Read", "openid", "https://graph.microsoft.com/User.Read"],
            "id_token": jwt(&json!({"aud": CLIENT, "tid": CONSUMERS.0})), "access_token": "opaque",
        });
        let file = read(file.to_string().as_bytes(), None).unwrap();
        assert_eq!(file.client_id.as_deref(), Some(CLIENT));
        assert_eq!(file.tenant.as_deref(), Some("consumers"));
        assert_eq!(file.scopes, ["Mail.Read", "User.Read"]);
    }

    #[test]
    fn an_access_token_helps_where_it_can_be_read() {
        let access = jwt(&json!({"appid": CLIENT, "tid": TENANT, "scp": "Files.Read.All profile"}));
        let file =
            json!({"refresh_token": "0.old", "access_token": access, "expiry": "2026-11-23T10:00:00Z"});
        let file = read(file.to_string().as_bytes(), None).unwrap();
        assert_eq!((file.client_id.as_deref(), file.tenant.as_deref()), (Some(CLIENT), Some(TENANT)));
        assert_eq!(file.scopes, ["Files.Read.All"]);
    }

    #[test]
    fn a_bare_token_tells_nothing_else_and_a_damaged_file_is_not_quoted() {
        let file = read(b" 0.AXoA-bare\n", Some(CLIENT)).unwrap();
        assert_eq!((file.client_id.as_deref(), file.tenant, file.scopes.len()), (Some(CLIENT), None, 0));
        let Err(error) = read(br#"{"refresh_token": "0.s3cret"#, None) else { panic!("it is cut off") };
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn what_cannot_stand_in_a_spec_is_left_out() {
        let file = json!({"refresh_token": "0.old", "client_id": "a b", "scope": "x\" .default Mail.Read"});
        let file = read(file.to_string().as_bytes(), None).unwrap();
        assert_eq!((file.client_id, file.scopes), (None, vec![".default".to_owned()]));
    }
}
