//! The kernel's announcements of devices (uevents): what to wait for something to appear with.

use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::events::timespec;

/// Opened before one looks for oneself, it misses nothing.
pub struct Announcements(OwnedFd);

impl Announcements {
    pub fn open() -> rustix::io::Result<Announcements> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(KOBJECT_UEVENT);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Announcements(socket))
    }

    /// Blocks until the kernel announces something.
    pub fn wait(&self) {
        // What is announced does not matter, nor does a message lost to a full buffer: the caller looks for itself.
        let mut message = [0u8; 4096];
        let _ = rustix::net::recv(&self.0, &mut message, RecvFlags::empty());
    }

    /// As `wait`, until `deadline`; false when that has come.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let timeout = timespec(deadline.saturating_duration_since(Instant::now()));
        let ready = rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout));
        if ready != Ok(0) {
            self.wait();
        }
        ready != Ok(0)
    }
}
