//! `docs/reference-api.md` is what the CRDs say: `make generate` writes it, and a page that is stale fails here.
//! Not in the product: its image needs no documentation.

mod page;

use std::path::Path;

use graphtoken::crds;
use rstest::rstest;
use serde_json::{Value, json};

/// Set by `make generate`: the page is written, not judged.
const GENERATE: &str = "GRAPHTOKEN_GENERATE";

#[test]
fn the_generated_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference-api.md");
    let generated = page::page(&crds::all());
    if std::env::var_os(GENERATE).is_some() {
        std::fs::write(&path, generated).expect("docs/ can be written to");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "{} is stale: run `make generate`", path.display());
}

/// Found in another way than the page's: every `properties`, wherever it is.
#[test]
fn every_field_has_a_row() {
    fn count(schema: &Value) -> usize {
        let inner: usize = match schema {
            Value::Object(members) => members.values().map(count).sum(),
            Value::Array(all) => all.iter().map(count).sum(),
            _ => 0,
        };
        inner + schema["properties"].as_object().map_or(0, serde_json::Map::len)
    }
    let mut fields = 0;
    for crd in crds::all() {
        let properties = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        fields += count(&properties["spec"]) + count(&properties["status"]);
    }
    let page = page::page(&crds::all());
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(fields > 100, "{fields}");
    assert_eq!(rows.len(), fields);
    for row in rows {
        assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "not one cell for each column: {row}");
    }
}

#[test]
fn every_message_of_a_rule_is_told() {
    fn messages(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(members) => {
                for rule in
                    members.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
                {
                    found.push(rule["message"].as_str().unwrap_or_default().to_owned());
                }
                members.values().for_each(|member| messages(member, found));
            }
            Value::Array(all) => all.iter().for_each(|member| messages(member, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for crd in crds::all() {
        messages(&crd, &mut found);
    }
    let page = page::page(&crds::all());
    assert!(found.len() > 20, "{found:?}");
    for message in found {
        assert!(!message.is_empty() && page.contains(&page::prose(&message)), "{message}");
    }
}

#[test]
fn a_row_tells_type_default_bounds_and_rules() {
    let crd = json!({"spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"kind": "Thing", "shortNames": ["th"]},
        "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"description": "A thing.", "properties": {"spec": {
            "description": "What it is.", "required": ["name"], "type": "object",
            "x-kubernetes-validations": [{"rule": "true", "message": "size goes with name"}],
            "properties": {
                "name": {"type": "string", "description": "Its name.", "minLength": 1, "maxLength": 9, "pattern": "^a|b$"},
                "size": {"type": "integer", "description": "How large. Default: 3. In metres.", "minimum": 1.0, "maximum": 99.0},
                "parts": {"type": "array", "description": "Its parts.", "maxItems": 4, "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["kind"], "items": {"type": "object", "required": ["kind"],
                        "x-kubernetes-validations": [{"rule": "true", "message": "wheels turn"}], "properties": {
                        "kind": {"type": "string", "description": "Which.", "enum": ["Wheel", "Door"]}}}},
                "labels": {"type": "object", "description": "Of *it*.", "maxProperties": 2,
                    "additionalProperties": {"type": "string", "maxLength": 63},
                    "x-kubernetes-validations": [{"rule": "true", "message": "no key is empty"}]},
            },
        }}}}}],
    }});
    let page = page::page(&[crd]);
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(
        rows,
        [
            r"| `labels` | map of strings |  | Of \*it\*.<br>At most 2 entries. Each value: at most 63 characters.<br>Rule: no key is empty. |",
            r"| `name` | string | required | Its name.<br>1 to 9 characters. Pattern `^a\|b$`. |",
            r"| `parts` | list of objects, one for each `kind` |  | Its parts.<br>At most 4 elements.<br>Rule for each: wheels turn. |",
            r"| `parts[].kind` | string | required | Which.<br>One of `Wheel`, `Door`. |",
            r"| `size` | integer | 3 | How large. In metres.<br>1 to 99. |",
        ]
    );
    assert!(page.contains("- size goes with name\n"), "{page}");
}

#[rstest]
#[case("Who.", "Who.", None)]
#[case("Who. Default: Public.", "Who.", Some("Public"))]
#[case("Who. Default: 168h. Absent: never.", "Who. Absent: never.", Some("168h"))]
#[case(
    "Default: token (AccessToken) and o365_token.txt (O365).",
    "",
    Some("token (AccessToken) and o365_token.txt (O365)")
)]
fn the_default_is_taken_from_the_help_text(
    #[case] text: &str,
    #[case] rest: &str,
    #[case] default: Option<&str>,
) {
    assert_eq!(page::split_default(text), (rest.to_owned(), default.map(str::to_owned)));
}

#[rstest]
#[case("a <b> | c_d", r"a \<b\> \| c\_d")]
#[case("see `a|<b>` there", r"see `a\|<b>` there")]
fn markup_in_a_help_text_is_text(#[case] text: &str, #[case] escaped: &str) {
    assert_eq!(page::prose(text), escaped);
}
