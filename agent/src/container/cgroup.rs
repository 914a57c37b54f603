//! The container's cgroup (version 2): limits, members, events.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::device::write_attribute;
use crate::failure::{Code, During, Failure, Result, reason};
use crate::message::Limits;

const HIERARCHY: &str = "/sys/fs/cgroup";
const CONTAINER: &str = "/sys/fs/cgroup/container";
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Enables the controllers for all cgroups to come.
pub fn enable_controllers() -> Result<()> {
    let available = fs::read_to_string(format!("{HIERARCHY}/cgroup.controllers")).unwrap_or_default();
    let wanted = available.split_whitespace().filter(|name| CONTROLLERS.contains(name));
    let wanted: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
    write_attribute(format!("{HIERARCHY}/cgroup.subtree_control"), wanted.join(" ").as_bytes())
        .during("enable the cgroup controllers")
}

pub struct Cgroup {
    directory: OwnedFd,
}

impl Cgroup {
    pub fn create() -> Result<Cgroup> {
        rustix::fs::mkdir(CONTAINER, Mode::from_raw_mode(0o755)).during("make the container's cgroup")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(CONTAINER, flags, Mode::empty()).during("open the container's cgroup")?;
        Ok(Cgroup { directory })
    }

    /// Sets the container's limits.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        settings(limits).iter().try_for_each(|(file, value)| set(file, value))
    }

    /// What clone3(2) puts a new process into.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Removes the container's cgroup, when it has no member any more.
    pub fn remove(self) -> Result<()> {
        rustix::fs::rmdir(CONTAINER).during("remove the container's cgroup")
    }

    /// Stops every process of the container where it is, or lets it go on; `is_frozen` says when it has stopped.
    pub fn freeze(&self, is_wanted: bool) -> Result<()> {
        let value: &[u8] = if is_wanted { b"1" } else { b"0" };
        write_attribute(format!("{CONTAINER}/cgroup.freeze"), value).during("freeze the container")
    }

    /// Kills every process of the container.
    pub fn kill(&self) {
        let _ = write_attribute(format!("{CONTAINER}/cgroup.kill"), b"1"); // absent: the pid namespace does it
    }
}

/// Whether no process of the container moves.
pub fn is_frozen() -> bool {
    field(&read("cgroup.events"), "frozen") == 1
}

/// How often the kernel has killed a process of the container for want of memory.
pub fn out_of_memory_kills() -> u64 {
    let events = read("memory.events");
    field(&events, "oom_kill")
}

/// Every process of the container, of its cgroups' cgroups as well, by the guest's own pids.
pub fn members() -> Vec<i32> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from(CONTAINER)];
    while let Some(directory) = pending.pop() {
        let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        pending.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    found.sort_unstable();
    found
}

/// A file of the container's cgroup; empty when its controller is missing.
pub fn read(file: &str) -> String {
    fs::read_to_string(Path::new(CONTAINER).join(file)).unwrap_or_default()
}

/// The value of `name` in a flat keyed file.
pub fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

fn settings(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        settings.push(("memory.max", bytes.to_string()));
    }
    match (limits.memory_swap_bytes, limits.memory_bytes) {
        (Some(-1), _) => settings.push(("memory.swap.max", "max".into())),
        // Docker counts memory and swap together.
        (Some(total), Some(memory)) => {
            let swap = u64::try_from(total).unwrap_or_default().saturating_sub(memory);
            settings.push(("memory.swap.max", swap.to_string()));
        }
        _ => {}
    }
    if let Some(quota) = limits.cpu_quota_us {
        settings.push(("cpu.max", format!("{quota} {}", limits.cpu_period_us)));
    }
    if let Some(shares) = limits.cpu_shares.filter(|&shares| shares > 0) {
        settings.push(("cpu.weight", weight(shares).to_string()));
    }
    if let Some(cpus) = limits.cpuset_cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
        settings.push(("cpuset.cpus", cpus.clone()));
    }
    match limits.pids {
        Some(count) if count > 0 => settings.push(("pids.max", count.to_string())),
        _ => {}
    }
    settings
}

/// Docker's shares (2 to 262,144) as a weight (1 to 10,000), as runc converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn set(file: &str, value: &str) -> Result<()> {
    match write_attribute(Path::new(CONTAINER).join(file), value.as_bytes()) {
        Ok(()) => Ok(()),
        // No swap accounting in this kernel: nor is there swap in the guest.
        Err(Errno::NOENT) if file == "memory.swap.max" => Ok(()),
        Err(Errno::NOENT) => Err(Failure::new(
            Code::AgentFailed,
            format!("the guest's kernel cannot limit {file}: it lacks the controller"),
        )),
        Err(errno) => {
            Err(Failure::new(Code::InvalidRequest, format!("cannot set {file} to {value}: {}", reason(errno))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_sets_nothing() {
        assert!(settings(&Limits::default()).is_empty());
    }

    #[test]
    fn limits_are_written_as_the_kernel_wants_them() {
        let limits = Limits {
            memory_bytes: Some(1000),
            memory_swap_bytes: Some(1500),
            cpu_quota_us: Some(50_000),
            cpu_shares: Some(1024),
            pids: Some(7),
            ..Limits::default()
        };
        let expected = [
            ("memory.max", "1000"),
            ("memory.swap.max", "500"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "39"),
            ("pids.max", "7"),
        ];
        assert_eq!(settings(&limits), expected.map(|(file, value)| (file, value.to_string())));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        assert_eq!(field("oom 3\noom_kill 2\n", "oom_kill"), 2);
        assert_eq!(field("oom 3\noom_kill 2\n", "oom"), 3);
        assert_eq!(field("", "oom"), 0);
    }
}
