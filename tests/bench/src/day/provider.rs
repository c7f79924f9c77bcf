//! A provider on loopback whose refresh tokens work once, whose tokens live as long as they please, and which is out of order
//! for a while.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;

use super::time::Time;
use super::{Day, Plan};
use crate::Failed;
use crate::stats::float;

/// A running provider. It ends with its runtime.
#[derive(Clone)]
pub struct Idp {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    plan: Plan,
    time: Time,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// The refresh token of each chain that works.
    works: HashMap<String, String>,
    issued: u64,
    refused: u64,
    forbidden: u64,
    /// Requests in each second.
    seconds: HashMap<u64, u64>,
}

impl Idp {
    /// Serves on the current runtime.
    pub async fn start(plan: Plan, time: &Time) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { plan, time: time.clone(), books: Mutex::default() });
        let router = Router::new().route("/token", post(token)).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, state })
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// What was asked of it.
    pub fn tell(&self) -> Day {
        let books = self.state.books();
        let mut minutes: HashMap<u64, u64> = HashMap::new();
        for (second, count) in &books.seconds {
            *minutes.entry(second / 60).or_default() += count;
        }
        Day {
            issued: books.issued,
            refused: books.refused,
            forbidden: books.forbidden,
            busiest_second: books.seconds.values().copied().max().unwrap_or_default(),
            busiest_minute: float(minutes.values().copied().max().unwrap_or_default()) / 60.0,
            ..Day::default()
        }
    }
}

impl State {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Between the least and the most, other for each: by a multiplicative hash.
    fn life(&self, number: u64) -> u64 {
        let (least, most) = self.plan.life;
        least + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (most - least + 1)
    }
}

async fn token(Shared(state): Shared<Arc<State>>, body: String) -> Response {
    state.time.moves();
    let second = state.time.since_began().as_secs();
    let mut books = state.books();
    *books.seconds.entry(second).or_default() += 1;
    let (begins, lasts) = state.plan.outage;
    if (begins..begins + lasts).contains(&second) {
        books.refused += 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let form: HashMap<_, _> = url::form_urlencoded::parse(body.as_bytes()).collect();
    let refresh_token = match form.get("refresh_token") {
        None => None,
        Some(sent) => {
            // CHAIN or CHAIN~NUMBER
            let chain = sent.split('~').next().unwrap_or_default().to_owned();
            if books.works.get(&chain).is_some_and(|works| works != sent) {
                books.forbidden += 1;
                return (StatusCode::BAD_REQUEST, json!({"error": "invalid_grant"}).to_string())
                    .into_response();
            }
            let next = format!("{chain}~{}", books.issued);
            books.works.insert(chain, next.clone());
            Some(next)
        }
    };
    books.issued += 1;
    let number = books.issued;
    let answer = json!({
        "token_type": "Bearer",
        "access_token": format!("{}{}", "a".repeat(1200), number),
        "refresh_token": refresh_token,
        "expires_in": state.life(number),
        "scope": "Mail.Read User.Read",
    });
    drop(books);
    ([("content-type", "application/json")], answer.to_string()).into_response()
}
