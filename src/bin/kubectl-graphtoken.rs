//! The binary `kubectl-graphtoken`, which kubectl finds as `kubectl graphtoken`: arguments → a command → the exit code.

use std::process::ExitCode;

use graphtoken::plugin;

fn main() -> ExitCode {
    plugin::main()
}
