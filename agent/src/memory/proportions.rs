//! What the kernel derives at boot from the memory that it finds: how many threads, open files and connections there may
//! be, and how much memory those get. A guest that gets most of its memory later would have the limits of a small one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Sysctls whose numbers grow with the memory.
const GROWING: [&str; 7] = [
    "fs/epoll/max_user_watches",
    "fs/file-max",
    "kernel/threads-max",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_mem",
    "net/ipv4/udp_mem",
];

/// The most that a socket buffers: the last number grows with the memory, up to this (tcp_init).
const BUFFERS: [(&str, u64); 2] = [("net/ipv4/tcp_rmem", 6 << 20), ("net/ipv4/tcp_wmem", 4 << 20)];

/// The watches of a user take a hundredth of the memory, and are these at least (inotify_user_setup).
const WATCHES: &str = "fs/inotify/max_user_watches";
const LEAST_WATCHES: u64 = 8192;
const MOST_WATCHES: u64 = 1 << 20;
const WATCH_BYTES: u64 = 1280;

/// Makes of limits for `booted_bytes` of memory those for `total_bytes`, but for the sysctls that somebody has `chosen`.
/// One that this kernel does not have is left out.
pub fn adapt(booted_bytes: u64, total_bytes: u64, chosen: &BTreeMap<String, String>) {
    if booted_bytes == 0 || total_bytes <= booted_bytes {
        return;
    }
    let grown = |value: u64| (u128::from(value) * u128::from(total_bytes) / u128::from(booted_bytes)) as u64;
    for name in GROWING {
        change(name, chosen, |values| values.iter_mut().for_each(|value| *value = grown(*value)));
    }
    for (name, most) in BUFFERS {
        change(name, chosen, |values| {
            if let Some(last) = values.last_mut() {
                *last = grown(*last).min(most).max(*last);
            }
        });
    }
    let watches = (total_bytes / 100 / WATCH_BYTES).clamp(LEAST_WATCHES, MOST_WATCHES);
    change(WATCHES, chosen, |values| values.iter_mut().for_each(|value| *value = watches.max(*value)));
}

/// How many signals may be queued for a user's processes, as the kernel has it for a machine with so much memory
/// (fork_init: half of its threads, whose stacks take an eighth of the memory).
pub fn most_queued_signals(total_bytes: u64) -> u64 {
    total_bytes / (8 * 16 * 1024) / 2
}

fn change(name: &str, chosen: &BTreeMap<String, String>, change: impl FnOnce(&mut [u64])) {
    if chosen.keys().any(|key| key.replace('.', "/") == name) {
        return;
    }
    let path = Path::new("/proc/sys").join(name);
    let Some(text) = fs::read_to_string(&path).ok().and_then(|text| changed(&text, change)) else { return };
    if let Err(error) = fs::write(&path, text) {
        eprintln!("atoll-agent: {name} stays what it was at boot: {error}");
    }
}

/// The numbers of a sysctl, changed; none if it has anything else.
fn changed(text: &str, change: impl FnOnce(&mut [u64])) -> Option<String> {
    let mut values = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
    change(&mut values);
    Some(values.iter().map(u64::to_string).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_changed_and_nothing_else_is_touched() {
        let double = |values: &mut [u64]| values.iter_mut().for_each(|value| *value *= 2);
        assert_eq!(changed("2433\t3247\t4866\n", double).unwrap(), "4866 6494 9732");
        assert_eq!(changed("cubic\n", double), None);
    }

    #[test]
    fn signals_are_those_of_the_kernel() {
        // What Debian's kernel has with 996,508 and with 4,040,000 KiB, within a fiftieth.
        for (kib, signals) in [(996_508, 3841), (4_163_000, 16_271)] {
            assert!(most_queued_signals(kib << 10).abs_diff(signals) < signals / 50);
        }
    }
}
