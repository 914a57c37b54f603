//! Mounts inside the container's root, made by its first process after pivot_root(2).
//!
//! A file system is made detached (fsmount, open_tree) and then attached to a target that was
//! resolved once. Nothing of the container runs yet, and its root is the process's root already: a
//! symbolic link of the image, wherever it points, stays inside.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::failure::{Code, During, Failure, Result, reason};
use crate::message;

/// As many symbolic links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

pub const NOTHING: MountAttrFlags = MountAttrFlags::from_bits_retain(
    MountAttrFlags::MOUNT_ATTR_NOSUID.bits()
        | MountAttrFlags::MOUNT_ATTR_NODEV.bits()
        | MountAttrFlags::MOUNT_ATTR_NOEXEC.bits(),
);

/// A new file system of type `kind`, attached nowhere yet.
pub fn file_system(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", source)?;
    for &(key, value) in options {
        match value {
            "" => rustix::mount::fsconfig_set_flag(&context, key)?,
            value => rustix::mount::fsconfig_set_string(&context, key, value)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A copy of the mount that `path` is on, with `path` as its root.
pub fn bind(path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path.as_ref(), flags)
}

/// Attaches a detached mount.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Makes a mount, and with `everything` below it, read-only.
pub fn make_read_only(mount: BorrowedFd<'_>, everything: bool) -> rustix::io::Result<()> {
    add_attributes(mount, MountAttrFlags::MOUNT_ATTR_RDONLY, everything)
}

fn add_attributes(mount: BorrowedFd<'_>, added: MountAttrFlags, everything: bool) -> rustix::io::Result<()> {
    // How times are kept is a number, not a set of bits: what is there has to be cleared for another.
    let times = MountAttrFlags::MOUNT_ATTR__ATIME.bits();
    let cleared = if added.bits() & times == 0 { 0 } else { times };
    let attributes = libc::mount_attr {
        attr_set: u64::from(added.bits()),
        attr_clr: u64::from(cleared),
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if everything { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string, the structure has the size that goes with it.
    let result = unsafe {
        let (path, attributes) = (c"".as_ptr(), &raw const attributes);
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path,
            flags,
            attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Mounts a file system of ours on a directory of ours.
pub fn own(kind: &str, target: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<()> {
    let what = &format!("mount {target}");
    match rustix::fs::mkdir(target, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).during(what),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(target, flags, Mode::empty()).during(what)?;
    let mount = file_system(kind, kind, options, attributes).during(what)?;
    attach(mount.as_fd(), directory.as_fd()).during(what)
}

/// The kind of mount that a volume is.
pub const VOLUME: &str = "volume";
/// The kind that a file or directory of the host is.
pub const SHARE: &str = "share";

/// A volume that the request asks for, mounted already: its turn among the other mounts has come.
pub fn volume(mount: &message::Mount, volume: Option<OwnedFd>) -> Result<()> {
    let what = &format!("mount {}", mount.target);
    let missing = || Failure::new(Code::AgentFailed, format!("cannot {what}: the volume is missing"));
    let volume = volume.ok_or_else(missing)?;
    let path = resolve(Path::new("/"), Path::new(&mount.target)).during(what)?;
    let is_in_image = path.is_dir();
    let directory = directory(&path).during(what)?;
    if mount.fill && is_in_image {
        super::fill::fill(&path, volume.as_fd()).during(format_args!("fill the volume at {}", mount.target))?;
    }
    if mount.options.iter().any(|option| option == "ro") {
        make_read_only(volume.as_fd(), false).during(what)?;
    }
    attach(volume.as_fd(), directory.as_fd()).during(what)
}

/// A mount that the request asks for.
pub fn requested(mount: &message::Mount) -> Result<()> {
    let what = &format!("mount {}", mount.target);
    let path = resolve(Path::new("/"), Path::new(&mount.target)).during(what)?;
    let (attributes, mut options) = options(&mount.options);
    // A tmpfs looks like the directory that it covers, as runc has it.
    let mode = fs::metadata(&path).ok().map(|metadata| {
        use std::os::unix::fs::PermissionsExt;
        format!("{:o}", metadata.permissions().mode() & 0o7777)
    });
    if let (Some(mode), "tmpfs", false) = (&mode, mount.kind.as_str(), options.iter().any(|(key, _)| *key == "mode")) {
        options.push(("mode", mode));
    }
    let directory = directory(&path).during(what)?;
    let file_system = file_system(&mount.kind, &mount.source, &options, attributes).during(what)?;
    attach(file_system.as_fd(), directory.as_fd()).during(what)
}

/// Puts a mount of the host's file or directory where the request wants it; the target is made when it is missing.
pub fn export(request: &message::Mount, mount: Option<BorrowedFd<'_>>) -> Result<()> {
    let what = &format!("mount {}", request.target);
    let missing = || Failure::new(Code::InvalidRequest, format!("cannot {what}: the host does not show it"));
    let mount = mount.ok_or_else(missing)?;
    let (attributes, rest) = options(&request.options);
    if let Some((option, _)) = rest.first() {
        return Err(Failure::new(Code::InvalidRequest, format!("cannot {what}: unknown option {option}")));
    }
    add_attributes(mount, attributes, true).during(what)?;
    let status = rustix::fs::statat(mount, "", AtFlags::EMPTY_PATH).during(what)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        return file(mount, &request.target);
    }
    let path = resolve(Path::new("/"), Path::new(&request.target)).during(what)?;
    let is_in_image = path.is_dir();
    let directory = directory(&path).during(what)?;
    if request.fill && is_in_image {
        super::fill::fill(&path, mount).during(format_args!("fill the volume at {}", request.target))?;
    }
    attach(mount, directory.as_fd()).during(what)
}

/// Splits mount options into what the mount has and what the file system is told.
fn options(options: &[String]) -> (MountAttrFlags, Vec<(&str, &str)>) {
    let mut attributes = MountAttrFlags::empty();
    let mut rest = Vec::new();
    for option in options.iter().flat_map(|option| option.split(',')) {
        match option {
            "ro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "rw" => attributes -= MountAttrFlags::MOUNT_ATTR_RDONLY,
            "suid" => attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "dev" => attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
            "exec" => attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            // Nothing propagates anywhere here.
            "" | "relatime" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {}
            other => rest.push(other.split_once('=').unwrap_or((other, ""))),
        }
    }
    (attributes, rest)
}

/// Puts a mounted file where `target` is, which is made when it is missing.
pub fn file(mount: BorrowedFd<'_>, target: &str) -> Result<()> {
    let what = &format!("mount {target}");
    let path = resolve(Path::new("/"), Path::new(target)).during(what)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).during(what)?;
    }
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if !path.exists() {
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o755)).during(what)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(&path, flags, Mode::empty()).during(what)?;
    attach(mount, target.as_fd()).during(what)
}

fn directory(path: &Path) -> std::io::Result<OwnedFd> {
    fs::create_dir_all(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Makes the first process's terminal /dev/console as well.
pub fn console(slave: BorrowedFd<'_>) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(slave, "", flags).during("mount /dev/console")?;
    file(mount.as_fd(), "/dev/console")
}

/// Moves the mount on directory `from` of ours, with all that is mounted in it, to a directory that must not be a link.
pub fn relocate(from: &str, to: &str) -> Result<()> {
    let what = &format!("mount {to}");
    match rustix::fs::mkdir(to, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).during(what),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(to, flags, Mode::empty()).during(what)?;
    rustix::mount::move_mount(CWD, from, &directory, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH).during(what)
}

/// Hides `path` below `root`: a directory behind an empty one, anything else behind /dev/null.
pub fn mask(root: &str, path: &str) -> Result<()> {
    let what = &format!("mask {path}");
    let target = match rustix::fs::open(format!("{root}{path}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno).during(what),
    };
    let mode = rustix::fs::fstat(&target).during(what)?.st_mode;
    let mount = match FileType::from_raw_mode(mode) {
        FileType::Directory => {
            file_system("tmpfs", "tmpfs", &[("size", "0k")], NOTHING | MountAttrFlags::MOUNT_ATTR_RDONLY)
        }
        _ => bind(format!("{root}/dev/null")),
    };
    attach(mount.during(what)?.as_fd(), target.as_fd()).during(what)
}

/// Makes `path` below `root` and everything below it read-only.
pub fn read_only(root: &str, path: &str) -> Result<()> {
    let what = &format!("make {path} read-only");
    let path = &format!("{root}{path}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = match rustix::mount::open_tree(CWD, path, flags) {
        Ok(mount) => mount,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno).during(what),
    };
    make_read_only(mount.as_fd(), true).during(what)?;
    let target = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(what)?;
    attach(mount.as_fd(), target.as_fd()).during(what)
}

/// Where `path` leads under `root`, symbolic links followed as far as there are any; what is
/// missing is taken to be a directory to come. The result lies under `root`, whatever the links say.
pub fn resolve(root: &Path, path: &Path) -> rustix::io::Result<PathBuf> {
    let mut resolved = root.to_path_buf();
    let mut pending: Vec<PathBuf> = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == Path::new("..") {
            if resolved != root {
                resolved.pop();
            }
            continue;
        }
        let candidate = resolved.join(&name);
        match fs::read_link(&candidate) {
            Ok(link) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                if link.is_absolute() {
                    resolved = root.to_path_buf();
                }
                pending.extend(components(&link));
            }
            Err(_) => resolved = candidate,
        }
    }
    Ok(resolved)
}

/// The names of `path`, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    names.collect()
}

/// Writes `value` to the kernel parameter `name`, dots or slashes between its parts.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let name = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if components(Path::new(&name)).contains(&PathBuf::from("..")) {
        return Err(Failure::new(Code::InvalidRequest, format!("{name} is no kernel parameter")));
    }
    crate::device::write_attribute(Path::new("/proc/sys").join(&name), value.as_bytes()).map_err(|errno| {
        Failure::start(format!(
            "cannot set the kernel parameter {} to {value:?}: {}",
            name.replace('/', "."),
            reason(errno)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("atoll-agent-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let root = scratch("links");
        symlink("../../../../etc", root.join("up")).unwrap();
        symlink("/run/absolute", root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let resolved = |path: &str| resolve(&root, Path::new(path));
        assert_eq!(resolved("/up/hosts").unwrap(), root.join("etc/hosts"));
        assert_eq!(resolved("absolute/x").unwrap(), root.join("run/absolute/x"));
        assert_eq!(resolved("/../../a/../b").unwrap(), root.join("b"));
        assert_eq!(resolved("/loop"), Err(Errno::LOOP));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn mount_options_are_told_apart() {
        let given = ["rw,nosuid".to_string(), "size=64m".into(), "mode=1777".into(), "huge".into()];
        let (attributes, rest) = options(&given);
        assert_eq!(attributes, MountAttrFlags::MOUNT_ATTR_NOSUID);
        assert_eq!(rest, [("size", "64m"), ("mode", "1777"), ("huge", "")]);
    }
}
