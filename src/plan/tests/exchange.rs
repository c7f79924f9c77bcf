use rstest::rstest;
use serde_json::json;

use super::world::{AGE, CHAIN, HOLDER, LIFE, OBJECT_ID, TENANT_ID, UID, World, after, exchange, unchanged};
use crate::api::Reason;
use crate::desired::RefreshPolicy;
use crate::observed::{CredentialState, ProofState};
use crate::plan::{Act, Source, Why, due};

/// Asserts that nothing is done, for this reason, with an hourly look; returns the message.
fn assert_blocked(world: &World, reason: Reason) -> String {
    assert_blocked_until(world, reason, 3600)
}

fn assert_blocked_until(world: &World, reason: Reason, look: i64) -> String {
    let plan = world.plan();
    assert_eq!((plan.act, plan.next_exchange), (Act::Wait, None));
    let expiry = world.observed.served().map(|token| token.expires_at);
    let look = after(look);
    assert_eq!(plan.look_at, Some(expiry.filter(|at| *at > after(0)).map_or(look, |at| at.min(look))));
    let problem = plan.problem.unwrap();
    assert_eq!(problem.reason, reason);
    problem.message
}

#[rstest]
#[case::delegated(World::delegated())]
#[case::app_only(World::app_only())]
fn what_has_converged_waits_until_the_token_is_due(#[case] world: World) {
    let due = due(RefreshPolicy::Percentage(50), &world.token(-AGE, LIFE), UID);
    let plan = world.plan();
    assert_eq!((plan.act, plan.problem), (Act::Wait, None));
    assert_eq!((plan.look_at, plan.next_exchange), (Some(due), Some(due)));
}

#[rstest]
#[case::delegated(World::delegated(), Source::Chain)]
#[case::app_only(World::app_only(), Source::Client)]
fn a_token_is_refreshed_when_it_is_due_and_when_it_ran_out(#[case] world: World, #[case] source: Source) {
    let due = due(RefreshPolicy::Percentage(50), &world.token(-AGE, LIFE), UID);
    let second = due.duration_since(after(0)).as_secs();
    assert_eq!(world.plan_at(second).act, Act::Wait);
    assert_eq!(world.plan_at(second + 1).act, exchange(Why::Due, source));
    assert_eq!(world.plan_at(LIFE).act, exchange(Why::Due, source));
    assert_eq!(world.plan_at(1_000_000).act, exchange(Why::Due, source));
}

#[test]
fn an_app_without_a_token_gets_one() {
    assert_eq!(World::fresh_app().act(), exchange(Why::NoToken, Source::Client));
}

#[rstest]
#[case::scopes("scopes", json!(["Files.Read"]))]
#[case::cloud("endpoints", json!({"token": "https://login.microsoftonline.com/proxied/token"}))]
fn another_spec_is_exchanged_for_at_once_and_the_old_token_stays(
    #[case] field: &str,
    #[case] value: serde_json::Value,
) {
    let world = World::delegated().with(|w| w.spec[field] = value);
    let plan = world.plan();
    assert_eq!(plan.act, exchange(Why::NoToken, Source::Chain));
    assert!(world.observed.served().is_some());
    let failed = world.with(|w| w.fail(Reason::ProviderUnavailable, 0, 1));
    assert_eq!(failed.act(), Act::Wait, "nor is the target touched while it fails");
}

#[rstest]
#[case::client("clientId", json!("another"))]
#[case::tenant("tenant", json!("fabrikam.onmicrosoft.com"))]
#[case::multi_tenant("tenant", json!("common"))]
#[case::cloud("cloud", json!("USGov"))]
#[case::origin("endpoints", json!({"token": "https://idp.test/token"}))]
#[case::port("endpoints", json!({"token": "https://login.microsoftonline.com:444/token"}))]
#[case::scheme("endpoints", json!({"token": "http://login.microsoftonline.com/token"}))]
fn a_refresh_token_is_never_sent_for_another_client_or_tenant_or_to_another_origin(
    #[case] field: &str,
    #[case] value: serde_json::Value,
    #[values(unchanged, World::request, |w: &mut World| w.pending_of("rival", true), |w: &mut World| {
        w.observed.status.last_failure = None;
        w.credential().record.token = None;
    })]
    meanwhile: fn(&mut World),
) {
    let world = World::delegated().with(meanwhile).with(|w| w.spec[field] = value);
    let message = assert_blocked(&world, Reason::AuthorizationRequired);
    assert!(message.contains("was made for another tenant, client or token endpoint"), "{message}");
    assert!(message.contains("sign in for this one") && message.contains("seed Secret"), "{message}");
    // A seed for the new one is.
    assert!(matches!(
        world.with(World::new_seed).act(),
        Act::Exchange(crate::plan::Exchange { source: Source::Seed, .. })
    ));
}

