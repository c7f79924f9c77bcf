//! `grant_type=refresh_token`.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_simulator::{
    CLIENT_ID, Client, Config, Outcome, Rotation, TENANT_ID, USER_OID, USER_UPN, User, digest,
};
use serde_json::{Value, json};

use crate::http::{NOW_MS, SCOPE, TENANT, config, refresh, refresh_form, refused, start, token};

const OTHER_CLIENT: &str = "99999999-2222-3333-4444-555555555555";
const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_redemption_answers_what_entra_answers() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let answer = refresh(&simulator, &seed, SCOPE).await;
    let body = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["scope"], "Mail.ReadWrite User.Read");
    assert_eq!(body["expires_in"], 3_600);
    assert_eq!(body["ext_expires_in"], 3_600);
    assert!(simulator.is_active(&answer.string("access_token")));
    for absent in ["refresh_in", "client_info", "id_token"] {
        assert!(body.get(absent).is_none(), "{absent} was not asked for");
    }
    assert_eq!(answer.header("cache-control"), "no-store, no-cache");
}

#[tokio::test]
async fn every_tenant_form_works() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    for tenant in [TENANT_ID, TENANT, "organizations", "common"] {
        assert_eq!(token(&simulator, tenant, &refresh_form(&seed, SCOPE)).await.status, 200, "{tenant}");
    }
    let answer = token(&simulator, "fabrikam.example", &refresh_form(&seed, SCOPE)).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_request", 90_002));
}

#[tokio::test]
async fn under_lenient_rotation_a_used_token_goes_on_working_and_each_use_returns_a_new_one() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let mut tokens = HashSet::from([seed.clone()]);
    for _ in 0..3 {
        assert!(tokens.insert(refresh(&simulator, &seed, SCOPE).await.string("refresh_token")));
    }
    for successor in tokens {
        assert_eq!(refresh(&simulator, &successor, SCOPE).await.status, 200);
    }
}

#[tokio::test]
async fn under_strict_rotation_a_replay_revokes_the_family_and_no_other() {
    let simulator = start(Config { rotation: Rotation::Strict, ..config() }).await;
    let (seed, bystander) = (simulator.mint().unwrap(), simulator.mint().unwrap());
    let second = refresh(&simulator, &seed, SCOPE).await.string("refresh_token");
    let third = refresh(&simulator, &second, SCOPE).await.string("refresh_token");
    let replay = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!(replay.refusal(), refused(400, "invalid_grant", 70_000));
    let newest = refresh(&simulator, &third, SCOPE).await;
    assert_eq!(newest.refusal(), refused(400, "invalid_grant", 50_173));
    assert_eq!(refresh(&simulator, &bystander, SCOPE).await.status, 200);
}

#[tokio::test]
async fn without_offline_access_no_refresh_token_comes_back() {
    let simulator = start(Config { rotation: Rotation::Strict, ..config() }).await;
    let seed = simulator.mint().unwrap();
    assert!(refresh(&simulator, &seed, "User.Read").await.json().get("refresh_token").is_none());
    // So the one presented is still the one to keep.
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
}

#[tokio::test]
async fn without_a_scope_everything_of_the_sign_in_is_granted() {
    let simulator = start(config()).await;
    let seed = simulator.mint_refresh_token(None, None, &["Files.Read"]).unwrap();
    let form = refresh_form(&seed, "");
    let answer = token(&simulator, TENANT, &form[..3]).await;
    assert_eq!(answer.string("scope"), "Files.Read");
    assert!(answer.json().get("refresh_token").is_some());
}

#[tokio::test]
async fn scopes_are_answered_as_they_were_spelled() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let answer = refresh(&simulator, &seed, "https://graph.microsoft.com/mail.read openid").await;
    assert_eq!(answer.string("scope"), "https://graph.microsoft.com/mail.read openid");
    let answer = refresh(&simulator, &seed, "https://graph.microsoft.com/.default offline_access").await;
    let all = "https://graph.microsoft.com/Mail.ReadWrite https://graph.microsoft.com/User.Read";
    assert_eq!(answer.string("scope"), all);
}

#[tokio::test]
async fn default_does_not_mix_with_named_scopes() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let answer = refresh(&simulator, &seed, "https://graph.microsoft.com/.default Mail.Read").await;
    assert_eq!(answer.refusal(), refused(400, "invalid_scope", 70_011));
}

#[tokio::test]
async fn a_scope_without_consent_is_refused() {
    let user = User::new(USER_OID, USER_UPN).with_consent(["User.Read"]);
    let simulator = start(Config { users: vec![user], ..config() }).await;
    let seed = simulator.mint().unwrap();
    let answer = refresh(&simulator, &seed, "https://graph.microsoft.com/Mail.Read").await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 65_001));
    assert_eq!(answer.json()["suberror"], "consent_required");
    assert_eq!(refresh(&simulator, &seed, "user.read").await.status, 200);
}

