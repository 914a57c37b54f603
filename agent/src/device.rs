//! Virtio devices by the PCI slot that the host gave them; drivers are bound when they are needed.
//!
//! A template is made with the drivers bound that every container needs; its clones find them so, and are told what
//! has changed behind them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Code, Failure, Result, reason};
use crate::message::Extent;

const DEVICES: &str = "/sys/bus/virtio/devices";
const DRIVERS: &str = "/sys/bus/virtio/drivers";
pub const CONSOLE: &str = "virtio_console";
const NETWORK: &str = "virtio_net";
/// Drivers that no start waits for: bound in the background once the container runs.
const BACKGROUND: [&str; 3] = ["virtio_rng", "virtio_balloon", "virtio_mem"];
/// Bound while a template is made, and bound in every clone: of what they read at the time, a clone's disk changes only
/// its size (see [`partition`]), and its memory is announced.
const OF_TEMPLATES: [&str; 4] = ["virtio_blk", "virtio_rng", "virtio_balloon", "virtio_mem"];

/// The driver for a virtio device type (virtio 1.2, section 5).
fn driver(device_type: &str) -> Option<&'static str> {
    Some(match device_type {
        "0x0001" => NETWORK,
        "0x0002" => "virtio_blk",
        "0x0003" => CONSOLE,
        "0x0004" => "virtio_rng",
        "0x0005" => "virtio_balloon",
        "0x0018" => "virtio_mem",
        _ => return None,
    })
}

fn devices() -> Vec<PathBuf> {
    fs::read_dir(DEVICES).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn driver_of(device: &Path) -> Option<&'static str> {
    driver(fs::read_to_string(device.join("device")).ok()?.trim_end())
}

fn is_bound(device: &Path) -> bool {
    device.join("driver").exists()
}

/// Writes to a file of sysfs, procfs or cgroupfs in one write(2), keeping the kernel's own error.
pub fn write_attribute(path: impl AsRef<Path>, value: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path.as_ref(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, value).map(drop)
}

fn bind_device(device: &Path) -> rustix::io::Result<()> {
    if is_bound(device) {
        return Ok(());
    }
    let driver = driver_of(device).ok_or(Errno::NODEV)?;
    let name = device.file_name().ok_or(Errno::NODEV)?;
    write_attribute(Path::new(DRIVERS).join(driver).join("bind"), name.as_encoded_bytes())
}

/// Binds the console driver to every device that has use for it: the agent's channel.
pub fn bind_console() -> rustix::io::Result<()> {
    devices().iter().filter(|device| driver_of(device) == Some(CONSOLE)).try_for_each(|device| bind_device(device))
}

/// Binds what nobody waits for; meant for a process of its own, since some of it takes long.
pub fn bind_in_background() {
    for device in devices() {
        if driver_of(&device).is_some_and(|driver| BACKGROUND.contains(&driver)) {
            let _ = bind_device(&device); // a device that does not come up is not missed
        }
    }
}

/// Whether something is still to be bound in the background; not so in a clone.
pub fn has_background() -> bool {
    devices()
        .iter()
        .any(|device| driver_of(device).is_some_and(|driver| BACKGROUND.contains(&driver)) && !is_bound(device))
}

/// Binds what a template is made with.
pub fn bind_for_template() -> Result<()> {
    for device in devices() {
        if driver_of(&device).is_some_and(|driver| OF_TEMPLATES.contains(&driver)) {
            bind_device(&device).map_err(|errno| {
                Failure::new(Code::AgentFailed, format!("cannot bind {}: {}", device.display(), reason(errno)))
            })?;
        }
    }
    Ok(())
}

/// The nodes of disks that are bound, by slot: they stay as long as the guest lives, so a clone need not look again.
static NODES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// Binds the disk in slot `pci`, unless it is bound, and returns its node, e.g. `/dev/vda`.
pub fn disk(pci: &str) -> Result<PathBuf> {
    let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(node) = nodes.get(pci) {
        return Ok(node.clone());
    }
    let node = bind_disk(pci)?;
    nodes.insert(pci.to_owned(), node.clone());
    Ok(node)
}

