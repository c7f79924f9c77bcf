use entra_simulator::{
    Action, CLIENT_ID, Canned, Config, Endpoint, Fault, Simulator, TENANT_DOMAIN, TENANT_ID,
};

use super::*;
use crate::grant::{Proof, refresh_token};

const PATIENCE: Duration = Duration::from_secs(15);

async fn simulator() -> (Simulator, Provider) {
    (Simulator::start(Config::default()).await.unwrap(), Provider::new(1000.0, Vec::new()).unwrap())
}

async fn post(simulator: &Simulator, provider: &Provider, deadline: Duration) -> Result<Received, NoAnswer> {
    let token = simulator.mint().unwrap().into();
    let request = refresh_token::request(CLIENT_ID, &token, &["User.Read".to_owned()], Proof::Public);
    provider.post(&simulator.token_url(), &request, "an-id", deadline).await
}

#[tokio::test]
async fn an_answer_comes_back_whole() {
    let (simulator, provider) = simulator().await;
    let received = post(&simulator, &provider, PATIENCE).await.ok().unwrap();
    assert_eq!(received.status, 200);
    assert!(received.body.expose_secret().starts_with(b"{"));
}

#[tokio::test]
async fn a_redirect_is_never_followed_with_a_secret_in_the_form() {
    let (simulator, provider) = simulator().await;
    let headers = vec![("location".to_owned(), simulator.token_url())];
    let elsewhere = Canned { status: 307, body: "".into(), content_type: None, headers };
    simulator.queue_fault(Fault::token(Action::Respond(elsewhere)));
    assert_eq!(post(&simulator, &provider, PATIENCE).await.ok().unwrap().status, 307);
    assert_eq!(simulator.journal().token.len(), 1);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (simulator, provider) = simulator().await;
    simulator.queue_fault(Fault::token(Action::HugeBody { megabytes: 10 }));
    assert_eq!(post(&simulator, &provider, PATIENCE).await.err(), Some(NoAnswer::TooLarge));
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (simulator, provider) = simulator().await;
    simulator.queue_fault(Fault::token(Action::Hang));
    assert_eq!(post(&simulator, &provider, Duration::from_millis(200)).await.err(), Some(NoAnswer::Timeout));
    simulator.queue_fault(Fault::token(Action::SlowBody { chunk_bytes: 1, delay_ms: 50 }));
    assert_eq!(post(&simulator, &provider, Duration::from_millis(400)).await.err(), Some(NoAnswer::Timeout));
}

#[tokio::test]
async fn a_broken_connection_is_not_tried_again() {
    let (simulator, provider) = simulator().await;
    simulator.queue_fault(Fault::token(Action::Close));
    assert_eq!(post(&simulator, &provider, PATIENCE).await.err(), Some(NoAnswer::Closed));
    simulator.queue_fault(Fault::token(Action::AnswerLost));
    assert_eq!(post(&simulator, &provider, PATIENCE).await.err(), Some(NoAnswer::Closed));
    assert_eq!(simulator.journal().token.len(), 2);
}

#[tokio::test]
async fn nobody_there_and_no_tls_are_told_apart() {
    let (simulator, provider) = simulator().await;
    let request = refresh_token::request(CLIENT_ID, &"x".to_owned().into(), &[], Proof::Public);
    let https = simulator.token_url().replace("http://", "https://");
    let no_tls = provider.post(&https, &request, "an-id", PATIENCE).await.err();
    assert!(matches!(no_tls, Some(NoAnswer::Tls | NoAnswer::Connect)), "{no_tls:?}");
    let url = simulator.token_url();
    drop(simulator);
    assert_eq!(provider.post(&url, &request, "an-id", PATIENCE).await.err(), Some(NoAnswer::Connect));
}

#[tokio::test]
async fn the_tenants_guid_is_asked_for_by_its_domain() {
    let (simulator, provider) = simulator().await;
    let url = format!("{}/{TENANT_DOMAIN}/v2.0/.well-known/openid-configuration", simulator.url());
    let received = provider.tenant_id(&url, PATIENCE).await.ok().unwrap();
    assert_eq!(tenant_of(received.body.expose_secret()).as_deref(), Some(TENANT_ID));
    let mut fault = Fault::token(Action::html(200, "<html>"));
    fault.matching.path = Endpoint::Discovery;
    simulator.queue_fault(fault);
    let received = provider.tenant_id(&url, PATIENCE).await.ok().unwrap();
    assert_eq!((received.status, tenant_of(received.body.expose_secret())), (200, None));
}

async fn present(
    simulator: &Simulator,
    provider: &Provider,
    deadline: Duration,
) -> Result<Answered, NoAnswer> {
    let url = format!("{}/v1.0/me", simulator.url());
    provider.present(&url, &"no-such-token".to_owned().into(), "an-id", deadline).await
}

#[tokio::test]
async fn of_an_answer_to_a_token_status_and_headers_are_told() {
    let (simulator, provider) = simulator().await;
    let refused = present(&simulator, &provider, PATIENCE).await.unwrap();
    assert_eq!((refused.status, refused.challenges.len(), &refused.retry_after), (401, 1, &None));
    assert!(refused.challenges[0].contains("invalid_token"));
    let headers = vec![("retry-after".to_owned(), "1.5".to_owned())];
    let busy = Canned { status: 429, body: "".into(), content_type: None, headers };
    simulator.queue_fault(Fault::graph(Action::Respond(busy)));
    let busy = present(&simulator, &provider, PATIENCE).await.unwrap();
    assert_eq!((busy.status, busy.retry_after.as_deref()), (429, Some("1.5")));
    assert_eq!(simulator.journal().graph.len(), 2);
}

#[tokio::test]
async fn a_token_is_never_presented_where_a_redirect_leads() {
    let (simulator, provider) = simulator().await;
    let headers = vec![("location".to_owned(), format!("{}/v1.0/users", simulator.url()))];
    let elsewhere = Canned { status: 302, body: "".into(), content_type: None, headers };
    simulator.queue_fault(Fault::graph(Action::Respond(elsewhere)));
    assert_eq!(present(&simulator, &provider, PATIENCE).await.unwrap().status, 302);
    assert_eq!(simulator.journal().graph.len(), 1);
}

#[tokio::test]
async fn an_endless_body_does_not_count_and_silence_does() {
    let (simulator, provider) = simulator().await;
    simulator.queue_fault(Fault::graph(Action::HugeBody { megabytes: 10 }));
    assert_eq!(present(&simulator, &provider, PATIENCE).await.unwrap().status, 200);
    simulator.queue_fault(Fault::graph(Action::SlowBody { chunk_bytes: 1, delay_ms: 50 }));
    assert_eq!(present(&simulator, &provider, Duration::from_millis(400)).await.unwrap().status, 401);
    simulator.queue_fault(Fault::graph(Action::Hang));
    let silent = present(&simulator, &provider, Duration::from_millis(200)).await;
    assert_eq!(silent, Err(NoAnswer::Timeout));
}

#[test]
fn the_tenants_guid_is_read_from_the_issuer() {
    let guid = "11111111-2222-3333-4444-5555555555AA";
    let configuration = format!(r#"{{"issuer":"https://login.microsoftonline.com/{guid}/v2.0"}}"#);
    assert_eq!(tenant_of(configuration.as_bytes()), Some(guid.to_ascii_lowercase()));
    assert_eq!(tenant_of(br#"{"issuer":"https://login.microsoftonline.com/{tenantid}/v2.0"}"#), None);
    assert_eq!(tenant_of(b"<html>"), None);
}
