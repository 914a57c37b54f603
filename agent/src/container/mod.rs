//! The container: what the guest exists for. One per guest, started once.

pub mod cgroup;
mod files;
mod fill;
mod line;
pub mod mount;
pub mod root;
pub mod rootfs;
mod share;
pub mod understudy;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use serde_bytes::ByteBuf;

use crate::failure::{During, Result};
use crate::message::{self, Start};
use crate::network::Network;
use crate::process::launch::{self, Ends, Launch};
use crate::process::report::Reporter;
use crate::process::spawn::{self, Child};
use crate::stopwatch::Stopwatch;
use crate::{entropy, memory};
use cgroup::Cgroup;
use files::Files;
use root::Root;
use share::Share;
use understudy::Understudy;

/// What exists of the container, and has to be taken apart.
#[derive(Default)]
pub struct Container {
    root: Root,
    share: Option<Share>,
    cgroup: Option<Cgroup>,
    /// The files of its request as the container has them, once they are asked for.
    files: Option<Files>,
    /// The mount namespace of its processes.
    mounts: Option<OwnedFd>,
    /// Seconds since the epoch.
    pub started_s: f64,
    /// Where a start makes mount points that the image lacks, as the request has them.
    pub mount_points: Vec<String>,
    /// Nothing of it runs: it was put together to be looked at.
    pub is_held: bool,
}

/// What the first process finds: its root and its volumes, mounted nowhere yet.
pub struct Scene {
    root: OwnedFd,
    volumes: Vec<OwnedFd>,
}

impl Container {
    /// Makes what the first process needs, while `understudy` gets ready for its part. All memory is there then, and
    /// limits that depend on it are those of a guest that was booted with more than `booted_bytes`.
    pub fn put_together(
        &mut self,
        start: &Start,
        understudy: &Understudy,
        network: &mut Network,
        booted_bytes: u64,
        stopwatch: &mut Stopwatch,
    ) -> Result<Scene> {
        entropy::set_clock(start.clock_ns).during("set the clock")?;
        self.started_s = start.clock_ns as f64 / 1e9;
        self.mount_points = rootfs::mount_points(start);
        self.is_held = start.hold;
        understudy.cgroup().limit(&start.limits)?;
        // Nobody is on the networks of a container that is held.
        let root = if start.hold || start.interfaces.is_empty() {
            let root = self.root.mount(&start.root)?;
            stopwatch.done("root file system");
            root
        } else {
            let mount = || {
                let root = self.root.mount(&start.root);
                stopwatch.done("root file system");
                root
            };
            let (connected, root) = network.connect_while(&start.interfaces, mount);
            connected?;
            stopwatch.done("network");
            root?
        };
        if start.mounts.iter().any(message::Mount::is_share) {
            self.share = Some(Share::open()?);
            stopwatch.done("host directories");
        }
        let volumes = self.root.mount_volumes(&start.root.image, &start.mounts)?;
        if !volumes.is_empty() {
            stopwatch.done("volumes");
        }
        let memory_bytes = booted_bytes + start.growth_bytes;
        memory::wait_for(memory_bytes)?;
        memory::proportions::adapt(booted_bytes, memory_bytes, &start.sysctls);
        stopwatch.done("memory");
        Ok(Scene { root, volumes })
    }

    /// Has `understudy` become the first process.
    pub fn begin(&mut self, understudy: Understudy, scene: &Scene) -> Child {
        let performance = understudy.go(scene.root.as_fd(), self.share.as_ref().map(Share::mount), &scene.volumes);
        self.files = Some(performance.files);
        self.cgroup = Some(performance.cgroup);
        self.mounts = Some(performance.mounts);
        performance.child
    }

    /// Gives files of the request, those that are named, new contents: in place, for they are mounted.
    pub fn rewrite(&mut self, contents: &BTreeMap<String, ByteBuf>) -> Result<()> {
        self.files.as_mut().map_or(Ok(()), |files| files.rewrite(contents))
    }

    /// Starts one more process, in the namespaces of the first.
    pub fn exec(&self, exec: &message::Exec, first: &OwnedFd, ends: Ends, reporter: Reporter) -> Result<Child> {
        let what = "enter the container's namespaces";
        let own = rustix::fs::open("/proc/self/ns/pid", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let own = own.during(what)?;
        // A process never changes its pid namespace, only that of its children: there and back again.
        rustix::thread::move_into_thread_name_spaces(first.as_fd(), ThreadNameSpaceType::PROCESS_ID).during(what)?;
        let body = || {
            let launch = Launch { process: &exec.process, init: false, first: false };
            let namespaces = ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::CONTROL_GROUP;
            let join = || rustix::thread::move_into_thread_name_spaces(first.as_fd(), namespaces).during(what);
            become_process(ends, &reporter, &launch, join)
        };
        let cgroup = self.cgroup.as_ref().map(Cgroup::directory);
        let child = spawn::spawn(0, cgroup, body);
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID)).during(what)?;
        child.during("start the process")
    }

    /// The mount namespace of its processes, as long as it is not taken apart.
    pub fn mounts(&self) -> Option<BorrowedFd<'_>> {
        self.mounts.as_ref().map(AsFd::as_fd)
    }

    /// Stops its processes where they are, or lets them go on.
    pub fn freeze(&self, is_wanted: bool) -> Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.freeze(is_wanted))
    }

    /// The image's layers, the top one first.
    pub fn lower(&self) -> &[String] {
        &self.root.lower
    }

    /// Kills whatever still runs.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// Takes the file systems apart: what was written is on the disk afterwards.
    pub fn unmount(&mut self) {
        self.mounts = None;
        self.files = None;
        self.root.unmount();
        if let Some(share) = self.share.take() {
            share.close();
        }
    }

    /// Leaves nothing of a container that has been taken apart.
    pub fn forget(mut self) -> Result<()> {
        self.root.forget()?;
        self.cgroup.map_or(Ok(()), Cgroup::remove)
    }
}

/// The child's whole life before execve(2): goes where the container is, and becomes the process.
/// Returns the status of a child that could not.
fn become_process(ends: Ends, reporter: &Reporter, launch: &Launch<'_>, enter: impl FnOnce() -> Result<()>) -> i32 {
    match enter().and_then(|()| launch::keep_only(ends, reporter)) {
        Ok(reporter) => {
            let Err(failure) = launch::launch(launch, &reporter);
            reporter.failure(&failure);
        }
        Err(failure) => reporter.failure(&failure),
    }
    1
}
