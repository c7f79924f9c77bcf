//! `make bench`: what the operator costs, measured on a control plane that `KUBECONFIG` names and that holds nothing else.
//! Each figure is one JSON object on stdout, with the floor it is held against taken in the same run; stderr has progress
//! and a table. `docs/capacity.md` tells what is measured and how.

#[path = "../../cluster/harness/audit.rs"]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "shared with the tests on the control plane"
)]
mod audit;
mod bare;
mod cluster;
mod day;
mod figures;
mod operator;
mod population;
mod process;
mod provider;
mod report;
mod stats;
mod targets;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jiff::Timestamp;

use self::figures::World;
use self::report::say;

/// Measures the operator on the control plane that KUBECONFIG names.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Measure little of everything: to see that it works
    #[arg(long)]
    short: bool,
    /// End with status 1 where a goal is not met
    #[arg(long)]
    strict: bool,
    /// Measure these figures only; repeatable
    #[arg(long, value_enum)]
    only: Vec<figures::Part>,
    /// The operator [default: graphtoken, beside this program]
    #[arg(long, value_name = "PATH")]
    operator: Option<PathBuf>,
    /// The image, as an OCI archive
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does as a child of its own.
#[derive(Subcommand)]
enum Role {
    /// The identity provider
    #[command(hide = true)]
    Provider {
        /// Sign-ins to know
        #[arg(long)]
        sign_ins: usize,
    },
    /// The bare loop
    #[command(hide = true)]
    Loop,
}

/// A measurement that could not be made.
#[derive(Debug)]
pub struct Failed(String);

impl Failed {
    /// Says why.
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

macro_rules! failed_by {
    ($($error:ty),+) => {$(
        impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Self::new(error)
            }
        }
    )+};
}

failed_by!(
    std::io::Error,
    serde_json::Error,
    reqwest::Error,
    graphtoken::kubeclient::Error,
    graphtoken::store::StoreError
);

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        Self(graphtoken::kubeclient::describe(&error))
    }
}

/// The time by which tokens are dated.
#[expect(clippy::disallowed_methods, reason = "an edge")]
pub fn wall_clock() -> Timestamp {
    Timestamp::now()
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Provider { sign_ins }) => provider::serve(*sign_ins).await.map(|()| true),
        Some(Role::Loop) => bare::work().await.map(|()| true),
        None => Box::pin(measure(&args)).await,
    };
    match done {
        Ok(met) if met || !args.strict => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            say(&format!("failed: {why}"));
            ExitCode::from(2)
        }
    }
}

async fn measure(args: &Args) -> Result<bool, Failed> {
    let operator = match &args.operator {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("graphtoken"),
    };
    let world = World::new(operator, args.image.clone(), args.short).await?;
    for part in figures::parts(&args.only) {
        Box::pin(world.measure(part)).await?;
    }
    Ok(world.report.close())
}
