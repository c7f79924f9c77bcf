//! The objects of an API server and the rules of its writes: compare-and-swap by uid and resourceVersion, merge patch, and
//! server-side apply with owned fields. As measured on 1.37: a stale resourceVersion and a uid on an absent object are 409,
//! a wrong uid under apply is 422, and a write that changes nothing keeps the resourceVersion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

/// What an object is, by its plural.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GraphToken,
    Secret,
    ServiceAccount,
    Deployment,
    Event,
}

pub type Key = (Kind, String);
pub type Snapshot = BTreeMap<Key, Arc<Value>>;

/// A write that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
}

const NOT_FOUND: Refusal = Refusal { code: 404, reason: "NotFound" };
const EXISTS: Refusal = Refusal { code: 409, reason: "AlreadyExists" };
pub const CONFLICT: Refusal = Refusal { code: 409, reason: "Conflict" };
const INVALID: Refusal = Refusal { code: 422, reason: "Invalid" };

/// All objects of the one namespace.
#[derive(Debug, Default)]
pub struct Objects {
    all: Snapshot,
    uids: u64,
    /// How many changes there were: the resourceVersion.
    pub changes: u64,
}

impl Objects {
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.all.get(&(kind, name.to_owned())).map(|object| &**object)
    }

    pub fn snapshot(&self) -> Snapshot {
        self.all.clone()
    }

    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.all.iter().filter(move |((k, _), _)| *k == kind).map(|(_, object)| &**object)
    }

    // === The API's verbs ===

    pub fn read(&self, kind: Kind, name: &str) -> Result<Value, Refusal> {
        self.get(kind, name).cloned().ok_or(NOT_FOUND)
    }

    pub fn create(
        &mut self,
        kind: Kind,
        name: &str,
        mut object: Value,
        manager: &str,
    ) -> Result<Value, Refusal> {
        if self.get(kind, name).is_some() {
            return Err(EXISTS);
        }
        self.uids += 1;
        let owned = leaves(&object);
        let meta = &mut object["metadata"];
        meta["name"] = json!(name);
        meta["namespace"] = json!("ns");
        meta["uid"] = json!(format!("uid-{}", self.uids));
        meta["creationTimestamp"] = json!("2026-11-23T09:00:00Z");
        meta["managedFields"] = json!([entry(manager, "Update", &owned)]);
        if kind == Kind::GraphToken {
            meta["generation"] = json!(1);
        }
        Ok(self.put((kind, name.to_owned()), object))
    }

    pub fn merge(&mut self, kind: Kind, name: &str, patch: &Value, manager: &str) -> Result<Value, Refusal> {
        let before = self.get(kind, name).ok_or(NOT_FOUND)?;
        let meta = &patch["metadata"];
        let differs = |key: &str| !meta[key].is_null() && meta[key] != before["metadata"][key];
        if differs("uid") || differs("resourceVersion") {
            return Err(CONFLICT);
        }
        let mut after = before.clone();
        merge(&mut after, patch);
        if after == *before {
            return Ok(after);
        }
        if patch["metadata"]["managedFields"].is_null() {
            let mut owned = owned(before, manager, "Update");
            owned.extend(leaves(patch));
            set_entry(&mut after, manager, "Update", &owned);
        }
        Ok(self.put((kind, name.to_owned()), after))
    }

    /// Server-side apply, forced: what the manager applied before and leaves out now goes, unless another entry owns it too.
    pub fn apply(&mut self, kind: Kind, name: &str, patch: &Value, manager: &str) -> Result<Value, Refusal> {
        let before = self.preconditions(kind, name, &patch["metadata"])?.clone();
        let now = leaves(patch);
        let kept: BTreeSet<String> = entries(&before)
            .filter(|e| !(e["manager"] == manager && e["operation"] == "Apply"))
            .flat_map(fields)
            .collect();
        let mut after = before.clone();
        for gone in owned(&before, manager, "Apply").difference(&now).filter(|path| !kept.contains(*path)) {
            remove(&mut after, gone);
        }
        merge(&mut after, &without_preconditions(patch));
        set_entry(&mut after, manager, "Apply", &now);
        if after == before {
            return Ok(after);
        }
        Ok(self.put((kind, name.to_owned()), after))
    }

    /// The status subresource: a JSON patch that tests the UID and replaces the status whole.
    pub fn replace_status(&mut self, kind: Kind, name: &str, patch: &Value) -> Result<Value, Refusal> {
        assert_eq!((&patch[0]["path"], &patch[1]["path"]), (&"/metadata/uid".into(), &"/status".into()));
        let mut object = self.preconditions(kind, name, &json!({"uid": patch[0]["value"]}))?.clone();
        if object["status"] == patch[1]["value"] {
            return Ok(object);
        }
        object["status"] = patch[1]["value"].clone();
        Ok(self.put((kind, name.to_owned()), object))
    }

    pub fn delete(&mut self, kind: Kind, name: &str, preconditions: &Value) -> Result<Value, Refusal> {
        let found = self.get(kind, name).ok_or(NOT_FOUND)?;
        let differs =
            |key: &str| !preconditions[key].is_null() && preconditions[key] != found["metadata"][key];
        if differs("uid") || differs("resourceVersion") {
            return Err(CONFLICT);
        }
        let uid = found["metadata"]["uid"].clone();
        let gone = self.forget(&(kind, name.to_owned()));
        let owned_by = |object: &Value| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|o| o.iter().any(|o| o["uid"] == uid))
        };
        // The garbage collector is quick here.
        let orphans: Vec<Key> =
            self.all.iter().filter(|(_, o)| owned_by(o)).map(|(k, _)| k.clone()).collect();
        for orphan in orphans {
            self.forget(&orphan);
        }
        Ok(gone)
    }

    /// A change by somebody else than the operator.
    pub fn edit(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.read(kind, name).expect("it is there");
        change(&mut object);
        self.put((kind, name.to_owned()), object);
    }

    // === Below ===

    fn preconditions(&self, kind: Kind, name: &str, meta: &Value) -> Result<&Value, Refusal> {
        let absent = if meta["uid"].is_null() { NOT_FOUND } else { CONFLICT };
        let found = self.get(kind, name).ok_or(absent)?;
        let differs = |key: &str| !meta[key].is_null() && meta[key] != found["metadata"][key];
        match (differs("uid"), differs("resourceVersion")) {
            (true, _) => Err(INVALID),
            (_, true) => Err(CONFLICT),
            _ => Ok(found),
        }
    }

    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.changes += 1;
        object["metadata"]["resourceVersion"] = json!(self.changes.to_string());
        self.all.insert(key, Arc::new(object.clone()));
        object
    }

    fn forget(&mut self, key: &Key) -> Value {
        self.changes += 1;
        self.all.remove(key).map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

/// A merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().and_then(|o| o.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn without_preconditions(patch: &Value) -> Value {
    let mut patch = patch.clone();
    if let Some(meta) = patch["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
        meta.remove("uid");
    }
    patch
}

