//! The container's root, as the agent sees it: image layers under a writable one, joined by overlayfs.
//!
//! The mounts are the agent's. The container's mount namespace gets a copy of the top one, and
//! when the container has ended the agent takes them apart, so that nothing written is lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Gid, Uid};

use crate::device;
use crate::failure::{Code, During, Failure, Result};
use crate::message;
use crate::verity::Verified;

/// Where the agent has the assembled root.
pub const ROOT: &str = "/container";
const LAYERS: &str = "/layers";
const WRITABLE: &str = "/writable";
/// What the container has written, as overlayfs keeps it.
pub const UPPER: &str = "/writable/upper";

/// noinit_itable: the kernel must not write zeros all over a sparse file in the background. discard: what is deleted goes
/// back to the host with the next commit of the journal.
const EXT4_OPTIONS: &std::ffi::CStr = c"noinit_itable,discard,errors=remount-ro";

/// A volume that only this container reads, or that many do, on a disk that cannot be written: without its journal.
const EXT4_READ_ONLY: &std::ffi::CStr = c"noload";
/// Where volumes are mounted, each below its number.
const VOLUMES: &str = "/volumes";
/// What of a volume's disk containers see: beside it lies what ext4 has for itself (lost+found).
const DATA: &str = "data";

#[derive(Default)]
pub struct Root {
    /// Mount points, the last one made first to go.
    mounted: Vec<String>,
    /// What layers are mounted from, if they are verified: to be closed when they are unmounted.
    verified: Vec<Verified>,
    disks: Vec<UsedDisk>,
    /// Where the image's layers are, the top one first.
    pub lower: Vec<String>,
}

/// A disk that is in use, and how many partitions it has been given.
struct UsedDisk {
    node: PathBuf,
    partitions: u32,
}

impl Root {
    /// Binds the disks' drivers and mounts everything at [`ROOT`]; a copy of the mount, attached nowhere.
    pub fn mount(&mut self, root: &message::Root) -> Result<OwnedFd> {
        if !root.trees.is_empty() && root.trees.len() != root.layers.len() {
            return Err(Failure::new(Code::InvalidRequest, "there is not one hash tree for each layer"));
        }
        let mut trees = root.trees.iter();
        let mut lower = Vec::new();
        for (number, &extent) in (1..).zip(&root.layers) {
            let mut node = self.partition(&root.image, extent)?;
            if let Some(tree) = trees.next() {
                let tree_node = self.partition(&root.image, tree.place)?;
                let name = format!("layer{number}");
                let verified = Verified::open(&name, &node, extent.size_bytes, &tree_node, &tree.root)?;
                node = verified.node.clone();
                self.verified.push(verified);
            }
            let target = format!("{LAYERS}/{number}");
            self.attach(&node, &target, "squashfs", MountFlags::RDONLY, None)?;
            lower.insert(0, target);
        }
        if lower.is_empty() {
            let empty = format!("{LAYERS}/0");
            directory(&empty)?;
            lower.push(empty);
        }
        match &root.writable {
            Some(disk) => {
                let node = device::disk(&disk.pci)?;
                self.disks.push(UsedDisk { node: node.clone(), partitions: 0 });
                self.attach(&node, WRITABLE, "ext4", MountFlags::NOATIME, Some(EXT4_OPTIONS))?;
            }
            // Room for nothing but the mount points that the image lacks; the root becomes read-only later.
            None => self.attach(Path::new("tmpfs"), WRITABLE, "tmpfs", MountFlags::empty(), Some(c"size=1m"))?,
        }
        let work = format!("{WRITABLE}/work");
        directory(UPPER)?;
        directory(&work)?;
        if let Some(top) = lower.first() {
            take_over(top, UPPER)?;
        }
        // What a layer cannot tell (`archive/changes.rs`) must not come about: directories that were renamed, files
        // without their content.
        let options =
            format!("redirect_dir=off,metacopy=off,lowerdir={},upperdir={UPPER},workdir={work}", lower.join(":"));
        self.lower = lower;
        directory(ROOT)?;
        rustix::mount::mount("overlay", ROOT, "overlay", MountFlags::empty(), c_string(&options).as_deref())
            .during("join the image's layers")?;
        self.mounted.push(ROOT.into());
        super::mount::bind(ROOT).during("copy the root's mount")
    }