#[rstest]
#[case::guid(TENANT_ID)]
#[case::guid_in_capitals("AAAAAAAA-0000-4000-8000-00000000000B")]
#[case::domain_in_capitals("Contoso.OnMicrosoft.com")]
fn the_chain_goes_on_where_the_same_tenant_is_written_otherwise(#[case] tenant: &str) {
    let world = World::delegated().with(|w| w.spec["tenant"] = json!(tenant));
    assert_eq!(world.act(), exchange(Why::NoToken, Source::Chain));
}

#[test]
fn a_tenant_without_a_bound_account_is_the_same_only_by_name() {
    let world = World::delegated().with(|w| {
        w.credential().record.account = None;
        w.spec["tenant"] = json!(TENANT_ID);
    });
    assert_blocked(&world, Reason::AuthorizationRequired);
}

#[test]
fn a_chain_of_unknown_history_is_tried() {
    let world = World::delegated().with(|w| w.credential().record = crate::observed::Record::default());
    let adopted =
        world.with(|w| w.observed.seed = crate::observed::SeedState::Found { digest: CHAIN.into() });
    assert_eq!(adopted.act(), exchange(Why::NoToken, Source::Chain));
}

#[rstest]
#[case::object_id(OBJECT_ID, true)]
#[case::object_id_in_capitals("CCCCCCCC-0000-4000-8000-00000000000D", true)]
#[case::upn("etl@contoso.com", true)]
#[case::upn_in_capitals("ETL@Contoso.com", true)]
#[case::another("boss@contoso.com", false)]
#[case::a_part("etl", false)]
#[case::the_tenant(TENANT_ID, false)]
fn only_the_account_that_the_spec_names_is_used(#[case] account: &str, #[case] same: bool) {
    let world = World::delegated().with(|w| w.spec["account"] = json!(account));
    assert_eq!(world.plan().problem.is_none(), same);
    // Neither is its token published.
    let absent = world.clone().with(|w| w.observed.target = crate::observed::TargetState::Absent);
    if same {
        assert_eq!(absent.act(), Act::Publish);
    } else {
        let message = assert_blocked(&world, Reason::WrongAccount);
        assert!(message.contains("spec.account"), "{message}");
        assert!(
            !message.contains(account) && !message.contains("etl@contoso.com"),
            "it names nobody: {message}"
        );
        assert_blocked(&absent, Reason::WrongAccount);
        assert_blocked(&absent.clone().with(World::request), Reason::WrongAccount);
        assert_eq!(absent.with(World::new_seed).act(), exchange(Why::NewSeed, Source::Seed));
    }
}

#[test]
fn an_account_that_is_not_bound_yet_is_found_out() {
    let world = World::delegated().with(|w| {
        w.spec["account"] = json!("boss@contoso.com");
        w.credential().record.account = None;
    });
    assert_eq!(world.plan().problem, None);
}

#[rstest]
fn nothing_is_exchanged_while_suspended(
    #[values(World::fresh(), World::fresh_app(), World::delegated(), World::app_only())] world: World,
    #[values(unchanged, World::request, World::new_seed, |w: &mut World| w.fail(Reason::Throttled, 1, 1), |w: &mut World| {
        w.spec["clientId"] = json!("another");
    })]
    asks: fn(&mut World),
    #[values(0, LIFE - AGE - 1, LIFE - AGE, 10 * LIFE)] seconds: i64,
) {
    let world = world.with(asks).with(|w| w.spec["suspend"] = json!(true));
    let plan = world.plan_at(seconds);
    assert_eq!((plan.act, plan.next_exchange, plan.problem), (Act::Wait, None, None));
    // It is looked at once more: when pods lose the token.
    let expiry = world.observed.served().map(|token| token.expires_at);
    assert_eq!(plan.look_at, expiry.filter(|at| *at > after(seconds)));
}

#[test]
fn a_rivals_write_ahead_record_is_waited_for_and_then_recovered() {
    let world = World::delegated().with(|w| w.pending_of("rival", false));
    let plan = world.plan();
    assert_eq!((plan.act, plan.look_at, plan.next_exchange), (Act::Wait, Some(after(3)), None));
    let stood = world.with(|w| w.observed.pending_stood = true);
    assert_eq!(stood.act(), exchange(Why::Recovery, Source::Chain), "though the token is not due");
    assert_eq!(stood.clone().with(World::new_seed).act(), exchange(Why::Recovery, Source::Seed));
    assert_eq!(stood.with(|w| w.fail(Reason::ProviderUnavailable, 0, 1)).act(), Act::Wait, "with back-off");
}

