//! The controls of signing in by device code.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::{answer, parse};
use crate::control::Control;

pub(super) fn routes() -> Router<Control> {
    Router::new()
        .route("/device-codes", get(in_flight))
        .route("/device-codes/approve", post(approve))
        .route("/device-codes/decline", post(decline))
        .route("/device-codes/expire", post(expire))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    user_code: String,
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    user_code: String,
}

async fn in_flight(Shared(control): Shared<Control>) -> Response {
    answer(Ok(json!({"device_codes": control.device_codes()})))
}

async fn approve(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Approval>(&body).and_then(|approval| {
        control.approve_device_code(&approval.user_code, approval.user.as_deref())?;
        Ok(json!({}))
    }))
}

async fn decline(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Code>(&body).and_then(|code| {
        control.decline_device_code(&code.user_code)?;
        Ok(json!({}))
    }))
}

async fn expire(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Code>(&body).and_then(|code| {
        control.expire_device_code(&code.user_code)?;
        Ok(json!({}))
    }))
}
