//! `crds/` is what the code generates: a change of the API without `make generate` fails here.

use std::path::Path;

use graphtoken::crds;
use serde_json::json;

#[test]
fn the_generated_crds_are_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/graphtokens.yaml");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let generated = crds::yaml().expect("the CRDs are plain data");
    assert!(committed == generated, "{} is stale: run `make generate`", path.display());
}

#[test]
fn every_field_has_a_help_text() {
    fn walk(schema: &serde_json::Value, path: &str, without: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                without.push(path.clone());
            }
            walk(property, &path, without);
            walk(&property["items"], &path, without);
        }
    }
    let mut without = Vec::new();
    for crd in crds::all() {
        walk(
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            "spec",
            &mut without,
        );
    }
    assert_eq!(without, Vec::<String>::new(), "kubectl explain has nothing to say of these");
}

#[test]
fn both_kinds_are_there() {
    let crds = crds::all();
    let kinds: Vec<_> =
        crds.iter().map(|crd| (&crd["spec"]["names"]["kind"], &crd["spec"]["scope"])).collect();
    assert_eq!(json!(kinds), json!([["GraphToken", "Namespaced"], ["ClusterGraphClient", "Cluster"]]));
}

#[test]
fn every_list_and_string_of_the_spec_is_bounded() {
    fn walk(schema: &serde_json::Value, path: &str, unbounded: &mut Vec<String>) {
        let bounded = match schema["type"].as_str() {
            Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array(),
            Some("array") => schema["maxItems"].is_u64(),
            Some("object") if schema["additionalProperties"].is_object() => schema["maxProperties"].is_u64(),
            _ => true,
        };
        if !bounded {
            unbounded.push(path.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), unbounded);
        }
        for (member, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
            if schema[member].is_object() {
                walk(&schema[member], &format!("{path}{suffix}"), unbounded);
            }
        }
    }
    let mut unbounded = Vec::new();
    for crd in crds::all() {
        walk(
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            "spec",
            &mut unbounded,
        );
    }
    assert_eq!(unbounded, Vec::<String>::new(), "CEL's cost budget needs a bound on these");
}

/// All that a `GraphToken` refers to is in its own namespace: there is no field to say otherwise.
#[test]
fn no_reference_names_a_namespace() {
    fn walk(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if name.to_ascii_lowercase().contains("namespace") {
                found.push(path.clone());
            }
            walk(property, &path, found);
            walk(&property["items"], &path, found);
        }
    }
    let mut found = Vec::new();
    for crd in crds::all() {
        walk(
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            "spec",
            &mut found,
        );
    }
    // Whom a client for many namespaces is for.
    assert_eq!(found, ["spec.allow.namespaceSelector"]);
}

/// `kubectl get graphtoken NAME` would mean all of the category, and be refused.
#[test]
fn no_category_is_called_like_a_resource() {
    let crds = crds::all();
    let texts = |crd: &serde_json::Value, names: &[&str]| -> Vec<String> {
        let names = names.iter().map(|name| crd["spec"]["names"][*name].clone());
        let lists = names.flat_map(|name| match name {
            serde_json::Value::Array(all) => all,
            one => vec![one],
        });
        lists.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let resources: Vec<String> =
        crds.iter().flat_map(|crd| texts(crd, &["plural", "singular", "shortNames"])).collect();
    assert!(resources.iter().any(|name| name == "graphtoken"), "{resources:?}");
    for category in crds.iter().flat_map(|crd| texts(crd, &["categories"])) {
        assert!(!resources.contains(&category), "{category}");
    }
}