    /// Mounts the volumes among `mounts`; a copy of each mount, in order, attached nowhere. Those on the `image`'s disk
    /// cannot be written. One that is asked for twice is mounted once.
    pub fn mount_volumes(&mut self, image: &message::Disk, mounts: &[message::Mount]) -> Result<Vec<OwnedFd>> {
        let mut volumes = Vec::new();
        let mut targets = BTreeMap::new();
        for mount in mounts.iter().filter(|mount| mount.kind == super::mount::VOLUME) {
            let what = &format!("mount the volume at {}", mount.target);
            let (Some(disk), Some(extent)) = (&mount.disk, mount.extent) else {
                return Err(Failure::new(Code::InvalidRequest, format!("cannot {what}: no disk is named")));
            };
            let place = (disk.pci.as_str(), extent.offset_bytes);
            let target = match targets.get(&place) {
                Some(target) => target,
                None => {
                    let (flags, options) = match disk.pci == image.pci {
                        true => (MountFlags::RDONLY, EXT4_READ_ONLY),
                        false => (MountFlags::NOATIME, EXT4_OPTIONS),
                    };
                    let node = self.partition(disk, extent)?;
                    let target = format!("{VOLUMES}/{}", volumes.len());
                    self.attach(&node, &target, "ext4", flags, Some(options))?;
                    targets.entry(place).or_insert(target)
                }
            };
            volumes.push(super::mount::bind(format!("{target}/{DATA}")).during(what)?);
        }
        Ok(volumes)
    }

    /// The next partition of `disk`, at `extent`.
    fn partition(&mut self, disk: &message::Disk, extent: message::Extent) -> Result<PathBuf> {
        let node = device::disk(&disk.pci)?;
        let used = match self.disks.iter_mut().find(|used| used.node == node) {
            Some(used) => used,
            None => {
                self.disks.push(UsedDisk { node, partitions: 0 });
                self.disks.last_mut().ok_or_else(|| Failure::new(Code::AgentFailed, "no disk is in use"))?
            }
        };
        used.partitions += 1;
        device::partition(&used.node, used.partitions, extent)
    }

    fn attach(
        &mut self,
        source: &Path,
        target: &str,
        kind: &str,
        flags: MountFlags,
        options: Option<&std::ffi::CStr>,
    ) -> Result<()> {
        directory(target)?;
        rustix::mount::mount(source, target, kind, flags, options)
            .during(format_args!("mount {} as {kind}", source.display()))?;
        self.mounted.push(target.into());
        Ok(())
    }

    /// Takes the mounts apart; what was written is on the disk afterwards.
    pub fn unmount(&mut self) {
        let mut is_busy = false;
        while let Some(target) = self.mounted.pop() {
            if let Err(errno) = rustix::mount::unmount(&target, UnmountFlags::empty()) {
                eprintln!("atoll-agent: cannot unmount {target}: {errno}");
                is_busy = true;
            }
        }
        self.verified.clear();
        if is_busy {
            rustix::fs::sync();
        }
    }

    /// Forgets the disks, once they are unmounted.
    pub fn forget(&mut self) -> Result<()> {
        for UsedDisk { node, .. } in self.disks.drain(..) {
            device::forget_content(&node).during(format_args!("forget the content of {}", node.display()))?;
        }
        Ok(())
    }
}

/// Gives the container's root directory the image's mode and owner: overlayfs shows those of the upper one.
fn take_over(top: &str, upper: &str) -> Result<()> {
    let what = "give the root directory its mode";
    let image = rustix::fs::stat(top).during(what)?;
    let own = rustix::fs::stat(upper).during(what)?;
    if (own.st_uid, own.st_gid) != (image.st_uid, image.st_gid) {
        let (user, group) = (Uid::from_raw(image.st_uid), Gid::from_raw(image.st_gid));
        rustix::fs::chown(upper, Some(user), Some(group)).during(what)?;
    }
    if own.st_mode == image.st_mode {
        return Ok(());
    }
    rustix::fs::chmod(upper, Mode::from_raw_mode(image.st_mode & 0o7777)).during(what)
}

/// Makes a directory, unless it is there: that of a writable disk is, from the host.
fn directory(path: &str) -> Result<()> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).during(format_args!("make {path}"))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o755)).during(format_args!("make {path}"))
}

fn c_string(text: &str) -> Option<std::ffi::CString> {
    std::ffi::CString::new(text).ok()
}
