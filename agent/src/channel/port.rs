//! The virtio-serial port named `org.atoll.agent`: found, opened, written in order.
//!
//! While no host is connected the port reads as end-of-file and takes no byte: that is a state to
//! wait in, not a reason to exit. All waiting is edge-triggered, or a port without a host (which
//! hangs up for ever) would keep the loop busy.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::frame::{self, HEADER, Kind};
use crate::announcements::Announcements;

const NAME: &str = "org.atoll.agent";
pub const SHARE: &str = "org.atoll.share";
const PORTS: &str = "/sys/class/virtio-ports";
/// virtio_console takes at most this much in one write(2): a chunk is a whole number of writes.
const PORT_WRITE: usize = 32 << 10;
/// Payload of a bulk frame: with its header it fills two writes.
pub const CHUNK: usize = 2 * PORT_WRITE - HEADER;

/// What reading or writing the port has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    Nothing,
    /// The host has closed its end (or has never opened it).
    NoHost,
}

pub struct Port {
    fd: OwnedFd,
    /// Bytes that must go out before anything else, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    chunk: Vec<u8>,
    pub is_readable: bool,
    is_writable: bool,
}

impl Port {
    /// Waits for the port to appear and opens it.
    pub fn open(announcements: &Announcements) -> rustix::io::Result<Port> {
        let path = loop {
            match find(NAME) {
                Some(path) => break path,
                None => announcements.wait(),
            }
        };
        let fd = open(&path)?;
        let chunk = vec![0; HEADER + CHUNK];
        Ok(Port { fd, outbox: Vec::with_capacity(4096), sent: 0, chunk, is_readable: true, is_writable: true })
    }

    /// The port may be read or written again.
    pub fn wake(&mut self) {
        self.is_readable = true;
        self.is_writable = true;
    }

    /// Fills as much of `buffer` as there is: the driver gives one host buffer (4 KiB) a read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        let mut filled = 0;
        while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
            match rustix::io::read(&self.fd, space) {
                Ok(0) if filled == 0 => {
                    self.is_readable = false;
                    return Read::NoHost;
                }
                Ok(0) => break, // read again to tell of the host's going, after these bytes
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.is_readable = false;
                    break;
                }
            }
        }
        if filled == 0 { Read::Nothing } else { Read::Bytes(filled) }
    }

    /// Puts a frame behind what waits to go out.
    pub fn send(&mut self, kind: Kind, id: u32, payload: &[u8]) {
        self.outbox.extend_from_slice(&frame::header(kind, id, payload.len()));
        self.outbox.extend_from_slice(payload);
    }

    /// Forgets what waits to go out: the host that it was for has gone.
    pub fn forget(&mut self) {
        self.outbox.clear();
        self.sent = 0;
    }

    /// Writes what waits; true when nothing waits any more.
    pub fn flush(&mut self) -> bool {
        while let Some(bytes) = self.outbox.get(self.sent..).filter(|bytes| !bytes.is_empty()) {
            if !self.is_writable {
                return false;
            }
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(_) => self.is_writable = false,
            }
        }
        self.forget();
        true
    }

    /// Reads up to `at_most` bytes from `source` and sends them as one `DATA` frame of stream `id`;
    /// only to be called when nothing waits. What the port does not take at once waits in the outbox.
    pub fn relay(&mut self, source: BorrowedFd<'_>, id: u32, at_most: usize) -> rustix::io::Result<usize> {
        let end = HEADER + at_most.min(CHUNK);
        let Some(space) = self.chunk.get_mut(HEADER..end) else { return Ok(0) };
        let count = rustix::io::read(source, space)?;
        if count == 0 {
            return Ok(0);
        }
        if let Some(head) = self.chunk.first_chunk_mut::<HEADER>() {
            *head = frame::header(Kind::Data, id, count);
        }
        let mut rest = self.chunk.get(..HEADER + count).unwrap_or_default();
        while self.is_writable && !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => self.is_writable = false,
            }
        }
        self.outbox.extend_from_slice(rest);
        Ok(count)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The device node of the port of that name.
pub fn find(name: &str) -> Option<PathBuf> {
    let port = fs::read_dir(PORTS)
        .ok()?
        .flatten()
        .find(|entry| fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim_end() == name))?;
    let node = PathBuf::from("/dev").join(port.file_name());
    node.exists().then_some(node)
}

/// Opens a port by its node; only one process can have it open.
pub fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}
