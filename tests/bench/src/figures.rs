//! The figures, in the order in which they are taken: they share what was put on the control plane before.

mod apply;
mod day;
mod latency;
mod refresh;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{self, LOOP_NAMESPACE, NAMESPACE};
use crate::day::Plan;
use crate::operator::{Operator, Setup};
use crate::population::{Grant, Kind};
use crate::provider::Provider;
use crate::report::{Figure, Goal, Report, say};
use crate::stats::float;
use crate::{Failed, process};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Binary, start, memory without `GraphToken`s.
    Start,
    /// One `GraphToken` after another.
    Latency,
    /// Many at once.
    Apply,
    /// What refreshes cost.
    Refresh,
    /// Ten thousand due at once.
    Storm,
    /// A day in memory.
    Day,
}

/// All parts, or those that were asked for, in their order.
pub fn parts(only: &[Part]) -> Vec<Part> {
    let all = Part::value_variants().iter().copied();
    all.filter(|part| only.is_empty() || only.contains(part)).collect()
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Foreign Secrets, and the bytes in each.
    pub foreign: (usize, usize),
    /// Starts of the operator.
    pub starts: usize,
    /// `GraphToken`s one after another.
    pub latency: usize,
    /// `GraphToken`s at once.
    pub applied: usize,
    /// How often that is done.
    pub rounds: usize,
    /// Populations whose refreshes are measured: apps, and users. (The storm is one of users.)
    pub refreshed: [&'static [usize]; 2],
    /// The storm.
    pub storm: usize,
    /// Refreshes by which the rate of the bare loop is taken beside the storm.
    pub storm_floor: usize,
    /// How long nothing is due.
    pub idle: Duration,
    /// The day.
    pub day: Plan,
}

const FULL: Size = Size {
    foreign: (300, 1_000_000),
    starts: 5,
    latency: 100,
    applied: 1_000,
    rounds: 2,
    refreshed: [&[100, 1_000, 10_000], &[100, 1_000]],
    storm: 10_000,
    storm_floor: 2_000,
    idle: Duration::from_mins(1),
    day: day::FULL,
};

const SHORT: Size = Size {
    foreign: (3, 1_000_000),
    starts: 1,
    latency: 5,
    applied: 20,
    rounds: 1,
    refreshed: [&[20], &[20]],
    storm: 50,
    storm_floor: 20,
    idle: Duration::from_secs(2),
    day: day::SHORT,
};

/// What is measured on and with.
pub struct World {
    client: Client,
    setup: Setup,
    image: Option<PathBuf>,
    provider: Provider,
    size: Size,
    short: bool,
    /// The figures.
    pub report: Report,
    /// The audit log is beside it.
    kubeconfig: PathBuf,
    _logs: TempDir,
}

impl World {
    /// Prepares the control plane.
    pub async fn new(operator: PathBuf, image: Option<PathBuf>, short: bool) -> Result<Self, Failed> {
        let size = if short { SHORT } else { FULL };
        let client = cluster::connect().await?;
        cluster::prepare(&client).await?;
        for namespace in [NAMESPACE, LOOP_NAMESPACE] {
            Kind::client_secret(&client, namespace).await?;
        }
        let (count, bytes) = size.foreign;
        say(&format!("{count} foreign Secrets of {bytes} bytes"));
        cluster::foreign_secrets(&client, count, bytes).await?;
        let provider = Provider::start(size.storm.max(size.applied)).await?;
        let logs = tempfile::tempdir()?;
        let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from).unwrap_or_default();
        let setup = Setup { client: client.clone(), binary: operator, logs: logs.path().to_owned() };
        Ok(Self {
            client,
            setup,
            image,
            provider,
            size,
            kubeconfig,
            short,
            report: Report::default(),
            _logs: logs,
        })
    }

    /// Takes the figures of a part.
    pub async fn measure(&self, part: Part) -> Result<(), Failed> {
        match part {
            Part::Start => self.start().await,
            Part::Latency => self.latency().await,
            Part::Apply => {
                self.applied(Grant::ClientCredentials).await?;
                self.applied(Grant::RefreshToken).await
            }
            Part::Refresh => {
                let grants = [Grant::ClientCredentials, Grant::RefreshToken];
                for (grant, counts) in grants.into_iter().zip(self.size.refreshed) {
                    for count in counts {
                        self.refreshes(grant, *count).await?;
                    }
                }
                Ok(())
            }
            Part::Storm => self.storm().await,
            Part::Day => self.day().await,
        }
    }

    fn kind(&self, grant: Grant) -> Kind {
        Kind {
            namespace: NAMESPACE.to_owned(),
            grant,
            token_url: self.provider.token_url.clone(),
            renew_before: None,
            prefix: "mail".to_owned(),
        }
    }

    fn loop_kind(&self, grant: Grant) -> Kind {
        Kind { namespace: LOOP_NAMESPACE.to_owned(), ..self.kind(grant) }
    }

    /// Adds a figure. What is true of all of them is added to its parameters.
    fn figure(
        &self,
        name: &str,
        value: f64,
        unit: &'static str,
        floor: Option<(&str, f64)>,
        goal: Goal,
        mut parameters: Value,
    ) {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        parameters["profile"] = json!(profile);
        parameters["short"] = json!(self.short);
        self.report.add(Figure::new(name, value, unit, floor, goal, parameters));
    }

    /// Resident memory of an operator that has nothing to do.
    fn resident(
        &self,
        operator: &Operator,
        graphtokens: usize,
        grant: Option<Grant>,
        most: Option<f64>,
    ) -> Result<(), Failed> {
        let memory = operator.memory()?;
        let name = match grant {
            Some(grant) => format!("resident memory, {graphtokens} {}", grant.name()),
            None => "resident memory, 0 GraphTokens".to_owned(),
        };
        let (count, bytes) = self.size.foreign;
        let parameters = json!({
            "graphtokens": graphtokens, "foreign_secrets": count, "foreign_secret_bytes": bytes,
            "anonymous_mib": mib(memory.anonymous), "proportional_mib": mib(memory.proportional), "peak_mib": mib(memory.peak),
        });
        self.figure(&name, mib(memory.rss), "MiB", None, most.map_or(Goal::None, Goal::AtMost), parameters);
        Ok(())
    }

    /// CPU of the provider, so that it can be seen that it is not what is measured.
    fn provider_cpu(&self) -> Result<Duration, Failed> {
        process::cpu(self.provider.pid)
    }
}

fn mib(kib: u64) -> f64 {
    crate::stats::rounded(float(kib) / 1024.0)
}
