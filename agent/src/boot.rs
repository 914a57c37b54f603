//! From the kernel's first instruction in user space to the agent's channel.
//!
//! Only what HELLO needs comes before HELLO: the other modules are loaded while the host reads it.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};

use crate::announcements::Announcements;
use crate::channel::port::Port;
use crate::container::cgroup;
use crate::device;
use crate::failure::{During, Result, reason};
use crate::network;

const MODULES: &str = "/modules";
const AUTOPROBE: &str = "/sys/bus/virtio/drivers_autoprobe";
/// Names of modules that are loaded when they are needed, in load order.
const ON_DEMAND: &str = "/modules/on-demand";
/// Modules that the channel needs, with all that comes before them; either may be built in.
const CHANNEL_MODULES: [&str; 2] = ["virtio_pci.ko", "virtio_console.ko"];

/// Modules still to be loaded, in load order.
pub struct Modules(Vec<String>);

/// Mounts what the agent needs and opens its channel.
pub fn boot() -> Result<(Port, Modules)> {
    leave_rootfs().during("leave the initial file system's root")?;
    mount("devtmpfs", "/dev", MountFlags::NOSUID)?;
    mount("sysfs", "/sys", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
    let announcements = Announcements::open().during("listen to the kernel's announcements")?;
    let mut order = names(&format!("{MODULES}/order"));
    let needed = order.iter().rposition(|name| CHANNEL_MODULES.contains(&name.as_str())).map_or(0, |last| last + 1);
    let rest = order.split_off(needed);
    load_and_remove(&order);
    disable_autoprobe(); // once more, for a kernel with the bus built in and no module before it
    device::bind_console().during("bind the console's driver")?;
    let port = Port::open(&announcements).during("open the channel to the host")?;
    Ok((port, Modules(rest)))
}

impl Modules {
    /// Loads what is left, and mounts what requests need.
    pub fn finish(self) -> Result<()> {
        load_and_remove(&self.0);
        disable_autoprobe();
        mount("proc", "/proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
        // The first process is what the guest can least do without.
        device::write_attribute("/proc/self/oom_score_adj", b"-1000").during("exempt the agent from the OOM killer")?;
        mount("cgroup2", "/sys/fs/cgroup", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
        network::prepare().during("bring up the loopback interface")?;
        cgroup::enable_controllers()
    }
}

/// Loads what a boot leaves out, unless that has been done.
pub fn load_on_demand() {
    load_and_remove(&names(ON_DEMAND));
    let _ = fs::remove_dir_all(MODULES);
}

fn names(list: &str) -> Vec<String> {
    fs::read_to_string(list).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// pivot_root(2) refuses to work from the kernel's own first mount: puts a copy of it on top and enters that.
fn leave_rootfs() -> rustix::io::Result<()> {
    let root = rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    rustix::mount::move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")
}

fn mount(kind: &str, target: &str, flags: MountFlags) -> Result<()> {
    let _ = rustix::fs::mkdir(target, Mode::from_raw_mode(0o755)); // there already, or the mount tells
    rustix::mount::mount(kind, target, kind, flags, None).during(format_args!("mount {target}"))
}

/// Loading a driver must bind nothing: set as soon as the bus is there, before any driver is.
fn disable_autoprobe() {
    if Path::new(AUTOPROBE).exists() {
        let _ = device::write_attribute(AUTOPROBE, b"0");
    }
}

/// Loads modules, and frees their files' memory.
fn load_and_remove(names: &[String]) {
    for name in names {
        let path = format!("{MODULES}/{name}");
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if let Err(errno) = file.and_then(|file| rustix::system::finit_module(file, c"", 0)) {
            // What misses it will say so, to the user whose request it was.
            if errno != rustix::io::Errno::EXIST {
                eprintln!("atoll-agent: module {name} does not load: {}", reason(errno));
            }
        }
        let _ = fs::remove_file(&path);
        if name == "virtio.ko" {
            disable_autoprobe();
        }
    }
}
