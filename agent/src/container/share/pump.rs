//! The pump: a process that passes the kernel's FUSE requests to the host, and replies to the kernel.
//!
//! It looks at nothing but lengths.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::events::timespec;

/// Data in one request or reply (`share/src/message.rs`).
pub const DATA: usize = 256 << 10;
/// With headers and names.
const WHOLE: usize = DATA + (8 << 10);
/// `struct fuse_out_header` of <linux/fuse.h>
const OUT_HEADER: usize = 16;
/// virtio_console gives one buffer of the host a read.
const PORT_READ: usize = 4096;
/// A host that has not been heard yet may still connect: a guest that goes on from a template comes before it.
const HOST_COMES: std::time::Duration = std::time::Duration::from_millis(10);

/// Why it ends; none of it is an error of its own.
enum End {
    Unmounted,
    NoHost,
}

/// The whole life of the process.
pub fn run(device: BorrowedFd<'_>, port: BorrowedFd<'_>) -> i32 {
    // What else the agent has open, pipes of the container's processes among it, must not stay open here.
    close_others(device.as_raw_fd(), port.as_raw_fd());
    let mut pump = Pump { device, port, requests: Buffer::new(), replies: Buffer::new(), has_host: false };
    loop {
        match pump.turn() {
            Ok(()) => {}
            Err(End::Unmounted) => return 0,
            Err(End::NoHost) => {
                eprintln!("atoll-agent: the host shows its directories no longer");
                return 1;
            }
        }
    }
}

struct Pump<'a> {
    device: BorrowedFd<'a>,
    port: BorrowedFd<'a>,
    requests: Buffer,
    replies: Buffer,
    has_host: bool,
}

/// Bytes that wait, from `begin` to `end`.
struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: vec![0; WHOLE + PORT_READ], begin: 0, end: 0 }
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.begin..self.end).unwrap_or_default()
    }

    fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) {
        self.begin += count;
        if self.begin >= self.end {
            (self.begin, self.end) = (0, 0);
        }
    }

    /// Puts what waits at the beginning, so that all the rest is space.
    fn close_up(&mut self) {
        if self.begin > 0 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
    }
}

