//! No hot loop: an hour of operation on bad input of every kind. What a `GraphToken` costs in its busiest minute is bounded,
//! in reconciles and in requests to the provider.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;

use crate::idp::{Canned, Reach, Rotation};
use crate::objects::{Kind, Refusal};
use crate::pki::EXPIRED;
use crate::process::{End, live};
use crate::scenario::{self, CREDENTIAL};
use crate::side_by_side::side_by_side;
use crate::state::State;
use crate::world::World;

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
const FIVE_MINUTES: Duration = Duration::from_mins(5);

/// What one `GraphToken` may cost in its busiest minute, and in all. A reconcile that takes what came of a request counts with
/// the one that started it.
#[derive(Clone, Copy)]
struct Bound {
    reconciles: usize,
    requests: usize,
    in_all: usize,
    /// For how long: an hour, but where every second counts and each takes real time.
    lasts: Duration,
}

/// Where only a person can help, and nothing changes: one attempt, and one an hour later.
const PERSON: Bound = Bound { reconciles: 4, requests: 2, in_all: 3, lasts: HOUR };
/// After a failure that passes: 5 s, 10 s, 20 s, then 25 s apart; so four in the first minute, then three at most. A reconcile for each,
/// and for what is first seen.
const PASSING: Bound = Bound { reconciles: 6, requests: 4, in_all: 147, lasts: HOUR };
/// While a token is valid, a quarter of what is left of it: nine in the last minute but four seconds, four in these.
const RUNS_OUT: Bound = Bound { reconciles: 18, requests: 14, in_all: 200, lasts: HOUR };
/// What is wrong with a service account is looked at again each minute.
const UNWATCHED: Bound = Bound { reconciles: 3, requests: 0, in_all: 0, lasts: HOUR };
/// A pause of 60 s where the provider names none.
const THROTTLED: Bound = Bound { reconciles: 4, requests: 2, in_all: 62, lasts: HOUR };
/// Two refreshes are at least a second apart, however short the provider makes the life of its tokens. A reconcile for each,
/// and one for the end of its life.
const SHORT_LIVED: Bound = Bound { reconciles: 121, requests: 61, in_all: 301, lasts: FIVE_MINUTES };

/// Status writes that are refused: two seconds apart.
const UNSAVED: Bound = Bound { reconciles: 31, requests: 2, in_all: 4, lasts: HOUR };
/// The same again, where an hour tells no more than ten minutes.
const UNSAVED_TOO: Bound = Bound { reconciles: 31, requests: 1, in_all: 1, lasts: TEN_MINUTES };
/// Reads that are refused: five seconds apart.
const UNREAD: Bound = Bound { reconciles: 13, requests: 1, in_all: 1, lasts: HOUR };
/// A target that somebody keeps changing: written again each five seconds, and each change is seen once.
const FOUGHT_OVER: Bound = Bound { reconciles: 27, requests: 13, in_all: 61, lasts: FIVE_MINUTES };

/// A commit that is refused: five seconds, then nothing until the request's deadline and the patience are over again.
const UNCOMMITTED: Bound = Bound { reconciles: 6, requests: 1, in_all: 1, lasts: FIVE_MINUTES };

struct Row {
    what: &'static str,
    begin: fn(&mut State),
    /// What goes on after the beginning.
    then: fn(&World),
    bound: Bound,
}

fn nothing(_: &World) {}

fn row(what: &'static str, bound: Bound, begin: fn(&mut State)) -> Row {
    Row { what, begin, then: nothing, bound }
}

fn answers(state: &mut State, status: u16, body: &'static str) {
    scenario::delegated(state);
    state.idp.reach = Reach::Canned(Canned { status, retry_after: None, body: (body, 1) });
}

fn seed(state: &mut State, bytes: &[u8]) {
    scenario::delegated(state);
    let bytes = STANDARD.encode(bytes);
    state.objects.edit(Kind::Secret, "seed", |secret| secret["data"]["token"] = json!(bytes));
}

fn refuses(state: &mut State, calls: &'static str, code: u16) {
    scenario::delegated(state);
    let reason = if code == 403 { "Forbidden" } else { "Invalid" };
    state.refuses = Some((calls, Refusal { code, reason }));
}

fn credential(state: &mut State) {
    scenario::delegated(state);
    let garbage = STANDARD.encode(b"\xff{\x00");
    let labels = json!({"app.kubernetes.io/managed-by": "graphtoken-operator", "graphtoken.io/name": "mail"});
    let data = json!({
        "refresh_token": garbage, "access_token": garbage, "record.json": garbage, "pending.json": garbage, "other": garbage,
    });
    let secret = json!({"metadata": {"labels": labels}, "type": "Opaque", "data": data});
    state.objects.create(Kind::Secret, CREDENTIAL, secret, "kubectl").expect("it is new");
}

