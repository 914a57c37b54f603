//! Files into a tar stream: PAX, so that nothing is too long or too large, with extended attributes and hard links.
//!
//! What changes while it is read is told as it was when it was opened; what goes away meanwhile is left out.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::sparse::{self, SparseMap};
use super::{failed, lookup};
use crate::container::rootfs::STAGED;
use crate::failure::Result;

const BUFFER_BYTES: usize = 64 << 10;
/// What octal numbers in a header's fields can tell; what is more goes into a record of its own.
const ID_MAX: u64 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;
const NAME_MAX: usize = 100;
/// The most that the kernel has of a value, and of all names of a file together (<linux/limits.h>).
const ATTRIBUTE_BYTES: usize = 64 << 10;
/// overlayfs's own bookkeeping.
const OVERLAY: &[u8] = b"trusted.overlay.";
const XATTR_RECORD: &str = "SCHILY.xattr.";

/// Writes what `path` names, as `docker cp` packs it: everything below the path's own last name.
pub fn path(path: &str, output: File) -> Result<()> {
    let absolute = lookup::absolute(path);
    let name = lookup::base(&absolute).as_bytes().to_vec();
    let mut packer = Packer::new(output);
    packer.tree(Path::new(&absolute), name, &mut |path| !STAGED.iter().any(|staged| path == Path::new(staged)))?;
    packer.finish()
}

/// Writes the whole root; what is mounted in it is not seen from here.
pub fn root(output: File) -> Result<()> {
    let mut packer = Packer::new(output);
    packer.children(Path::new("/"), b"", &mut |_| true)?;
    packer.finish()
}

/// The names in a directory, in order; none when it has gone.
pub fn names(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(format_args!("read {}", directory.display()), error))?,
    };
    let mut names: Vec<PathBuf> = entries.filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name()))).collect();
    names.sort_unstable();
    Ok(names)
}

/// Names and values of the extended attributes that are the file's own; none where there can be none.
pub fn own_attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let names = listed_attributes(path);
    let own = names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && !name.starts_with(OVERLAY));
    own.filter_map(|name| Some((name.to_vec(), attribute(path, name)?))).collect()
}

/// The value of an extended attribute.
pub fn attribute(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    let mut value = vec![0; ATTRIBUTE_BYTES];
    let length = rustix::fs::lgetxattr(path, &name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

fn listed_attributes(path: &Path) -> Vec<u8> {
    let mut names = vec![0; ATTRIBUTE_BYTES];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or_default();
    names.truncate(length);
    names
}

pub struct Packer {
    tar: Builder<BufWriter<File>>,
    /// The first name of every file that has several.
    links: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Packer {
    pub fn new(output: File) -> Packer {
        Packer { tar: Builder::new(BufWriter::with_capacity(BUFFER_BYTES, output)), links: BTreeMap::new() }
    }

    /// Adds what is at `path` and everything below it; a directory for which `enters` says no is added empty.
    pub fn tree(&mut self, path: &Path, name: Vec<u8>, enters: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(format_args!("read {}", path.display()), error)),
        };
        self.add(path, &name, &metadata)?;
        if metadata.is_dir() { self.children(path, &name, enters) } else { Ok(()) }
    }

    fn children(&mut self, path: &Path, name: &[u8], enters: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        for child in names(path)? {
            let path = path.join(&child);
            let name = joined(name, child.as_os_str());
            if enters(&path) {
                self.tree(&path, name, enters)?;
            } else if let Ok(metadata) = fs::symlink_metadata(&path) {
                self.add(&path, &name, &metadata)?;
            }
        }
        Ok(())
    }

    /// Adds one entry; a socket is none, as everywhere.
    pub fn add(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Result<()> {
        match self.try_add(path, name, metadata) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| failed(format_args!("read {}", path.display()), error)),
        }
    }

    /// Adds an empty file that says something by its name.
    pub fn add_marker(&mut self, name: &[u8], metadata: &Metadata) -> Result<()> {
        let mut entry = Entry::new(name, metadata);
        entry.header.set_mode(0);
        entry.write(&mut self.tar, &mut io::empty()).map_err(|error| failed("write a marker", error))
    }

    pub fn finish(self) -> Result<()> {
        let written = self.tar.into_inner().and_then(|mut output| output.flush());
        written.map_err(|error| failed("write the archive", error))
    }

    fn try_add(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut entry = Entry::new(name, metadata);
        if metadata.nlink() > 1 && !kind.is_dir() {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                entry.set_link(EntryType::Link, first);
                return entry.write(&mut self.tar, &mut io::empty());
            }
            self.links.insert(inode, name.to_vec());
        }
        entry.add_attributes(path);
        if kind.is_file() {
            return self.add_file(path, entry, metadata);
        }
        if kind.is_dir() {
            entry.set_name(&joined(name, OsStr::new("")));
            entry.header.set_entry_type(EntryType::Directory);
        } else if kind.is_symlink() {
            entry.set_link(EntryType::Symlink, &fs::read_link(path)?.into_os_string().into_vec());
        } else if kind.is_fifo() {
            entry.header.set_entry_type(EntryType::Fifo);
        } else {
            entry.header.set_entry_type(if kind.is_block_device() { EntryType::Block } else { EntryType::Char });
            entry.header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            entry.header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        entry.write(&mut self.tar, &mut io::empty())
    }

    fn add_file(&mut self, path: &Path, mut entry: Entry, metadata: &Metadata) -> io::Result<()> {
        // What was a file a moment ago may be a link or a FIFO by now: neither is followed or waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let opened = file.metadata()?;
        if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) || !opened.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let size = opened.size();
        if let Some(map) = SparseMap::of(&file, &opened)? {
            let (head, data_bytes) = map.head();
            entry.add_records(map.records(&entry.name));
            entry.set_size(head.len() as u64 + data_bytes);
            return entry.write(&mut self.tar, &mut head.as_slice().chain(sparse::Data::new(&file, &map)));
        }
        entry.set_size(size);
        entry.write(&mut self.tar, &mut (&mut file).take(size).chain(io::repeat(0)).take(size))
    }
}