impl Pump<'_> {
    /// Passes on what there is, after waiting for it.
    fn turn(&mut self) -> Result<(), End> {
        let (sends, hears) = (!self.requests.waiting().is_empty(), PollFlags::IN);
        let mut ends = [
            PollFd::from_borrowed_fd(self.device, if sends { PollFlags::empty() } else { PollFlags::IN }),
            PollFd::from_borrowed_fd(self.port, if sends { hears | PollFlags::OUT } else { hears }),
        ];
        // EINTR, and what else it may say, is followed by another turn.
        let _ = rustix::event::poll(&mut ends, None);
        let [device, port] = ends.map(|end| end.revents());
        if device.contains(PollFlags::ERR) {
            return Err(End::Unmounted);
        }
        if port.contains(PollFlags::HUP) {
            if self.has_host {
                return Err(End::NoHost);
            }
            let _ = rustix::event::poll(&mut [], Some(&timespec(HOST_COMES)));
        }
        self.receive()?;
        self.send();
        if self.requests.waiting().is_empty() {
            self.fetch()?;
            self.send();
        }
        Ok(())
    }

    /// Takes one request of the kernel.
    fn fetch(&mut self) -> Result<(), End> {
        match rustix::io::read(self.device, self.requests.space()) {
            Ok(count) => self.requests.end += count,
            Err(Errno::NODEV) => return Err(End::Unmounted),
            Err(_) => {} // nothing there, or one that was given up meanwhile
        }
        Ok(())
    }

    /// Gives the port as much as it takes.
    fn send(&mut self) {
        while !self.requests.waiting().is_empty() {
            match rustix::io::write(self.port, self.requests.waiting()) {
                Ok(count) => self.requests.take(count),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    /// Takes what the host has sent, and gives the kernel every reply that is whole.
    fn receive(&mut self) -> Result<(), End> {
        loop {
            self.replies.close_up();
            match rustix::io::read(self.port, self.replies.space()) {
                Ok(0) if self.has_host => return Err(End::NoHost),
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.has_host = true;
                    self.replies.end += count;
                }
                Err(Errno::INTR) => {}
                Err(_) => return Ok(()),
            }
            while let Some(length) = self.replies.waiting().first_chunk().map(|four| u32::from_le_bytes(*four) as usize)
            {
                if !(OUT_HEADER..=WHOLE).contains(&length) {
                    return Err(End::NoHost); // whatever that is, it is no server of ours
                }
                let Some(reply) = self.replies.waiting().get(..length) else { break };
                match rustix::io::write(self.device, reply) {
                    Err(Errno::NODEV) => return Err(End::Unmounted),
                    // A request that was given up has no use for its reply.
                    _ => self.replies.take(length),
                }
            }
        }
    }
}

fn close_others(one: i32, other: i32) {
    let (low, high) = (one.min(other) as u32, one.max(other) as u32);
    for (first, last) in [(3, low.saturating_sub(1)), (low + 1, high.saturating_sub(1)), (high + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the process never drops an owner of what is closed here: it ends by _exit(2).
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use std::os::fd::{AsFd, OwnedFd};

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None).unwrap()
    }

    /// A device, which gives and takes whole messages, and a port, which gives and takes bytes: the pump between them.
    struct Bench {
        kernel: OwnedFd,
        device: OwnedFd,
        port: OwnedFd,
        host: OwnedFd,
    }

    impl Bench {
        fn new() -> Bench {
            let (kernel, device) = pair(SocketType::SEQPACKET);
            let (port, host) = pair(SocketType::STREAM);
            Bench { kernel, device, port, host }
        }

        fn pump(&self) -> Pump<'_> {
            let (device, port) = (self.device.as_fd(), self.port.as_fd());
            Pump { device, port, requests: Buffer::new(), replies: Buffer::new(), has_host: false }
        }
    }

    fn reply(length: u32) -> Vec<u8> {
        let mut bytes = vec![length as u8; length as usize];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn message(from: &OwnedFd) -> Vec<u8> {
        let mut buffer = vec![0; WHOLE];
        let count = rustix::io::read(from, &mut buffer).unwrap();
        buffer.truncate(count);
        buffer
    }

    #[test]
    fn requests_become_a_stream() {
        let bench = Bench::new();
        let mut pump = bench.pump();
        for request in [&b"one"[..], b"another"] {
            rustix::io::write(&bench.kernel, request).unwrap();
            assert!(pump.turn().is_ok());
        }
        assert_eq!(message(&bench.host), b"oneanother");
    }

    #[test]
    fn replies_come_whole_however_they_are_cut() {
        let bench = Bench::new();
        let mut pump = bench.pump();
        let stream = [reply(16), reply(100), reply(20)].concat();
        for piece in stream.chunks(7) {
            rustix::io::write(&bench.host, piece).unwrap();
            assert!(pump.turn().is_ok());
        }
        assert_eq!([message(&bench.kernel), message(&bench.kernel), message(&bench.kernel)].concat(), stream);
    }

    #[test]
    fn a_host_that_goes_or_talks_nonsense_is_the_end() {
        let bench = Bench::new();
        let mut pump = bench.pump();
        rustix::io::write(&bench.host, &15u32.to_le_bytes()).unwrap();
        assert!(matches!(pump.turn(), Err(End::NoHost)));
        let Bench { kernel: _kernel, device, port, host } = Bench::new();
        let (device, port) = (device.as_fd(), port.as_fd());
        let mut pump = Pump { device, port, requests: Buffer::new(), replies: Buffer::new(), has_host: false };
        rustix::io::write(&host, &reply(16)).unwrap();
        assert!(pump.turn().is_ok());
        drop(host);
        assert!(matches!(pump.turn(), Err(End::NoHost)));
    }
}
