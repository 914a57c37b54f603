//! Virtio devices by the PCI slot that the host gave them; drivers are bound when they are needed.
//!
//! A device without a driver is what a template is made with: the clone's driver then reads the
//! clone's own capacity and address.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Code, Failure, Result, reason};

const DEVICES: &str = "/sys/bus/virtio/devices";
const DRIVERS: &str = "/sys/bus/virtio/drivers";
pub const CONSOLE: &str = "virtio_console";
/// Drivers that no start waits for: bound in the background once the container runs.
const BACKGROUND: [&str; 3] = ["virtio_rng", "virtio_balloon", "virtio_mem"];

/// The driver for a virtio device type (virtio 1.2, section 5).
fn driver(device_type: &str) -> Option<&'static str> {
    Some(match device_type {
        "0x0001" => "virtio_net",
        "0x0002" => "virtio_blk",
        "0x0003" => CONSOLE,
        "0x0004" => "virtio_rng",
        "0x0005" => "virtio_balloon",
        "0x0009" => "9pnet_virtio",
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

/// Unbinds every virtio device but the console.
pub fn unbind_all() -> Result<()> {
    for device in devices() {
        let Some(name) = device.file_name() else { continue };
        if !is_bound(&device) || driver_of(&device) == Some(CONSOLE) {
            continue;
        }
        write_attribute(device.join("driver/unbind"), name.as_encoded_bytes()).map_err(|errno| {
            Failure::new(Code::AgentFailed, format!("cannot unbind {}: {}", device.display(), reason(errno)))
        })?;
    }
    Ok(())
}

/// Binds the disk in slot `pci` and returns its node, e.g. `/dev/vda`.
pub fn disk(pci: &str) -> Result<PathBuf> {
    let failure = |what: &str| Failure::new(Code::AgentFailed, format!("no disk in PCI slot {pci}: {what}"));
    let slot = Path::new("/sys/bus/pci/devices").join(pci);
    let device = entry_with_prefix(&slot, "virtio").ok_or_else(|| failure("no virtio device there"))?;
    bind_device(&device).map_err(|errno| failure(&reason(errno)))?;
    let block = entry_with_prefix(&device.join("block"), "vd").ok_or_else(|| failure("not a block device"))?;
    Ok(Path::new("/dev").join(block.file_name().unwrap_or_default()))
}

/// The node of partition `number` of `disk`. The kernel reads the table while it binds the driver;
/// a disk that was bound before its content came is read again here.
pub fn partition(disk: &Path, number: u32) -> Result<PathBuf> {
    let node = PathBuf::from(format!("{}{number}", disk.display()));
    if !node.exists() {
        reread_partitions(disk).map_err(|errno| {
            let disk = disk.display();
            Failure::new(Code::AgentFailed, format!("cannot read the partitions of {disk}: {}", reason(errno)))
        })?;
    }
    if node.exists() {
        return Ok(node);
    }
    Err(Failure::new(Code::AgentFailed, format!("the image disk has no partition {number}")))
}

fn reread_partitions(disk: &Path) -> rustix::io::Result<()> {
    const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
    let fd = rustix::fs::open(disk, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: BLKRRPART takes no argument.
    unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::NoArg::<BLKRRPART>::new()) }
}

fn entry_with_prefix(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())))
}
