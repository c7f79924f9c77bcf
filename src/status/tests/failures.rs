use std::time::Duration;

use jiff::SignedDuration;

use super::*;

fn throttled() -> Failure {
    Failure {
        error: Some("provider-error".into()),
        suberror: Some("provider-suberror".into()),
        codes: vec![50196],
        correlation_id: Some("provider-correlation".into()),
        trace_id: Some("provider-trace".into()),
        retry_after: Some(Duration::from_mins(1)),
        message: "wait".into(),
        ..Failure::of(Reason::Throttled)
    }
}

#[test]
fn a_failure_is_counted_and_kept_whole() {
    let before =
        GraphTokenStatus { consecutive_failures: 2, refresh_count: 7, ..GraphTokenStatus::default() };
    let status = with_failure(before, throttled(), "inputs", now());
    assert_eq!((status.consecutive_failures, status.refresh_count), (3, 7));
    insta::assert_json_snapshot!(status.last_failure);
}

#[test]
fn failures_are_counted_as_far_as_numbers_go() {
    let before = GraphTokenStatus { consecutive_failures: u32::MAX, ..GraphTokenStatus::default() };
    assert_eq!(with_failure(before, throttled(), "inputs", now()).consecutive_failures, u32::MAX);
}

#[rstest]
#[case::a_whole_second(0, 60)]
#[case::any_fraction_counts_as_a_second(1, 61)]
#[case::up_to_the_next(999_999_999, 61)]
fn the_pause_that_a_provider_asks_for_is_not_cut(#[case] nanos: i64, #[case] until: i64) {
    let at = now() + SignedDuration::from_nanos(nanos);
    let failure = with_failure(GraphTokenStatus::default(), throttled(), "inputs", at).last_failure.unwrap();
    assert_eq!(failure.retry_after, Some(after(until).into()));
}

#[test]
fn a_pause_beyond_all_time_is_none() {
    let endless = Failure { retry_after: Some(Duration::MAX), ..throttled() };
    let failure = with_failure(GraphTokenStatus::default(), endless, "inputs", now()).last_failure.unwrap();
    assert_eq!(failure.retry_after, None);
}

#[test]
fn conditions_show_the_failures_sentence_and_no_word_of_the_provider() {
    let mut world = World::fresh();
    world.observed.status = with_failure(GraphTokenStatus::default(), throttled(), "inputs", now());
    let json = serde_json::to_string(&status(&world).conditions).unwrap();
    assert!(json.contains("\"wait\"") && !json.contains("provider-"), "{json}");
}
