use serde_json::{Value, json};

use super::*;

fn graphtoken(name: &str) -> Identity {
    Identity { namespace: "etl".to_owned(), name: name.to_owned(), uid: "u".to_owned(), generation: 1 }
}

fn key(name: &str) -> Key {
    Key::new("etl", name)
}

fn spec(client: &Value) -> GraphTokenSpec {
    let mut spec = json!({
        "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}}, "scopes": ["Mail.Read"],
    });
    for (member, value) in client.as_object().unwrap() {
        spec[member] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "as the cache has it")]
fn stated(client_id: &str, auth: &Value) -> Result<Stated, String> {
    let mut spec = json!({
        "tenant": "contoso.com", "clientId": client_id,
        "allow": {"namespaceSelector": {"matchLabels": {"team": "etl"}}, "grants": ["refreshToken"]},
    });
    if !auth.is_null() {
        spec["clientAuth"] = auth.clone();
    }
    Ok(Stated { spec: serde_json::from_value(spec).unwrap(), uid: client_id.to_owned(), generation: 1 })
}

fn set(name: &str, client_id: &str) -> Change<Result<Stated, String>> {
    Change::Set(name.to_owned(), stated(client_id, &Value::Null))
}

fn labels(team: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), team.to_owned())])
}

fn guards(client_namespace: Option<&str>) -> Guards {
    Guards { client_namespace: client_namespace.map(str::to_owned), ..Guards::default() }
}

fn look(cache: &ClientCache, name: &str, client: &Value) -> Result<String, Unresolved> {
    let desired = cache.desired(&graphtoken(name), &spec(client), &guards(Some("platform")))?;
    Ok(desired.client.client_id)
}

/// With the client `default`, and one namespace.
fn filled() -> ClientCache {
    let cache = ClientCache::new(true);
    cache.client_changed(Change::Listed("default".to_owned(), stated("app", &Value::Null)));
    cache.client_changed(Change::Complete);
    cache.namespace_changed(Change::Listed("etl".to_owned(), labels("etl")));
    cache.namespace_changed(Change::Complete);
    cache
}

#[test]
fn a_spec_with_its_own_client_waits_for_nothing() {
    let own = json!({"tenant": "contoso.com", "clientId": "own"});
    for cache in [ClientCache::new(true), ClientCache::new(false)] {
        assert_eq!(look(&cache, "mail", &own).unwrap(), "own");
    }
}

#[test]
fn what_is_not_known_yet_is_waited_for_and_wakes_when_it_is() {
    let cache = ClientCache::new(true);
    let unknown = |cache| matches!(look(cache, "mail", &json!({})), Err(Unresolved::Unknown(None)));
    assert!(unknown(&cache));
    assert!(
        cache.client_changed(Change::Listed("default".to_owned(), stated("app", &Value::Null))).is_empty()
    );
    assert_eq!(cache.client_changed(Change::Complete), [key("mail")]);
    assert!(unknown(&cache), "the labels are not known");
    assert_eq!(cache.namespace_changed(Change::Complete), [key("mail")]);
    assert!(unknown(&cache), "its namespace is so new that it has not been seen");
    assert_eq!(cache.namespace_changed(Change::Set("etl".to_owned(), labels("etl"))), [key("mail")]);
    assert_eq!(look(&cache, "mail", &json!({})).unwrap(), "app");
}

