//! Every fixed name that the operator writes or looks for, once.

/// API group of the custom resources.
pub const GROUP: &str = "graphtoken.io";

/// The served version.
pub const VERSION: &str = "v1alpha1";
/// Field manager of every server-side apply, and the `managed-by` value.
pub const MANAGER: &str = "graphtoken-operator";

/// Label: who manages the Secret.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the name of the `GraphToken` that a Secret belongs to.
pub const LABEL_NAME: &str = "graphtoken.io/name";

/// Annotation on both Secrets: the UID of the `GraphToken` they belong to.
pub const ANNOTATION_UID: &str = "graphtoken.io/uid";
/// Annotation on the target: when its access token expires (RFC 3339, UTC).
pub const ANNOTATION_EXPIRES_AT: &str = "graphtoken.io/expires-at";
/// Annotation on the target: when its access token was got (RFC 3339, UTC).
pub const ANNOTATION_REFRESHED_AT: &str = "graphtoken.io/refreshed-at";
/// Annotation on the target: which token it holds and how it was rendered, as JSON; no secret is in it.
pub const ANNOTATION_TOKEN: &str = "graphtoken.io/token";
/// Annotation by which the owner of an existing Secret lets a `GraphToken` of that name take it over.
pub const ANNOTATION_ADOPT: &str = "graphtoken.io/adopt";
/// Annotation on a `GraphToken`: any new value asks for a refresh now.
pub const ANNOTATION_REQUESTED_AT: &str = "graphtoken.io/requested-at";
/// Annotation on a credential: how long it outlives its `GraphToken` (Go duration).
pub const ANNOTATION_RETENTION: &str = "graphtoken.io/credential-retention";
/// Annotation on a credential whose `GraphToken` is gone: when it is deleted (RFC 3339, UTC).
pub const ANNOTATION_DELETE_AFTER: &str = "graphtoken.io/delete-after";

/// The annotations that are read of Secrets, and the longest value of each that is: a longer one counts as absent, so a
/// Secret of others takes little memory.
pub const SECRET_ANNOTATIONS: [(&str, usize); 7] = [
    (ANNOTATION_UID, 256),
    (ANNOTATION_EXPIRES_AT, 256),
    (ANNOTATION_REFRESHED_AT, 256),
    (ANNOTATION_TOKEN, 4096),
    (ANNOTATION_ADOPT, 256),
    (ANNOTATION_RETENTION, 256),
    (ANNOTATION_DELETE_AFTER, 256),
];

/// Suffix of the credential Secret's name.
pub const CREDENTIAL_SUFFIX: &str = "-graphtoken-credential";
/// Suffix of the login Secret's name.
pub const LOGIN_SUFFIX: &str = "-graphtoken-login";
/// Key of the rotating refresh token in the credential Secret: stable, and valid as a seed.
pub const KEY_REFRESH_TOKEN: &str = "refresh_token";
/// Key of the credential's record (JSON).
pub const KEY_RECORD: &str = "record.json";
/// Key of the write-ahead record (JSON): present while an exchange is in flight.
pub const KEY_PENDING: &str = "pending.json";
/// Key of the device code (JSON): present from when it was issued until the sign-in is made.
pub const KEY_DEVICE: &str = "device.json";

/// The name of the Secret by which a new sign-in is handed over; its key is [`KEY_REFRESH_TOKEN`].
pub fn login_name(graphtoken: &str) -> String {
    format!("{graphtoken}{LOGIN_SUFFIX}")
}

/// The name of the credential Secret of a `GraphToken`.
pub fn credential_name(graphtoken: &str) -> String {
    format!("{graphtoken}{CREDENTIAL_SUFFIX}")
}
