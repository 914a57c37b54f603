//! SIGKILL from a container's first process to itself.
//!
//! The kernel drops a signal that PID 1 of a namespace sends itself: `sh -c 'kill -9 $$'` would go on as
//! if nothing had been said, and end with 0. A seccomp filter hands exactly these calls, and no other, to
//! the agent (seccomp_unotify(2)), which sends the signal from outside, where it counts. A program in the
//! container that wants such a listener of its own gets EBUSY: the kernel allows one for each chain of filters.

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::{fs, io};

use rustix::event::{PollFd, PollFlags};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const FIRST_PID: u32 = 1;
const SIGKILL: u32 = libc::SIGKILL as u32;

/// Where the filter's loads find what (struct seccomp_data).
const NUMBER: u32 = offset_of!(libc::seccomp_data, nr) as u32;
const ARCHITECTURE: u32 = offset_of!(libc::seccomp_data, arch) as u32;
const fn argument(index: u32) -> u32 {
    offset_of!(libc::seccomp_data, args) as u32 + 8 * index
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, value: u32, jump_if_true: u8, jump_if_false: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: jump_if_true, jf: jump_if_false, k: value }
}

/// kill(1, SIGKILL) and tgkill(1, any, SIGKILL) go to the listener. Jumps count the steps to skip.
const FILTER: [libc::sock_filter; 15] = [
    step(LOAD, ARCHITECTURE, 0, 0),
    step(IF_EQUAL, AUDIT_ARCH_X86_64, 0, 11),
    step(LOAD, NUMBER, 0, 0),
    step(IF_EQUAL, libc::SYS_tgkill as u32, 5, 0),
    step(IF_EQUAL, libc::SYS_kill as u32, 0, 8),
    step(LOAD, argument(0), 0, 0),
    step(IF_EQUAL, FIRST_PID, 0, 6),
    step(LOAD, argument(1), 0, 0),
    step(IF_EQUAL, SIGKILL, 5, 4),
    step(LOAD, argument(0), 0, 0),
    step(IF_EQUAL, FIRST_PID, 0, 2),
    step(LOAD, argument(2), 0, 0),
    step(IF_EQUAL, SIGKILL, 1, 0),
    step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
];

/// The agent's end: readable when a process has asked for its own death.
#[derive(Debug)]
pub struct SelfKills(OwnedFd);

impl SelfKills {
    /// Installs the filter on this process and what it will start; needs SYS_ADMIN.
    pub fn listen() -> io::Result<SelfKills> {
        let mut filter = FILTER;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel copies the program, which outlives the call.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        match listener {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: a new descriptor, of which nobody else knows.
            listener => Ok(SelfKills(unsafe { OwnedFd::from_raw_fd(listener as i32) })),
        }
    }

    pub fn from_descriptor(descriptor: OwnedFd) -> SelfKills {
        SelfKills(descriptor)
    }

    /// Serves every call that waits: whether `first` itself has asked to be killed. To everybody else the
    /// kernel answers as it always does.
    pub fn asked_by(&self, first: i32) -> bool {
        while self.has_call() {
            // SAFETY: the kernel wants it zeroed, and all fields are integers.
            let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the request writes one struct of this type.
            if unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } != 0 {
                continue; // the caller was killed meanwhile
            }
            if thread_group(call.pid) == Some(first) {
                return true;
            }
            let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
            let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags };
            // SAFETY: the request reads one struct of this type. A caller that is gone needs no answer.
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
        }
        false
    }

    /// Receiving blocks whatever the descriptor's flags are, so it has to be known that there is something.
    fn has_call(&self) -> bool {
        let mut listener = [PollFd::new(&self.0, PollFlags::IN)];
        let polled = rustix::event::poll(&mut listener, Some(&rustix::event::Timespec::default()));
        polled.is_ok() && listener.first().is_some_and(|listener| listener.revents().contains(PollFlags::IN))
    }
}

impl AsFd for SelfKills {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn thread_group(thread: u32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}
