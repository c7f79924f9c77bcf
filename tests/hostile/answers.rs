//! Answers that are meant to stall, to fill memory, or to be taken for something else.

use std::time::Duration;

use graphtoken::exchange::Provider;
use graphtoken::failure::{Answer, Failure, NoAnswer};
use graphtoken::grant::{GrantKind, Outcome, read};
use graphtoken::verdict::Answered;
use jiff::Timestamp;
use rstest::rstest;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::request;
use crate::server::{Hostile, tricks};

/// Long enough for a busy machine to get to what it waits for.
const DEADLINE: Duration = Duration::from_secs(3);
/// Nothing may go on for longer than the deadline; a busy machine may be late.
const PATIENCE: Duration = Duration::from_secs(30);

fn provider() -> Provider {
    Provider::new(1000.0, Vec::new()).unwrap()
}

/// What comes of a token request.
async fn exchanged(trick: &str) -> Result<Outcome, NoAnswer> {
    let hostile = Hostile::start(tricks().into_iter().filter(|known| known.name == trick).collect()).await;
    let (provider, url, form) = (provider(), hostile.url(trick), request());
    let posted = timeout(PATIENCE, provider.post(&url, &form, "an-id", DEADLINE)).await;
    assert_eq!(hostile.requests().len(), 1, "it is asked once");
    let received = posted.expect("the deadline holds")?;
    let answer = Answer { status: received.status, retry_after: None, body: received.body.expose_secret() };
    Ok(read(GrantKind::RefreshToken, &answer, Timestamp::UNIX_EPOCH))
}

#[rstest]
#[case::endless_body("endless-body", NoAnswer::TooLarge)]
#[case::endless_chunks("endless-chunks", NoAnswer::TooLarge)]
#[case::dripping_body("dripping-body", NoAnswer::Timeout)]
#[case::dripping_head("dripping-head", NoAnswer::Timeout)]
#[case::silence("silence", NoAnswer::Timeout)]
#[case::endless_hints("endless-hints", NoAnswer::Timeout)]
#[case::cut_body("cut-body", NoAnswer::Closed)]
#[case::length_beyond_numbers("length-beyond-numbers", NoAnswer::Closed)]
#[case::two_lengths("two-lengths", NoAnswer::Closed)]
#[case::negative_length("negative-length", NoAnswer::Closed)]
#[case::endless_reason("endless-reason", NoAnswer::Closed)]
#[case::endless_header("endless-header", NoAnswer::Closed)]
#[case::endless_headers("endless-headers", NoAnswer::Closed)]
#[case::no_http("no-http", NoAnswer::Closed)]
#[case::another_http("another-http", NoAnswer::Closed)]
#[case::nothing("nothing", NoAnswer::Closed)]
#[case::zeros("zeros", NoAnswer::Closed)]
#[case::endless_extension("endless-extension", NoAnswer::Closed)]
#[case::endless_extensions("endless-extensions", NoAnswer::Closed)]
#[case::endless_trailers("endless-trailers", NoAnswer::Closed)]
#[case::chunk_beyond_numbers("chunk-beyond-numbers", NoAnswer::Closed)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_ends_by_the_deadline_and_is_called_by_its_name(
    #[case] trick: &str,
    #[case] why: NoAnswer,
) {
    assert_eq!(exchanged(trick).await.err(), Some(why));
}

/// A server that sends a byte in a chunk gets as far as the bound or the deadline, whichever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn tiny_chunks_end_by_the_bound_or_the_deadline() {
    let why = exchanged("tiny-chunks").await.err();
    assert!(matches!(why, Some(NoAnswer::TooLarge | NoAnswer::Timeout)), "{why:?}");
}

#[rstest]
#[case::switched_protocols("switched-protocols")]
#[case::deep_lists("deep-lists")]
#[case::deep_objects("deep-objects")]
#[case::many_lists("many-lists")]
#[case::many_members("many-members")]
#[case::long_token("long-token")]
#[case::life_of_nothing("life-of-nothing")]
#[case::life_in_the_past("life-in-the-past")]
#[case::life_of_words("life-of-words")]
#[case::life_of_lists("life-of-lists")]
#[case::bomb("bomb")]
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_usable_token_is_no_success(#[case] trick: &str) {
    let failure: Failure = match exchanged(trick).await {
        Ok(Outcome::Unusable { failure, .. } | Outcome::Refused(failure)) => failure,
        Err(why) => why.into(),
        Ok(other) => panic!("{other:?}"),
    };
    assert_eq!(failure.reason.as_str(), "ProviderUnavailable");
    assert!(failure.is_transient() && (1..1024).contains(&failure.message.len()), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trick_has_its_row_and_nothing_packed_is_asked_for() {
    let hostile = Hostile::start(Vec::new()).await;
    let _ = provider().post(&hostile.url("any"), &request(), "an-id", DEADLINE).await;
    let head = hostile.requests().remove(0).to_ascii_lowercase();
    assert!(head.contains("accept: application/json") && !head.contains("accept-encoding"), "{head}");
    let tests = include_str!("answers.rs");
    for trick in tricks() {
        assert!(tests.contains(&format!("\"{}\"", trick.name)), "{} is tried by no test here", trick.name);
    }
}

/// Of a Graph's answer the head tells; what follows costs no more than the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_graph_gets_one_request_and_ends_by_the_deadline() {
    let hostile = Hostile::start(tricks()).await;
    let (provider, token) = (provider(), "a-token".into());
    let all = tricks();
    let trials = all.iter().map(async |trick| {
        let url = format!("{}/v1.0/me", hostile.url(trick.name));
        (trick.name, timeout(PATIENCE, provider.present(&url, &token, "an-id", DEADLINE)).await)
    });
    for (name, answered) in futures::future::join_all(trials).await {
        let answered = answered.unwrap_or_else(|_| panic!("{name} goes on beyond the deadline"));
        let told = answered.map(|Answered { status, .. }| status);
        assert!(matches!(told, Ok(200 | 101) | Err(_)), "{name}: {told:?}");
    }
    assert_eq!(hostile.requests().len(), all.len(), "and none is asked twice");
}

/// A connection is used again, by whoever comes next: also by a `GraphToken` of another namespace.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_asked_for_is_nobodys() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut number = 0;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            number += 1;
            let mut request = [0; 4096];
            while client.read(&mut request).await.is_ok_and(|read| read > 0) {
                let body = format!("honest-{number}");
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
                if client.write_all(format!("{answer}{forged}").as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    let provider = provider();
    for _ in 0..5 {
        if let Ok(received) = provider.post(&url, &request(), "an-id", DEADLINE).await {
            let body = String::from_utf8_lossy(received.body.expose_secret()).into_owned();
            assert!(body.starts_with("honest"), "{body}");
        }
    }
    server.abort();
}
