//! The real binary as a child process.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::http;

/// A busy machine may take its time.
const START: Duration = Duration::from_mins(1);
/// An exchange in flight is finished before the end, and a commit may be tried again.
const END: Duration = Duration::from_mins(1);
/// How often a file or an endpoint is looked at that cannot be awaited.
const LOOK: Duration = Duration::from_millis(20);

/// How an operator is started, beyond what every test needs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    flags: Vec<String>,
    env: Vec<(String, String)>,
    kubeconfig: Option<PathBuf>,
    everywhere: bool,
    panics: bool,
    lease_namespace: Option<String>,
}

impl Options {
    /// A flag more.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// A variable more in its environment, which has little else.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One of its tasks panics as soon as this file has that task's name. Builds with debug assertions only.
    #[allow(dead_code, reason = "for the tests of supervision")]
    #[must_use]
    pub fn panics_by(mut self, file: &Path) -> Self {
        self.panics = true;
        self.env("GRAPHTOKEN_TEST_PANIC", file.to_str().unwrap())
    }

    /// In all namespaces: on a cluster of the test's own.
    #[allow(dead_code, reason = "for those who have a control plane of their own")]
    #[must_use]
    pub const fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// With its Lease in another namespace than the test's.
    #[allow(dead_code, reason = "for those who have a control plane of their own")]
    #[must_use]
    pub fn lease_namespace(mut self, namespace: &str) -> Self {
        self.lease_namespace = Some(namespace.to_owned());
        self
    }

    /// As whoever this kubeconfig names, instead of the test's own user.
    #[must_use]
    pub fn kubeconfig(mut self, kubeconfig: &Path) -> Self {
        self.kubeconfig = Some(kubeconfig.to_owned());
        self
    }
}

/// A running operator. It is killed when it is dropped.
pub struct Operator {
    child: Mutex<Child>,
    pid: u32,
    url: String,
    log: PathBuf,
    panics: bool,
}

impl Operator {
    /// Starts one that works in `namespace` and waits until it is ready.
    pub async fn start(kubeconfig: &Path, namespace: &str, log: PathBuf, options: &Options) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_graphtoken"))
            .args(["run", "--listen", "127.0.0.1:0"])
            .args(["--lease-namespace", options.lease_namespace.as_deref().unwrap_or(namespace)])
            .args(["--namespace", namespace].iter().filter(|_| !options.everywhere))
            .args(["--allow-http-endpoints", "--allowed-endpoint-host", "127.0.0.1"])
            .args(&options.flags)
            .env_clear()
            .env("KUBECONFIG", options.kubeconfig.as_deref().unwrap_or(kubeconfig))
            .env("RUST_LOG", "trace")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        let began = Instant::now();
        let url = loop {
            if let Some(address) = address(&log) {
                break format!("http://{address}");
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the operator ended: {ended:?}\n{}", tail(&log));
            assert!(began.elapsed() < START, "the operator does not listen\n{}", tail(&log));
            sleep(LOOK).await;
        };
        let operator = Self { child: Mutex::new(child), pid, url, log, panics: options.panics };
        while !operator.ready().await {
            assert!(began.elapsed() < START, "the operator is not ready\n{}", tail(&operator.log));
            sleep(LOOK).await;
        }
        operator
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it logs, at level trace.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the test makes one of its tasks panic.
    pub fn panics(&self) -> bool {
        self.panics
    }

    /// Whether `/readyz` says yes.
    pub async fn ready(&self) -> bool {
        let answer = http().get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// What `/metrics` says; nothing where it does not answer.
    pub async fn metrics(&self) -> Option<Metrics> {
        let request = http().get(format!("{}/metrics", self.url)).timeout(Duration::from_secs(5));
        let answer = request.send().await.ok()?;
        answer.text().await.ok().map(Metrics)
    }

    /// Waits until `/metrics` is as wanted: it shows the operator's caches, which follow what we see by a moment.
    pub async fn metrics_until(&self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let began = Instant::now();
        loop {
            let metrics = self.metrics().await;
            match metrics {
                Some(metrics) if wanted(&metrics) => return metrics,
                other => assert!(began.elapsed() < START, "not as wanted: {other:?}\n{}", tail(&self.log)),
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it holds the Lease.
    pub async fn leads(&self) -> bool {
        self.metrics().await.is_some_and(|metrics| metrics.sum("graphtoken_leader", &[]) == 1)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&self) -> ExitStatus {
        self.terminate();
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(&self) -> ExitStatus {
        let mut child = self.child.lock().await;
        let ended = timeout(END, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the operator did not end\n{}", tail(&self.log))).unwrap()
    }

    /// Whether it still runs, or is only paused.
    pub async fn lives(&self) -> bool {
        self.child.lock().await.try_wait().unwrap().is_none()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGKILL: nothing is finished.
    pub async fn kill(&self) {
        self.child.lock().await.kill().await.unwrap();
    }

    /// SIGSTOP: it does nothing, and does not know.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: it goes on where it was.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// By the shell's own `kill`, for std knows SIGKILL alone.
    fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        let status =
            std::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(status.unwrap().success(), "no process {pid} to send SIG{signal} to");
    }
}

/// The address in the line that says where it serves.
fn address(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, rest) = text.split_once("serving /livez")?;
    let (_, rest) = rest.split_once("address=")?;
    let (address, _) = rest.split_once(|c: char| c.is_whitespace())?;
    Some(address.to_owned())
}

/// The end of a log, without what is there for the search for secrets only.
pub fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains(" graphtoken") && !line.contains("TRACE")).collect();
    format!("{}:\n{}", log.display(), lines[lines.len().saturating_sub(30)..].join("\n"))
}

/// The lines of a log at level error, with a space on both sides of each field, and without quotes.
pub fn error_lines(log: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let lines = text.lines().filter(|line| line.contains(" ERROR "));
    lines.map(|line| format!("{line} ").replace('"', "").replace(['{', '}', ':'], " ")).collect()
}

/// A scrape of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of a counter's samples that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labelled =
            |line: &str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
        self.0
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labelled(line))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}
