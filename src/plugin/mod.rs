//! `kubectl graphtoken`: what people do with `GraphToken`s that a manifest does not.
//!
//! Each command is a file. What is pure (rows, tables, bars, the reading of token files) takes `now` as a parameter and stands apart
//! from what talks to the cluster. Results go to stdout, everything else to stderr; no token is in either.

pub mod args;
pub mod client;
pub mod cluster;
pub mod doctor;
pub mod import;
pub mod login;
pub mod request;
pub mod row;
pub mod say;
pub mod status;
pub mod table;
pub mod token_file;

use std::fmt;
use std::process::ExitCode;

use clap::CommandFactory as _;

use self::args::{Cli, Verb};
use self::cluster::Cluster;
use self::say::Terminal;
use crate::clock::Clock;

/// The outcome of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All is well: exit code 0.
    Well,
    /// What was asked about is not well, and was told of: exit code 1.
    Amiss,
}

/// Why a command could not do its work, and what to do next. Exit code 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shorthand for a [`Failed`] in an expression.
pub fn failed<T>(why: impl Into<String>) -> Result<T, Failed> {
    Err(Failed(why.into()))
}

/// Parses the command line, does what it says, and returns the exit code: 0 done, 1 not, 2 a wrong command line.
pub fn main() -> ExitCode {
    let cli = args::parse();
    let terminal = Terminal::of_this_process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli, &terminal)) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Amiss) => ExitCode::FAILURE,
        Err(why) => {
            terminal.error(&why.0);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, terminal: &Terminal) -> Result<Ended, Failed> {
    let clock = Clock::system();
    let connect = || Cluster::connect(&cli.connection);
    match &cli.verb {
        Verb::Status(args) => status::run(args, &connect().await?, terminal, &clock).await,
        Verb::Refresh(args) => request::refresh(args, &connect().await?, terminal, &clock).await,
        Verb::Verify(args) => request::verify(args, &connect().await?, terminal, &clock).await,
        Verb::Import(args) => import::run(args, connect, terminal).await,
        Verb::Login(args) => login::run(args, &connect().await?, terminal, &clock).await,
        Verb::Doctor(args) => doctor::run(args, &connect().await?, terminal, &clock).await,
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), args::BINARY, &mut script);
            terminal.print_bytes(&script);
            Ok(Ended::Well)
        }
    }
}
