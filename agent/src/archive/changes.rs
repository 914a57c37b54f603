//! What the container has changed: a list as `docker diff` has it, or a layer as `docker commit` makes one.
//!
//! Read from where overlayfs keeps it, beside the image that it changes: a character device 0:0 stands for what was
//! deleted, an attribute for a directory that shows nothing of the image's.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::MountFlags;

use super::pack::{self, Packer};
use super::{change_root, failed, own_mounts};
use crate::container::{Container, mount, root};
use crate::failure::Result;

/// Where this process has its own views, and what they are called in there.
const VIEWS: &str = "/views";
const UPPER: &str = "/upper";
const LOWER: &str = "/lower";

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// What a start has made for want of it in the image, as paths from the root: no change of the container's.
pub type Made = BTreeSet<PathBuf>;

/// Enters a root with two directories: what was written, and the image that it was written over.
pub fn enter(container: &Container) -> Result<Made> {
    let root = Path::new(root::ROOT);
    let resolved = |target: &String| mount::resolve(root, Path::new(target)).ok();
    let targets = container.mount_points.iter().filter_map(resolved);
    let targets: Vec<_> =
        targets.filter_map(|target| Some(Path::new("/").join(target.strip_prefix(root).ok()?))).collect();
    let views = |name: &str| format!("{VIEWS}{name}");
    own_mounts()?;
    let what = |what: &str| format!("look at {what}");
    let fail = |name: &str, errno: rustix::io::Errno| failed(what(name), errno.into());
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(|errno| fail("the container's files", errno))?;
    fs::create_dir_all(VIEWS).map_err(|error| failed(what("the container's files"), error))?;
    let attach = |source: &str, name: &str, kind: Option<&str>, options: &str| {
        rustix::fs::mkdir(views(name), Mode::from_raw_mode(0o700)).or_else(|errno| match errno {
            rustix::io::Errno::EXIST => Ok(()),
            errno => Err(errno),
        })?;
        let options = std::ffi::CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
        match kind {
            Some(kind) => rustix::mount::mount(source, views(name), kind, MountFlags::RDONLY, Some(options.as_c_str())),
            None => rustix::mount::mount_bind(source, views(name)),
        }
    };
    attach(root::UPPER, UPPER, None, "").map_err(|errno| fail("what was written", errno))?;
    // One layer is seen as it is, several as the container sees them.
    match container.lower() {
        [only] => attach(only, LOWER, None, ""),
        several => attach("overlay", LOWER, Some("overlay"), &format!("lowerdir={}", several.join(":"))),
    }
    .map_err(|errno| fail("the image", errno))?;
    change_root(VIEWS)?;
    Ok(made(&targets))
}

/// Those of `targets` that nobody has touched since a start made them, and directories with nothing else in them.
fn made(targets: &[PathBuf]) -> Made {
    let mut made = Made::new();
    for target in targets {
        let Ok(written) = fs::symlink_metadata(view(UPPER, target)) else { continue };
        let is_empty = match written.is_dir() {
            true => pack::names(&view(UPPER, target)).is_ok_and(|names| names.is_empty()),
            false => written.is_file() && written.size() == 0,
        };
        if is_empty && looks_made(&written) && !exists(LOWER, target) {
            made.insert(target.clone());
        }
    }
    for target in targets {
        for directory in target.ancestors().skip(1).take_while(|directory| *directory != Path::new("/")) {
            let holds_nothing_else = || {
                let names = pack::names(&view(UPPER, directory)).unwrap_or_default();
                !names.is_empty() && names.iter().all(|name| made.contains(&directory.join(name)))
            };
            if made.contains(directory) || !is_as_before(directory) || !holds_nothing_else() {
                break;
            }
            made.insert(directory.into());
        }
    }
    made
}

/// Whether a file or directory is root's, with the mode that a start gives it.
fn looks_made(written: &Metadata) -> bool {
    (written.uid(), written.gid(), written.mode() & 0o7777) == (0, 0, 0o755)
}

/// Whether a directory has the image's owner and mode, or those that a start gives to one that the image lacks.
fn is_as_before(directory: &Path) -> bool {
    let Ok(written) = fs::symlink_metadata(view(UPPER, directory)) else { return false };
    match fs::symlink_metadata(view(LOWER, directory)) {
        Ok(image) => !is_opaque(directory) && has_same_access(&written, &image),
        Err(_) => written.is_dir() && looks_made(&written),
    }
}

