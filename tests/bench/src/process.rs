//! What the kernel says of a process: the CPU it used and the memory it holds.

use std::fs;
use std::time::Duration;

use crate::Failed;

/// `USER_HZ`, in which `/proc/PID/stat` counts: 100 on every architecture that Linux runs Rust on.
const TICKS: u64 = 100;

/// Memory in KiB, as `/proc/PID/status` and `smaps_rollup` tell it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident, of all kinds.
    pub rss: u64,
    /// The part of it that is the process's own.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak: u64,
    /// Resident, with what is shared divided among those that share it.
    pub proportional: u64,
}

/// CPU used so far, user and system, by all threads. (The kernel scales both so that their sum is exact to a tick.)
pub fn cpu(pid: u32) -> Result<Duration, Failed> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; what follows the last one starts with field 3.
    let fields =
        text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(|| Failed::new(format!("/proc/{pid}/stat does not read as usual")))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Memory held now.
pub fn memory(pid: u32) -> Result<Memory, Failed> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Ok(Memory {
        rss: kib(&status, "VmRSS:"),
        anonymous: kib(&status, "RssAnon:"),
        peak: kib(&status, "VmHWM:"),
        proportional: kib(&rollup, "Pss:"),
    })
}

fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let pid = std::process::id();
        let memory = memory(pid).unwrap();
        assert!(memory.rss > 0 && memory.peak >= memory.rss && memory.anonymous <= memory.rss, "{memory:?}");
        assert!(cpu(pid).is_ok() && cpu(0).is_err());
    }
}
