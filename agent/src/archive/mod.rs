//! Work on the container's files for the host: looking at them, and moving them in and out as tar.
//!
//! Each request is done by a child of the agent that goes where the files are and stays there: into the container's
//! mounts, or into a root that holds one view of them. So whatever a path or a symbolic link of the container says, it
//! leads to nothing that is not the container's, and the agent's loop never waits for a file.

mod changes;
mod lookup;
mod pack;
mod sparse;
mod unpack;

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::Serialize;

use crate::container::{Container, cgroup};
use crate::failure::{Code, Failure, Result, reason};
use crate::message::FileRequest;
use crate::process::report::Reporter;

/// A process that is in the middle of a call of the kernel's stops when that is done.
const FREEZES_WITHIN: Duration = Duration::from_secs(10);

/// What is to be done, and to which container.
pub struct Task<'a> {
    pub asked: &'a FileRequest,
    pub container: &'a Container,
    /// The container's processes are being frozen: begin when they are.
    pub waits_for_freeze: bool,
}

/// The child's ends of its streams, and where it says how it went.
pub struct Ends {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub reporter: Reporter,
}

/// The streams of a request: what comes in, what goes out.
pub fn streams(asked: &FileRequest) -> (Option<u32>, Option<u32>) {
    match asked {
        FileRequest::StatPath(_) => (None, None),
        FileRequest::WriteArchive(asked) => (Some(asked.stream), None),
        FileRequest::ReadArchive(asked) => (None, Some(asked.stream)),
        FileRequest::ReadRoot(asked) | FileRequest::Changes(asked) => (None, Some(asked.stream)),
        FileRequest::ReadChanges(asked) => (None, Some(asked.stream)),
    }
}

/// The child's whole life; returns its status.
pub fn work(task: &Task<'_>, ends: Ends) -> i32 {
    close_others(&ends, task.container);
    let Ends { input, output, reporter } = ends;
    match perform(task, input, output) {
        Ok(answer) => {
            reporter.answer(&answer);
            0
        }
        Err(failure) => {
            reporter.failure(&failure);
            1
        }
    }
}

fn perform(task: &Task<'_>, input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Vec<u8>> {
    let container = task.container;
    let pipe = || Failure::new(Code::AgentFailed, "a stream is missing");
    match task.asked {
        FileRequest::StatPath(asked) => {
            enter_mounts(container)?;
            return encode(&lookup::stat(&asked.path)?);
        }
        FileRequest::ReadArchive(asked) => {
            enter_mounts(container)?;
            pack::path(&asked.path, output.ok_or_else(pipe)?.into())?;
        }
        FileRequest::WriteArchive(asked) => {
            enter_mounts(container)?;
            unpack::into(&asked.path, input.ok_or_else(pipe)?.into(), asked.no_overwrite_dir_non_dir)?;
            if container.is_held {
                // The VM goes soon, and may go without a farewell; what was confirmed must be on the disk.
                rustix::fs::sync();
            }
        }
        FileRequest::ReadRoot(_) => {
            change_root(crate::container::root::ROOT)?;
            pack::root(output.ok_or_else(pipe)?.into())?;
        }
        FileRequest::Changes(_) => {
            let made = changes::enter(container)?;
            changes::list(&made, output.ok_or_else(pipe)?.into())?;
        }
        FileRequest::ReadChanges(_) => {
            if task.waits_for_freeze {
                wait_for_freeze()?;
            }
            let made = changes::enter(container)?;
            changes::layer(&made, output.ok_or_else(pipe)?.into())?;
        }
    }
    encode(&())
}

/// Closes what was the agent's: another job's pipe that stays open here would not end there.
fn close_others(ends: &Ends, container: &Container) {
    let streams = [&ends.input, &ends.output].into_iter().flatten().map(AsFd::as_fd);
    let needed = streams.chain([ends.reporter.as_fd()]).chain(container.mounts());
    let mut kept: Vec<u32> = needed.map(|needed| needed.as_raw_fd() as u32).chain([2]).collect();
    kept.sort_unstable();
    kept.push(u32::MAX);
    for window in kept.windows(2) {
        if let [before, after] = *window
            && before + 1 < after
        {
            // SAFETY: those descriptors belong to the agent's copy in this process, which nothing uses any more.
            unsafe { libc::close_range(before + 1, after - 1, 0) };
        }
    }
}

/// Goes where the container's processes see their files from.
fn enter_mounts(container: &Container) -> Result<()> {
    let what = "enter the container's mounts";
    let mounts = container.mounts().ok_or_else(|| Failure::new(Code::Conflict, "the container is not running"))?;
    rustix::thread::move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount))
        .map_err(|errno| failed(what, errno.into()))
}

fn change_root(path: &str) -> Result<()> {
    rustix::process::chroot(path)
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|errno| failed(format_args!("enter {path}"), errno.into()))
}

/// Makes mounts that nobody else sees possible.
fn own_mounts() -> Result<()> {
    // SAFETY: nothing here relies on the mount namespace being the agent's.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|errno| failed("make a mount namespace", errno.into()))
}

fn wait_for_freeze() -> Result<()> {
    let deadline = Instant::now() + FREEZES_WITHIN;
    while !cgroup::is_frozen() {
        if Instant::now() > deadline {
            return Err(Failure::new(Code::AgentFailed, "the container's processes cannot be stopped"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn encode(answer: &impl Serialize) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(answer)
        .map_err(|error| Failure::new(Code::AgentFailed, format!("cannot encode an answer: {error}")))
}

/// What it means that `what` (which reads on after "cannot") has failed.
fn failed(what: impl Display, error: io::Error) -> Failure {
    let Some(errno) = Errno::from_io_error(&error) else {
        return Failure::new(Code::InvalidRequest, format!("cannot {what}: {error}"));
    };
    let code = match errno {
        Errno::NOENT => Code::NotFound,
        Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ROFS | Errno::BUSY => {
            Code::InvalidRequest
        }
        _ => Code::AgentFailed,
    };
    Failure::new(code, format!("cannot {what}: {}", reason(errno)))
}
