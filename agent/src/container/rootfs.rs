//! What the container's first process makes of its new namespaces: its root and all that is mounted in it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountAttrFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::root::ROOT;
use super::share::{self, Exports};
use super::{files, mount};
use crate::failure::{During, Result};
use crate::message::{Profile, Start};
use crate::process::launch::INIT;

const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Where file systems are put together that are moved into the root when there is one.
const STAGE: &str = "/stage";
pub const STAGED: [&str; 3] = ["/proc", "/dev", "/sys"];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Puts everything that depends on no root and on no container on a stage: the file systems that the kernel provides.
pub fn prepare(profile: &Profile) -> Result<()> {
    // SAFETY: nothing here relies on the cgroup namespace being the agent's.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }.during("make a cgroup namespace")?;
    for directory in [STAGE, ROOT] {
        fs::create_dir_all(directory).during("make a stage")?;
    }
    mount_system(profile)?;
    make_devices()?;
    for path in profile.readonly_paths.iter().filter(|path| is_staged(path)) {
        mount::read_only(STAGE, path)?;
    }
    for path in profile.masked_paths.iter().filter(|path| is_staged(path)) {
        mount::mask(STAGE, path)?;
    }
    Ok(())
}

/// Files, by target, ready to be mounted in the root.
pub type Files = Vec<(String, OwnedFd)>;

/// Makes the namespaces what `start` asks for, and gathers what the agent's root has before that is left.
pub fn dress(start: &Start) -> Result<Files> {
    rustix::system::sethostname(start.hostname.as_bytes()).during("set the host name")?;
    if !start.domainname.is_empty() {
        rustix::system::setdomainname(start.domainname.as_bytes()).during("set the domain name")?;
    }
    for (name, value) in &start.sysctls {
        mount::sysctl(name, value)?;
    }
    if start.profile.privileged {
        add_devices(&gather_devices(Path::new("/dev")))?;
    }
    gather_files(start)
}

/// Enters `root` and makes it what `start` asks for; it becomes read-only last. `share` has what the host shows, `volumes`
/// are in the order of the mounts.
pub fn enter(
    start: &Start,
    files: Files,
    root: BorrowedFd<'_>,
    share: Option<OwnedFd>,
    mut volumes: impl Iterator<Item = OwnedFd>,
) -> Result<()> {
    let exports = share.map_or(Ok(Exports::new()), |share| share::exports(share.as_fd(), &start.mounts))?;
    attach_root(root).during("enter the container's root")?;
    for directory in STAGED {
        mount::relocate(&format!("{STAGE}{directory}"), &format!("{ROOT}{directory}"))?;
    }
    pivot().during("enter the container's root")?;
    for mount in &start.mounts {
        match mount.kind.as_str() {
            mount::VOLUME => mount::volume(mount, volumes.next())?,
            mount::SHARE => mount::export(mount, exports.get(&mount.source).map(AsFd::as_fd))?,
            _ => mount::requested(mount)?,
        }
    }
    for (target, mount) in &files {
        mount::file(mount.as_fd(), target)?;
    }
    let working_dir = mount::resolve(Path::new("/"), Path::new(&start.process.working_dir));
    let working_dir = working_dir.during("resolve the working directory")?;
    fs::create_dir_all(&working_dir).during(format_args!("make the working directory {}", working_dir.display()))?;
    for path in start.profile.readonly_paths.iter().filter(|path| !is_staged(path)) {
        mount::read_only("", path)?;
    }
    for path in start.profile.masked_paths.iter().filter(|path| !is_staged(path)) {
        mount::mask("", path)?;
    }
    if start.root.read_only || start.root.writable.is_none() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open the root")?;
        mount::make_read_only(root.as_fd(), false).during("make the root read-only")?;
    }
    Ok(())
}

/// Every target that `enter` mounts something on: what the image lacks of them, it makes.
pub fn mount_points(start: &Start) -> Vec<String> {
    let mounted = start.mounts.iter().map(|mount| mount.target.clone());
    let init = start.init.then(|| INIT.to_owned());
    STAGED.map(str::to_owned).into_iter().chain(mounted).chain(start.files.keys().cloned()).chain(init).collect()
}

