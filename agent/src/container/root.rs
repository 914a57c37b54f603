//! The container's root, as the agent sees it: image layers under a writable one, joined by overlayfs.
//!
//! The mounts are the agent's. The container's mount namespace gets a copy of the top one, and
//! when the container has ended the agent takes them apart, so that nothing written is lost.

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

/// noinit_itable: the kernel must not write zeros all over a sparse file in the background. discard: what is deleted goes
/// back to the host with the next commit of the journal.
const EXT4_OPTIONS: &std::ffi::CStr = c"noinit_itable,discard,errors=remount-ro";

#[derive(Default)]
pub struct Root {
    /// Mount points, the last one made first to go.
    mounted: Vec<String>,
    /// What layers are mounted from, if they are verified: to be closed when they are unmounted.
    verified: Vec<Verified>,
    disks: Vec<PathBuf>,
}

impl Root {
    /// Binds the disks' drivers and mounts everything at [`ROOT`]; a copy of the mount, attached nowhere.
    pub fn mount(&mut self, root: &message::Root) -> Result<OwnedFd> {
        let image = device::disk(&root.image.pci)?;
        self.disks.push(image.clone());
        if !root.trees.is_empty() && root.trees.len() != root.layers.len() {
            return Err(Failure::new(Code::InvalidRequest, "there is not one hash tree for each layer"));
        }
        let mut lower = Vec::new();
        for (number, &extent) in (1..).zip(&root.layers) {
            let mut node = device::partition(&image, number, extent)?;
            if let Some(tree) = root.trees.get(number as usize - 1) {
                node = self.verify(&image, number, &node, extent, root.layers.len(), tree)?;
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
                self.disks.push(node.clone());
                self.attach(&node, WRITABLE, "ext4", MountFlags::NOATIME, Some(EXT4_OPTIONS))?;
            }
            // Room for nothing but the mount points that the image lacks; the root becomes read-only later.
            None => self.attach(Path::new("tmpfs"), WRITABLE, "tmpfs", MountFlags::empty(), Some(c"size=1m"))?,
        }
        let (upper, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
        directory(&upper)?;
        directory(&work)?;
        if let Some(top) = lower.first() {
            take_over(top, &upper)?;
        }
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
        directory(ROOT)?;
        rustix::mount::mount("overlay", ROOT, "overlay", MountFlags::empty(), c_string(&options).as_deref())
            .during("join the image's layers")?;
        self.mounted.push(ROOT.into());
        super::mount::bind(ROOT).during("copy the root's mount")
    }

    /// The node of a layer that is verified; the trees' partitions are numbered after those of the layers.
    fn verify(
        &mut self,
        image: &Path,
        number: u32,
        layer: &Path,
        extent: message::Extent,
        layers: usize,
        tree: &message::HashTree,
    ) -> Result<PathBuf> {
        let tree_node = device::partition(image, number + layers as u32, tree.place)?;
        let verified = Verified::open(&format!("layer{number}"), layer, extent.size_bytes, &tree_node, &tree.root)?;
        let node = verified.node.clone();
        self.verified.push(verified);
        Ok(node)
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
        for disk in self.disks.drain(..) {
            device::forget_content(&disk).during(format_args!("forget the content of {}", disk.display()))?;
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
