//! Files and directories of the host: one FUSE file system, whose server is on the host.
//!
//! Requests go over a port of their own (`org.atoll.share`), as the kernel makes them; replies come back the same way. The
//! server shows what the host exports as `/0`, `/1` and so on (`share/` in the repository). Mounted only when a
//! container wants it: a template never has it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};

use super::mount;
use crate::channel::port;
use crate::failure::{During, Failure, Result};
use crate::message::Mount;
use crate::process::spawn;

mod pump;

const DEVICE: &str = "/dev/fuse";
/// Where the container's first process has it while its parts are found.
const PLACE: &str = "/share";
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// How long requests that nobody waits for any more, of programs that have ended, may still take.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Mounts of what is exported, by number, attached nowhere.
pub type Exports = BTreeMap<String, OwnedFd>;

pub struct Share {
    /// Keeps the file system when the container's mounts are gone.
    mount: OwnedFd,
    /// Where the kernel counts the requests that are under way.
    waiting: String,
}

impl Share {
    /// Mounts it, attached nowhere, and has a process pass requests and replies on.
    pub fn open() -> Result<Share> {
        let what = "show the host's directories";
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Failure::start(format!(
                "cannot {what}: the guest's kernel has no module fuse; choose another with 'atoll system kernel set'"
            )),
            errno => Failure::start(format!("cannot {what}: {errno}")),
        })?;
        let port = port::find(port::SHARE)
            .ok_or_else(|| Failure::start(format!("cannot {what}: this machine has no port for them")))?;
        let port = port::open(&port).during(what)?;
        let mount = mount_device(device.as_fd()).during(what)?;
        let waiting = format!("{CONNECTIONS}/{}/waiting", number_of(mount.as_fd()).during(what)?);
        // Already there when this guest has had a container before.
        let _ = rustix::mount::mount("fusectl", CONNECTIONS, "fusectl", MountFlags::NOSUID, None);
        // From now on the device is the pump's alone: the file system breaks off when that ends.
        spawn::spawn(0, None, || pump::run(device.as_fd(), port.as_fd())).during(what)?;
        Ok(Share { mount, waiting })
    }

    pub fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Lets it go, once all that programs have written (through maps of files, too) is on its way to the host.
    pub fn close(self) {
        let deadline = Instant::now() + PATIENCE;
        let is_busy = || fs::read_to_string(&self.waiting).is_ok_and(|count| count.trim_end() != "0");
        while is_busy() && Instant::now() < deadline {
            sleep(LOOK_AGAIN);
        }
    }
}

fn mount_device(device: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let descriptor = device.as_raw_fd().to_string();
    let most = pump::DATA.to_string();
    let options = [
        ("fd", descriptor.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        ("max_read", &most),
        ("allow_other", ""),
        // This kernel decides who may what, by the modes and owners that the host's files have.
        ("default_permissions", ""),
    ];
    mount::file_system("fuse", "share", &options, MountAttrFlags::empty())
}

/// The number of the file system's connection, known without asking its server.
fn number_of(mount: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(mount, "", flags, StatxFlags::BASIC_STATS).map(|status| status.stx_dev_minor)
}

/// A mount for each export that `mounts` names. For a process that has a mount namespace of its own.
pub fn exports(share: BorrowedFd<'_>, mounts: &[Mount]) -> Result<Exports> {
    let what = "show the host's directories";
    fs::create_dir_all(PLACE).during(what)?;
    let place = rustix::fs::open(PLACE, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    mount::attach(share, place.during(what)?.as_fd()).during(what)?;
    let wanted =
        mounts.iter().filter(|mount| mount.is_share() && mount.source.bytes().all(|byte| byte.is_ascii_digit()));
    wanted
        .map(|wanted| {
            let export = mount::bind(Path::new(PLACE).join(&wanted.source));
            Ok((wanted.source.clone(), export.during(format_args!("mount {}", wanted.target))?))
        })
        .collect()
}
