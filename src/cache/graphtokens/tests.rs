use kube::core::WatchEvent;
use kube::core::object::ObjectList;
use rstest::rstest;
use serde_json::json;

use super::*;

fn sent(spec: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken",
        "metadata": {
            "name": "mail", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 2,
            "creationTimestamp": "2026-11-23T10:00:00Z", "finalizers": ["example.com/slow"],
            "annotations": {"graphtoken.io/requested-at": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": spec,
        "status": {"observedGeneration": -1},
    })
}

#[test]
fn a_list_and_an_event_are_kept_without_what_no_look_needs() {
    let object = sent(&json!({"grant": {"clientCredentials": {}}}));
    let list =
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": [object]});
    let list: ObjectList<Watched> = serde_json::from_str(&list.to_string()).unwrap();
    // As the API server writes it: the type first.
    let event = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
    let WatchEvent::Modified(event) = serde_json::from_str::<WatchEvent<Watched>>(&event).unwrap() else {
        panic!("another event");
    };
    for watched in [&list.items[0], &event] {
        let object = watched.decoded().unwrap();
        assert!(object.spec.grant.client_credentials.is_some());
        assert_eq!(object.status.unwrap().observed_generation, -1);
        let annotations = object.metadata.annotations.unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["graphtoken.io/requested-at"]);
        assert_eq!((object.metadata.generation, object.metadata.managed_fields), (Some(2), None));
        assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
    }
}

#[test]
fn a_long_request_for_a_refresh_is_kept_as_its_hash() {
    let kept = |value: &str| {
        let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
        object["metadata"]["annotations"]["graphtoken.io/requested-at"] = json!(value);
        object["metadata"]["labels"] = json!({"team": "x"});
        let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
        assert_eq!(watched.meta.labels, None);
        watched.meta.annotations.unwrap()["graphtoken.io/requested-at"].clone()
    };
    let short = "x".repeat(256);
    assert_eq!(kept(&short), short);
    let [one, other] = ["x", "y"].map(|text| kept(&text.repeat(250_000)));
    assert!(one.len() < 100 && one.starts_with("sha256:") && one != other, "{one}");
}

#[rstest]
#[case::new(json!({"observedGeneration": -1}), Urgency::New)]
#[case::served(json!({"observedGeneration": 2, "lastHandledRequest": "x", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::ExpiresAt(60))]
#[case::edited(json!({"observedGeneration": 1, "lastHandledRequest": "x", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::New)]
#[case::asked_for(json!({"observedGeneration": 2, "lastHandledRequest": "w", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::New)]
#[case::failing(json!({"observedGeneration": 2, "lastHandledRequest": "x"}), Urgency::Failing)]
#[case::undecodable(json!(5), Urgency::New)]
fn urgent_is_what_somebody_waits_for_and_then_what_ends_first(
    #[case] status: serde_json::Value,
    #[case] expected: Urgency,
) {
    let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
    object["status"] = status;
    let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
    assert_eq!(watched.urgency(), expected);
}

#[test]
fn who_waits_goes_before_who_expires_and_both_before_who_fails() {
    assert!(Urgency::New < Urgency::ExpiresAt(i64::MIN) && Urgency::ExpiresAt(1) < Urgency::ExpiresAt(2));
    assert!(Urgency::ExpiresAt(i64::MAX) < Urgency::Failing);
}

fn watched(name: &str, generation: i64, version: &str) -> Watched {
    let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
    object["metadata"]["name"] = json!(name);
    object["metadata"]["generation"] = json!(generation);
    object["metadata"]["resourceVersion"] = json!(version);
    serde_json::from_str(&object.to_string()).unwrap()
}

#[test]
fn what_is_kept_of_one_comes_back_as_it_was() {
    let (store, mail) = (GraphTokenStore::default(), Key::new("ns", "mail"));
    let object = watched("mail", 2, "7");
    let news = store.take_in(&Event::Apply(object.clone()));
    assert_eq!(news.changed, std::slice::from_ref(&mail));
    let cache = GraphTokenCache::new(BTreeMap::from([(Some("ns".to_owned()), store)]));
    let kept = cache.get(&mail).unwrap();
    assert_eq!(serde_json::json!(kept.decoded().unwrap()), serde_json::json!(object.decoded().unwrap()));
    assert_eq!(cache.urgency(&mail), Some(object.urgency()));
    assert_eq!(cache.all().count(), 1);
    assert!(cache.get(&Key::new("other", "mail")).is_none());
}

#[test]
fn own_writes_of_the_status_concern_nobody_and_a_new_generation_does() {
    let store = GraphTokenStore::default();
    store.take_in(&Event::Apply(watched("mail", 2, "7")));
    assert_eq!(store.take_in(&Event::Apply(watched("mail", 2, "8"))), News::default());
    let version = store.get(&Key::new("ns", "mail")).unwrap().meta().resource_version.clone();
    assert_eq!(version.as_deref(), Some("8"), "it is kept all the same");
    let news = store.take_in(&Event::Apply(watched("mail", 3, "9")));
    assert_eq!(news.changed, [Key::new("ns", "mail")]);
}

#[test]
fn what_happened_while_the_watch_was_broken_shows_with_the_next_list() {
    let store = GraphTokenStore::default();
    for name in ["gone", "same", "edited"] {
        store.take_in(&Event::Apply(watched(name, 2, "7")));
    }
    store.take_in(&Event::Init);
    for (name, generation) in [("same", 2), ("edited", 3), ("new", 1)] {
        let news = store.take_in(&Event::InitApply(watched(name, generation, "8")));
        assert_eq!(news, News::default(), "the list is not whole");
    }
    assert!(store.contains(&Key::new("ns", "gone")) && !store.contains(&Key::new("ns", "new")));
    let mut news = store.take_in(&Event::InitDone);
    news.changed.sort();
    assert_eq!(news.changed, [Key::new("ns", "edited"), Key::new("ns", "new")]);
    assert_eq!(news.gone, [Key::new("ns", "gone")]);
    let news = store.take_in(&Event::Delete(watched("new", 1, "9")));
    assert_eq!(news, News { changed: vec![], gone: vec![Key::new("ns", "new")] });
    assert!(!store.contains(&Key::new("ns", "new")));
}

