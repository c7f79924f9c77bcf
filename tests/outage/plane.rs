//! A control plane of the test's own, for what disturbs all who use one: brought up in a temporary folder by the
//! checkout's scripts, and taken down when it is dropped.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::cluster::{Cluster, apply_crds, reach};
use crate::harness::repository;

/// A control plane, and the way to it.
pub struct Plane {
    folder: TempDir,
    /// The way to its API server.
    pub cluster: Cluster,
}

/// What is done to a component: see `hack/cluster/component.sh`.
#[derive(Clone, Copy)]
pub enum Blow {
    /// It ends as by a crash: connections are refused.
    Killed,
    /// It is paused: connections stay open, and nobody answers.
    Paused,
}

impl Plane {
    /// Brings one up. The scripts keep its state two folders above their own, so a copy of them has one to itself.
    pub async fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scripts = folder.path().join("hack/cluster");
        std::fs::create_dir_all(&scripts).unwrap();
        for entry in std::fs::read_dir(repository().join("hack/cluster")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), scripts.join(entry.file_name())).unwrap();
        }
        let up = scripts.join("up.sh");
        tokio::task::spawn_blocking(move || script(&up, &[])).await.unwrap();
        let kubeconfig = folder.path().join(".cluster/kubeconfig");
        let client = reach(&kubeconfig).await.unwrap();
        apply_crds(&client).await;
        Self { folder, cluster: Cluster { client, kubeconfig } }
    }

    /// Makes a component fail.
    pub async fn strike(&self, component: &'static str, blow: Blow) {
        let action = match blow {
            Blow::Killed => "kill",
            Blow::Paused => "stop",
        };
        self.component(action, component).await;
    }

    /// Brings it back; returns when it answers.
    pub async fn mend(&self, component: &'static str, blow: Blow) {
        let action = match blow {
            Blow::Killed => "start",
            Blow::Paused => "cont",
        };
        self.component(action, component).await;
    }

    async fn component(&self, action: &'static str, component: &'static str) {
        let path = self.folder.path().join("hack/cluster/component.sh");
        tokio::task::spawn_blocking(move || script(&path, &[action, component])).await.unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let down = self.folder.path().join("hack/cluster/down.sh");
        // A paused component is ended all the same.
        let _ = Command::new(down).output();
    }
}

fn script(path: &Path, arguments: &[&str]) {
    let Output { status, stderr, .. } = Command::new(path).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{} {arguments:?}: {status}\n{stderr}", path.display());
}
