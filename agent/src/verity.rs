//! Disks that are verified while they are read: dm-verity, by the device mapper's own interface.
//!
//! <linux/dm-ioctl.h>; the target: https://docs.kernel.org/admin-guide/device-mapper/verity.html.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::boot;
use crate::failure::{Code, During, Failure, Result};

const CONTROL: &str = "/dev/mapper/control";
const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;

const DEV_CREATE: libc::Ioctl = request(3);
const DEV_REMOVE: libc::Ioctl = request(4);
const DEV_SUSPEND: libc::Ioctl = request(6);
const TABLE_LOAD: libc::Ioctl = request(9);
const READ_ONLY: u32 = 1;

/// `_IOWR(0xfd, number, struct dm_ioctl)`
const fn request(number: libc::Ioctl) -> libc::Ioctl {
    3 << 30 | (size_of::<Header>() as libc::Ioctl) << 16 | 0xfd << 8 | number
}

/// `struct dm_ioctl`
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`, and the target's parameters behind it.
#[repr(C)]
struct Table {
    first_sector: u64,
    sectors: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; 512],
}

#[repr(C)]
struct Message {
    header: Header,
    table: Table,
}

/// A verified view of a disk, until it is closed.
pub struct Verified {
    name: String,
    pub node: PathBuf,
}

impl Verified {
    /// A read-only device `name` that shows `data`, of which every block is as `root`, by way of `tree`, says.
    pub fn open(name: &str, data: &Path, data_bytes: u64, tree: &Path, root: &[u8]) -> Result<Verified> {
        let what = format!("verify {}", data.display());
        if !Path::new(CONTROL).exists() {
            boot::load_on_demand();
        }
        if !Path::new(CONTROL).exists() {
            let message = "the guest's kernel cannot verify an image: choose one with dm-verity, or leave out --verify";
            return Err(Failure::new(Code::StartFailed, message));
        }
        let control = control().during(&what)?;
        let device = call(&control, DEV_CREATE, name, 0, None).during(&what)?;
        // From here on its end removes it.
        let verified = Verified { name: name.into(), node: PathBuf::from(format!("/dev/dm-{}", minor(device))) };
        let (blocks, root) = (data_bytes / BLOCK_BYTES, hexadecimal(root));
        let parameters =
            format!("1 {} {} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} 0 sha256 {root} -", data.display(), tree.display());
        let table = table(blocks * BLOCK_BYTES / SECTOR_BYTES, &parameters).during(&what)?;
        call(&control, TABLE_LOAD, name, READ_ONLY, Some(table)).during(&what)?;
        // Without the flag that suspends, this resumes.
        call(&control, DEV_SUSPEND, name, 0, None).during(&what)?;
        Ok(verified)
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        if let Err(errno) = control().and_then(|control| call(&control, DEV_REMOVE, &self.name, 0, None)) {
            eprintln!("atoll-agent: cannot remove {}: {errno}", self.node.display());
        }
    }
}

fn control() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn call(
    control: &OwnedFd,
    request: libc::Ioctl,
    name: &str,
    flags: u32,
    table: Option<Table>,
) -> rustix::io::Result<u64> {
    let header = Header {
        version: [4, 0, 0],
        data_size: size_of::<Message>() as u32,
        data_start: offset_of!(Message, table) as u32,
        target_count: u32::from(table.is_some()),
        open_count: 0,
        flags,
        event_nr: 0,
        padding: 0,
        device: 0,
        name: text(name).ok_or(Errno::NAMETOOLONG)?,
        uuid: [0; 129],
        data: [0; 7],
    };
    let mut message = Message { header, table: table.unwrap_or(EMPTY) };
    // SAFETY: the request reads and writes `data_size` bytes, which is the whole message.
    match unsafe { libc::ioctl(control.as_raw_fd(), request, &raw mut message) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(message.header.device),
    }
}

const EMPTY: Table = Table { first_sector: 0, sectors: 0, status: 0, next: 0, kind: [0; 16], parameters: [0; 512] };

fn table(sectors: u64, parameters: &str) -> rustix::io::Result<Table> {
    let kind = text("verity").ok_or(Errno::NAMETOOLONG)?;
    let parameters = text(parameters).ok_or(Errno::NAMETOOLONG)?;
    Ok(Table { sectors, kind, parameters, ..EMPTY })
}

/// `text` with zeros behind it, at least one.
fn text<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    bytes.get_mut(..text.len()).filter(|_| text.len() < LENGTH)?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

/// The minor number in what <linux/kdev_t.h> calls huge.
fn minor(device: u64) -> u64 {
    device & 0xff | (device >> 12) & 0xfff00
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Header>(), offset_of!(Table, parameters)), (312, 40));
        assert_eq!(DEV_CREATE, 0xc138_fd03);
    }

    #[test]
    fn a_text_keeps_a_zero_behind_it() {
        assert_eq!(text::<4>("abc"), Some(*b"abc\0"));
        assert_eq!(text::<3>("abc"), None);
    }

    #[test]
    fn numbers_are_taken_apart() {
        assert_eq!(minor(0xfd03), 3);
        assert_eq!(minor(0x0010_fd03), 0x103);
        assert_eq!(hexadecimal(&[0, 0xab]), "00ab");
    }
}
