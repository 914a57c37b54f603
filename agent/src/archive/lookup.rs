//! Paths as `docker cp` means them, looked up inside the container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use super::failed;
use crate::container::mount;
use crate::failure::Result;
use crate::message::PathStat;

/// Go's `FileMode` (io/fs), which Docker's API speaks: the kind from above, the permissions as everywhere.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_PIPE: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHARACTER: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;

/// `path` from the root on, without dots in it. A slash or `/.` at its end stays: then what a link leads to is meant.
pub fn absolute(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let clean = format!("/{}", names.join("/"));
    let slash = if names.is_empty() { "" } else { "/" };
    if path == "." || path.ends_with("/.") {
        format!("{clean}{slash}.")
    } else if path.ends_with('/') {
        format!("{clean}{slash}")
    } else {
        clean
    }
}

/// The last name of an absolute path: that of the root is `/`, after `/.` it is a dot.
pub fn base(absolute: &str) -> &str {
    match absolute.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

pub fn stat(path: &str) -> Result<PathStat> {
    let absolute = absolute(path);
    let metadata = fs::symlink_metadata(&absolute).map_err(|error| failed(format_args!("find {path}"), error))?;
    let mut link_target = String::new();
    if metadata.is_symlink() {
        let target = mount::resolve(Path::new("/"), Path::new(&absolute));
        let target = target.map_err(|errno| failed(format_args!("follow {path}"), errno.into()))?;
        link_target = target.to_string_lossy().into_owned();
    }
    Ok(PathStat {
        name: base(&absolute).into(),
        size_bytes: metadata.size(),
        mode: go_mode(metadata.mode()),
        mtime_s: metadata.mtime(),
        mtime_ns: metadata.mtime_nsec() as u32,
        link_target,
    })
}

fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => GO_DIRECTORY,
        FileType::Symlink => GO_SYMLINK,
        FileType::BlockDevice => GO_DEVICE,
        FileType::CharacterDevice => GO_DEVICE | GO_CHARACTER,
        FileType::Fifo => GO_PIPE,
        FileType::Socket => GO_SOCKET,
        _ => 0,
    };
    let bits = [(libc::S_ISUID, GO_SETUID), (libc::S_ISGID, GO_SETGID), (libc::S_ISVTX, GO_STICKY)];
    let special = bits.into_iter().filter(|(bit, _)| mode & bit != 0).fold(0, |found, (_, bit)| found | bit);
    kind | special | mode & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_and_keeps_its_end() {
        let paths =
            [("a/../b", "/b"), ("/a/", "/a/"), ("a/.", "/a/."), (".", "/."), ("../..", "/"), ("", "/"), ("/", "/")];
        for (given, expected) in paths {
            assert_eq!(absolute(given), expected);
        }
    }

    #[test]
    fn the_last_name_is_go_s_base() {
        assert_eq!(["/", "/a/", "/a/b", "/a/.", "/."].map(base), ["/", "a", "b", ".", "."]);
    }

    #[test]
    fn a_mode_is_told_as_go_does() {
        assert_eq!(go_mode(libc::S_IFDIR | 0o1777), GO_DIRECTORY | GO_STICKY | 0o777);
        assert_eq!(go_mode(libc::S_IFREG | 0o4755), GO_SETUID | 0o755);
        assert_eq!(go_mode(libc::S_IFCHR | 0o600), GO_DEVICE | GO_CHARACTER | 0o600);
    }
}