fn is_staged(path: &str) -> bool {
    STAGED.iter().any(|directory| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')))
}

/// The files of the request on a tmpfs of the container's own, and the init of `--init`, ready to be attached.
fn gather_files(start: &Start) -> Result<Files> {
    let mut gathered = Vec::new();
    if !start.files.is_empty() {
        mount::own("tmpfs", files::DIRECTORY, &[("size", "4m"), ("mode", "755")], MountAttrFlags::MOUNT_ATTR_NODEV)?;
    }
    for (number, (target, content)) in start.files.iter().enumerate() {
        let path = files::path(number);
        fs::write(&path, content).during(format_args!("write {target}"))?;
        gathered.push((target.clone(), mount::bind(&path).during(format_args!("write {target}"))?));
    }
    if start.init {
        let binary = mount::bind("/init").during("provide the init process")?;
        mount::make_read_only(binary.as_fd(), false).during("provide the init process")?;
        gathered.push((INIT.into(), binary));
    }
    Ok(gathered)
}

fn attach_root(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let directory = rustix::fs::open(ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(root, directory.as_fd())
}

fn pivot() -> rustix::io::Result<()> {
    rustix::process::chdir(ROOT)?;
    // The old root ends up on top of the new one, from where it is taken off.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn mount_system(profile: &Profile) -> Result<()> {
    let nothing = mount::NOTHING;
    let no_suid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let no_suid_exec = no_suid | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let shm_bytes = profile.shm_bytes.to_string();
    let system = if profile.privileged { nothing } else { nothing | MountAttrFlags::MOUNT_ATTR_RDONLY };
    let own = |kind: &str, target: &str, options: &[(&str, &str)], attributes| {
        mount::own(kind, &format!("{STAGE}{target}"), options, attributes)
    };
    own("proc", "/proc", &[], nothing)?;
    let dev = no_suid | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    own("tmpfs", "/dev", &[("mode", "755"), ("size", "65536k")], dev)?;
    let terminals = [("gid", "5"), ("mode", "0620"), ("ptmxmode", "0666")];
    own("devpts", "/dev/pts", &terminals, no_suid_exec)?;
    own("tmpfs", "/dev/shm", &[("mode", "1777"), ("size", &shm_bytes)], nothing)?;
    own("mqueue", "/dev/mqueue", &[], nothing)?;
    own("sysfs", "/sys", &[], system)?;
    own("cgroup2", "/sys/fs/cgroup", &[], system)
}

struct Device {
    path: PathBuf,
    mode: u32,
    number: u64,
}

fn make_devices() -> Result<()> {
    let mask = rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let number = rustix::fs::makedev(major, minor);
        let path = Path::new(STAGE).join("dev").join(name);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
            .during(format_args!("make /dev/{name}"))?;
    }
    rustix::process::umask(mask);
    for (target, link) in LINKS {
        symlink(target, format!("{STAGE}{link}")).during(format_args!("make {link}"))?;
    }
    Ok(())
}

fn add_devices(devices: &[Device]) -> Result<()> {
    let mask = rustix::process::umask(Mode::empty());
    for Device { path, mode, number } in devices {
        let path = &PathBuf::from(format!("{STAGE}{}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).during(format_args!("make {}", parent.display()))?;
        }
        let (kind, mode) = (FileType::from_raw_mode(*mode), Mode::from_raw_mode(*mode));
        match rustix::fs::mknodat(CWD, path, kind, mode, *number) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).during(format_args!("make {}", path.display())),
        }
    }
    rustix::process::umask(mask);
    Ok(())
}

/// Every device of the guest, for a privileged container; not the agent's own channel and console.
fn gather_devices(directory: &Path) -> Vec<Device> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let kind = metadata.file_type();
        let name = entry.file_name();
        let ours = ["vport", "console", "ptmx"].iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()));
        if kind.is_dir() {
            found.extend(gather_devices(&path));
        } else if (kind.is_char_device() || kind.is_block_device()) && !ours {
            found.push(Device { path, mode: metadata.mode(), number: metadata.rdev() });
        }
    }
    found
}
