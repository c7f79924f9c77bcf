//! Writing a status, and what the API server's answer to it means.

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::api::GraphTokenStatus;
use crate::api::names::MANAGER;
use crate::cache::Watched;
use crate::observed::Identity;
use crate::store::{self, StoreError};

/// Writes a status; returns the object as it is now. The UID keeps it off a `GraphToken` that took the name meanwhile.
///
/// A JSON patch, because server-side apply to the status of a custom resource does not heed `metadata.uid` (measured on 1.37).
/// The operator owns all of the status, so replacing it whole takes nothing from anybody. What another version of it wrote is
/// written back: see [`crate::api::carry`].
pub async fn write(
    client: &kube::Client,
    identity: &Identity,
    status: &GraphTokenStatus,
) -> Result<Watched, StoreError> {
    let api: Api<Watched> = Api::namespaced(client.clone(), &identity.namespace);
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": identity.uid},
        {"op": "add", "path": "/status", "value": status.to_json()},
    ]);
    let Ok(patch) = serde_json::from_value(patch) else {
        return Err(StoreError::Refused("the status does not make a patch".to_owned()));
    };
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&identity.name, &params, &Patch::Json::<()>(patch)).await {
        Ok(written) => Ok(written),
        Err(kube::Error::Api(answer)) if answer.code == 422 => Err(unprocessable(&answer)),
        Err(error) => Err(error.into()),
    }
}

/// Two things are 422: that the patch's `test` failed, for this name is another `GraphToken`'s now; and that the status is not
/// as the CRD in this cluster, or a policy, wants it. Only the latter names fields, or who denied it. No value is in it.
fn unprocessable(answer: &kube::core::Status) -> StoreError {
    let causes = answer.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<&str> = causes.map(|cause| cause.field.as_str()).take(3).collect();
    let denied = store::denied_by(&answer.message);
    if fields.is_empty() && denied.is_none() {
        return StoreError::Gone;
    }
    denied.map_or_else(
        || {
            StoreError::Refused(format!(
                "422 Invalid: the CRD in this cluster does not accept {} of the status; install the CRD of the operator's version",
                fields.join(", ")
            ))
        },
        |who| StoreError::Forbidden(format!("422 Invalid: denied by {who}")),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn answer_422(message: &str, fields: &[&str]) -> kube::core::Status {
        let causes =
            fields.iter().map(|field| json!({"field": field, "message": "Unsupported value: \"x\""}));
        let details = json!({"name": "mail", "kind": "GraphToken", "causes": causes.collect::<Vec<_>>()});
        serde_json::from_value(
            json!({"code": 422, "reason": "Invalid", "message": message, "details": details}),
        )
        .unwrap()
    }

    #[rstest]
    #[case::another_graphtoken(&[], "the server rejected our request due to an error in our request", StoreError::Gone)]
    #[case::another_crd(
        &["status.conditions[0].reason", "status.lastFailure.reason"],
        "GraphToken.graphtoken.io \"mail\" is invalid: status.conditions[0].reason: Unsupported value: \"x\"",
        StoreError::Refused(
            "422 Invalid: the CRD in this cluster does not accept status.conditions[0].reason, status.lastFailure.reason of the \
             status; install the CRD of the operator's version".into(),
        ),
    )]
    #[case::a_policy(
        &[],
        "admission webhook \"check.example.com\" denied the request: x",
        StoreError::Forbidden("422 Invalid: denied by admission webhook check.example.com".into()),
    )]
    fn a_status_that_is_rejected_is_not_taken_for_gone(
        #[case] fields: &[&str],
        #[case] message: &str,
        #[case] means: StoreError,
    ) {
        assert_eq!(unprocessable(&answer_422(message, fields)), means);
    }
}
