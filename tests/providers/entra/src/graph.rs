//! The little of Microsoft Graph that a probe, a mail job or a copy of files touches.

mod drive;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::drive::{DRIVE_FILE, DRIVE_ID};
use crate::answer::{self, Processed};
use crate::config::User;
use crate::control::Control;
use crate::fault::{Action, Endpoint, Subject};
use crate::journal::GraphEntry;
use crate::random::{digest, guid};
use crate::scope::short_name;
use crate::state::{AccessToken, State};

const ROOT: &str = "/v1.0";
/// The bearer challenge without its error. The application id is Graph's own.
const CHALLENGE: &str = concat!(
    r#"Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", "#,
    r#"client_id="00000003-0000-0000-c000-000000000000""#
);

/// A resource that Graph offers here, and the permissions any one of which opens it.
struct Resource {
    /// The path under [`ROOT`].
    path: &'static str,
    /// Beginnings of delegated scopes.
    scopes: &'static [&'static str],
    /// Whole names of application permissions; none means that the resource is a user's own.
    app_roles: &'static [&'static str],
    /// The code of a 403: each service behind Graph has its own.
    denied: &'static str,
    body: fn(&State, Option<&User>) -> Value,
}

const RESOURCES: [Resource; 7] = [
    Resource {
        path: "/me",
        scopes: &["User.Read"],
        app_roles: &[],
        denied: "Authorization_RequestDenied",
        body: |_, user| user.map(person).unwrap_or_default(),
    },
    Resource {
        path: "/me/mailFolders/inbox",
        scopes: &["Mail."],
        app_roles: &[],
        denied: "ErrorAccessDenied",
        body: |_, _| json!({"id": "inbox", "displayName": "Inbox", "totalItemCount": 0, "unreadItemCount": 0}),
    },
    Resource {
        path: "/me/drive",
        scopes: &["Files."],
        app_roles: &[],
        denied: "accessDenied",
        body: |_, _| drive::drive(),
    },
    Resource {
        path: drive::ROOT,
        scopes: &["Files."],
        app_roles: drive::APP_ROLES,
        denied: "accessDenied",
        body: |_, _| drive::root(),
    },
    Resource {
        path: drive::CHILDREN,
        scopes: &["Files."],
        app_roles: drive::APP_ROLES,
        denied: "accessDenied",
        body: |_, _| json!({"value": [drive::file()]}),
    },
    Resource {
        path: drive::CONTENT,
        scopes: &["Files."],
        app_roles: drive::APP_ROLES,
        denied: "accessDenied",
        body: |_, _| drive::content(),
    },
    Resource {
        path: "/users",
        scopes: &["User.Read.All", "User.ReadBasic.All", "User.ReadWrite.All", "Directory.Read.All"],
        app_roles: &["User.Read.All", "User.ReadBasic.All", "User.ReadWrite.All", "Directory.Read.All"],
        denied: "Authorization_RequestDenied",
        body: |state, _| json!({"value": state.users.iter().map(person).collect::<Vec<_>>()}),
    },
];

/// Collections of which no further item is there, and the code of their 404.
const ITEMS: [(&str, &str); 4] = [
    ("/me/mailFolders/", "ErrorItemNotFound"),
    ("/me/drive/items/", "itemNotFound"),
    ("/drives/", "itemNotFound"),
    ("/users/", "Request_ResourceNotFound"),
];

