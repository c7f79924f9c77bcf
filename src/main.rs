//! The binary `graphtoken`: arguments → telemetry → run; the exit code.

use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use graphtoken::args::{self, Command};
use graphtoken::{crds, hardening, run, telemetry};
use zeroizing_alloc::ZeroAlloc;

/// Whatever is freed is wiped: a token passes through buffers of many libraries, and none of them does it by itself.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    match args::parse() {
        Command::Crd => print_crds(),
        Command::Run(settings) => operate(*settings),
    }
}

fn print_crds() -> ExitCode {
    let written = crds::yaml().is_ok_and(|yaml| std::io::stdout().write_all(yaml.as_bytes()).is_ok());
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn operate(settings: args::Settings) -> ExitCode {
    let hardened = hardening::harden();
    telemetry::init(settings.log_format);
    if let Err(error) = hardened {
        tracing::warn!(%error, "core dumps and debuggers are not kept out of this process");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run::run(settings));
    // All of our own was awaited. What goes on is a connection, and a provider that floods it does not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ended with an error");
            ExitCode::FAILURE
        }
    }
}