#[test]
fn a_rivals_write_ahead_record_holds_up_every_exchange() {
    let world = World::delegated().with(|w| w.pending_of("rival", false)).with(World::request);
    for world in
        [world.clone(), world.clone().with(World::new_seed), world.with(|w| w.spec["scopes"] = json!(["x"]))]
    {
        assert_eq!(world.act(), Act::Wait);
    }
}

#[test]
fn a_rivals_first_attempt_is_recovered_by_the_seed_and_is_none_without_one() {
    let mut world = World::delegated();
    world.credential().record = crate::observed::Record::default();
    world.credential().refresh_token_digest = None;
    world.credential().has_access_token = false;
    world.observed.target = crate::observed::TargetState::Absent;
    world.pending_of("rival", true);
    assert_eq!(world.act(), exchange(Why::Recovery, Source::Seed));
    assert_blocked(&world.with(World::no_seed), Reason::InvalidConfiguration);
}

#[test]
fn an_own_write_ahead_record_holds_nothing_up() {
    let world = World::delegated().with(|w| w.pending_of(HOLDER, false));
    assert_eq!(world.plan(), World::delegated().plan());
    assert_eq!(world.with(World::request).act(), exchange(Why::Requested, Source::Chain));
}

#[rstest]
#[case::delegated(World::delegated(), Source::Chain)]
#[case::app_only(World::app_only(), Source::Client)]
fn a_request_is_a_new_value_of_the_annotation(#[case] world: World, #[case] source: Source) {
    let mut world = world;
    let quiet = world.plan();
    world.request();
    assert_eq!(world.act(), exchange(Why::Requested, source));
    world.observed.status.last_handled_request = Some("an old value".into());
    assert_eq!(world.act(), exchange(Why::Requested, source));
    world.observed.status.last_handled_request.clone_from(&world.observed.requested_at);
    assert_eq!(world.plan(), quiet, "the same value asks for nothing");
    world.observed.requested_at = None;
    assert_eq!(world.plan(), quiet, "nor does removing it");
}

#[rstest]
#[case::delegated(World::delegated())]
#[case::fresh(World::fresh())]
#[case::app_only(World::app_only())]
fn without_its_client_secret_a_client_sends_nothing(#[case] world: World) {
    for world in [world.clone(), world.clone().with(World::request), world.with(World::new_seed)] {
        let message = assert_blocked(&world.with(World::no_client_secret), Reason::InvalidConfiguration);
        assert_eq!(message, "the client secret is not there");
    }
}

#[rstest]
#[case::soon(60, 60)]
#[case::much_later(7200, 3600)]
#[case::just_now(0, 3600)]
fn a_proof_that_is_not_valid_yet_is_waited_for(#[case] from: i64, #[case] look: i64) {
    let world = World::fresh_app().with(|w| {
        w.observed.proof = ProofState::NotYet { message: "not yet".into(), from: after(from) };
    });
    assert_eq!(assert_blocked_until(&world, Reason::InvalidConfiguration, look), "not yet");
}

#[test]
fn a_foreign_credential_blocks_and_says_why() {
    let world = World::delegated()
        .with(|w| w.observed.credential = CredentialState::Foreign("it is not labelled".into()))
        .with(World::request);
    assert_eq!(assert_blocked(&world, Reason::InvalidConfiguration), "it is not labelled");
}

/// One host may serve many authorities: Keycloak's realms, or whatever stands behind one ingress.
#[rstest]
#[case::another_path("https://idp.test/realms/b/token", false)]
#[case::another_query("https://idp.test/realms/a/token?realm=b", false)]
#[case::dots("https://idp.test/realms/a/../b/token", false)]
#[case::another_port("https://idp.test:8443/realms/a/token", false)]
#[case::the_same("https://idp.test/realms/a/token", true)]
#[case::the_same_in_another_spelling("HTTPS://IDP.test:443/realms/b/../a/token", true)]
fn a_refresh_token_is_never_sent_to_another_token_endpoint_of_the_host(
    #[case] url: &str,
    #[case] same: bool,
) {
    let at = |url: &str| json!({"token": url});
    let world = World::delegated().with(|w| w.spec["endpoints"] = at("https://idp.test/realms/a/token"));
    let client = crate::observed::ChainClient::from(&world.desired().client);
    let world = world.with(|w| w.credential().record.client = Some(client));
    let edited = world.with(|w| w.spec["endpoints"] = at(url));
    if same {
        assert!(matches!(edited.act(), Act::Exchange(exchange) if exchange.source == Source::Chain));
    } else {
        let message = assert_blocked(&edited, Reason::AuthorizationRequired);
        assert!(message.contains("token endpoint") && message.contains(url), "{message}");
    }
}
