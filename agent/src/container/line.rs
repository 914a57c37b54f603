//! The line between the agent and the container's first process before that is a program: descriptors and bytes.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

/// More than a container has mounts; the kernel takes 253.
const DESCRIPTORS_MAX: usize = 200;
const LENGTH: usize = size_of::<u64>();

/// One end; both wait while the other is not ready.
pub struct Line(OwnedFd);

pub fn pair() -> rustix::io::Result<(Line, Line)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((Line(ours), Line(theirs)))
}

impl Line {
    /// Sends `bytes` with at most [`DESCRIPTORS_MAX`] descriptors.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.0, rest, SendFlags::NOSIGNAL)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// What the other end sends next; an error when it has gone.
    pub fn receive(&self) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut length = [0; LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut buffers = [IoSliceMut::new(&mut length)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
            match rustix::net::recvmsg(self.0.as_fd(), &mut buffers, &mut control, flags) {
                Err(Errno::INTR) => {}
                result => break result?.bytes,
            }
        };
        if received < LENGTH {
            return Err(Errno::PIPE);
        }
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        let mut filled = 0;
        while let Some(space) = bytes.get_mut(filled..).filter(|space| !space.is_empty()) {
            match rustix::io::read(&self.0, space) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        Ok((bytes, descriptors.collect()))
    }

    /// In a forked child that has a copy of the other end: without that, the agent's giving up would not be heard.
    pub fn close_copy(&self) {
        // SAFETY: the child never uses its copy, and its copy of the owner is never dropped.
        unsafe { libc::close(self.0.as_raw_fd()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (ours, theirs) = pair().unwrap();
        let bytes: Vec<u8> = (0..1000).map(|number| number as u8).collect();
        ours.send(&bytes, &[std::io::stdin().as_fd(), std::io::stdout().as_fd()]).unwrap();
        ours.send(b"", &[std::io::stdin().as_fd()]).unwrap();
        let (received, descriptors) = theirs.receive().unwrap();
        assert_eq!((received, descriptors.len()), (bytes, 2));
        let (received, descriptors) = theirs.receive().unwrap();
        assert_eq!((received.len(), descriptors.len()), (0, 1));
    }

    #[test]
    fn an_end_that_has_gone_is_heard() {
        let (ours, theirs) = pair().unwrap();
        drop(ours);
        assert!(theirs.receive().is_err());
    }
}
