//! A tar stream into a directory of the container, by Docker's rules for what is there already.
//!
//! Owners are numbers, as in the archive. A symbolic link on the way is followed, as in `tar -x`: this process sees
//! nothing but what the container does.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timestamps, XattrFlags};
use tar::{Archive, Entry, EntryType};

use super::sparse::SparseMap;
use super::{failed, lookup};
use crate::failure::{Code, Failure, Result};

const BUFFER_BYTES: usize = 64 << 10;
const XATTR_RECORD: &str = "SCHILY.xattr.";

/// Extracts the archive that `input` brings into `path`. With `keeps_kind`, a directory never takes the place of
/// anything else, nor anything else that of a directory.
pub fn into(path: &str, input: File, keeps_kind: bool) -> Result<()> {
    let root = PathBuf::from(lookup::absolute(path));
    let metadata = fs::metadata(&root).map_err(|error| failed(format_args!("find {path}"), error))?;
    if !metadata.is_dir() {
        return Err(Failure::new(Code::InvalidRequest, "extraction point is not a directory"));
    }
    rustix::process::umask(Mode::empty());
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    extract(&root, &mut input, keeps_kind)?;
    // What pads an archive beyond its end is no reason to hang up on who sends it.
    let _ = io::copy(&mut input, &mut io::sink());
    Ok(())
}

fn extract(root: &Path, input: &mut impl Read, keeps_kind: bool) -> Result<()> {
    let unreadable = |error| failed("read the archive", error);
    let mut archive = Archive::new(input);
    // A directory gets its time when nothing more is put into it.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let member = Member::of(&mut entry).map_err(unreadable)?;
        let target = inside(root, &member.name)?;
        if target == root || entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let what = || format!("extract {}", member.shown());
        make_parents(&target).map_err(|error| failed(what(), error))?;
        make_room(&target, entry.header().entry_type() == EntryType::Directory, keeps_kind, &member)?;
        let kind = make(root, &target, &mut entry, &member).map_err(|error| failed(what(), error))?;
        member.dress(&target, kind).map_err(|error| failed(what(), error))?;
        if kind == FileType::Directory {
            directories.push((target, member.times));
        }
    }
    for (directory, times) in directories.into_iter().rev() {
        let _ = rustix::fs::utimensat(CWD, &directory, &times, AtFlags::SYMLINK_NOFOLLOW); // may have been replaced
    }
    Ok(())
}

/// Where a name of the archive is below `root`.
fn inside(root: &Path, name: &[u8]) -> Result<PathBuf> {
    let mut path = root.to_path_buf();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let name = String::from_utf8_lossy(name);
                let message = format!("the archive is refused: {name:?} leads out of where it is extracted to");
                return Err(Failure::new(Code::InvalidRequest, message));
            }
            part => path.push(OsString::from_vec(part.to_vec())),
        }
    }
    Ok(path)
}

fn make_parents(target: &Path) -> io::Result<()> {
    match target.parent() {
        Some(parent) if !parent.is_dir() => {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))
        }
        _ => Ok(()),
    }
}

/// Takes away what is where something else is to be.
fn make_room(target: &Path, is_directory: bool, keeps_kind: bool, member: &Member) -> Result<()> {
    let Ok(there) = fs::symlink_metadata(target) else { return Ok(()) };
    if there.is_dir() && is_directory {
        return Ok(());
    }
    if keeps_kind && there.is_dir() != is_directory {
        let (what, by) = if is_directory { ("non-directory", "directory") } else { ("directory", "non-directory") };
        let message = format!("cannot overwrite {what} {:?} with {by} {:?}", target.display(), member.shown());
        return Err(Failure::new(Code::InvalidRequest, message));
    }
    let removed = if there.is_dir() { fs::remove_dir_all(target) } else { fs::remove_file(target) };
    match removed {
        // A file that is mounted there (/etc/hosts) stays, and gets the new content.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && there.is_file() => Ok(()),
        removed => removed.map_err(|error| failed(format_args!("replace {}", target.display()), error)),
    }
}

fn make(root: &Path, target: &Path, entry: &mut Entry<'_, impl Read>, member: &Member) -> io::Result<FileType> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Directory => {
            if !target.is_dir() {
                rustix::fs::mkdir(target, Mode::from_raw_mode(0o700))?;
            }
            return Ok(FileType::Directory);
        }
        EntryType::Symlink => {
            symlink(OsString::from_vec(member.link.clone()), target)?;
            return Ok(FileType::Symlink);
        }
        EntryType::Link => {
            let first = inside(root, &member.link).map_err(|failure| io::Error::other(failure.message))?;
            rustix::fs::linkat(CWD, &first, CWD, target, AtFlags::empty())?;
            // It is dressed already.
            return Ok(FileType::Unknown);
        }
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        EntryType::Fifo => FileType::Fifo,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => FileType::RegularFile,
        other => return Err(io::Error::other(format!("an entry of the unknown kind {:?}", other.as_byte() as char))),
    };
    if kind != FileType::RegularFile {
        let major = header.device_major()?.unwrap_or_default();
        let device = rustix::fs::makedev(major, header.device_minor()?.unwrap_or_default());
        rustix::fs::mknodat(CWD, target, kind, Mode::from_raw_mode(0o600), device)?;
        return Ok(kind);
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(target)?;
    match member.sparse_size {
        Some(size) => SparseMap::read(size, entry)?.restore(entry, &file)?,
        None => drop(io::copy(entry, &mut file)?),
    }
    Ok(kind)
}