#[test]
fn one_that_does_not_decode_is_still_there_and_says_where() {
    let object = sent(&json!({"grant": {"clientCredentials": {}}, "scopes": 5}));
    let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
    let invalid = watched.decoded().unwrap_err();
    assert_eq!(invalid.metadata.name.as_deref(), Some("mail"));
    assert!(invalid.error.starts_with("spec: "), "{}", invalid.error);
    assert_eq!(invalid.status.unwrap().observed_generation, -1);
    assert!(watched.readable_spec().unwrap().grant.client_credentials.is_some());
}

#[test]
fn a_status_that_does_not_decode_is_no_reason_to_refuse_the_object() {
    let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
    object["status"] =
        json!({"observedGeneration": 2, "refreshCount": "many", "conditions": [{"type": "Later"}]});
    let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
    let status = watched.decoded().unwrap().status.unwrap();
    assert_eq!((status.observed_generation, status.refresh_count), (2, 0));
    assert_eq!(status.to_json(), object["status"]);
}

/// With a status that tells it apart.
fn with_status(name: &str, version: &str, refreshes: u64) -> Watched {
    let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
    object["metadata"]["name"] = json!(name);
    object["metadata"]["resourceVersion"] = json!(version);
    object["status"] = json!({"refreshCount": refreshes});
    serde_json::from_str(&object.to_string()).unwrap()
}

fn cache_of(store: &GraphTokenStore) -> GraphTokenCache {
    GraphTokenCache::new(BTreeMap::from([(None, store.clone())]))
}

fn refreshes(cache: &GraphTokenCache) -> Option<u64> {
    cache.get(&Key::new("ns", "mail"))?.status().map(|status| status.refresh_count)
}

#[test]
fn an_own_write_is_seen_at_once_and_its_echo_is_no_news() {
    let (store, mail) = (GraphTokenStore::default(), Key::new("ns", "mail"));
    let cache = cache_of(&store);
    store.take_in(&Event::Apply(with_status("mail", "7", 1)));
    let epoch = cache.epoch(&mail);
    assert!(!cache.wrote(&mail, &with_status("mail", "8", 2), epoch));
    assert_eq!(refreshes(&cache), Some(2));
    assert_eq!(store.take_in(&Event::Apply(with_status("mail", "8", 2))), News::default());
    let news = store.take_in(&Event::Apply(with_status("mail", "9", 1)));
    assert_eq!(news.changed, [mail], "somebody else wrote the status");
}

#[test]
fn a_write_whose_object_the_watch_has_shown_to_be_gone_does_not_bring_it_back() {
    let (store, mail) = (GraphTokenStore::default(), Key::new("ns", "mail"));
    let cache = cache_of(&store);
    store.take_in(&Event::Apply(with_status("mail", "7", 1)));
    let epoch = cache.epoch(&mail);
    store.take_in(&Event::Delete(with_status("mail", "9", 2)));
    cache.wrote(&mail, &with_status("mail", "8", 2), epoch);
    assert!(!cache.contains(&mail));
}

#[test]
fn a_list_that_was_read_before_an_own_write_does_not_undo_it() {
    let (store, mail) = (GraphTokenStore::default(), Key::new("ns", "mail"));
    let cache = cache_of(&store);
    store.take_in(&Event::Apply(with_status("mail", "7", 1)));
    store.take_in(&Event::Init);
    store.take_in(&Event::InitApply(with_status("mail", "7", 1)));
    let epoch = cache.epoch(&mail);
    cache.wrote(&mail, &with_status("mail", "8", 2), epoch);
    assert_eq!(store.take_in(&Event::InitDone), News::default());
    assert_eq!(refreshes(&cache), Some(2), "it was answered during the list");

    let epoch = cache.epoch(&mail);
    store.take_in(&Event::Init);
    store.take_in(&Event::InitApply(with_status("mail", "8", 2)));
    store.take_in(&Event::InitDone);
    cache.wrote(&mail, &with_status("mail", "9", 3), epoch);
    assert_eq!(refreshes(&cache), Some(3), "it was answered after the list");
}

#[test]
fn a_complete_list_replaces_all_whatever_its_versions() {
    let store = GraphTokenStore::default();
    let cache = cache_of(&store);
    store.take_in(&Event::Apply(with_status("mail", "700", 9)));
    store.take_in(&Event::Init);
    store.take_in(&Event::InitApply(with_status("mail", "5", 1)));
    store.take_in(&Event::InitDone);
    assert_eq!(refreshes(&cache), Some(1), "a store that was restored counts from an earlier version");
    store.take_in(&Event::Apply(with_status("mail", "6", 2)));
    assert_eq!(refreshes(&cache), Some(2));
}

#[test]
fn a_change_by_others_under_an_own_write_is_told() {
    let (store, mail) = (GraphTokenStore::default(), Key::new("ns", "mail"));
    let cache = cache_of(&store);
    store.take_in(&Event::Apply(watched("mail", 2, "7")));
    let epoch = cache.epoch(&mail);
    assert!(cache.wrote(&mail, &watched("mail", 3, "9"), epoch), "no watch will tell of the new generation");
}
