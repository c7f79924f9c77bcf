//! What the operator asked of the API server: its audit log, which `make cluster-up` keeps beside the kubeconfig.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// How the operator calls itself.
const AGENT: &str = "graphtoken-operator/";

/// The audit log. It is written before an answer is sent, so whoever has the answer finds the line.
#[derive(Clone, Debug)]
pub struct Audit(PathBuf);

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    inode: u64,
    offset: u64,
}

/// One request that was answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    pub verb: String,
    pub resource: String,
    pub subresource: Option<String>,
    pub name: Option<String>,
    pub code: u64,
}

/// The operator's requests in a namespace, without Leases and watches.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// All but events.
    pub all: Vec<Request>,
    /// Events that were written.
    pub events: Vec<Request>,
}

impl Audit {
    /// The log beside a kubeconfig.
    pub fn beside(kubeconfig: &Path) -> Self {
        Self(kubeconfig.with_file_name("audit.log"))
    }

    /// The place where the log ends now.
    pub fn mark(&self) -> Mark {
        let end = fs::metadata(&self.0).unwrap_or_else(|error| {
            let log = self.0.display();
            panic!("requests can be counted only on the cluster of `make cluster-up`: {log}: {error}")
        });
        Mark { inode: end.ino(), offset: end.len() }
    }

    /// What was asked in a namespace since then.
    pub fn since(&self, mark: Mark, namespace: &str) -> Requests {
        let mut requests = Requests::default();
        for entry in self.entries(mark, &format!("\"namespace\":\"{namespace}\"")) {
            requests.add(&entry, namespace);
        }
        requests
    }

    /// The log's entries since then that have this text in them.
    pub fn entries(&self, mark: Mark, text: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        for (file, offset) in self.files(mark) {
            let mut file = File::open(file).unwrap();
            file.seek(SeekFrom::Start(offset)).unwrap();
            for line in BufReader::new(file).lines() {
                let line = line.unwrap();
                if line.contains(text)
                    && let Ok(entry) = serde_json::from_str(&line)
                {
                    entries.push(entry);
                }
            }
        }
        entries
    }

    /// The log is cut at 100 MB: the file of the mark may have another name by now, and newer ones follow it.
    fn files(&self, mark: Mark) -> Vec<(PathBuf, u64)> {
        let logs = fs::read_dir(self.0.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let is_log = |path: &PathBuf| {
            path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with("audit") && name.ends_with(".log")
            })
        };
        let mut logs: Vec<(SystemTime, PathBuf)> = logs
            .filter(is_log)
            .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
            .collect();
        logs.sort();
        let logs = logs.into_iter().map(|(_, path)| path);
        let mut from_mark = logs.skip_while(|path| fs::metadata(path).unwrap().ino() != mark.inode);
        let first = from_mark.next().expect("the log of the mark is there");
        std::iter::once((first, mark.offset)).chain(from_mark.map(|path| (path, 0))).collect()
    }
}

impl Requests {
    fn add(&mut self, entry: &Value, namespace: &str) {
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let ours = text("/userAgent").is_some_and(|agent| agent.starts_with(AGENT))
            && text("/objectRef/namespace").as_deref() == Some(namespace);
        let request = Request {
            verb: text("/verb").unwrap_or_default(),
            resource: text("/objectRef/resource").unwrap_or_default(),
            subresource: text("/objectRef/subresource"),
            name: text("/objectRef/name"),
            code: entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
        };
        if !ours || request.resource == "leases" || request.verb == "watch" {
            return;
        }
        if request.resource == "events" { self.events.push(request) } else { self.all.push(request) }
    }

    /// Those that read.
    pub fn reads(&self) -> Vec<&Request> {
        self.all.iter().filter(|request| request.reads()).collect()
    }

    /// Those that were to change something.
    pub fn writes(&self) -> Vec<&Request> {
        self.all.iter().filter(|request| !request.reads()).collect()
    }
}

impl Request {
    fn reads(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list")
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        for part in [&self.name, &self.subresource].into_iter().flatten() {
            write!(f, "/{part}")?;
        }
        write!(f, " → {}", self.code)
    }
}

#[test]
fn requests_are_found_though_the_log_was_cut_meanwhile() {
    let line = |name: &str, agent: &str, namespace: &str| {
        let object = format!(r#"{{"resource":"secrets","namespace":"{namespace}","name":"{name}"}}"#);
        format!("{{\"verb\":\"get\",\"userAgent\":\"{agent}\",\"objectRef\":{object}}}\n")
    };
    let ours = |name: &str| line(name, "graphtoken-operator/0.1.0", "here");
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::beside(&folder.path().join("kubeconfig"));
    let cut = folder.path().join("audit-2026-11-23T10-00-00.000.log");
    fs::write(folder.path().join("audit-2026-11-23T09-00-00.000.log"), ours("long-before")).unwrap();
    fs::write(&audit.0, ours("before")).unwrap();
    let mark = audit.mark();
    let others = line("of-kubectl", "kubectl", "here") + &line("there", "graphtoken-operator/0.1.0", "there");
    fs::write(&audit.0, ours("before") + &ours("one") + &others).unwrap();
    fs::rename(&audit.0, cut).unwrap();
    fs::write(&audit.0, ours("two")).unwrap();
    let names: Vec<_> =
        audit.since(mark, "here").all.into_iter().filter_map(|request| request.name).collect();
    assert_eq!(names, ["one", "two"]);
}
