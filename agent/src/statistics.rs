//! What the container uses: its cgroup's figures, and the guest's memory around them.

use std::fs;

use crate::container::cgroup::{field, read};
use crate::message::Statistics;

pub fn read_all() -> Statistics {
    let (cpu, memory, io) = (read("cpu.stat"), read("memory.stat"), read("io.stat"));
    let guest = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = kibibytes(&guest, "MemTotal:");
    Statistics {
        cpu_usage_us: field(&cpu, "usage_usec"),
        cpu_user_us: field(&cpu, "user_usec"),
        cpu_system_us: field(&cpu, "system_usec"),
        online_cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
        throttled_periods: field(&cpu, "nr_throttled"),
        throttled_us: field(&cpu, "throttled_usec"),
        memory_bytes: number(&read("memory.current")).unwrap_or_default(),
        memory_peak_bytes: number(&read("memory.peak")).unwrap_or_default(),
        memory_file_bytes: field(&memory, "file"),
        memory_anonymous_bytes: field(&memory, "anon"),
        memory_inactive_file_bytes: field(&memory, "inactive_file"),
        // "max" is no limit but the guest's memory.
        memory_limit_bytes: number(&read("memory.max")).unwrap_or(total),
        guest_memory_total_bytes: total,
        guest_memory_available_bytes: kibibytes(&guest, "MemAvailable:"),
        pids: number(&read("pids.current")).unwrap_or_default(),
        block_read_bytes: sum(&io, "rbytes="),
        block_write_bytes: sum(&io, "wbytes="),
        oom_kills: field(&read("memory.events"), "oom_kill"),
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A line of /proc/meminfo, in bytes.
fn kibibytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    value.and_then(number).unwrap_or_default() << 10
}

/// One figure of every device in io.stat, added up.
fn sum(text: &str, name: &str) -> u64 {
    text.split_whitespace().filter_map(|word| number(word.strip_prefix(name)?)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_in_bytes() {
        let text = "MemTotal:        1000 kB\nMemFree:  1 kB\n";
        assert_eq!((kibibytes(text, "MemTotal:"), kibibytes(text, "Swap:")), (1_024_000, 0));
    }

    #[test]
    fn devices_are_added_up() {
        let text = "254:0 rbytes=10 wbytes=0 rios=1\n254:16 rbytes=5 wbytes=7 rios=9\n";
        assert_eq!((sum(text, "rbytes="), sum(text, "wbytes=")), (15, 7));
    }
}
