//! Who a process runs as: Docker's `name|uid[:group|gid]`, looked up in the image's own files.
//!
//! The rules are those of moby/sys `user.GetExecUser`: a number need not be listed, a name must be.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::failure::{Failure, Result};

/// No sane image comes near it; a hostile one must not fill the guest's memory.
const FILE_MAX: u64 = 8 << 20;
/// Non-blocking: the image may have a FIFO there, whose other end nobody opens.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The user that `specification` names, by the files of the root that this process is in.
pub fn look_up(specification: &str, additional: &[String]) -> Result<User> {
    find(specification, additional, &read("/etc/passwd"), &read("/etc/group"))
}

/// The accounts of the root that `root` is, whoever asks: links are followed inside it only.
pub fn accounts_of(root: BorrowedFd<'_>) -> String {
    let resolved = rustix::fs::openat2(root, "etc/passwd", FLAGS, Mode::empty(), ResolveFlags::IN_ROOT);
    contents(resolved.ok().map(File::from))
}

fn read(path: &str) -> String {
    contents(rustix::fs::open(path, FLAGS, Mode::empty()).ok().map(File::from))
}

/// A file that is missing, or is no plain file, has no entries.
fn contents(file: Option<File>) -> String {
    let mut bytes = Vec::new();
    let file = file.filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()));
    if let Some(file) = file {
        let _ = file.take(FILE_MAX).read_to_end(&mut bytes); // what was read counts
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find(specification: &str, additional: &[String], passwd: &str, group: &str) -> Result<User> {
    let (user_part, group_part) = specification.split_once(':').unwrap_or((specification, ""));
    let mut user = User { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() };
    let user_id = id(user_part);
    let account = accounts(passwd).find(|account| match user_part {
        "" => account.uid == user.uid,
        name => account.name == name || user_id == Some(account.uid),
    });
    match (&account, user_id) {
        (Some(account), _) => {
            user.uid = account.uid;
            user.gid = account.gid;
            user.home = account.home.into();
        }
        (None, Some(uid)) => user.uid = uid,
        (None, None) if user_part.is_empty() => {}
        (None, None) => {
            let message = format!("unable to find user {user_part}: no matching entries in passwd file");
            return Err(Failure::start(message));
        }
    }
    if !group_part.is_empty() {
        user.gid = find_group(group_part, group)?;
    } else if let Some(account) = account {
        let is_member = |group: &Group<'_>| group.members.split(',').any(|member| member == account.name);
        user.groups.extend(groups(group).filter(is_member).map(|group| group.gid));
    }
    for name in additional {
        let gid = find_group(name, group)?;
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    if user.home.is_empty() {
        user.home = "/".into();
    }
    Ok(user)
}

fn find_group(name: &str, group: &str) -> Result<u32> {
    let group_id = id(name);
    let listed = groups(group).find(|group| group.name == name || group_id == Some(group.gid));
    listed
        .map(|group| group.gid)
        .or(group_id)
        .ok_or_else(|| Failure::start(format!("unable to find group {name}: no matching entries in group file")))
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id: &u32| id <= i32::MAX as u32 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default().trim() })
    })
}

/// The name that `passwd` has for `uid`.
pub fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    accounts(passwd).find(|account| account.uid == uid).map(|account| account.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken line\nalice:x:1000:1000:A:/home/alice:/bin/sh\n\
                          7:x:70:71::/seven:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:alice,bob\naudio:x:29:alice\nalice:x:1000:\nseven:x:71:7\n";

    fn found(specification: &str) -> User {
        find(specification, &[], PASSWD, GROUP).unwrap()
    }

    fn message(specification: &str, additional: &[&str]) -> String {
        let additional: Vec<String> = additional.iter().map(|name| name.to_string()).collect();
        find(specification, &additional, PASSWD, GROUP).unwrap_err().message
    }

    #[test]
    fn nobody_named_is_root() {
        assert_eq!(found(""), User { uid: 0, gid: 0, groups: vec![], home: "/root".into() });
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let alice = User { uid: 1000, gid: 1000, groups: vec![10, 29], home: "/home/alice".into() };
        assert_eq!(found("alice"), alice);
        assert_eq!(found("1000"), alice);
    }

    #[test]
    fn a_named_group_replaces_the_supplementary_ones() {
        assert_eq!(found("alice:audio"), User { groups: vec![], gid: 29, ..found("alice") });
        assert_eq!(found("alice:4242").gid, 4242);
    }

    #[test]
    fn a_number_need_not_be_listed() {
        assert_eq!(found("4000"), User { uid: 4000, gid: 0, groups: vec![], home: "/".into() });
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert_eq!(message("nosuch", &[]), "unable to find user nosuch: no matching entries in passwd file");
        assert_eq!(message("alice:nosuch", &[]), "unable to find group nosuch: no matching entries in group file");
        assert_eq!(message("", &["nosuch"]), "unable to find group nosuch: no matching entries in group file");
        assert_eq!(message("-1", &[]), "unable to find user -1: no matching entries in passwd file");
        assert_eq!(message("4294967295", &[]), "unable to find user 4294967295: no matching entries in passwd file");
    }

    #[test]
    fn additional_groups_are_added_once() {
        let additional = ["wheel".to_string(), "99".to_string()];
        assert_eq!(find("alice", &additional, PASSWD, GROUP).unwrap().groups, [10, 29, 99]);
    }

    #[test]
    fn an_image_without_the_files_has_root() {
        assert_eq!(find("", &[], "", "").unwrap(), User { uid: 0, gid: 0, groups: vec![], home: "/".into() });
    }
}
