use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::world::{AGE, LIFE, UID, World, after, now};
use crate::desired::RefreshPolicy;
use crate::observed::TokenFacts;
use crate::plan::{due, policy_warning, refresh_token_warning, renew_before_is_too_long};

fn millis(millis: u64) -> SignedDuration {
    SignedDuration::try_from(Duration::from_millis(millis)).unwrap()
}

fn token(life: SignedDuration, refresh_in: Option<SignedDuration>) -> TokenFacts {
    TokenFacts {
        attempt: "a".into(),
        issued_for: "spec".into(),
        issued_at: now(),
        expires_at: now() + life,
        refresh_at: refresh_in.map(|refresh_in| now() + refresh_in),
    }
}

const fn before(seconds: u64) -> RefreshPolicy {
    RefreshPolicy::Before(Duration::from_secs(seconds))
}

#[rstest]
#[case::half_of_an_hour(RefreshPolicy::Percentage(50), 3_600_000, None, 1_800_000)]
#[case::a_tenth_left(RefreshPolicy::Percentage(10), 3_600_000, None, 3_240_000)]
#[case::one_percent_left(RefreshPolicy::Percentage(1), 3_600_000, None, 3_564_000)]
#[case::all_but_one_percent_left(RefreshPolicy::Percentage(99), 3_600_000, None, 36_000)]
#[case::twenty_minutes_before(before(1200), 3_600_000, None, 2_400_000)]
#[case::next_to_nine_tenths_before(before(3239), 3_600_000, None, 361_000)]
#[case::nine_tenths_before_is_half(before(3240), 3_600_000, None, 1_800_000)]
#[case::before_it_began_is_half(before(999_999), 3_600_000, None, 1_800_000)]
#[case::before_all_time_is_half(before(u64::MAX), 3_600_000, None, 1_800_000)]
#[case::a_life_of_five_seconds(RefreshPolicy::Percentage(50), 5_000, None, 2_500)]
#[case::a_life_of_five_seconds_is_too_short_for_minutes(before(1200), 5_000, None, 2_500)]
#[case::a_life_of_a_day(RefreshPolicy::Percentage(50), 86_400_000, None, 43_200_000)]
#[case::the_provider_wants_it_earlier(RefreshPolicy::Percentage(50), 3_600_000, Some(600_000), 600_000)]
#[case::the_provider_would_take_it_later(
    RefreshPolicy::Percentage(50),
    3_600_000,
    Some(3_000_000),
    1_800_000
)]
#[case::the_provider_wants_it_before_renew_before(before(1200), 3_600_000, Some(60_000), 60_000)]
#[case::the_provider_wants_it_after_renew_before(before(1200), 3_600_000, Some(2_500_000), 2_400_000)]
#[case::the_provider_names_no_time(RefreshPolicy::Percentage(50), 3_600_000, Some(0), 1_800_000)]
fn a_refresh_is_due_when_the_policy_or_the_provider_asks_and_up_to_a_tenth_earlier(
    #[case] policy: RefreshPolicy,
    #[case] life: u64,
    #[case] refresh_in: Option<u64>,
    #[case] asked: u64,
) {
    let token = token(millis(life), refresh_in.map(millis));
    for n in 0..50 {
        let wait = due(policy, &token, &format!("uid-{n}")).duration_since(now());
        assert!(wait <= millis(asked), "{wait:?} is late");
        assert!(wait >= millis(asked) * 9 / 10, "{wait:?} is too early");
    }
}

#[test]
fn tokens_that_were_issued_together_come_due_apart() {
    let token = token(millis(3_600_000), None);
    let waits: BTreeSet<SignedDuration> = (0..100)
        .map(|n| due(RefreshPolicy::Percentage(50), &token, &format!("uid-{n}")).duration_since(now()))
        .collect();
    assert!(waits.len() > 90, "only {} different times", waits.len());
    let spread = *waits.last().unwrap() - *waits.first().unwrap();
    assert!(spread > millis(1_800_000) * 8 / 100, "they are within {spread:?}");
}

#[test]
fn the_jitter_of_one_graphtoken_changes_with_each_token() {
    let shares: BTreeSet<SignedDuration> = (0..20)
        .map(|n| {
            let token =
                TokenFacts { issued_at: after(n), expires_at: after(n + 3600), ..token(millis(1), None) };
            due(RefreshPolicy::Percentage(50), &token, UID).duration_since(after(n))
        })
        .collect();
    assert!(shares.len() > 15);
}

#[test]
fn a_restart_finds_the_same_due_time() {
    let world = World::delegated();
    assert_eq!(world.plan().next_exchange, world.clone().plan_at(60).next_exchange);
}