#[test]
fn a_client_wakes_those_that_are_on_it_and_nobody_else() {
    let cache = filled();
    look(&cache, "mail", &json!({})).unwrap();
    assert!(look(&cache, "files", &json!({"clientRef": {"name": "other"}})).is_err());
    look(&cache, "own", &json!({"tenant": "t", "clientId": "own"})).unwrap();
    assert_eq!(cache.client_changed(set("other", "other")), [key("files")]);
    assert!(cache.client_changed(set("other", "other")).is_empty(), "nothing has changed");
    assert_eq!(cache.client_changed(set("default", "second")), [key("mail")]);
    assert_eq!(look(&cache, "mail", &json!({})).unwrap(), "second");
    assert_eq!(cache.client_changed(Change::Gone("default".to_owned())), [key("mail")]);
    assert!(matches!(
        look(&cache, "mail", &json!({})),
        Err(Unresolved::Spec(SpecError::ClientAbsent { .. }))
    ));
    // What a list shows after a break of the watch.
    cache.client_changed(Change::Listing);
    cache.client_changed(Change::Listed("default".to_owned(), stated("app", &Value::Null)));
    let woken = cache.client_changed(Change::Complete);
    assert_eq!(woken, [key("files"), key("mail")], "one came, the other went");
    look(&cache, "mail", &json!({"tenant": "t", "clientId": "own"})).unwrap();
    assert!(cache.client_changed(set("default", "third")).is_empty(), "it is on it no more");
}

#[test]
fn labels_wake_their_namespace() {
    let cache = filled();
    look(&cache, "mail", &json!({})).unwrap();
    assert!(cache.namespace_changed(Change::Set("web".to_owned(), labels("web"))).is_empty());
    assert_eq!(cache.namespace_changed(Change::Set("etl".to_owned(), labels("web"))), [key("mail")]);
    assert!(matches!(
        look(&cache, "mail", &json!({})),
        Err(Unresolved::Spec(SpecError::ClientNotAllowed { .. }))
    ));
    assert!(cache.namespace_changed(Change::Set("etl".to_owned(), labels("web"))).is_empty());
}

#[test]
fn a_proof_is_waited_for() {
    let cache = filled();
    let auth = json!({"secretRef": {"name": "app", "key": "client-secret"}});
    cache.client_changed(Change::Set("default".to_owned(), stated("app", &auth)));
    assert!(matches!(look(&cache, "mail", &json!({})), Err(Unresolved::Unknown(None))));
    let no_namespace = cache.desired(&graphtoken("mail"), &spec(&json!({})), &guards(None));
    assert!(matches!(no_namespace, Err(Unresolved::Spec(SpecError::NoClientNamespace { .. }))));
    assert_eq!(cache.secrets_known(), [key("mail")]);
    look(&cache, "mail", &json!({})).unwrap();
}

#[test]
fn a_watch_that_goes_on_failing_is_told_of_until_it_is_filled() {
    let cache = ClientCache::new(true);
    assert!(look(&cache, "mail", &json!({})).is_err());
    assert!(cache.failed(Feed::Clients, "403 Forbidden").is_empty(), "once is nothing");
    assert_eq!(cache.failed(Feed::Clients, "403 Forbidden"), [key("mail")]);
    assert!(cache.failed(Feed::Clients, "403 Forbidden").is_empty(), "it was said");
    match look(&cache, "mail", &json!({})) {
        Err(Unresolved::Unknown(Some(why))) => {
            assert!(why.contains("ClusterGraphClients") && why.contains("403 Forbidden"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cache.client_changed(Change::Complete), [key("mail")]);
    assert!(cache.failed(Feed::Clients, "403 Forbidden").is_empty());
    assert!(cache.failed(Feed::Clients, "403 Forbidden").is_empty(), "what is known serves on");
    assert!(matches!(look(&cache, "mail", &json!({})), Err(Unresolved::Unknown(None))), "of the labels");
}

#[test]
fn an_operator_that_serves_no_clients_says_so() {
    let cache = ClientCache::new(false);
    match look(&cache, "mail", &json!({})) {
        Err(Unresolved::Spec(error)) => assert!(error.to_string().contains("--client-namespace"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_does_not_decode_is_told_of() {
    let cache = filled();
    cache.client_changed(Change::Set("default".to_owned(), Err("unknown variant".to_owned())));
    match look(&cache, "mail", &json!({})) {
        Err(Unresolved::Spec(error)) => assert!(error.to_string().contains("unknown variant"), "{error}"),
        other => panic!("{other:?}"),
    }
}
