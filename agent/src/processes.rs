//! The container's processes, as `top` shows them: read from the guest's /proc, told in the container's numbers.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::param::{clock_ticks_per_second, page_size};

use crate::container::cgroup;
use crate::message::{ProcessList, ProcessRow};
use crate::process::user;

/// Major numbers of terminals (Linux, admin-guide/devices.txt).
const CONSOLES: u32 = 4;
const PTY_SLAVES: std::ops::RangeInclusive<u32> = 136..=143;

/// The rows of all processes; `first` is the container's first process, whose root has the user names. It became that
/// at `started_s`, seconds since the epoch, and may have waited for it long before.
pub fn list(first: i32, started_s: f64) -> ProcessList {
    let root = rustix::fs::open(format!("/proc/{first}/root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let accounts = root.map(|root| user::accounts_of(root.as_fd())).unwrap_or_default();
    let booted_s = cgroup::field(&fs::read_to_string("/proc/stat").unwrap_or_default(), "btime");
    // A process that has ended since is left out.
    let mut rows: Vec<_> = cgroup::members().into_iter().filter_map(|pid| row(pid, &accounts, booted_s)).collect();
    for row in &mut rows {
        row.started_s = row.started_s.max(started_s);
    }
    ProcessList { rows }
}

fn row(pid: i32, accounts: &str, booted_s: u64) -> Option<ProcessRow> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let uid = line(&status, "Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())?;
    let ticks = clock_ticks_per_second() as f64;
    Some(ProcessRow {
        pid: inner_pid(&status)?,
        parent_pid: parent(stat.parent),
        user: user::name_of(uid, accounts).map_or_else(|| uid.to_string(), str::to_owned),
        command: if command.is_empty() { format!("[{}]", stat.name) } else { words(&command) },
        name: stat.name,
        state: stat.state,
        terminal: terminal(stat.terminal),
        started_s: booted_s as f64 + stat.started_ticks / ticks,
        cpu_s: stat.cpu_ticks / ticks,
        resident_bytes: stat.resident_pages * page_size() as u64,
        virtual_bytes: stat.virtual_bytes,
    })
}

/// The pid in the container's own namespace, which is one below ours.
fn inner_pid(status: &str) -> Option<i32> {
    line(status, "NSpid:")?.split_whitespace().nth(1)?.parse().ok()
}

/// A parent outside of the container (the agent) is 0, as inside.
fn parent(pid: i32) -> i32 {
    fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|status| inner_pid(&status)).unwrap_or_default()
}

fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// Arguments separated by zero bytes, as one line.
fn words(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    text.trim_end_matches('\0').replace('\0', " ")
}

/// A device number of /proc/PID/stat as ps(1) names it.
fn terminal(device: u32) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        CONSOLES => format!("tty{minor}"),
        major if PTY_SLAVES.contains(&major) => format!("pts/{}", (major - PTY_SLAVES.start()) * 256 + minor),
        _ => "?".into(),
    }
}

/// What is taken of /proc/PID/stat (proc(5)).
struct Stat {
    name: String,
    state: String,
    parent: i32,
    terminal: u32,
    cpu_ticks: f64,
    started_ticks: f64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// The name is in parentheses, and may have parentheses and blanks itself.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.split_once('(')?;
        let (name, rest) = rest.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc(5) counts from 1, and pid and name are gone.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number: usize| field(number)?.parse::<f64>().ok();
        Some(Stat {
            name: name.into(),
            state: field(3)?.into(),
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse::<i32>().ok()? as u32,
            cpu_ticks: ticks(14)? + ticks(15)?,
            started_ticks: ticks(22)?,
            virtual_bytes: field(23)?.parse().ok()?,
            resident_pages: field(24)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let text = "7 (a) R 1 (b) S 3 7 7 34816 7 0 0 0 0 0 150 50 0 0 20 0 1 0 4200 8192 2 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state.as_str(), stat.parent), ("a) R 1 (b", "S", 3));
        assert_eq!((stat.cpu_ticks, stat.started_ticks), (200.0, 4200.0));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (8192, 2));
        assert_eq!(terminal(stat.terminal), "pts/0");
    }

    #[test]
    fn a_line_that_ends_early_is_no_process() {
        assert!(Stat::parse("7 (sh) S 1").is_none());
    }

    #[test]
    fn terminals_have_their_names() {
        assert_eq!([0, 4 << 8 | 1, 137 << 8 | 3].map(terminal), ["?", "tty1", "pts/259"]);
    }

    #[test]
    fn the_pid_is_the_one_inside() {
        assert_eq!(inner_pid("Name:\tsh\nNSpid:\t412\t7\n"), Some(7));
        assert_eq!(inner_pid("NSpid:\t1\n"), None);
    }

    #[test]
    fn arguments_become_one_line() {
        assert_eq!(words(b"sleep\x00100\x00"), "sleep 100");
    }
}
