//! A pod with the real python-o365 in it: the Secret as a mounted folder, and a program that uses the file there.

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::objects::Issuer;
use super::repository;
use super::world::{World, text_of};

/// The version that the requirements pin; the folder is named after it.
const VENV: &str = "venv-o365-2.1.10";

/// A Secret as a folder that is kept up to date, as the kubelet keeps it.
pub struct Mount {
    folder: TempDir,
    updates: JoinHandle<()>,
}

impl Mount {
    /// Mounts a Secret that is there.
    pub async fn of(world: &World, secret: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), world.secrets().get(secret).await.unwrap());
        let updates = tokio::spawn(update(world.secrets(), secret.to_owned(), folder.path().to_owned()));
        Self { folder, updates }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.updates.abort();
    }
}

async fn update(api: Api<Secret>, name: String, folder: PathBuf) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let versions = watcher(api, config).default_backoff().applied_objects();
    versions
        .for_each(|secret| {
            if let Ok(secret) = secret {
                write(&folder, secret);
            }
            std::future::ready(())
        })
        .await;
}

/// Whoever reads a file sees the whole of it, old or new.
fn write(folder: &Path, secret: Secret) {
    for (key, text) in text_of(secret) {
        let new = folder.join(format!(".{key}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, folder.join(key)).unwrap();
    }
}

/// Uses `o365_token.txt` in a folder as `tests/clients/README.md` tells, and returns the report.
pub async fn check(folder: &Path, issuer: &Issuer, api_url: &str, arguments: &[&str]) -> Value {
    let output = Command::new(python())
        .arg(repository().join("tests/clients/o365_check.py"))
        .arg("--token-dir")
        .arg(folder)
        .args(["--client-id", &issuer.client_id, "--tenant-id", &issuer.tenant, "--api-url", api_url])
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("no report: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A virtual environment of `hack/python/venv.sh`.
pub fn virtual_environment(name: &str) -> PathBuf {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache"))).unwrap_or_default();
    cache.join("graphtoken-operator").join(name)
}

fn python() -> PathBuf {
    let named = std::env::var_os("GRAPHTOKEN_TEST_VENV").filter(|value| !value.is_empty()).map(PathBuf::from);
    let venv = named.unwrap_or_else(|| virtual_environment(VENV));
    let python = venv.join("bin/python");
    assert!(python.exists(), "no python-o365 in {}: `make test` installs it", venv.display());
    python
}
