//! Every kind of status as an object, for those who judge it from outside: `tests/health` has Argo CD's health check and
//! Flux's kstatus judge them.

use serde_json::{Value, json};

use super::*;
use crate::observed::{Device, Record, SeedState};
use crate::verdict::Verdict;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health/cases.json");

fn object(name: &str, world: &World, status: &GraphTokenStatus) -> (String, Value) {
    let Identity { namespace, name: of, generation, .. } = &world.observed.identity;
    let object = json!({
        "apiVersion": "graphtoken.io/v1alpha1",
        "kind": "GraphToken",
        "metadata": {"namespace": namespace, "name": of, "generation": generation},
        "spec": world.spec,
        "status": status,
    });
    (name.to_owned(), object)
}

fn seen(name: &str, world: &World) -> (String, Value) {
    object(name, world, &status(world))
}

/// The spec has changed, and the operator has not seen it yet.
fn unseen(name: &str, world: World) -> (String, Value) {
    let status = status(&world);
    object(name, &world.with(|w| w.observed.identity.generation += 1), &status)
}

fn failing(name: &str, world: World, reason: Reason) -> (String, Value) {
    seen(&format!("{name} {}", reason.as_str()), &world.with(|w| w.fail(reason, 1, 5)))
}

fn tried(name: &str, verdict: Verdict) -> (String, Value) {
    let world = World::delegated().with(World::verify).with(|w| w.tried(Verdict::Rejected, 60));
    seen(
        name,
        &world.with(|w| {
            let token = w.token(-30, LIFE);
            w.hold(token.clone());
            w.serve(token);
            w.tried(verdict, 20);
        }),
    )
}

/// Nobody has signed in yet, and a code waits for a user.
fn waits_for_a_user(world: &mut World) {
    world.spec["grant"] = json!({"deviceCode": {}});
    world.observed.seed = SeedState::Unneeded;
    world.hold(world.token(-AGE, LIFE));
    let issued_for = world.desired().issued_for;
    let credential = world.credential();
    credential.record = Record::default();
    credential.refresh_token_digest = None;
    credential.has_access_token = false;
    credential.device = Some(Device {
        user_code: "ABCD-EFGH".into(),
        verification_uri: "https://login.test/device".into(),
        expires_at: after(900),
        interval_seconds: 5,
        issued_for,
        ended: false,
    });
}

fn cases() -> Vec<(String, Value)> {
    let created = World::fresh().with(|w| w.observed.identity.generation = 1);
    let default = GraphTokenStatus { observed_generation: -1, ..GraphTokenStatus::default() };
    let expired = || World::delegated().with(run_out);
    let mut cases = vec![
        object("just created", &created, &default),
        seen("no token yet", &World::fresh()),
        seen("converged", &World::delegated()),
        seen("converged app", &World::app_only().with(got)),
        unseen("the spec has changed", World::delegated()),
        unseen(
            "the spec has changed while a person must act",
            World::fresh().with(|w| w.fail(Reason::InvalidConfiguration, 1, 1)),
        ),
        seen("a code waits for a user", &World::fresh().with(waits_for_a_user)),
        seen("another spec", &World::delegated().with(|w| w.spec["scopes"] = json!(["Files.Read"]))),
        seen("expired", &expired()),
        seen("target taken", &World::fresh().with(conflict)),
        seen("target taken later", &World::delegated().with(conflict)),
        seen("suspended", &World::delegated().with(suspended)),
        seen("suspended before anything", &World::fresh().with(suspended)),
        seen("suspended and expired", &expired().with(suspended)),
        unseen("to be suspended", World::delegated()),
        tried("token accepted", Verdict::Accepted),
        tried("token refused twice", Verdict::Rejected),
        tried("the trial is wrong", Verdict::Failed(404)),
        tried("the trial was throttled", Verdict::Throttled(None)),
    ];
    let index = cases.iter().position(|(name, _)| name == "to be suspended").unwrap();
    cases[index].1["spec"]["suspend"] = json!(true);
    for reason in [Reason::Throttled, Reason::ProviderUnavailable, Reason::StorageUnavailable] {
        cases.push(failing("valid,", World::delegated(), reason));
        cases.push(failing("expired,", expired(), reason));
        cases.push(failing("never issued,", World::fresh(), reason));
    }
    for reason in [Reason::AuthorizationRequired, Reason::WrongAccount, Reason::InvalidConfiguration] {
        cases.push(failing("valid,", World::delegated(), reason));
        cases.push(failing("expired,", expired(), reason));
        cases.push(failing("never issued,", World::fresh(), reason));
        cases.push(failing("suspended,", World::fresh().with(suspended), reason));
    }
    for (what, world) in [("valid", World::delegated()), ("never issued", World::fresh())] {
        let world = world.with(|w| store_fails(w, true));
        cases.push(seen(&format!("{what}, a cluster administrator must act"), &world));
    }
    let world = World::delegated();
    let (before, identity) = (status(&world), world.observed.identity.clone());
    let error = SpecError::HttpNotAllowed { field: "token" };
    cases.push(object("invalid spec", &world, &project_invalid(&identity, &before, &error, now())));
    let unknown = |before: &GraphTokenStatus, why| project_unknown(&identity, before, why, now());
    cases.push(object("unknown client, valid", &world, &unknown(&before, Some("403"))));
    let nothing = GraphTokenStatus::default();
    cases.push(object("unknown client, never issued", &world, &unknown(&nothing, Some("403"))));
    cases.push(object("clients not seen yet", &world, &unknown(&nothing, None)));
    cases
}

/// `GRAPHTOKEN_WRITE_CASES=1 cargo test --lib health` writes them anew.
#[test]
fn the_cases_for_health_checks_are_those_of_the_code() {
    let cases: Vec<Value> =
        cases().into_iter().map(|(name, object)| json!({"name": name, "object": object})).collect();
    let text = format!("{}\n", serde_json::to_string_pretty(&cases).unwrap());
    if std::env::var_os("GRAPHTOKEN_WRITE_CASES").is_some() {
        std::fs::write(CASES, &text).unwrap();
    }
    let kept = std::fs::read_to_string(CASES).unwrap_or_default();
    assert!(
        kept == text,
        "tests/health/cases.json is stale: GRAPHTOKEN_WRITE_CASES=1 cargo test --lib health"
    );
}
