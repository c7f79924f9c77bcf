//! An admission policy that rejects what the operator stores, for as long as a test wants.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::World;

/// The policy is in force within this.
const IN_FORCE: Duration = Duration::from_mins(1);

/// Lets a token acquisition begin, and rejects every write of a new refresh token into these credentials, which exist. Returns
/// the policy's name.
pub async fn reject_commits(world: &World, credentials: &[String], reason: Option<&str>) -> String {
    let name = format!("reject-commits-{}", world.namespace);
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.cluster.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.cluster.client.clone());
    let same = "'refresh_token' in oldObject.data && object.data['refresh_token'] == oldObject.data['refresh_token']";
    let expression =
        format!("!(request.name in {credentials:?}) || !('refresh_token' in object.data) || ({same})");
    let policy = json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"]},
        ]},
        "validations": [{"expression": expression, "message": "no commits today", "reason": reason}],
    }});
    let binding = json!({"metadata": {"name": name}, "spec": {
        "policyName": name, "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}},
    }});
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let began = Instant::now();
    for credential in credentials {
        while accepts_commits(&world.secrets(), credential).await {
            assert!(began.elapsed() < IN_FORCE, "the policy does not take effect");
            sleep(Duration::from_millis(50)).await;
        }
    }
    name
}

/// Removes the policy again.
pub async fn lift(world: &World, policy: &str) {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.cluster.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.cluster.client.clone());
    bindings.delete(policy, &DeleteParams::default()).await.unwrap();
    policies.delete(policy, &DeleteParams::default()).await.unwrap();
}

/// Tries, without writing.
async fn accepts_commits(secrets: &Api<Secret>, name: &str) -> bool {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let patch = json!({"data": {"refresh_token": "e30="}});
    secrets.patch(name, &params, &Patch::Merge(&patch)).await.is_ok()
}
