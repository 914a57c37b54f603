//! The only file system that this process has: the exports, and links to its own descriptors.
//!
//! ```text
//! /exports/0, 1, ...   mounts of what is exported, read-only where it is to be
//! /proc/self/fd        by which the passthrough opens a file that it holds by an O_PATH descriptor
//! ```
//!
//! The root is left by pivot_root(2) and everything else is unmounted, so that neither `..` nor a symbolic link nor a
//! directory that moves meanwhile leads out. As another user than root all of that happens in a user namespace, in
//! which that user is root and the only user there is.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;

use crate::exports::Export;
use crate::failure::{During, Failure, Result};

/// What the guest's root directory is.
pub const EXPORTS: &str = "/exports";
/// The passthrough opens it, and reads it for a way of naming files that it is not told to use.
const MOUNT_LIST: &str = "proc/self/mountinfo";
const DESCRIPTORS: &str = "proc/self/fd";

/// Whether the users of the guest are the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identities {
    Host,
    /// All are the one who runs this process.
    One,
}

/// Leaves the host's file systems for one that holds `exports` alone.
pub fn enter(exports: &[Export]) -> Result<Identities> {
    let identities = unshare()?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).during("separate its mounts from the host's")?;
    let mounts: Vec<OwnedFd> = exports.iter().map(mount_of).collect::<Result<_>>()?;
    let descriptors = clone_tree(Path::new("/proc/self/fd"), false).during("mount /proc/self/fd")?;
    let root = new_root().during("make a root file system")?;
    for (number, mount) in mounts.iter().enumerate() {
        let target = format!("exports/{number}");
        place(mount.as_fd(), root.as_fd(), &target).during(format_args!("mount export {number}"))?;
    }
    attach(descriptors.as_fd(), root.as_fd(), DESCRIPTORS).during("mount /proc/self/fd")?;
    let nothing = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    set_attributes(root.as_fd(), nothing, false).during("make the root read-only")?;
    pivot(root.as_fd()).during("enter the root")?;
    Ok(identities)
}

/// Closes every descriptor but standard ones and `socket`: those of the exports are ways back to the host's mounts.
pub fn keep_only(socket: OwnedFd, exports: Vec<Export>) -> io::Result<OwnedFd> {
    drop(exports);
    let socket = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
    let number = socket.as_raw_fd() as libc::c_uint;
    for (first, last) in [(3, number.saturating_sub(1)), (number + 1, libc::c_uint::MAX)] {
        // SAFETY: nothing that is closed here has an owner: all owners were dropped, or never dropped later.
        if first <= last && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

fn unshare() -> Result<Identities> {
    let user = rustix::process::geteuid();
    let group = rustix::process::getegid();
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    let identities = if user.is_root() { Identities::Host } else { Identities::One };
    if identities == Identities::One {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: there is one thread, and it shares nothing that it would lose.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .during("enter namespaces of its own (as another user than root that needs user namespaces)")?;
    if identities == Identities::One {
        let what = "become root in a user namespace";
        fs::write("/proc/self/setgroups", "deny").during(what)?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw())).during(what)?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw())).during(what)?;
    }
    Ok(identities)
}

/// A copy of the mount that an export is on, with everything that is mounted below, attached nowhere.
///
/// A descriptor from before the namespaces cannot be copied, so it is found again by its path, and compared.
fn mount_of(export: &Export) -> Result<OwnedFd> {
    let what = "find an export again";
    let link = format!("/proc/self/fd/{}", export.descriptor.as_raw_fd());
    let path = rustix::fs::readlinkat(CWD, &link, Vec::new()).during(what)?;
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let what = format!("mount {}", path.display());
    let mount = clone_tree(path, true).during(&what)?;
    let (opened, found) =
        (rustix::fs::fstat(&export.descriptor).during(&what)?, rustix::fs::fstat(&mount).during(&what)?);
    if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) {
        return Err(Failure(format!("cannot {what}: it has been moved or replaced meanwhile")));
    }
    let read_only = if export.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    set_attributes(mount.as_fd(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only, true).during(&what)?;
    Ok(mount)
}

fn clone_tree(path: &Path, everything: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if everything {
        flags |= OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    rustix::mount::open_tree(CWD, path, flags)
}

/// A small file system with the directories that mounts go to, on top of the root.
fn new_root() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "size", "1m")?;
    rustix::mount::fsconfig_set_string(&context, "mode", "755")?;
    rustix::mount::fsconfig_create(&context)?;
    let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::mount::move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for directory in ["exports", "proc", "proc/self", DESCRIPTORS] {
        rustix::fs::mkdirat(&root, directory, Mode::from_raw_mode(0o755))?;
    }
    make_file(root.as_fd(), MOUNT_LIST)?;
    Ok(root)
}

fn place(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &str) -> io::Result<()> {
    match FileType::from_raw_mode(rustix::fs::statat(mount, "", AtFlags::EMPTY_PATH)?.st_mode) {
        FileType::Directory => rustix::fs::mkdirat(root, target, Mode::from_raw_mode(0o755))?,
        _ => make_file(root, target)?,
    }
    Ok(attach(mount, root, target)?)
}

fn make_file(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o444)).map(drop)
}

fn attach(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &str) -> rustix::io::Result<()> {
    rustix::mount::move_mount(mount, "", root, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: u64, everything: bool) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if everything { libc::AT_RECURSIVE } else { 0 };
    let (path, wanted) = (c"".as_ptr(), &raw const wanted);
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is an empty string, the structure has the size that goes with it.
    match unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), path, flags, wanted, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn pivot(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one, where the next line takes it off: see pivot_root(2).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}
