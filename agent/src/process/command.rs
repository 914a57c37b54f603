//! Which file a command names: found in the container's own $PATH, refused in Docker's words.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::failure::{Code, Failure, Result, reason};

/// What Docker gives a container whose image sets no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `name` names for the present user, in the present root and directory.
pub fn find(name: &str, environment: &[String]) -> Result<PathBuf> {
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Errno::NOENT) => Err(not_found(format!("exec: {name:?}: stat {name}: {}", reason(Errno::NOENT)))),
            Err(Errno::NOTDIR) => Err(not_found(format!("exec: {name:?}: stat {name}: {}", reason(Errno::NOTDIR)))),
            Err(errno) => Err(not_executable(format!("exec: {name:?}: {}", reason(errno)))),
        };
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let directories = path.split(':').map(|directory| if directory.is_empty() { "." } else { directory });
    let candidates = directories.map(|directory| Path::new(directory).join(name));
    let mut found = candidates.filter(|candidate| !name.is_empty() && executable(candidate).is_ok());
    found.next().ok_or_else(|| not_found(format!("exec: {name:?}: executable file not found in $PATH")))
}

/// The failure that execve(2)'s `errno` means for `path`.
pub fn failure(path: &Path, errno: Errno) -> Failure {
    let message = format!("exec {}: {}", path.display(), reason(errno));
    // ENOENT of a file that is there: its interpreter is not. Docker's status is the same.
    if errno == Errno::NOENT { not_found(message) } else { not_executable(message) }
}

fn executable(path: &Path) -> rustix::io::Result<()> {
    let status = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    // Root may execute what has any x bit: the kernel's access check says so, too.
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
}

fn not_found(message: String) -> Failure {
    Failure::new(Code::CommandNotFound, message)
}

fn not_executable(message: String) -> Failure {
    Failure::new(Code::CommandNotExecutable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(value: &str) -> Vec<String> {
        vec![format!("PATH={value}")]
    }

    #[test]
    fn a_plain_name_is_looked_up_in_path() {
        assert_eq!(find("sh", &path("/nosuch:/bin")), Ok("/bin/sh".into()));
        assert_eq!(find("sh", &[]).unwrap().file_name().unwrap(), "sh");
    }

    #[test]
    fn a_missing_command_is_told_in_docker_s_words() {
        let failure = find("nosuch", &path("/bin")).unwrap_err();
        assert_eq!(failure, not_found("exec: \"nosuch\": executable file not found in $PATH".into()));
        let failure = find("/no/such", &[]).unwrap_err();
        assert_eq!(failure, not_found("exec: \"/no/such\": stat /no/such: no such file or directory".into()));
    }

    #[test]
    fn what_is_there_and_cannot_be_executed_is_told_apart() {
        assert_eq!(find("/etc", &[]).unwrap_err(), not_executable("exec: \"/etc\": is a directory".into()));
        let failure = find("/etc/passwd", &[]).unwrap_err();
        assert_eq!(failure, not_executable("exec: \"/etc/passwd\": permission denied".into()));
    }

    #[test]
    fn a_directory_in_path_is_passed_over() {
        assert_eq!(find("etc", &path("/")).unwrap_err().code, Code::CommandNotFound);
    }
}
