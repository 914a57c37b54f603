//! fork(2) into namespaces and a cgroup, by one clone3(2). The agent has one thread, so the child may do as it likes.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// <linux/sched.h>; the constant of the libc crate is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub struct Child {
    pub pid: Pid,
    /// Readable once the child has ended.
    pub pidfd: OwnedFd,
}

/// Runs `body` in a child with new namespaces (`CLONE_NEW*`), in `cgroup` from its first instruction.
/// The child ends with the status that `body` returns, unless that executes something else.
pub fn spawn(
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> rustix::io::Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all fields are integers for which 0 means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of everything, and there is one
    // thread, so that no lock is held for ever in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        // SAFETY: _exit(2) runs no destructor: what the parent owns stays the parent's.
        0 => unsafe { libc::_exit(body()) },
        pid if pid > 0 => {
            let pid = Pid::from_raw(pid as i32).ok_or(Errno::SRCH)?;
            // SAFETY: the kernel has stored a new descriptor, of which nobody else knows.
            Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
    }
}