#[tokio::test]
async fn the_account_is_told_when_asked_for() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let mut form = refresh_form(&seed, "User.Read openid profile").to_vec();
    form.push(("client_info", "1"));
    let answer = token(&simulator, TENANT, &form).await;
    let decode =
        |text: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap() };
    let client_info = decode(&answer.string("client_info"));
    assert_eq!(client_info, json!({"uid": USER_OID, "utid": TENANT_ID}));
    let id_token = answer.string("id_token");
    let claims = decode(id_token.split('.').nth(1).unwrap());
    assert_eq!(claims["oid"], USER_OID);
    assert_eq!(claims["tid"], TENANT_ID);
    assert_eq!(claims["preferred_username"], USER_UPN);
    assert_eq!(claims["aud"], CLIENT_ID);
    assert_eq!(claims["iat"], NOW_MS / 1_000);
}

#[tokio::test]
async fn numbers_may_be_strings_and_refresh_in_may_be_there() {
    let simulator = start(Config {
        numbers_as_strings: true,
        token_lifetime: Duration::from_hours(2),
        refresh_in: Some(Duration::from_hours(1)),
        ..config()
    })
    .await;
    let seed = simulator.mint().unwrap();
    let body = refresh(&simulator, &seed, SCOPE).await.json();
    assert_eq!(body["expires_in"], "7200");
    assert_eq!(body["ext_expires_in"], "7200");
    assert_eq!(body["refresh_in"], "3600");
}

#[tokio::test]
async fn an_unknown_a_revoked_an_idle_and_a_foreign_token_are_told_apart() {
    let clients = vec![Client::public(CLIENT_ID), Client::public(OTHER_CLIENT)];
    let simulator = start(Config { clients, ..config() }).await;
    let answer = refresh(&simulator, "no-such-token", SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 70_000));

    let revoked = simulator.mint().unwrap();
    simulator.revoke_refresh_token(&revoked).unwrap();
    let answer = refresh(&simulator, &revoked, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 50_173));
    assert_eq!(answer.json()["suberror"], "bad_token");

    let foreign = simulator.mint_refresh_token(None, Some(OTHER_CLIENT), &[]).unwrap();
    let answer = refresh(&simulator, &foreign, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 700_007));

    let page = simulator.mint_of_a_single_page_app().unwrap();
    let answer = refresh(&simulator, &page, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_request", 9_002_327));

    let idle = simulator.mint().unwrap();
    simulator.clock().advance(90 * DAY);
    let answer = refresh(&simulator, &idle, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 700_082));
}

#[tokio::test]
async fn use_keeps_a_refresh_token_alive() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    for _ in 0..4 {
        simulator.clock().advance(89 * DAY);
        assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
    }
}

#[tokio::test]
async fn revoking_a_user_revokes_the_sign_ins_but_not_the_access_tokens() {
    let other = User::new("00001111-aaaa-2222-bbbb-000000000000", "other@contoso.com");
    let users = vec![User::new(USER_OID, USER_UPN), other];
    let simulator = start(Config { users, ..config() }).await;
    let mine = simulator.mint().unwrap();
    let others = simulator.mint_refresh_token(Some("other@contoso.com"), None, &[]).unwrap();
    let issued = refresh(&simulator, &mine, SCOPE).await;
    simulator.revoke_user(USER_UPN).unwrap();
    for token in [&mine, &issued.string("refresh_token")] {
        let answer = refresh(&simulator, token, SCOPE).await;
        assert_eq!(answer.refusal(), refused(400, "invalid_grant", 50_173));
    }
    assert!(simulator.is_active(&issued.string("access_token")));
    assert_eq!(refresh(&simulator, &others, SCOPE).await.status, 200);
}

