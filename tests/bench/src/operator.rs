//! The operator's binary as a child process, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use graphtoken::leader::LEASE_NAME;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::Failed;
use crate::cluster::NAMESPACE;
use crate::process::{self, Memory};
use crate::report::now;

/// How often is looked for what cannot be awaited.
const LOOK: Duration = Duration::from_millis(5);
const START: Duration = Duration::from_mins(1);
/// CPU within half a second that is not work: renewing a Lease.
const IDLE: Duration = Duration::from_millis(10);

/// Where the operator is, and where its logs go.
#[derive(Clone)]
pub struct Setup {
    /// A client, to see who leads.
    pub client: Client,
    /// The binary.
    pub binary: PathBuf,
    /// A folder for its log.
    pub logs: PathBuf,
}

/// A running operator. It is killed when it is dropped.
pub struct Operator {
    child: Child,
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub began: Instant,
    /// How long it took until `/readyz` said yes.
    pub ready_after: Duration,
    url: String,
    http: reqwest::Client,
}

impl Operator {
    /// Starts one with its defaults and waits until it is ready.
    pub async fn start(setup: &Setup) -> Result<Self, Failed> {
        let log = setup.logs.join("operator.log");
        let file = std::fs::File::create(&log)?;
        let began = now();
        let mut child = Command::new(&setup.binary)
            .args([
                "run",
                "--namespace",
                NAMESPACE,
                "--lease-namespace",
                NAMESPACE,
                "--listen",
                "127.0.0.1:0",
            ])
            .args(["--allow-http-endpoints", "--allowed-endpoint-host", "127.0.0.1"])
            .env("RUST_LOG", "warn,graphtoken::admin=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| Failed::new("the operator did not start"))?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let url = loop {
            if let Some(address) = address(&log) {
                break format!("http://{address}");
            }
            if child.try_wait()?.is_some() || began.elapsed() > START {
                return Err(Failed::new(format!("the operator did not start: see {}", log.display())));
            }
            sleep(LOOK).await;
        };
        let mut operator = Self { child, pid, began, ready_after: Duration::ZERO, url, http };
        while !operator.ready().await {
            if operator.child.try_wait()?.is_some() || began.elapsed() > START {
                return Err(Failed::new(format!("the operator is not ready: see {}", log.display())));
            }
            sleep(LOOK).await;
        }
        operator.ready_after = began.elapsed();
        operator.leads(&setup.client).await?;
        Ok(operator)
    }

    /// Waits until it holds the Lease, which the one before it has left free.
    async fn leads(&mut self, client: &Client) -> Result<(), Failed> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        while self.began.elapsed() < START {
            let lease = leases.get_opt(LEASE_NAME).await?.and_then(|lease| lease.spec);
            if lease.and_then(|spec| spec.holder_identity).is_some_and(|holder| !holder.is_empty()) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(Failed::new("the operator does not get its Lease"))
    }

    async fn ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Result<Metrics, Failed> {
        let answer = self.http.get(format!("{}/metrics", self.url)).send().await?;
        Ok(Metrics(answer.text().await?))
    }

    /// Waits until it has nothing to do, at the latest until `end`: it used next to no CPU for two seconds. Returns since
    /// when. (`/metrics` would tell better, but with ten thousand objects a scrape is work itself.)
    pub async fn quiet(&self, end: Option<Instant>) -> Result<Instant, Failed> {
        let mut since = now();
        let mut before = self.cpu()?;
        loop {
            let at = now();
            sleep(Duration::from_millis(500)).await;
            let cpu = self.cpu()?;
            if cpu > before + IDLE {
                since = now();
            } else if since.elapsed() >= Duration::from_secs(2) {
                return Ok(since);
            }
            before = cpu;
            if end.is_some_and(|end| at > end) {
                return Ok(at);
            }
        }
    }

    /// Waits until it has had so many looks in all. For few `GraphToken`s: it asks `/metrics` again and again.
    pub async fn looks(&self, at_least: u64, patience: Duration) -> Result<(), Failed> {
        let began = now();
        while self.metrics().await?.sum("graphtoken_reconcile_duration_seconds_count", &[]) < at_least {
            if began.elapsed() > patience {
                return Err(Failed::new(format!(
                    "the operator did not have {at_least} looks in {patience:?}"
                )));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// CPU used so far.
    pub fn cpu(&self) -> Result<Duration, Failed> {
        process::cpu(self.pid)
    }

    /// Memory held now.
    pub fn memory(&self) -> Result<Memory, Failed> {
        process::memory(self.pid)
    }

    /// Ends it by SIGTERM, so that its Lease is free.
    pub async fn stop(mut self) -> Result<(), Failed> {
        let status = Command::new("kill").args(["-s", "TERM", &self.pid.to_string()]).status().await?;
        if !status.success() {
            return Err(Failed::new("the operator could not be told to end"));
        }
        self.child.wait().await?;
        Ok(())
    }
}

/// The address in the line that says where it serves.
fn address(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, rest) = text.split_once("serving /livez")?;
    let (_, rest) = rest.split_once("address=")?;
    rest.split_once(char::is_whitespace).map(|(address, _)| address.to_owned())
}

/// A scrape of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// The sum of a metric's samples that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labelled =
            |line: &&str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
        let samples = self
            .0
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples.filter(labelled).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Requests to the API server by resource and verb, Leases and watches apart.
    pub fn requests(&self) -> std::collections::BTreeMap<String, u64> {
        let mut requests = std::collections::BTreeMap::new();
        let samples = self.0.lines().filter_map(|line| line.strip_prefix("graphtoken_kube_requests_total{"));
        for sample in samples {
            let label = |name: &str| {
                let (_, rest) = sample.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let (resource, verb) = (label("resource").unwrap_or("?"), label("verb").unwrap_or("?"));
            if resource == "leases" || verb == "watch" {
                continue;
            }
            let count =
                sample.rsplit(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            *requests.entry(format!("{verb} {resource}")).or_default() += count;
        }
        requests
    }

    /// Successful exchanges.
    pub fn issued(&self) -> u64 {
        self.sum("graphtoken_token_requests_total", &[("outcome", "Succeeded")])
    }

    /// How long the text is.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_without_leases_and_watches() {
        let line = |resource: &str, verb: &str, code: u16, count: u64| {
            format!(
                "graphtoken_kube_requests_total{{resource=\"{resource}\",verb=\"{verb}\",code=\"{code}\"}} {count}\n"
            )
        };
        let text = line("secrets", "patch", 200, 3)
            + &line("secrets", "patch", 409, 1)
            + &line("leases", "patch", 200, 9)
            + &line("secrets", "watch", 200, 2);
        assert_eq!(Metrics(text.clone()).requests(), [("patch secrets".to_owned(), 4)].into());
        assert_eq!(Metrics(text).sum("graphtoken_kube_requests_total", &[("code", "200")]), 14);
    }
}
