//! What another version of the operator wrote.

use rstest::rstest;
use serde_json::json;

use super::*;

/// Conditions of a type that this version does not know, and what it cannot read, before and after a reconcile.
#[rstest]
#[case::converged(World::delegated())]
#[case::fresh(World::fresh())]
#[case::app(World::app_only())]
#[case::conflict(World::delegated().with(conflict))]
fn what_another_version_wrote_survives_each_projection(#[case] world: World) {
    let foreign = json!({"type": "Sealed", "status": "True", "reason": "Sealed", "message": "m",
        "lastTransitionTime": "2026-11-23T10:00:00Z", "severity": "Info"});
    let undecodable = json!({"type": "Odd", "status": 5});
    let mut before = status(&world).to_json();
    before["sealingKey"] = json!({"id": "k1"});
    before["conditions"].as_array_mut().unwrap().extend([foreign.clone(), undecodable.clone()]);
    let mut world = world;
    world.observed.status = GraphTokenStatus::read(&before.to_string());
    assert_eq!(status(&world).to_json(), before, "nothing changed");
    let identity = &world.observed.identity;
    let invalid = project_invalid(
        identity,
        &world.observed.status,
        &SpecError::HttpNotAllowed { field: "token" },
        now(),
    );
    let unknown = project_unknown(identity, &world.observed.status, Some("403"), now());
    for status in [status_at(&world, after(10 * LIFE)), invalid, unknown] {
        let written = status.to_json();
        assert_eq!(written["sealingKey"], json!({"id": "k1"}));
        let conditions = written["conditions"].as_array().unwrap();
        assert!(conditions.contains(&foreign) && conditions.contains(&undecodable), "{written:#}");
        let types = conditions.iter().map(|c| c["type"].as_str().unwrap());
        let own = types.filter(|type_| !["Sealed", "Odd"].contains(type_)).count();
        assert_eq!(own, status.conditions.iter().filter(|c| c.type_.known().is_some()).count());
    }
}