#[rstest]
#[case("20m", None)]
#[case("53m59s", None)]
#[case("54m", Some("3600s"))]
#[case("4000000000000000h", Some("3600s"))]
fn renew_before_that_leaves_no_life_is_warned_of(#[case] renew_before: &str, #[case] says: Option<&str>) {
    let world = World::delegated().with(|w| w.spec["refresh"] = json!({"renewBefore": renew_before}));
    let warning = policy_warning(&world.desired(), &world.observed);
    assert_eq!(warning.is_some(), says.is_some());
    if let (Some(warning), Some(says)) = (warning, says) {
        assert!(warning.contains("renewBefore") && warning.contains(says), "{warning}");
    }
    let token = world.token(-AGE, LIFE);
    assert!(
        due(world.desired().refresh, &token, UID) > after(300 - AGE),
        "it is not refreshed again and again"
    );
}

#[test]
fn there_is_nothing_to_warn_of_without_a_token_or_with_a_percentage() {
    let long = json!({"renewBefore": "59m"});
    let fresh = World::fresh().with(|w| w.spec["refresh"] = long);
    assert_eq!(policy_warning(&fresh.desired(), &fresh.observed), None);
    let percentage = World::delegated().with(|w| w.spec["refresh"] = json!({"renewBeforePercentage": 99}));
    assert_eq!(policy_warning(&percentage.desired(), &percentage.observed), None);
}

fn policies() -> impl Strategy<Value = RefreshPolicy> {
    prop_oneof![
        (1_u8..=99).prop_map(RefreshPolicy::Percentage),
        (0_u64..1_000_000).prop_map(|ms| RefreshPolicy::Before(Duration::from_millis(ms))),
        (0_u64..700_000).prop_map(before),
        any::<u64>().prop_map(before),
    ]
}

/// What is asked for, by another way of reckoning.
fn asked(policy: RefreshPolicy, life: u64, refresh_in: Option<u64>) -> u64 {
    let by_policy = match policy {
        RefreshPolicy::Percentage(left) => life * (100 - u64::from(left)) / 100,
        RefreshPolicy::Before(before) => match u64::try_from(before.as_millis()) {
            Ok(before) if before.saturating_mul(10) < life * 9 => life - before,
            _ => life / 2,
        },
    };
    refresh_in.filter(|r| *r > 0).map_or(by_policy, |r| r.min(by_policy))
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    let (min, max) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    prop_oneof![Just(min), Just(max), min..=max].prop_map(|s| Timestamp::from_second(s).unwrap())
}

proptest! {
    #[test]
    fn it_is_never_later_than_asked_nor_more_than_a_tenth_earlier(
        policy in policies(),
        life in 1_000_u64..=7 * 86_400_000,
        refresh_in in proptest::option::of(0_u64..8 * 86_400_000),
        uid in "[a-f0-9]{8}",
    ) {
        let token = token(millis(life), refresh_in.map(millis));
        let wait = due(policy, &token, &uid).duration_since(now());
        let asked = asked(policy, life, refresh_in);
        prop_assert!(wait <= millis(asked + 1), "{:?} is later than {} ms", wait, asked);
        prop_assert!(wait >= millis(asked.saturating_sub(1)) * 9 / 10, "{:?} for {} ms", wait, asked);
        prop_assert_eq!(due(policy, &token, &uid), due(policy, &token, &uid));
    }

    #[test]
    fn no_token_however_absurd_is_due_before_it_was_issued(
        policy in policies(),
        issued_at in timestamps(),
        expires_at in timestamps(),
        refresh_at in proptest::option::of(timestamps()),
    ) {
        let token = TokenFacts { issued_at, expires_at, refresh_at, ..token(millis(1), None) };
        let due = due(policy, &token, UID);
        prop_assert!(due >= issued_at && due <= expires_at.max(issued_at));
        let _ = renew_before_is_too_long(policy, expires_at.duration_since(issued_at));
    }
}

#[rstest]
#[case::long_before(15 * 24, None)]
#[case::two_weeks_before(14 * 24, Some("dies about"))]
#[case::after_it(-1, Some("dies about"))]
fn a_refresh_token_that_nobody_uses_is_warned_of_two_weeks_ahead(
    #[case] hours: i64,
    #[case] says: Option<&str>,
) {
    let mut world = World::delegated();
    world.spec["suspend"] = json!(true);
    world.observed.status.refresh_token_expires_at = Some(after(hours * 3600).into());
    let warning = refresh_token_warning(&world.observed, now());
    assert_eq!(warning.is_some(), says.is_some(), "{warning:?}");
    assert!(says.is_none_or(|says| warning.unwrap().contains(says)));
    // Nothing else would bring a look on that day.
    if says.is_none() {
        world.observed.target = crate::observed::TargetState::Absent;
        assert_eq!(world.plan().look_at, Some(after((hours - 14 * 24) * 3600)));
    }
}