/// What an entry says of itself, its records applied.
struct Member {
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    times: Timestamps,
    xattrs: Vec<(String, Vec<u8>)>,
    /// The true size of a file whose content begins with a map.
    sparse_size: Option<u64>,
}

impl Member {
    fn of(entry: &mut Entry<'_, impl Read>) -> io::Result<Member> {
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner's number is too large"));
        let mut member = Member {
            name: Vec::new(),
            link: Vec::new(),
            mode: header.mode()? & 0o7777,
            uid: id(header.uid()?)?,
            gid: id(header.gid()?)?,
            times: timestamps(header.mtime()? as i64, 0),
            xattrs: Vec::new(),
            sparse_size: None,
        };
        let mut sparse_name = None;
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let key = record.key().map_err(io::Error::other)?;
            match key {
                "mtime" => member.times = parse_time(record.value().unwrap_or_default())?,
                "GNU.sparse.realsize" => member.sparse_size = record.value().unwrap_or_default().parse().ok(),
                "GNU.sparse.name" => sparse_name = Some(record.value_bytes().to_vec()),
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR_RECORD) {
                        member.xattrs.push((name.into(), record.value_bytes().to_vec()));
                    }
                }
            }
        }
        member.name = sparse_name.unwrap_or_else(|| entry.path_bytes().into_owned());
        member.link = entry.link_name_bytes().unwrap_or_default().into_owned();
        Ok(member)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Gives a new file its owner, permissions, attributes and time, in the order in which one undoes none of another.
    fn dress(&self, target: &Path, kind: FileType) -> io::Result<()> {
        if kind == FileType::Unknown {
            return Ok(());
        }
        std::os::unix::fs::lchown(target, Some(self.uid), Some(self.gid))?;
        if kind != FileType::Symlink {
            fs::set_permissions(target, fs::Permissions::from_mode(self.mode))?;
        }
        for (name, value) in &self.xattrs {
            let name = CString::new(name.as_str())?;
            match rustix::fs::lsetxattr(target, &name, value, XattrFlags::empty()) {
                // Not every file system has every kind of them.
                Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        rustix::fs::utimensat(CWD, target, &self.times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

fn timestamps(seconds: i64, nanoseconds: i64) -> Timestamps {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

/// Seconds with a fraction, negative ones before 1970.
fn parse_time(text: &str) -> io::Result<Timestamps> {
    let wrong = || io::Error::other(format!("{text:?} is no time"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().map_err(|_| wrong())?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Ok(timestamps(seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Ok(timestamps(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn a_time_before_1970_has_a_fraction_that_goes_back() {
        let parsed = |text| {
            let time = parse_time(text).unwrap().last_modification;
            (time.tv_sec, time.tv_nsec)
        };
        assert_eq!(parsed("-1.5"), (-2, 500_000_000));
        assert_eq!(parsed("-0.25"), (-1, 750_000_000));
        assert_eq!(parsed("12.000000001"), (12, 1));
        assert!(parse_time("soon").is_err());
    }

    /// A directory, and in it an archive of the entries that `fill` appends.
    fn archive(name: &str, fill: impl FnOnce(&mut tar::Builder<File>)) -> (PathBuf, File) {
        let root = std::env::temp_dir().join(format!("atoll-agent-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("into")).unwrap();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
        let mut builder = tar::Builder::new(options.open(root.join("archive.tar")).unwrap());
        fill(&mut builder);
        let mut file = builder.into_inner().unwrap();
        file.rewind().unwrap();
        (root, file)
    }

    fn file_entry(builder: &mut tar::Builder<File>, name: &str, content: &str) {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field.iter_mut().zip(name.as_bytes()).for_each(|(place, &byte)| *place = byte);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }

    #[test]
    fn a_name_that_leads_out_is_refused() {
        let (root, mut file) = archive("out", |builder| file_entry(builder, "../outside", "x"));
        let failure = extract(&root.join("into"), &mut file, false).unwrap_err();
        assert_eq!(failure.code, Code::InvalidRequest);
        assert!(!root.join("outside").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_absolute_name_is_taken_from_where_it_is_extracted_to() {
        let (root, mut file) = archive("absolute", |builder| file_entry(builder, "/a/b", "content"));
        extract(&root.join("into"), &mut file, false).unwrap();
        assert_eq!(fs::read_to_string(root.join("into/a/b")).unwrap(), "content");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_directory_keeps_its_place_when_asked() {
        let (root, mut file) = archive("kinds", |builder| file_entry(builder, "there", "x"));
        fs::create_dir_all(root.join("into/there/deep")).unwrap();
        let failure = extract(&root.join("into"), &mut file, true).unwrap_err();
        assert!(failure.message.starts_with("cannot overwrite directory"), "{}", failure.message);
        file.rewind().unwrap();
        extract(&root.join("into"), &mut file, false).unwrap();
        assert_eq!(fs::read_to_string(root.join("into/there")).unwrap(), "x");
        fs::remove_dir_all(root).unwrap();
    }
}