// === Owned fields: JSON pointers, lists being taken whole ===

const UNOWNED: [&str; 5] =
    ["/apiVersion", "/kind", "/metadata/name", "/metadata/uid", "/metadata/resourceVersion"];

fn leaves(object: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    walk(value, &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(object, "", &mut found);
    found.retain(|path| !UNOWNED.contains(&path.as_str()));
    found
}

fn remove(object: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('/').expect("a pointer begins with a slash");
    if let Some(Value::Object(parent)) = object.pointer_mut(parent) {
        parent.remove(&key.replace("~1", "/").replace("~0", "~"));
    }
}

/// What a manager owns is opaque to the operator: here one string.
fn entry(manager: &str, operation: &str, owned: &BTreeSet<String>) -> Value {
    let fields = owned.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": {"owned": fields}})
}

fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten()
}

fn fields(entry: &Value) -> impl Iterator<Item = String> {
    entry["fieldsV1"]["owned"].as_str().into_iter().flat_map(str::lines).map(str::to_owned)
}

fn owned(object: &Value, manager: &str, operation: &str) -> BTreeSet<String> {
    entries(object)
        .filter(|e| e["manager"] == manager && e["operation"] == operation)
        .flat_map(fields)
        .collect()
}

fn set_entry(object: &mut Value, manager: &str, operation: &str, owned: &BTreeSet<String>) {
    let mut kept: Vec<Value> = entries(object)
        .filter(|e| !(e["manager"] == manager && e["operation"] == operation))
        .cloned()
        .collect();
    kept.push(entry(manager, operation, owned));
    object["metadata"]["managedFields"] = json!(kept);
}