fn has_same_access(written: &Metadata, image: &Metadata) -> bool {
    let access = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    access(written) == access(image)
}

/// `path`, which is absolute, in one of the two views.
fn view(name: &str, path: &Path) -> PathBuf {
    Path::new(name).join(path.strip_prefix("/").unwrap_or(path))
}

fn exists(name: &str, path: &Path) -> bool {
    fs::symlink_metadata(view(name, path)).is_ok()
}

fn is_opaque(path: &Path) -> bool {
    pack::attribute(&view(UPPER, path), OPAQUE).is_some_and(|value| value == b"y")
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Writes a byte and a path with a zero byte for each change: `C` changed, `A` added, `D` deleted.
pub fn list(made: &Made, output: File) -> Result<()> {
    let mut list = List { made, output: BufWriter::new(output) };
    list.directory(Path::new("/"), false)?;
    list.output.flush().map_err(|error| failed("write the changes", error))
}

struct List<'a> {
    made: &'a Made,
    output: BufWriter<File>,
}

impl List<'_> {
    /// Goes through a directory that was written to. `is_new`: nothing of the image's shows in it.
    fn directory(&mut self, directory: &Path, is_new: bool) -> Result<()> {
        let names = pack::names(&view(UPPER, directory))?;
        for name in &names {
            let path = directory.join(name);
            let Ok(written) = fs::symlink_metadata(view(UPPER, &path)) else { continue };
            if self.made.contains(&path) {
                continue;
            }
            let image = fs::symlink_metadata(view(LOWER, &path)).ok();
            if is_whiteout(&written) {
                // One in a directory that shows nothing of the image's says nothing.
                if image.is_some() && !is_new {
                    self.tell(b'D', &path)?;
                }
                continue;
            }
            let hides = is_new || is_opaque(&path);
            self.tell(if image.is_some() { b'C' } else { b'A' }, &path)?;
            if written.is_dir() {
                self.directory(&path, hides || !image.is_some_and(|image| image.is_dir()))?;
            }
        }
        if is_new && fs::symlink_metadata(view(LOWER, directory)).is_ok_and(|image| image.is_dir()) {
            for name in pack::names(&view(LOWER, directory))? {
                if !names.contains(&name) {
                    self.tell(b'D', &directory.join(name))?;
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, kind: u8, path: &Path) -> Result<()> {
        let record = [&[kind], path.as_os_str().as_bytes(), &[0]].concat();
        self.output.write_all(&record).map_err(|error| failed("write the changes", error))
    }
}

/// Writes what was written as a layer of an image (OCI image-spec, "Image Layer Filesystem Changeset").
pub fn layer(made: &Made, output: File) -> Result<()> {
    let mut layer = Layer { made, packer: Packer::new(output) };
    let (written, image) = (fs::symlink_metadata(UPPER), fs::symlink_metadata(LOWER));
    if let (Ok(written), Ok(image)) = (written, image)
        && !has_same_access(&written, &image)
    {
        layer.packer.add(Path::new(UPPER), b".", &written)?;
    }
    layer.directory(Path::new("/"))?;
    layer.packer.finish()
}

struct Layer<'a> {
    made: &'a Made,
    packer: Packer,
}

impl Layer<'_> {
    fn directory(&mut self, directory: &Path) -> Result<()> {
        for name in pack::names(&view(UPPER, directory))? {
            let path = directory.join(&name);
            let Ok(written) = fs::symlink_metadata(view(UPPER, &path)) else { continue };
            if self.made.contains(&path) {
                continue;
            }
            if is_whiteout(&written) {
                let marker = [WHITEOUT, name.as_os_str().as_bytes()].concat();
                self.packer.add_marker(&named(directory, &marker), &written)?;
                continue;
            }
            self.packer.add(&view(UPPER, &path), &named(directory, name.as_os_str().as_bytes()), &written)?;
            if written.is_dir() {
                if is_opaque(&path) {
                    self.packer.add_marker(&named(&path, OPAQUE_MARKER), &written)?;
                }
                self.directory(&path)?;
            }
        }
        Ok(())
    }
}

/// A name in the archive: a path without its first slash.
fn named(directory: &Path, name: &[u8]) -> Vec<u8> {
    let path = directory.join(std::ffi::OsStr::from_bytes(name));
    path.strip_prefix("/").unwrap_or(&path).as_os_str().as_bytes().to_vec()
}