pub(crate) async fn endpoint(Shared(control): Shared<Control>, uri: Uri, headers: HeaderMap) -> Response {
    let bearer = bearer(&headers).map(digest);
    let now = control.now_ms();
    let (entry, fault) = control.with(|state| {
        let client_id =
            bearer.as_ref().and_then(|bearer| state.access_tokens.get(bearer)).map(|t| t.client_id.clone());
        let subject = Subject { path: Endpoint::Graph, grant: None, client_id: client_id.as_deref() };
        let fault = state.faults.take(&subject);
        state.journal.graph.push(GraphEntry {
            time_ms: now,
            path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            client_id,
            bearer_sha256: bearer.clone(),
            status: None,
            fault: fault.as_ref().map(Action::name),
        });
        (state.journal.graph.len() - 1, fault)
    });
    let note = |state: &mut State, status| {
        if let Some(entry) = state.journal.graph.get_mut(entry) {
            entry.status = Some(status);
        }
    };
    answer::through(
        fault,
        |status, _| control.with(|state| note(state, status)),
        |error| {
            let mut processed = failure(now, error.status, &error.error, "A fault of the simulator.");
            if let Some(retry_after) = &error.retry_after {
                processed.headers.push(("retry-after".to_owned(), retry_after.clone()));
            }
            processed
        },
        || {
            let now = control.now_ms();
            control.with(|state| {
                let processed = respond(state, &uri, bearer.as_deref(), now);
                note(state, processed.status);
                processed
            })
        },
    )
    .await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn respond(state: &State, uri: &Uri, bearer: Option<&str>, now: u64) -> Processed {
    let Some(bearer) = bearer else {
        return unauthenticated(now, None, "Access token is empty.");
    };
    let token = match state.access_tokens.get(bearer) {
        None => return unauthenticated(now, Some("invalid_token"), "The token is not one of ours."),
        Some(token) if token.expires_ms <= now => {
            return unauthenticated(now, Some("invalid_token"), "The token is expired.");
        }
        Some(token) if token.revoked => {
            return unauthenticated(now, Some("invalid_token"), "The token is revoked.");
        }
        Some(_) if state.settings.graph_refuses => {
            return unauthenticated(now, Some("invalid_token"), "No token is good enough.");
        }
        Some(token) => token,
    };
    let path = uri.path().strip_prefix(ROOT).unwrap_or_default().trim_end_matches('/');
    let Some(resource) = RESOURCES.iter().find(|resource| resource.path == path) else {
        return absent(now, path);
    };
    if token.oid.is_none() && resource.app_roles.is_empty() {
        return failure(now, 400, "BadRequest", "/me is only for delegated tokens.");
    }
    if !resource.admits(token) {
        return failure(now, 403, resource.denied, "The token lacks a permission.");
    }
    let user = token.oid.as_deref().and_then(|oid| state.user(oid));
    Processed::json(200, &selected((resource.body)(state, user), uri.query().unwrap_or_default()))
}

/// Graph tells a path that it does not know from an item that is not there.
fn absent(now: u64, path: &str) -> Processed {
    match ITEMS.iter().find(|(collection, _)| path.starts_with(collection)) {
        Some((_, code)) => failure(now, 404, code, "There is no such item."),
        None => failure(now, 400, "BadRequest", "There is no such resource."),
    }
}

impl Resource {
    fn admits(&self, token: &AccessToken) -> bool {
        token.scopes.iter().map(|scope| short_name(scope)).any(|scope| {
            if token.oid.is_some() {
                self.scopes.iter().any(|beginning| starts_with_ignore_case(scope, beginning))
            } else {
                self.app_roles.contains(&scope)
            }
        })
    }
}

fn starts_with_ignore_case(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning))
}

fn person(user: &User) -> Value {
    json!({"id": user.oid, "userPrincipalName": user.upn, "mail": user.upn, "displayName": user.upn})
}

/// Keeps the members that `$select` names.
fn selected(mut body: Value, query: &str) -> Value {
    let select = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "$select");
    if let (Some((_, names)), Some(members)) = (select, body.as_object_mut()) {
        members.retain(|member, _| names.split(',').any(|name| name == member));
    }
    body
}

fn unauthenticated(now: u64, error: Option<&str>, message: &str) -> Processed {
    let challenge = match error {
        Some(error) => format!(r#"{CHALLENGE}, error="{error}", error_description="{message}""#),
        None => CHALLENGE.to_owned(),
    };
    let mut processed = failure(now, 401, "InvalidAuthenticationToken", message);
    processed.headers.push(("www-authenticate".to_owned(), challenge));
    processed
}

fn failure(now: u64, status: u16, code: &str, message: &str) -> Processed {
    let date = i64::try_from(now)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%S").to_string());
    let request_id = guid();
    let inner = json!({"date": date, "request-id": request_id, "client-request-id": request_id});
    let body = json!({"error": {"code": code, "message": message, "innerError": inner}});
    let mut processed = Processed::json(status, &body);
    processed.headers.push(("request-id".to_owned(), request_id));
    processed
}
