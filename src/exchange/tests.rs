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
    assert_eq!(provider.tenant_id(&url, PATIENCE).await, Ok(TENANT_ID.to_owned()));
    let mut fault = Fault::token(Action::html(200, "<html>"));
    fault.matching.path = Endpoint::Discovery;
    simulator.queue_fault(fault);
    assert_eq!(provider.tenant_id(&url, PATIENCE).await, Err(NoAnswer::Other));
}

#[test]
fn the_tenants_guid_is_read_from_the_issuer() {
    let guid = "11111111-2222-3333-4444-5555555555AA";
    let configuration = format!(r#"{{"issuer":"https://login.microsoftonline.com/{guid}/v2.0"}}"#);
    assert_eq!(tenant_of(configuration.as_bytes()), Some(guid.to_ascii_lowercase()));
    assert_eq!(tenant_of(br#"{"issuer":"https://login.microsoftonline.com/{tenantid}/v2.0"}"#), None);
    assert_eq!(tenant_of(b"<html>"), None);
}
