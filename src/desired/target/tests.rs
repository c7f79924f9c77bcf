//! What of a target's spec is refused before there is an exchange.

use rstest::rstest;
use serde_json::{Value, json};

use crate::desired::{Desired, Guards};

fn parse(target: &Value, app_only: bool) -> Result<Desired, String> {
    let mut spec = json!({
        "tenant": "contoso.onmicrosoft.com",
        "clientId": "client",
        "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}},
        "scopes": ["Mail.Read"],
        "target": target,
    });
    if app_only {
        spec["grant"] = json!({"clientCredentials": {}});
        spec["scopes"] = json!([".default"]);
        spec["clientAuth"] = json!({"secretRef": {"name": "app", "key": "secret"}});
        spec["verify"] = json!({"path": "/users"});
    }
    let spec = serde_json::from_value(spec).unwrap();
    Desired::new("mail", &spec, &Guards::default(), &|_| None).map_err(|error| error.to_string())
}

fn refused(target: &Value) -> String {
    parse(target, false).unwrap_err()
}

#[test]
fn what_is_asked_for_is_kept() {
    let target = json!({
        "labels": {"team": "etl", "example.com/team": ""}, "annotations": {"A-b_c.d": "any text\n"},
        "includeRefreshToken": true, "restart": [{"kind": "Deployment", "name": "reader"}],
        "data": [{"key": "graph.env", "template": "T={{ access_token }}"}],
    });
    let target = parse(&target, false).unwrap().target;
    assert_eq!((target.labels.len(), target.annotations.len(), target.restart.len()), (2, 1, 1));
    assert!(target.include_refresh_token);
}

#[rstest]
#[case::ours("graphtoken.io/name")]
#[case::kubernetes("kubernetes.io/x")]
#[case::of_kubernetes("app.kubernetes.io/managed-by")]
fn reserved_keys_are_refused(#[case] key: &str, #[values("labels", "annotations")] field: &str) {
    let says = refused(&json!({field: {key: "x"}}));
    assert!(says.contains(&format!("spec.target.{field}: {key} is reserved")), "{says}");
}

#[rstest]
#[case::empty("")]
#[case::edge("-a")]
#[case::prefix("Example.com/a")]
#[case::no_name("example.com/")]
#[case::no_prefix("/a")]
#[case::two_slashes("a/b/c")]
#[case::empty_label("a..b/x")]
#[case::edge_of_a_label("a-.b/x")]
#[case::space("a b")]
fn keys_that_kubernetes_would_refuse_are_refused(
    #[case] key: &str,
    #[values("labels", "annotations")] field: &str,
) {
    let says = refused(&json!({field: {key: "x"}}));
    assert!(says.contains("is no key of Kubernetes'"), "{says}");
    assert!(refused(&json!({field: {"n".repeat(64): "x"}})).contains("is no key"), "too long");
}

#[rstest]
#[case("a b")]
#[case("-a")]
#[case("ä")]
fn a_value_that_is_no_labels_is_refused(#[case] value: &str) {
    assert!(refused(&json!({"labels": {"team": value}})).contains("labels: team has a value"));
    assert!(parse(&json!({"annotations": {"team": value}}), false).is_ok());
}

#[test]
fn more_annotations_than_the_api_server_takes_are_refused() {
    let of = |bytes: usize| {
        let annotations: serde_json::Map<_, _> =
            (0..32).map(|n| (format!("a{n:02}"), json!("€".repeat(bytes / 96)))).collect();
        json!({"annotations": annotations})
    };
    assert!(parse(&of(200_000), false).is_ok());
    assert!(refused(&of(210_000)).contains("more than 200 KiB"));
}

#[rstest]
#[case::dots("..data")]
#[case::dot(".")]
#[case::slash("a/b")]
#[case::empty("")]
fn a_bad_key_is_refused(#[case] key: &str) {
    let says = refused(&json!({"data": [{"key": key, "format": "O365"}]}));
    assert!(says.contains(&format!("key {key} is no name of a file")), "{says}");
}

#[test]
fn two_entries_with_one_key_are_refused() {
    let says = refused(&json!({"data": [{"key": "a", "format": "O365"}, {"key": "a", "template": "x"}]}));
    assert!(says.contains("key a is there twice"), "{says}");
}

#[rstest]
#[case::neither(json!({"key": "a"}))]
#[case::both(json!({"key": "a", "format": "O365", "template": "x"}))]
fn an_entry_has_one_way_to_be_written(#[case] entry: Value) {
    assert!(refused(&json!({"data": [entry]})).contains("key a needs either a format or a template"));
}

#[test]
fn an_unknown_name_in_a_template_is_refused_with_its_position() {
    let says = refused(&json!({"data": [{"key": "graph.env", "template": "A=1\nT={{ token }}\n"}]}));
    assert!(
        says.starts_with(
            "spec.target.data, key graph.env: template at line 2, column 6: unknown name token; there are access_token, "
        ),
        "{says}"
    );
}

#[test]
fn a_target_that_cannot_fit_a_secret_is_refused_before_a_token_is_got() {
    let template = "{{ access_token }}".repeat(900);
    assert!(parse(&json!({"data": [{"key": "a", "template": template}]}), false).is_err());
    let thirty_two: Vec<_> =
        (0..32).map(|n| json!({"key": n.to_string(), "template": "{{ access_token }}".repeat(15)})).collect();
    assert!(parse(&json!({"data": thirty_two}), false).is_ok());
    let more: Vec<_> =
        (0..32).map(|n| json!({"key": n.to_string(), "template": "{{ access_token }}".repeat(17)})).collect();
    assert!(refused(&json!({"data": more})).contains("larger than the 1 MiB"));
}

#[test]
fn an_app_has_no_refresh_token_for_pods() {
    let says = parse(&json!({"includeRefreshToken": true}), true).unwrap_err();
    assert!(says.contains("includeRefreshToken has no meaning"), "{says}");
    assert!(parse(&json!({"includeRefreshToken": false}), true).is_ok());
}

#[test]
fn an_apps_token_that_stands_in_templates_alone_is_not_tried() {
    let template = json!({"data": [{"key": "a", "template": "{{ access_token }}"}]});
    assert!(parse(&template, true).unwrap().probing.is_none());
    assert!(parse(&template, false).unwrap().probing.is_some(), "a user's is in the credential as well");
    assert!(parse(&json!({}), true).unwrap().probing.is_some());
}
