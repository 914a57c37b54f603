//! The understudy: the container's first process before there is a container to be.
//!
//! It is in its namespaces and its cgroup, has put together what needs no root, and waits for its part. A template is
//! made with one, for nothing of that depends on the container as long as its profile is the usual one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::become_process;
use super::cgroup::Cgroup;
use super::files::{self, Files};
use super::line::{self, Line};
use super::rootfs;
use crate::entropy;
use crate::failure::{Code, During, Failure, Result};
use crate::message::{Mount, Profile, Request, Start};
use crate::power;
use crate::process::launch::{self, Ends, Launch};
use crate::process::report::Reporter;
use crate::process::spawn::{self, Child};

pub struct Understudy {
    profile: Profile,
    cgroup: Cgroup,
    child: Child,
    /// Held so that taking dozens of mounts apart is not a part of the process's end, which is waited for.
    mounts: OwnedFd,
    line: Line,
}

/// What the agent has of the container's first process once that is on its own way.
pub struct Performance {
    pub child: Child,
    pub cgroup: Cgroup,
    pub mounts: OwnedFd,
    pub files: Files,
}

impl Understudy {
    /// Starts one for containers of `profile`.
    pub fn spawn(profile: Profile) -> Result<Understudy> {
        let cgroup = Cgroup::create()?;
        let (ours, theirs) = line::pair().during("make a socket pair")?;
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let body = || {
            ours.close_copy();
            wait_for_part(&profile, &theirs)
        };
        let child = spawn::spawn(namespaces, Some(cgroup.directory()), body);
        let child = child.during("start the container's first process")?;
        drop(theirs);
        let mounts = format!("/proc/{}/ns/mnt", child.pid.as_raw_nonzero());
        let mounts = rustix::fs::open(mounts, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mounts = mounts.during("hold the container's mounts")?;
        Ok(Understudy { profile, cgroup, child, mounts, line: ours })
    }

    /// Waits until its stage is ready: a template that is saved before would leave the rest of that to every clone.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.line.receive().map(drop).during("wait for the container's first process")
    }

    pub fn fits(&self, profile: &Profile) -> bool {
        self.profile == *profile
    }

    /// Ends one that is of no use.
    pub fn dismiss(self) -> Result<()> {
        self.cgroup.kill();
        power::wait_for(std::iter::once(&self.child.pidfd));
        self.cgroup.remove()
    }

    /// Gives it its part: `payload` is the request as it came. It goes on while its root is put together.
    pub fn assign(&self, payload: &[u8], ends: Ends, reporter: Reporter) -> Result<()> {
        // Ends that are /dev/null have no descriptor: a byte for each says which come.
        let mask = ends.0.iter().map(|end| u8::from(end.is_some())).collect::<Vec<_>>();
        let descriptors: Vec<BorrowedFd<'_>> =
            std::iter::once(reporter.as_fd()).chain(ends.0.iter().flatten().map(AsFd::as_fd)).collect();
        self.line.send(&[&mask, payload].concat(), &descriptors).during("hand the request on")
    }

    /// Gives it its root, the host's directories if there are any, and its volumes, upon which it becomes the container's
    /// program.
    pub fn go(self, root: BorrowedFd<'_>, share: Option<BorrowedFd<'_>>, volumes: &[OwnedFd]) -> Performance {
        let mounts: Vec<_> = std::iter::once(root).chain(share).chain(volumes.iter().map(AsFd::as_fd)).collect();
        // One that has ended meanwhile has reported why.
        let _ = self.line.send(&[], &mounts);
        Performance { child: self.child, cgroup: self.cgroup, mounts: self.mounts, files: Files::behind(self.line) }
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

/// The child's whole life, up to execve(2).
fn wait_for_part(profile: &Profile, line: &Line) -> i32 {
    let stage = rootfs::prepare(profile);
    if line.send(&[], &[]).is_err() {
        return 1;
    }
    let Ok((message, descriptors)) = line.receive() else { return 1 };
    let Some((reporter, ends, payload)) = unpack(&message, descriptors) else { return 1 };
    let Ok(Request::Start(start)) = rmp_serde::from_slice(payload) else { return 1 };
    if start.hold {
        return hold(ends, &reporter, stage.and_then(|()| enter(&start, line)));
    }
    let launch = Launch { process: &start.process, init: start.init, first: true };
    become_process(ends, &reporter, &launch, || stage.and_then(|()| enter(&start, line)))
}

/// Stays in the container that is put together, as if it were its process.
fn hold(ends: Ends, reporter: &Reporter, entered: Result<()>) -> i32 {
    match entered.and_then(|()| launch::keep_only(ends, reporter)) {
        Ok(reporter) => {
            drop(reporter); // as execve(2) does
            loop {
                // SAFETY: touches no memory; the agent's SIGKILL ends it.
                unsafe { libc::pause() };
            }
        }
        Err(failure) => {
            reporter.failure(&failure);
            1
        }
    }
}

fn enter(start: &Start, line: &Line) -> Result<()> {
    // Before anything of the container runs: clones of a template share the state of their random numbers.
    entropy::mix(&start.entropy).during("mix in the host's entropy")?;
    let files = rootfs::dress(start)?;
    files::show(line, &start.files)?;
    let mut mounts = line.receive().map(|(_, mounts)| mounts).unwrap_or_default().into_iter();
    match mounts.next() {
        Some(root) => {
            let has_share = start.mounts.iter().any(Mount::is_share);
            let share = if has_share { mounts.next() } else { None };
            rootfs::enter(start, files, root.as_fd(), share, mounts)
        }
        None => Err(Failure::new(Code::AgentFailed, "the container has no root")),
    }
}

fn unpack(message: &[u8], descriptors: Vec<OwnedFd>) -> Option<(Reporter, Ends, &[u8])> {
    let (mask, payload) = message.split_at_checked(3)?;
    let mut descriptors = descriptors.into_iter();
    let reporter = Reporter::from_descriptor(descriptors.next()?);
    let mut ends = Ends::default();
    for (end, &is_there) in ends.0.iter_mut().zip(mask) {
        *end = if is_there == 0 { None } else { descriptors.next() };
    }
    Some((reporter, ends, payload))
}
