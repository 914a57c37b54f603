//! Requests, results and events: the mirror of `src/atoll/model/agent.py`.
//!
//! A struct travels as a MessagePack map by field name; a missing field has its default.

mod request;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use request::{FileRequest, Request};

pub const PROTOCOL: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Hello<'a> {
    pub protocol: u32,
    pub agent_version: &'a str,
    pub kernel: &'a str,
}

#[derive(Debug, Deserialize)]
pub struct Disk {
    pub pci: String,
}

/// Where a layer lies on the image's disk.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Extent {
    pub offset_bytes: u64,
    pub size_bytes: u64,
}

/// What verifies a layer, on the same disk.
#[derive(Debug, Deserialize)]
pub struct HashTree {
    pub place: Extent,
    pub root: ByteBuf,
}

#[derive(Debug, Deserialize)]
pub struct Root {
    pub image: Disk,
    pub layers: Vec<Extent>,
    /// One for each layer, or none at all.
    #[serde(default)]
    pub trees: Vec<HashTree>,
    #[serde(default)]
    pub writable: Option<Disk>,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Deserialize)]
pub struct Mount {
    pub target: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub source: String,
    #[serde(default)]
    pub options: Vec<String>,
    /// Where a volume lies.
    #[serde(default)]
    pub disk: Option<Disk>,
    #[serde(default)]
    pub extent: Option<Extent>,
    /// An empty volume gets what the image has at the target.
    #[serde(default)]
    pub fill: bool,
}

impl Mount {
    /// Whether it is a file or directory of the host: `source` is its number there.
    pub fn is_share(&self) -> bool {
        self.kind == crate::container::mount::SHARE
    }
}

#[derive(Debug, Deserialize)]
pub struct Rlimit {
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    pub memory_swap_bytes: Option<i64>,
    pub cpu_quota_us: Option<u64>,
    pub cpu_period_us: u64,
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub pids: Option<i64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: None,
            memory_swap_bytes: None,
            cpu_quota_us: None,
            cpu_period_us: 100_000,
            cpu_shares: None,
            cpuset_cpus: None,
            pids: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal { rows: 24, columns: 80 }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stdio {
    pub stdin: Option<u32>,
    pub stdout: Option<u32>,
    pub stderr: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub struct Process {
    pub arguments: Vec<String>,
    #[serde(default)]
    pub environment: Vec<String>,
    #[serde(default = "slash")]
    pub working_dir: String,
    #[serde(default)]
    pub user: String,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    #[serde(default)]
    pub oom_score_adj: i32,
    #[serde(default)]
    pub terminal: Option<Terminal>,
    #[serde(default)]
    pub stdio: Stdio,
}

fn slash() -> String {
    "/".into()
}

/// A network device as the container has it; addresses have prefix lengths.
#[derive(Debug, Deserialize)]
pub struct Interface {
    pub pci: String,
    pub name: String,
    pub mac: String,
    pub addresses: Vec<String>,
    #[serde(default)]
    pub gateways: Vec<String>,
    #[serde(default = "ethernet")]
    pub mtu: u32,
}

fn ethernet() -> u32 {
    1500
}

#[derive(Debug, Deserialize)]
pub struct Start {
    pub hostname: String,
    #[serde(default)]
    pub domainname: String,
    pub entropy: ByteBuf,
    pub clock_ns: u64,
    /// Memory that the host adds to what the guest was booted with.
    #[serde(default)]
    pub growth_bytes: u64,
    pub root: Root,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub files: BTreeMap<String, ByteBuf>,
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: Limits,
    pub profile: Profile,
    #[serde(default)]
    pub init: bool,
    /// Everything is put together, and the process does not run: somebody wants to look at the files.
    #[serde(default)]
    pub hold: bool,
    /// All but the last step is done: the process begins when the host asks for `proceed`.
    #[serde(default)]
    pub waits: bool,
    pub process: Process,
}

/// What has a say in the file systems that the kernel provides; most containers have the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Profile {
    #[serde(default)]
    pub masked_paths: Vec<String>,
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    #[serde(default)]
    pub privileged: bool,
    pub shm_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Started<'a> {
    pub pid: i32,
    pub steps: &'a [Step],
}

/// A part of a start, and when it was done: microseconds since the request was read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub done_us: u64,
}

#[derive(Debug, Deserialize)]
pub struct Exec {
    pub id: String,
    pub process: Process,
}

#[derive(Debug, Deserialize)]
pub struct Signal {
    pub id: String,
    pub signal: i32,
    #[serde(default)]
    pub everyone: bool,
}

#[derive(Debug, Deserialize)]
pub struct Resize {
    pub id: String,
    pub rows: u16,
    pub columns: u16,
}

#[derive(Debug, Deserialize)]
pub struct Connect {
    pub interface: Interface,
    #[serde(default)]
    pub files: BTreeMap<String, ByteBuf>,
}

#[derive(Debug, Deserialize)]
pub struct Disconnect {
    pub pci: String,
    #[serde(default)]
    pub files: BTreeMap<String, ByteBuf>,
}

#[derive(Debug, Serialize)]
pub struct ProcessList {
    pub rows: Vec<ProcessRow>,
}

#[derive(Debug, Serialize)]
pub struct ProcessRow {
    pub pid: i32,
    pub parent_pid: i32,
    pub user: String,
    pub command: String,
    pub name: String,
    pub state: String,
    pub terminal: String,
    pub started_s: f64,
    pub cpu_s: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Statistics {
    pub cpu_usage_us: u64,
    pub cpu_user_us: u64,
    pub cpu_system_us: u64,
    pub online_cpus: u32,
    pub throttled_periods: u64,
    pub throttled_us: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub memory_file_bytes: u64,
    pub memory_anonymous_bytes: u64,
    pub memory_inactive_file_bytes: u64,
    pub memory_limit_bytes: u64,
    pub guest_memory_total_bytes: u64,
    pub guest_memory_available_bytes: u64,
    pub pids: u64,
    pub block_read_bytes: u64,
    pub block_write_bytes: u64,
    pub oom_kills: u64,
}

#[derive(Debug, Deserialize)]
pub struct StatPath {
    pub path: String,
}

#[derive(Debug, Deserialize)]
pub struct ReadArchive {
    pub path: String,
    pub stream: u32,
}

#[derive(Debug, Deserialize)]
pub struct WriteArchive {
    pub path: String,
    pub stream: u32,
    #[serde(default)]
    pub no_overwrite_dir_non_dir: bool,
}

#[derive(Debug, Deserialize)]
pub struct ReadStream {
    pub stream: u32,
}

#[derive(Debug, Deserialize)]
pub struct ReadChanges {
    pub stream: u32,
    #[serde(default)]
    pub freeze: bool,
}

#[derive(Debug, Serialize)]
pub struct PathStat {
    pub name: String,
    pub size_bytes: u64,
    /// As Go's `FileMode` has it.
    pub mode: u32,
    pub mtime_s: i64,
    pub mtime_ns: u32,
    pub link_target: String,
}

#[derive(Debug, Serialize)]
pub struct Exited<'a> {
    pub id: &'a str,
    pub code: i32,
    pub out_of_memory: bool,
}

#[derive(Debug, Serialize)]
pub struct Error<'a> {
    pub code: &'a str,
    pub message: &'a str,
}