fn certificate(state: &mut State, pem: &str) {
    scenario::app_by_certificate(state);
    let pem = json!(STANDARD.encode(pem));
    state.objects.edit(Kind::Secret, "app-cert", |secret| secret["data"]["tls.crt"] = pem);
}

#[expect(clippy::too_many_lines, reason = "it is a table")]
fn rows() -> Vec<Row> {
    vec![
        row("seed: malformed", PERSON, |s| seed(s, b"two words")),
        row("seed: cut JSON", PERSON, |s| seed(s, b"{\"refresh_token\": \"x")),
        row("seed: not text", PERSON, |s| seed(s, b"\xff\xfe\x00")),
        row("seed: of another client", PERSON, |s| {
            seed(s, br#"{"RefreshToken": {"k": {"secret": "rt", "client_id": "another"}}}"#);
        }),
        row("seed: unknown to the provider", PERSON, |s| seed(s, b"1.made-up")),
        row("seed: missing", PERSON, |s| {
            scenario::delegated(s);
            s.objects.delete(Kind::Secret, "seed", &json!(null)).expect("it is there");
        }),
        row("client secret: missing", PERSON, |s| {
            scenario::app_only(s);
            s.objects.delete(Kind::Secret, "client", &json!(null)).expect("it is there");
        }),
        row("client secret: garbage", PERSON, |s| {
            scenario::app_only(s);
            s.objects
                .edit(Kind::Secret, "client", |o| o["data"]["secret"] = json!(STANDARD.encode(b"\xff\n")));
        }),
        row("certificate: garbage", PERSON, |s| certificate(s, "junk")),
        row("certificate: expired", PERSON, |s| certificate(s, EXPIRED)),
        row("service account: missing", UNWATCHED, |s| {
            scenario::app_by_workload_identity(s);
            s.objects.delete(Kind::ServiceAccount, "etl", &json!(null)).expect("it is there");
        }),
        row("service account: not annotated", UNWATCHED, |s| {
            scenario::app_by_workload_identity(s);
            s.objects.edit(Kind::ServiceAccount, "etl", |o| o["metadata"]["annotations"] = json!({}));
        }),
        row("service account: no token, 403", PASSING, |s| {
            scenario::app_by_workload_identity(s);
            s.refuses = Some(("serviceaccounts/token", Refusal { code: 403, reason: "Forbidden" }));
        }),
        row("credential: garbage", PERSON, credential),
        row("spec: endpoint not allowed", PERSON, |s| {
            scenario::delegated(s);
            scenario::edit_spec(s, "endpoints", &json!({"token": "https://elsewhere.example/token"}));
        }),
        row("answer: invalid_grant", PERSON, |s| answers(s, 400, r#"{"error": "invalid_grant"}"#)),
        row("answer: invalid_client", PERSON, |s| answers(s, 401, r#"{"error": "invalid_client"}"#)),
        row("answer: 400 without error", PERSON, |s| answers(s, 400, "{}")),
        row("answer: redirect", PERSON, |s| answers(s, 302, "")),
        row("answer: HTML with 404", PASSING, |s| answers(s, 404, "<html>not found</html>")),
        row("answer: HTML with 200", PASSING, |s| answers(s, 200, "<html>sign in</html>")),
        row("answer: garbage with 200", PASSING, |s| answers(s, 200, "\u{0}\u{1}{[")),
        row("answer: empty with 200", PASSING, |s| answers(s, 200, "")),
        row("answer: huge", PASSING, |s| {
            scenario::delegated(s);
            s.idp.reach =
                Reach::Canned(Canned { status: 200, retry_after: None, body: ("[[[[[[[[", 1 << 18) });
        }),
        row("answer: 500", PASSING, |s| answers(s, 500, "")),
        row("answer: connection breaks", PASSING, |s| {
            scenario::delegated(s);
            s.idp.reach = Reach::Broken;
        }),
        row("answer: none", PASSING, |s| {
            scenario::delegated(s);
            s.idp.reach = Reach::Silent;
        }),
        row("answer: 429 without Retry-After", THROTTLED, |s| answers(s, 429, "")),
        row("answer: 429 with Retry-After 0", PASSING, |s| {
            scenario::delegated(s);
            s.idp.reach = Reach::Canned(Canned { status: 429, retry_after: Some("0"), body: ("", 0) });
        }),
        row("answer: expires_in 0", PASSING, |s| {
            answers(s, 200, r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 0}"#);
        }),
        row("answer: expires_in -1", PASSING, |s| {
            answers(s, 200, r#"{"access_token": "at", "refresh_token": "rt", "expires_in": -1}"#);
        }),
        row("answer: expires_in absurd", PERSON, |s| {
            answers(s, 200, r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 1e300}"#);
        }),
        row("answer: expires_in 1", SHORT_LIVED, |s| {
            answers(s, 200, r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 1}"#);
        }),
        row("answer: expires_in 1e-9", SHORT_LIVED, |s| {
            answers(s, 200, r#"{"access_token": "at", "refresh_token": "rt", "expires_in": 1e-9}"#);
        }),
        row("app: expires_in 1", SHORT_LIVED, |s| {
            answers(s, 200, r#"{"access_token": "at", "expires_in": 1}"#);
            s.objects.delete(Kind::GraphToken, "mail", &json!(null)).expect("it is there");
            scenario::app_only(s);
        }),
        Row {
            what: "answer: 500 from the first refresh on",
            begin: scenario::delegated,
            then: |w| {
                w.at(10 * MINUTE, |w| {
                    let answer = Canned { status: 500, retry_after: None, body: ("", 0) };
                    w.lock().idp.reach = Reach::Canned(answer);
                });
            },
            bound: RUNS_OUT,
        },
        row("Secrets: creates refused, 403", PASSING, |s| refuses(s, "POST secrets", 403)),
        row("Secrets: creates refused, 422", PASSING, |s| refuses(s, "POST secrets", 422)),
        row("Secrets: target refused, 403", PASSING, |s| refuses(s, "secrets mail (publish)", 403)),
        row("Secrets: target refused, 422", PASSING, |s| refuses(s, "secrets mail (publish)", 422)),
        row("Secrets: commits refused, 403", UNCOMMITTED, |s| refuses(s, "(commit)", 403)),
        row("Secrets: reads refused, 403", UNREAD, |s| refuses(s, "GET secrets", 403)),
        row("status: writes refused, 403", UNSAVED, |s| refuses(s, "graphtokens/status", 403)),
        row("status: writes refused, 422", UNSAVED_TOO, |s| refuses(s, "graphtokens/status", 422)),
        row("all writes refused, 403", UNSAVED_TOO, |s| refuses(s, "P", 403)),
        Row {
            what: "target: altered within 100 ms",
            begin: scenario::delegated,
            then: altered,
            bound: FOUGHT_OVER,
        },
        Row {
            what: "target: altered within 100 ms, app",
            begin: scenario::app_only,
            then: altered,
            bound: FOUGHT_OVER,
        },
    ]
}

/// Another controller looks at the target ten times a second, and puts something of its own into it.
fn altered(world: &World) {
    fn alter(world: &World) {
        let mut state = world.lock();
        let theirs = json!(STANDARD.encode("theirs"));
        let restored = state.object(Kind::Secret, "mail").is_some_and(|o| o["data"]["token"] != theirs);
        if restored {
            state.objects.edit(Kind::Secret, "mail", |object| object["data"]["token"] = theirs);
        }
        drop(state);
        world.at(Duration::from_millis(100), alter);
    }
    world.at(MINUTE, alter);
}

/// The most of these times that fell into one minute. They are in order.
fn busiest(times: &[Timestamp]) -> usize {
    let within = |(place, from): (usize, &Timestamp)| {
        let end = *from + MINUTE;
        times[place..].partition_point(|at| *at < end)
    };
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

#[test]
fn an_hour_of_bad_input_of_every_kind_costs_no_more_than_its_back_off_allows() {
    let mut table =
        format!("{:40} {:>10} {:>9} {:>10} {:>9}\n", "", "reconciles", "requests", "reconciles", "requests");
    let _ =
        writeln!(table, "{:40} {:>10} {:>9} {:>10} {:>9}", "", "a minute", "a minute", "in all", "in all");
    let mut over = Vec::new();
    let rows = rows();
    for (row, (line, is_over)) in rows.iter().zip(side_by_side(&rows, measured)) {
        let _ = writeln!(table, "{line}");
        over.extend(is_over.then_some(row.what));
    }
    print_table(&table);
    assert!(over.is_empty(), "over their bounds: {over:?}\n{table}");
}

fn measured(row: &Row) -> (String, bool) {
    let world = World::new(Rotation::Lenient, None, false);
    (row.begin)(&mut world.lock());
    world.lock().patience = 40_000;
    (row.then)(&world);
    world.at(row.bound.lasts, |w| w.lock().tape.dying = true);
    assert_eq!(live(&world, "the-only"), End::Killed);
    let state = world.lock();
    let (looks, requests) = (&state.looks, &state.idp.attempts);
    let busy = [busiest(looks).saturating_sub(busiest(&state.results)), busiest(requests)];
    let line =
        format!("{:40} {:>10} {:>9} {:>10} {:>9}", row.what, busy[0], busy[1], looks.len(), requests.len());
    let Bound { reconciles, requests: most, in_all, .. } = row.bound;
    (line, busy[0] > reconciles || busy[1] > most || requests.len() > in_all)
}

#[expect(clippy::print_stdout, reason = "the figures are worth a look where all goes well, too")]
fn print_table(table: &str) {
    println!("{table}");
}
