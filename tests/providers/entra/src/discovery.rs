//! The tenant's `OpenID` configuration.

use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use crate::answer::{self, Processed};
use crate::control::Control;
use crate::fault::{Endpoint, Subject};
use crate::refusal::Refusal;
use crate::state::is_multi_tenant;

pub(crate) async fn endpoint(
    Shared(control): Shared<Control>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Response {
    let subject = Subject { path: Endpoint::Discovery, grant: None, client_id: None };
    let fault = control.with(|state| state.faults.take(&subject));
    let base = control.base(&headers);
    answer::through(
        fault,
        |_, _| {},
        |error| Processed::json(error.status, &json!({"error": error.error, "error_codes": error.codes})),
        || respond(&control, &base, &tenant),
    )
    .await
}

fn respond(control: &Control, base: &str, tenant: &str) -> Processed {
    let (known, id) = control.with(|state| (state.knows_tenant(tenant), state.tenant.id.clone()));
    if !known {
        let refusal = Refusal::unknown_tenant(tenant);
        let body = json!({
            "error": "invalid_tenant",
            "error_description": format!("AADSTS90002: {}", refusal.message),
            "error_codes": refusal.codes,
        });
        return Processed::json(refusal.status, &body);
    }
    // A domain is answered by the GUID; for any organisation's account the issuer is a pattern.
    let (path, issuer) = if is_multi_tenant(tenant) { (tenant, "{tenantid}") } else { (&*id, &*id) };
    Processed::json(
        200,
        &json!({
            "issuer": format!("{base}/{issuer}/v2.0"),
            "token_endpoint": format!("{base}/{path}/oauth2/v2.0/token"),
            "device_authorization_endpoint": format!("{base}/{path}/oauth2/v2.0/devicecode"),
            "authorization_endpoint": format!("{base}/{path}/oauth2/v2.0/authorize"),
            "jwks_uri": format!("{base}/{path}/discovery/v2.0/keys"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["none"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
        }),
    )
}
