use rstest::rstest;
use serde_json::json;

use super::*;

const KEY: &str = "restart.graphtoken.io/mail";
const CONTENT: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn change(content: &str) -> Change<'_> {
    Change { target: "mail", content, since: ago(5), is_first: false }
}

fn reader() -> Value {
    json!({"containers": [{"env": [
        {"name": "A", "value": "1"},
        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "mail", "key": "token"}}},
    ]}]})
}

/// A workload of an hour ago that reads the target, with this mark.
fn seen(mark: Option<&str>) -> Seen {
    let mut workload: DynamicObject = serde_json::from_value(json!({
        "metadata": {"uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-11-23T09:00:00Z"},
        "spec": {"template": {"spec": reader()}},
    }))
    .unwrap();
    if let Some(mark) = mark {
        workload.data["spec"]["template"]["metadata"] = json!({"annotations": {KEY: mark}});
    }
    Seen::of(&workload, "mail", KEY)
}

#[rstest]
#[case::environment(reader())]
#[case::whole_environment(json!({"containers": [{}, {"envFrom": [{"secretRef": {"name": "mail"}}]}]}))]
#[case::init_container(json!({"initContainers": reader()["containers"]}))]
#[case::volume(json!({"volumes": [{"name": "v", "secret": {"secretName": "mail"}}]}))]
#[case::projected(json!({"volumes": [{"projected": {"sources": [{}, {"secret": {"name": "mail"}}]}}]}))]
fn a_reader_is_told_by_its_pod_template(#[case] pod: Value) {
    assert!(references(&pod, "mail"));
    assert!(!references(&pod, "mai"));
}

#[rstest]
#[case::nothing(json!(null))]
#[case::no_list(json!({"containers": "mail", "volumes": {"secret": "mail"}}))]
#[case::a_config_map(json!({"volumes": [{"configMap": {"name": "mail"}}], "containers": [{"envFrom": [{"configMapRef": {"name": "mail"}}]}]}))]
#[case::its_own_name(json!({"containers": [{"name": "mail", "image": "mail", "env": [{"name": "mail", "value": "mail"}]}]}))]
#[case::a_pull_secret(json!({"imagePullSecrets": [{"name": "mail"}]}))]
fn others_are_foreign(#[case] pod: Value) {
    assert!(!references(&pod, "mail"));
    let workload =
        serde_json::from_value(json!({"metadata": {}, "spec": {"template": {"spec": pod}}})).unwrap();
    assert_eq!(decide(&Seen::of(&workload, "mail", KEY), &change(CONTENT), now()), Verdict::Foreign);
}

#[test]
fn a_change_rolls_a_workload_once() {
    assert_eq!(decide(&seen(None), &change(CONTENT), now()), Verdict::Roll);
    let mark = Mark::new(now(), CONTENT).to_string();
    assert_eq!(mark, "2026-11-23T10:00:00Z 0123456789abcdef");
    assert_eq!(decide(&seen(Some(&mark)), &change(CONTENT), now()), Verdict::Done);
}

#[test]
fn the_next_change_waits_for_the_interval() {
    let mark = Mark::new(ago(20), OTHER).to_string();
    let due = ago(20) + MIN_INTERVAL;
    assert_eq!(decide(&seen(Some(&mark)), &change(CONTENT), now()), Verdict::Later(due));
    assert_eq!(decide(&seen(Some(&mark)), &change(CONTENT), due), Verdict::Roll);
}

#[test]
fn a_mark_of_the_future_holds_nothing_up() {
    let mark = Mark::new(now() + SignedDuration::from_hours(1), OTHER).to_string();
    assert_eq!(decide(&seen(Some(&mark)), &change(CONTENT), now()), Verdict::Roll);
}

#[test]
fn a_mark_that_does_not_parse_is_none() {
    for mark in ["", "soon", "2026-11-23T10:00:00Z", "yesterday 0123456789abcdef"] {
        assert_eq!(decide(&seen(Some(mark)), &change(CONTENT), now()), Verdict::Roll);
    }
}

#[test]
fn the_first_token_rolls_nobody_for_nobody_has_read_another() {
    let first = Change { is_first: true, ..change(CONTENT) };
    assert_eq!(decide(&seen(None), &first, now()), Verdict::Done);
    // It had one, of a GraphToken of the same name before this one.
    let mark = Mark::new(ago(3600), OTHER).to_string();
    assert_eq!(decide(&seen(Some(&mark)), &first, now()), Verdict::Roll);
}

#[test]
fn a_workload_that_is_younger_than_the_content_has_read_it() {
    let since = |seconds| Change {
        since: "2026-11-23T09:00:00Z".parse::<Timestamp>().unwrap() - SignedDuration::from_secs(seconds),
        ..change(CONTENT)
    };
    assert_eq!(decide(&seen(None), &since(60), now()), Verdict::Done);
    assert_eq!(decide(&seen(None), &since(5), now()), Verdict::Roll, "it was perhaps not written yet");
    assert_eq!(decide(&seen(None), &since(-60), now()), Verdict::Roll);
}
