//! Faults on demand. Where time passes it is Tokio's, paused: it jumps when nothing else is left to do.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Canned, Config, Fault, Outcome, Rotation};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::http::{
    SCOPE, TENANT, access_token, client, config, graph, refresh, refresh_form, refused, start, try_token,
};

const LONG: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_fault_meets_so_many_requests_and_then_the_next_fault_has_its_turn() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::json(500, json!({}))).times(2));
    simulator.queue_fault(Fault::token(Action::html(502, "<html>")));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(refresh(&simulator, &seed, SCOPE).await.status);
    }
    assert_eq!(statuses, [500, 500, 502, 200]);
    assert!(simulator.pending_faults().is_empty());
}

#[tokio::test]
async fn a_fault_for_ever_ends_when_it_is_cleared() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::json(503, json!({}))).forever());
    for _ in 0..5 {
        assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 503);
    }
    simulator.clear_faults();
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
}

#[tokio::test]
async fn a_fault_meets_only_what_it_matches() {
    let simulator = start(config()).await;
    simulator.queue_fault(Fault::token(Action::Close).for_grant("client_credentials"));
    simulator.queue_fault(Fault::token(Action::Close).for_client("another"));
    simulator.queue_fault(Fault::graph(Action::json(503, json!({}))).for_client(CLIENT_ID));
    let token = access_token(&simulator, "User.Read").await;
    assert_eq!(graph(&simulator, "/me", Some("unknown")).await.status, 401);
    assert_eq!(graph(&simulator, "/me", Some(&token)).await.status, 503);
    assert_eq!(graph(&simulator, "/me", Some(&token)).await.status, 200);
    assert_eq!(simulator.pending_faults().len(), 2);
}

#[tokio::test]
async fn a_canned_answer_is_sent_as_written() {
    let simulator = start(config()).await;
    simulator.queue_fault(Fault::token(Action::Respond(Canned {
        status: 302,
        body: json!("moved"),
        content_type: Some("text/plain".to_owned()),
        headers: vec![("X-Proxy".to_owned(), "yes".to_owned())],
    })));
    let answer = refresh(&simulator, "unknown", SCOPE).await;
    assert_eq!((answer.status, answer.text.as_str()), (302, "moved"));
    assert_eq!((answer.header("content-type"), answer.header("x-proxy")), ("text/plain", "yes"));
}

#[tokio::test]
async fn an_injected_error_looks_like_entras() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::error("interaction_required", 50_076)));
    simulator.queue_fault(Fault::token(Action::throttled("1.5")));
    let answer = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "interaction_required", 50_076));
    assert!(answer.json()["trace_id"].is_string());
    let answer = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1.5"));
    let journal = simulator.journal();
    assert_eq!(journal.count(Outcome::Faulted), 2);
    assert_eq!((journal.token[0].fault, journal.token[0].codes[0]), (Some("error"), 50_076));
}

#[tokio::test]
async fn a_closed_connection_gives_no_answer_and_rotates_nothing() {
    let simulator = start(Config { rotation: Rotation::Strict, ..config() }).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::Close));
    assert!(try_token(&simulator, TENANT, &refresh_form(&seed, SCOPE)).await.is_err());
    let entry = &simulator.journal().token[0];
    assert_eq!((entry.outcome, entry.fault), (Outcome::Unanswered, Some("close")));
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
}

#[tokio::test]
async fn a_lost_answer_has_rotated_already() {
    let simulator = start(Config { rotation: Rotation::Strict, ..config() }).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::AnswerLost));
    assert!(try_token(&simulator, TENANT, &refresh_form(&seed, SCOPE)).await.is_err());
    let entry = simulator.journal().token[0].clone();
    assert_eq!((entry.outcome, entry.fault), (Outcome::Issued, Some("answer_lost")));
    assert!(entry.issued_sha256.is_some());
    let again = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!(again.refusal(), refused(400, "invalid_grant", 70_000));
}

#[tokio::test]
async fn on_entra_a_lost_answer_is_recovered_with_the_old_token() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::AnswerLost));
    assert!(try_token(&simulator, TENANT, &refresh_form(&seed, SCOPE)).await.is_err());
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_delay_passes_before_the_request_is_processed() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::DelayMs(1_500)));
    let before = Instant::now();
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
    assert!(before.elapsed() >= Duration::from_millis(1_500));
    assert_eq!(simulator.journal().token[0].outcome, Outcome::Issued);
}

#[tokio::test(start_paused = true)]
async fn a_hang_never_answers() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::Hang));
    let form = refresh_form(&seed, SCOPE);
    let request = timeout(LONG, try_token(&simulator, TENANT, &form));
    assert!(request.await.is_err(), "only the caller's deadline ends it");
    assert_eq!(simulator.journal().token[0].outcome, Outcome::Unanswered);
    assert_eq!(refresh(&simulator, &seed, SCOPE).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_trickles_the_real_answer() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    simulator.queue_fault(Fault::token(Action::SlowBody { chunk_bytes: 100, delay_ms: 1_000 }));
    let before = Instant::now();
    let answer = refresh(&simulator, &seed, SCOPE).await;
    let pieces = answer.text.len().div_ceil(100);
    assert!(before.elapsed() >= Duration::from_secs(u64::try_from(pieces).unwrap()));
    assert!(simulator.is_active(&answer.string("access_token")));
}

#[tokio::test]
async fn a_huge_body_is_as_large_as_asked() {
    let simulator = start(config()).await;
    simulator.queue_fault(Fault::token(Action::HugeBody { megabytes: 8 }));
    let answer = refresh(&simulator, "unknown", SCOPE).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.string("access_token").len(), 8 << 20);
}

#[tokio::test]
async fn discovery_can_fail_too() {
    let simulator = start(config()).await;
    let mut fault = Fault::token(Action::json(503, json!({})));
    fault.matching.path = entra_simulator::Endpoint::Discovery;
    simulator.queue_fault(fault);
    let url = format!("{}/{TENANT}/v2.0/.well-known/openid-configuration", simulator.url());
    let statuses = [client().get(&url).send().await, client().get(&url).send().await];
    assert_eq!(statuses.map(|answer| answer.unwrap().status().as_u16()), [503, 200]);
}
