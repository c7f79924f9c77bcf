//! `status`: how `GraphToken`s are, once or until interrupted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};

use super::args::{Output, StatusArgs};
use super::cluster::{Cluster, absent, json, refused, resource};
use super::row::Row;
use super::say::{Terminal, clean};
use super::{Ended, Failed, table};
use crate::clock::Clock;

/// How often bars are drawn anew though nothing changed.
const REDRAW: Duration = Duration::from_secs(10);
/// Clears the screen and goes to its top.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// Runs the command.
pub async fn run(
    args: &StatusArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    if args.watch {
        return watch(args, cluster, terminal, clock).await;
    }
    let objects = read(args, cluster).await?;
    if objects.is_empty() && args.output == Output::Table {
        let place = place(args, cluster);
        terminal.say(&format!(
            "there are no GraphTokens in {place}; a first one: kubectl graphtoken import --help"
        ));
    }
    show(args, &objects, terminal, clock);
    Ok(Ended::Well)
}

fn api(args: &StatusArgs, cluster: &Cluster, client: &kube::Client) -> Api<DynamicObject> {
    if args.all_namespaces {
        Api::all_with(client.clone(), &resource())
    } else {
        Api::namespaced_with(client.clone(), &cluster.namespace, &resource())
    }
}

fn place(args: &StatusArgs, cluster: &Cluster) -> String {
    if args.all_namespaces { "any namespace".to_owned() } else { format!("namespace {}", cluster.namespace) }
}

async fn read(args: &StatusArgs, cluster: &Cluster) -> Result<Vec<Value>, Failed> {
    let api = api(args, cluster, &cluster.client);
    let place = if args.all_namespaces { "all namespaces".to_owned() } else { place(args, cluster) };
    if let Some(name) = &args.name {
        let found = api.get_opt(name).await;
        let found = found.map_err(|e| refused(&format!("get graphtokens in {place}"), &e))?;
        return Ok(vec![json(&found.ok_or_else(|| absent(name, &cluster.namespace))?)]);
    }
    let listed = api.list(&ListParams::default()).await;
    let listed = listed.map_err(|e| refused(&format!("list graphtokens in {place}"), &e))?;
    Ok(listed.items.iter().map(json).collect())
}

fn show(args: &StatusArgs, objects: &[Value], terminal: &Terminal, clock: &Clock) {
    let now = clock.now();
    let mut rows: Vec<Row> = objects.iter().map(|object| Row::of(object, now)).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    if args.output == Output::Json {
        let rows = json!(rows);
        // A change a line, for programs that follow.
        let text = if args.watch { rows.to_string() } else { format!("{rows:#}") };
        terminal.print(&format!("{text}\n"));
        return;
    }
    if !rows.is_empty() {
        terminal.print(&table::table(&rows, args.all_namespaces, terminal.paint()));
    }
    match (&args.name, objects.first()) {
        (Some(_), Some(object)) => terminal.print(&clean(&in_full(object))),
        _ => table::notes(&rows).iter().for_each(|note| terminal.note(note)),
    }
}

/// All that a status says: conditions with their messages, and what people ask for.
fn in_full(object: &Value) -> String {
    let status = &object["status"];
    let mut text = String::new();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for condition in &conditions {
        let part = |member: &str| condition[member].as_str().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ =
            write!(text, "\n{} {} ({}): {}", part("type"), part("status"), part("reason"), part("message"));
    }
    let facts = [
        ("Secret", "/secretName"),
        ("account", "/account/objectId"),
        ("signed in", "/signedIn/time"),
        ("signed in by", "/signedIn/source"),
        ("last refresh", "/lastRefreshTime"),
        ("next refresh", "/nextRefreshTime"),
        ("sign-in good until", "/refreshTokenExpiresAt"),
        ("last verified", "/lastVerifiedTime"),
        ("page to sign in at", "/deviceCode/verificationUri"),
        ("code to enter there", "/deviceCode/userCode"),
    ];
    if !conditions.is_empty() {
        text.push('\n');
    }
    for (what, pointer) in facts {
        if let Some(value) = status.pointer(pointer).and_then(Value::as_str) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{what}: {value}");
        }
    }
    let scopes = status["grantedScopes"].as_array().cloned().unwrap_or_default();
    let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
    if !scopes.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\ngranted: {}", scopes.join(" "));
    }
    text.push('\n');
    text
}

async fn watch(
    args: &StatusArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    // What is refused is told at once, and not tried for ever.
    read(args, cluster).await?;
    let config = match &args.name {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let mut events = pin!(watcher(api(args, cluster, &cluster.watches), config).default_backoff());
    let mut known = BTreeMap::new();
    let mut listed = false;
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    listed |= matches!(event, watcher::Event::InitDone);
                    take_in(&mut known, event);
                    if !listed {
                        continue;
                    }
                }
                // The watcher begins again by itself.
                Some(Err(_)) => continue,
                None => return Ok(Ended::Well),
            },
            _ = redraw.tick() => if !(listed && terminal.shown && args.output == Output::Table) {
                continue;
            },
        }
        if terminal.shown && args.output == Output::Table {
            terminal.print(CLEAR);
        }
        let objects: Vec<Value> = known.values().cloned().collect();
        show(args, &objects, terminal, clock);
    }
}

fn take_in(known: &mut BTreeMap<(String, String), Value>, event: watcher::Event<DynamicObject>) {
    let key = |object: &DynamicObject| {
        (
            object.metadata.namespace.clone().unwrap_or_default(),
            object.metadata.name.clone().unwrap_or_default(),
        )
    };
    match event {
        watcher::Event::Init => known.clear(),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            known.insert(key(&object), json(&object));
        }
        watcher::Event::Delete(object) => {
            known.remove(&key(&object));
        }
        watcher::Event::InitDone => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{condition, object};
    use super::*;

    #[test]
    fn one_in_full_says_every_condition_and_what_is_there() {
        let mut object = object(&json!([condition("Ready", "True", "TokenValid")]));
        object["status"]["grantedScopes"] = json!(["Mail.Read", "User.Read"]);
        assert_eq!(
            in_full(&object),
            "\nReady True (TokenValid): Ready says why\n\nlast refresh: 2026-11-23T10:00:00Z\ngranted: Mail.Read User.Read\n"
        );
    }
}