fn joined(name: &[u8], child: &OsStr) -> Vec<u8> {
    let slash: &[u8] = if name.is_empty() || name.ends_with(b"/") { b"" } else { b"/" };
    [name, slash, child.as_bytes()].concat()
}

/// An entry's header, and the records before it.
struct Entry {
    header: Header,
    name: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(name: &[u8], metadata: &Metadata) -> Entry {
        let mut entry = Entry { header: Header::new_ustar(), name: Vec::new(), records: Vec::new() };
        entry.header.set_entry_type(EntryType::Regular);
        entry.header.set_mode(metadata.mode() & 0o7777);
        entry.set_size(0);
        entry.set_name(name);
        for (id, record) in [(metadata.uid(), "uid"), (metadata.gid(), "gid")] {
            let shown = if u64::from(id) > ID_MAX { 0 } else { u64::from(id) };
            match record {
                "uid" => entry.header.set_uid(shown),
                _ => entry.header.set_gid(shown),
            }
            if u64::from(id) > ID_MAX {
                entry.records.push((record.into(), id.to_string().into_bytes()));
            }
        }
        // Whole seconds, as Docker's archives have them, and all that a layer's disk can show.
        match u64::try_from(metadata.mtime()) {
            Ok(mtime) if mtime <= SIZE_MAX => entry.header.set_mtime(mtime),
            _ => entry.records.push(("mtime".into(), metadata.mtime().to_string().into_bytes())),
        }
        entry
    }

    fn set_name(&mut self, name: &[u8]) {
        self.records.retain(|(record, _)| record != "path");
        if !fill(&mut self.header.as_old_mut().name, name) {
            self.records.push(("path".into(), name.to_vec()));
        }
        self.name = name.to_vec();
    }

    fn set_link(&mut self, kind: EntryType, target: &[u8]) {
        self.header.set_entry_type(kind);
        if !fill(&mut self.header.as_old_mut().linkname, target) {
            self.records.push(("linkpath".into(), target.to_vec()));
        }
    }

    fn set_size(&mut self, size: u64) {
        self.records.retain(|(record, _)| record != "size");
        self.header.set_size(size.min(SIZE_MAX));
        if size > SIZE_MAX {
            self.records.push(("size".into(), size.to_string().into_bytes()));
        }
    }

    fn add_attributes(&mut self, path: &Path) {
        let named =
            |(name, value): (Vec<u8>, _)| Some((format!("{XATTR_RECORD}{}", String::from_utf8(name).ok()?), value));
        self.records.extend(own_attributes(path).into_iter().filter_map(named));
    }

    fn add_records(&mut self, records: Vec<(String, Vec<u8>)>) {
        self.records.extend(records);
    }

    fn write(mut self, tar: &mut Builder<BufWriter<File>>, content: &mut dyn Read) -> io::Result<()> {
        tar.append_pax_extensions(self.records.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        self.header.set_cksum();
        tar.append(&self.header, content)
    }
}

/// Puts `text` into a field; false when it had to be cut.
fn fill(field: &mut [u8; NAME_MAX], text: &[u8]) -> bool {
    *field = [0; NAME_MAX];
    field.iter_mut().zip(text).for_each(|(place, &byte)| *place = byte);
    text.len() <= NAME_MAX
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

    /// Names with kinds and what they hold or lead to, as another reader sees them.
    fn listed(archive: &Path) -> Vec<(String, EntryType, String)> {
        let mut archive = tar::Archive::new(File::open(archive).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            if let Some(link) = entry.link_name_bytes() {
                content = String::from_utf8_lossy(&link).into_owned();
            }
            (name, entry.header().entry_type(), content)
        });
        entries.collect()
    }

    #[test]
    fn a_tree_is_packed_with_links_and_long_names() {
        let root = scratch("pack");
        let (tree, long) = (root.join("tree"), "n".repeat(200));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("a"), "content").unwrap();
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
        symlink("/etc/passwd", tree.join("link")).unwrap();
        fs::write(tree.join("sub").join(&long), "deep").unwrap();
        let archive = root.join("archive.tar");
        let mut packer = Packer::new(File::create(&archive).unwrap());
        packer.tree(&tree, b"x".to_vec(), &mut |_| true).unwrap();
        packer.finish().unwrap();
        let expected = [
            ("x/".into(), EntryType::Directory, "".into()),
            ("x/a".into(), EntryType::Regular, "content".into()),
            ("x/b".into(), EntryType::Link, "x/a".into()),
            ("x/link".into(), EntryType::Symlink, "/etc/passwd".into()),
            ("x/sub/".into(), EntryType::Directory, "".into()),
            (format!("x/sub/{long}"), EntryType::Regular, "deep".into()),
        ];
        assert_eq!(listed(&archive), expected);
        fs::remove_dir_all(root).unwrap();
    }
}
