//! The Lease of a test's operators, as the API server has it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::timeout;

use super::World;

const NAME: &str = "graphtoken-operator";
/// A Lease changes hands well within this, however busy the machine.
const CHANGES_HANDS: Duration = Duration::from_mins(1);

/// The Leases of the world's namespace.
pub fn leases(world: &World) -> Api<Lease> {
    Api::namespaced(world.cluster.client.clone(), &world.namespace)
}

/// The Lease as it is now.
pub async fn spec(world: &World) -> LeaseSpec {
    leases(world).get(NAME).await.unwrap().spec.unwrap()
}

/// Takes the Lease away from its holder and does not renew it. Returns when that holder has it again.
pub async fn lose_and_regain(world: &World) {
    let holder = spec(world).await.holder_identity.expect("someone holds the Lease");
    let stolen = json!({"spec": {"holderIdentity": "another-process", "leaseDurationSeconds": 1}});
    leases(world).patch(NAME, &PatchParams::default(), &Patch::Merge(&stolen)).await.unwrap();
    let regained = |lease: Option<&Lease>| {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(&holder)
    };
    let again = await_condition(leases(world), NAME, regained);
    timeout(CHANGES_HANDS, again).await.expect("the Lease is held again").unwrap();
}

/// Waits until its holder renews the Lease.
pub async fn await_renewal(world: &World) {
    let before = spec(world).await.renew_time;
    let renewed = |lease: Option<&Lease>| {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        spec.is_some_and(|spec| spec.renew_time != before)
    };
    let renewed = await_condition(leases(world), NAME, renewed);
    timeout(CHANGES_HANDS, renewed).await.expect("the Lease is renewed").unwrap();
}