fn bind_disk(pci: &str) -> Result<PathBuf> {
    let failure = |what: &str| Failure::new(Code::AgentFailed, format!("no disk in PCI slot {pci}: {what}"));
    let device = virtio_device(pci).ok_or_else(|| failure("no virtio device there"))?;
    bind_device(&device).map_err(|errno| failure(&reason(errno)))?;
    let block = entry_with_prefix(&device.join("block"), "vd").ok_or_else(|| failure("not a block device"))?;
    let node = Path::new("/dev").join(block.file_name().unwrap_or_default());
    // What the kernel may have taken for a table is a file system's content, and an image's to choose.
    forget_partitions(&node).map_err(|errno| failure(&reason(errno)))?;
    Ok(node)
}

/// The node of partition `number` of `disk`, which lies at `extent`: there is no table on the disk, we say where it is.
///
/// The driver of a clone was bound to a disk that was larger than any can be, so that every extent is within it.
pub fn partition(disk: &Path, number: u32, extent: Extent) -> Result<PathBuf> {
    change_partition(disk, BLKPG_ADD_PARTITION, number, extent).map_err(|errno| {
        let disk = disk.display();
        Failure::new(Code::AgentFailed, format!("cannot add partition {number} of {disk}: {}", reason(errno)))
    })?;
    Ok(PathBuf::from(format!("{}{number}", disk.display())))
}

/// Forgets all partitions of `disk` and what was read of it: another disk may be put behind it.
pub fn forget_content(disk: &Path) -> rustix::io::Result<()> {
    const BLKFLSBUF: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 97);
    let fd = rustix::fs::open(disk, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: BLKFLSBUF takes no argument.
    unsafe { rustix::ioctl::ioctl(&fd, rustix::ioctl::NoArg::<BLKFLSBUF>::new()) }?;
    forget_partitions(disk)
}

fn forget_partitions(disk: &Path) -> rustix::io::Result<()> {
    let entries = Path::new("/sys/class/block").join(disk.file_name().unwrap_or_default());
    for entry in fs::read_dir(entries).into_iter().flatten().flatten() {
        let number = fs::read_to_string(entry.path().join("partition")).ok();
        if let Some(number) = number.and_then(|number| number.trim_end().parse().ok()) {
            change_partition(disk, BLKPG_DEL_PARTITION, number, Extent { offset_bytes: 0, size_bytes: 0 })?;
        }
    }
    Ok(())
}

/// <linux/blkpg.h>
const BLKPG: libc::Ioctl = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_DEL_PARTITION: libc::c_int = 2;

/// `struct blkpg_ioctl_arg`
#[repr(C)]
struct Change {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const Partition,
}

/// `struct blkpg_partition`
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

fn change_partition(disk: &Path, operation: libc::c_int, number: u32, extent: Extent) -> rustix::io::Result<()> {
    let fd = rustix::fs::open(disk, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let partition = Partition {
        start: extent.offset_bytes as i64,
        length: extent.size_bytes as i64,
        number: number as libc::c_int,
        names: [0; 128],
    };
    let length = size_of::<Partition>() as libc::c_int;
    let change = Change { operation, flags: 0, length, partition: &raw const partition };
    // SAFETY: both structures are what the request takes, and outlive it.
    match unsafe { libc::ioctl(fd.as_raw_fd(), BLKPG, &raw const change) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

/// The slots of all network devices, in order.
pub fn network_devices() -> Vec<String> {
    let slot = |device: PathBuf| Some(fs::canonicalize(device).ok()?.parent()?.file_name()?.to_str()?.to_owned());
    let mut slots: Vec<String> =
        devices().into_iter().filter(|device| driver_of(device) == Some(NETWORK)).filter_map(slot).collect();
    slots.sort();
    slots
}

/// Binds the network device in slot `pci`, unless it is bound, and returns the name of its interface.
pub fn network(pci: &str) -> Result<String> {
    let failure = |what: &str| Failure::new(Code::AgentFailed, format!("no network device in PCI slot {pci}: {what}"));
    let device = virtio_device(pci).ok_or_else(|| failure("no virtio device there"))?;
    bind_device(&device).map_err(|errno| failure(&reason(errno)))?;
    let interface = entry_with_prefix(&device.join("net"), "").ok_or_else(|| failure("it has no interface"))?;
    Ok(interface.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn virtio_device(pci: &str) -> Option<PathBuf> {
    entry_with_prefix(&Path::new("/sys/bus/pci/devices").join(pci), "virtio")
}

fn entry_with_prefix(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())))
}
