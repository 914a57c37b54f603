//! What the agent knows of a process that it has started.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::process::Pid;

use super::report::Listener;
use super::self_kill::SelfKills;
use super::spawn::Child;
use crate::container::cgroup;
use crate::failure::{Code, Failure, Result, reason};
use crate::message::Stdio;
use crate::stopwatch::Stopwatch;

/// The container's first process in requests and events.
pub const FIRST: &str = "init";

/// A process on its way to execve(2).
pub struct Starting {
    /// The request that waits for it.
    pub request: u32,
    pub listener: Listener,
    pub stopwatch: Stopwatch,
}

pub struct Process {
    pub id: String,
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub starting: Option<Starting>,
    pub has_failed: bool,
    pub stdio: Stdio,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Where its wish to be killed is heard.
    pub self_kills: Option<SelfKills>,
    pub exit_code: Option<i32>,
    /// Until when output that others hold open is waited for.
    pub lingers_until: Option<Instant>,
    /// OOM kills in the container before this process was started.
    pub kills_before: u64,
}

impl Process {
    pub fn new(id: &str, child: Child, starting: Starting, stdio: Stdio, kills_before: u64) -> Process {
        Process {
            id: id.into(),
            pid: child.pid,
            pidfd: child.pidfd,
            starting: Some(starting),
            has_failed: false,
            stdio,
            terminal: None,
            self_kills: None,
            exit_code: None,
            lingers_until: None,
            kills_before,
        }
    }

    pub fn is_running(&self) -> bool {
        self.starting.is_none() && self.exit_code.is_none() && !self.has_failed
    }

    /// The streams of its output.
    pub fn outputs(&self) -> impl Iterator<Item = u32> {
        [self.stdio.stdout, self.stdio.stderr].into_iter().flatten()
    }

    /// Sends `number`: to this process, to its session's process group, or (the first process) to the whole container.
    pub fn signal(&self, number: i32, everyone: bool) -> Result<()> {
        if !(0..=64).contains(&number) {
            return Err(Failure::new(Code::InvalidRequest, format!("there is no signal {number}")));
        }
        if self.exit_code.is_some() {
            return Err(Failure::new(Code::NotFound, format!("process {} has ended", self.id)));
        }
        let pid = self.pid.as_raw_nonzero().get();
        match (everyone, self.id == FIRST) {
            (false, _) => kill(pid, number),
            (true, false) => kill(-pid, number),
            (true, true) => {
                cgroup::members().into_iter().for_each(|member| drop(kill(member, number)));
                Ok(())
            }
        }
    }
}

/// kill(2); a process that has ended in the meantime is no error.
fn kill(pid: i32, number: i32) -> Result<()> {
    // SAFETY: touches no memory.
    if unsafe { libc::kill(pid, number) } == 0 {
        return Ok(());
    }
    let errno = rustix::io::Errno::from_io_error(&std::io::Error::last_os_error());
    match errno.unwrap_or(rustix::io::Errno::INVAL) {
        rustix::io::Errno::SRCH => Ok(()),
        errno => Err(Failure::new(Code::AgentFailed, format!("cannot send signal {number}: {}", reason(errno)))),
    }
}
