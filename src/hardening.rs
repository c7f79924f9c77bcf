//! What the process gives up at its start, so that what it has in memory stays there.
//!
//! Tokens and keys are in its memory while they are used. A core dump would write them to a disk, and a debugger of the same
//! user would read them. (Freed memory is wiped by the allocator that `main.rs` sets.)

use std::io;

/// No core dumps, and no debugger, not even one of the same user without privileges: memory, environment and open files in
/// `/proc` are then root's. Elsewhere than on Linux only core dumps are off.
pub fn harden() -> io::Result<()> {
    let nothing = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, nothing)?;
    // A limit does not hold for a core that is piped to a program: see core(5).
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
