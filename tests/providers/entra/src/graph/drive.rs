//! A drive with one file at its root: what rclone asks for to list it and to copy from it.
//!
//! Graph answers a file's content with a redirect to a download address that needs no token; here it is answered at once.

use serde_json::{Value, json};

/// The drive's id, which rclone has to be told.
pub const DRIVE_ID: &str = "b!aaaabbbb0000cccc1111";
/// The name of the file in it.
pub const DRIVE_FILE: &str = "hello.json";

pub(super) const ROOT: &str = "/drives/b!aaaabbbb0000cccc1111/root";
pub(super) const CHILDREN: &str = "/drives/b!aaaabbbb0000cccc1111/items/01ROOT/children";
pub(super) const CONTENT: &str = "/drives/b!aaaabbbb0000cccc1111/items/01FILE/content";
/// What opens a drive to an app without a user.
pub(super) const APP_ROLES: &[&str] =
    &["Files.Read.All", "Files.ReadWrite.All", "Sites.Read.All", "Sites.ReadWrite.All"];

const TIME: &str = "2026-01-02T03:04:05Z";

pub(super) fn drive() -> Value {
    json!({"id": DRIVE_ID, "driveType": "business"})
}

pub(super) fn root() -> Value {
    let mut root = item("01ROOT", "root");
    root["root"] = json!({});
    root["folder"] = json!({"childCount": 1});
    root["parentReference"] = json!({"driveId": DRIVE_ID, "driveType": "business"});
    root
}

pub(super) fn file() -> Value {
    let mut file = item("01FILE", DRIVE_FILE);
    file["file"] = json!({"mimeType": "application/json"});
    file["parentReference"] = json!({
        "driveId": DRIVE_ID,
        "driveType": "business",
        "id": "01ROOT",
        "path": format!("/drives/{DRIVE_ID}/root:"),
    });
    file
}

pub(super) fn content() -> Value {
    json!({"hello": "OneDrive"})
}

/// The root is as large as what is in it.
fn item(id: &str, name: &str) -> Value {
    json!({
        "id": id,
        "name": name,
        "size": content().to_string().len(),
        "createdDateTime": TIME,
        "lastModifiedDateTime": TIME,
        "fileSystemInfo": {"createdDateTime": TIME, "lastModifiedDateTime": TIME},
    })
}
