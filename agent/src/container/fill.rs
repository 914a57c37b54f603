//! What a new volume begins with: the content that the image has where the volume is to be mounted.
//!
//! Nothing of the container runs yet, so nobody changes either side meanwhile. Symbolic links are copied, never followed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Copies the directory `source` into `volume`, with its own owner and mode, unless there is something in it.
pub fn fill(source: &Path, volume: BorrowedFd<'_>) -> io::Result<()> {
    let target = PathBuf::from(format!("/proc/self/fd/{}/", volume.as_raw_fd()));
    if fs::read_dir(&target)?.next().is_some() {
        return Ok(());
    }
    copy_directory(source, &target, &mut BTreeMap::new())
}

/// First names of files that have several, by device and inode number.
type Links = BTreeMap<(u64, u64), PathBuf>;

fn copy_directory(source: &Path, target: &Path, links: &mut Links) -> io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        copy(&entry.path(), &target.join(entry.file_name()), links)?;
    }
    copy_attributes(source, target, &fs::symlink_metadata(source)?)
}

fn copy(source: &Path, target: &Path, links: &mut Links) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        fs::create_dir(target)?;
        return copy_directory(source, target, links);
    }
    if metadata.nlink() > 1 {
        let first = links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| target.to_owned());
        if first != target {
            return fs::hard_link(first, target);
        }
    }
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        fs::copy(source, target)?;
    } else {
        let (kind, mode) = (FileType::from_raw_mode(metadata.mode()), Mode::from_raw_mode(metadata.mode()));
        rustix::fs::mknodat(CWD, target, kind, mode, metadata.rdev())?;
    }
    copy_attributes(source, target, &metadata)
}

/// Owner first: a change of it takes capabilities and set-id bits away.
fn copy_attributes(source: &Path, target: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    match lchown(target, Some(metadata.uid()), Some(metadata.gid())) {
        // A directory of the host that is served without root's rights has one owner.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
        result => result?,
    }
    let is_link = metadata.file_type().is_symlink();
    if !is_link {
        fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        copy_extended_attributes(source, target)?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    let flags = if is_link { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    Ok(rustix::fs::utimensat(CWD, target, &times, flags)?)
}

fn copy_extended_attributes(source: &Path, target: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(source, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names.get(..length).unwrap_or_default().split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(source, name, &mut value)?;
        match rustix::fs::lsetxattr(target, name, value.get(..length).unwrap_or_default(), XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn an_empty_volume_gets_a_copy_and_another_stays_as_it_is() {
        let scratch = std::env::temp_dir().join(format!("atoll-agent-{}-fill", std::process::id()));
        let (source, target) = (scratch.join("source"), scratch.join("target"));
        fs::create_dir_all(source.join("directory")).unwrap();
        fs::create_dir_all(&target).unwrap();
        fs::write(source.join("directory/file"), "content").unwrap();
        fs::hard_link(source.join("directory/file"), source.join("other name")).unwrap();
        symlink("/nowhere", source.join("link")).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o1755)).unwrap();

        fill(&source, File::open(&target).unwrap().as_fd()).unwrap();

        assert_eq!(fs::read(target.join("directory/file")).unwrap(), b"content");
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o1755);
        let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!(inode("directory/file"), inode("other name"));

        fs::write(source.join("late"), "").unwrap();
        fill(&source, File::open(&target).unwrap().as_fd()).unwrap();
        assert!(!target.join("late").exists());
        fs::remove_dir_all(scratch).unwrap();
    }
}
