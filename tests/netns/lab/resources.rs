//! What a process costs, and what an interface carried.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::namespace::Namespace;

/// Ticks of processor time a second, as `/proc` counts them on every Linux (USER_HZ).
const TICKS: u64 = 100;

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most memory a process ever had resident, bytes.
pub fn peak_resident(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, row: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(row));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.with_context(|| format!("no {row}"))?.parse::<u64>()? * 1024)
}

/// Processor time a process used so far, in user and kernel mode.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The second field is the name in parentheses and may hold anything; count from its end.
    let fields: Vec<&str> =
        text.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("too short")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS))
}

/// Processor time of this machine that something used so far: programs, kernel, interrupts, and
/// what the hypervisor gave to others.
pub fn machine_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let row = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = row.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(at, _)| !matches!(at, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    Ok(Duration::from_millis(busy * 1000 / TICKS))
}

/// How often the threads of a process went to sleep so far, and so were woken.
pub fn wake_ups(pid: u32) -> Result<u64> {
    let mut all = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        all += line.context("no count of switches")?.trim().parse::<u64>()?;
    }
    Ok(all)
}

/// Bytes and packets of an interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Bytes in and out together.
    pub bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
}

/// Reads the counters of `interface`.
pub fn counters(namespace: &Namespace, interface: &str) -> Result<Counters> {
    let text = namespace.tool("ip", &["-s", "-j", "link", "show", "dev", interface])?;
    let value: Value = serde_json::from_str(&text)?;
    let stats = &value[0]["stats64"];
    let number = |direction: &str, key: &str| stats[direction][key].as_u64().context("no counter");
    Ok(Counters {
        bytes: number("rx", "bytes")? + number("tx", "bytes")?,
        sent: number("tx", "packets")?,
        received: number("rx", "packets")?,
    })
}