#[tokio::test]
async fn a_confidential_client_must_prove_itself_and_a_public_one_must_not() {
    let clients = vec![Client::public(CLIENT_ID), Client::confidential(OTHER_CLIENT, "s3cret")];
    let simulator = start(Config { clients, ..config() }).await;
    let public = simulator.mint().unwrap();
    let confidential = simulator.mint_refresh_token(None, Some(OTHER_CLIENT), &[]).unwrap();
    let form = |client, token, secret| {
        let mut form = vec![("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
        form.extend(Option::map(secret, |secret| ("client_secret", secret)));
        form
    };
    let missing = token(&simulator, TENANT, &form(OTHER_CLIENT, &confidential, None)).await;
    assert_eq!(missing.refusal(), refused(401, "invalid_client", 7_000_218));
    let wrong = token(&simulator, TENANT, &form(OTHER_CLIENT, &confidential, Some("guess"))).await;
    assert_eq!(wrong.refusal(), refused(401, "invalid_client", 7_000_215));
    let right = token(&simulator, TENANT, &form(OTHER_CLIENT, &confidential, Some("s3cret"))).await;
    assert_eq!(right.status, 200);
    let needless = token(&simulator, TENANT, &form(CLIENT_ID, &public, Some("s3cret"))).await;
    assert_eq!(needless.refusal(), refused(401, "invalid_client", 700_025));
    let unknown = token(&simulator, TENANT, &form("nobody", &public, None)).await;
    assert_eq!(unknown.refusal(), refused(400, "unauthorized_client", 700_016));
}

#[tokio::test]
async fn a_request_that_lacks_something_or_asks_for_an_unknown_grant_is_refused() {
    let simulator = start(config()).await;
    let nothing = token(&simulator, TENANT, &[]).await;
    assert_eq!(nothing.refusal(), refused(400, "invalid_request", 900_144));
    let no_token = token(&simulator, TENANT, &refresh_form("", SCOPE)).await;
    assert_eq!(no_token.refusal(), refused(400, "invalid_request", 900_144));
    let grant = token(&simulator, TENANT, &[("grant_type", "password"), ("client_id", CLIENT_ID)]).await;
    assert_eq!(grant.refusal(), refused(400, "unsupported_grant_type", 70_003));
}

#[tokio::test]
async fn an_error_carries_ids_and_echoes_the_callers() {
    let simulator = start(config()).await;
    let id = "6f1d5b4e-0000-4000-8000-000000000000";
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", simulator.url());
    let request = crate::http::client().post(url).form(&refresh_form("unknown", SCOPE));
    let request = request.header("client-request-id", id).header("return-client-request-id", "true");
    let answer = crate::http::Answer::read(request.send().await.unwrap()).await.unwrap();
    let body = answer.json();
    assert_eq!(body["correlation_id"], id);
    assert_eq!(answer.header("client-request-id"), id);
    assert_eq!(answer.header("x-ms-request-id"), body["trace_id"].as_str().unwrap());
    assert_eq!(body["timestamp"], "2026-11-23 00:00:00Z");
    assert!(body["error_description"].as_str().unwrap().starts_with("AADSTS70000: "));
}

#[tokio::test]
async fn the_journal_tells_each_request_and_holds_no_token() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    let answer = refresh(&simulator, &seed, SCOPE).await;
    refresh(&simulator, "unknown", SCOPE).await;
    let journal = simulator.journal();
    let [issued, refused] = &journal.token[..] else { panic!("two requests were made") };
    assert_eq!(issued.time_ms, NOW_MS);
    assert_eq!((issued.grant.as_str(), issued.client_id.as_str()), ("refresh_token", CLIENT_ID));
    assert_eq!((issued.outcome, issued.status), (Outcome::Issued, Some(200)));
    assert_eq!(issued.scopes, ["Mail.ReadWrite", "User.Read", "offline_access"]);
    assert_eq!(issued.received_sha256, Some(digest(&seed)));
    assert_eq!(issued.issued_sha256, Some(digest(&answer.string("refresh_token"))));
    assert_eq!(issued.access_sha256, Some(digest(&answer.string("access_token"))));
    assert_eq!((refused.outcome, refused.status), (Outcome::Refused, Some(400)));
    assert_eq!((refused.error.as_deref(), &refused.codes[..]), (Some("invalid_grant"), &[70_000][..]));
    assert_eq!(journal.counts()["refresh_token"][&Outcome::Issued], 1);
    assert_eq!(journal.count(Outcome::Refused), 1);
    let text = serde_json::to_string(&journal).unwrap() + &format!("{simulator:?}");
    for token in [&seed, &answer.string("refresh_token"), &answer.string("access_token")] {
        assert!(!text.contains(token.as_str()));
    }
}

#[tokio::test]
async fn discovery_leads_to_the_token_endpoint() {
    let simulator = start(config()).await;
    let get = |tenant| {
        let url = format!("{}/{tenant}/v2.0/.well-known/openid-configuration", simulator.url());
        async move {
            crate::http::Answer::read(crate::http::client().get(url).send().await.unwrap()).await.unwrap()
        }
    };
    let answer = get(TENANT).await;
    assert_eq!(answer.string("issuer"), format!("{}/{TENANT_ID}/v2.0", simulator.url()));
    assert_eq!(answer.string("token_endpoint"), simulator.token_url());
    assert_eq!(answer.string("device_authorization_endpoint"), simulator.device_authorization_url());
    let answer = get("organizations").await;
    assert_eq!(answer.string("issuer"), format!("{}/{{tenantid}}/v2.0", simulator.url()));
    assert!(answer.string("token_endpoint").ends_with("/organizations/oauth2/v2.0/token"));
    assert_eq!(get("fabrikam.example").await.status, 400);
}
