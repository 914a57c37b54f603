//! Where a thread's reply is put together before it goes into the stream in one piece.
//!
//! The passthrough writes replies to a descriptor, as /dev/fuse takes them. Here that is a file in memory, of which we
//! have a map.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};

use crate::message::{OUT_HEADER, WHOLE, field, set_field};

pub struct Outbox {
    file: OwnedFd,
    map: NonNull<u8>,
}

impl Outbox {
    pub fn new() -> io::Result<Outbox> {
        let file = rustix::fs::memfd_create("reply", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, WHOLE as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new map, where the kernel chooses.
        let map = unsafe { rustix::mm::mmap(std::ptr::null_mut(), WHOLE, protection, MapFlags::SHARED, &file, 0) }?;
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Outbox { file, map })
    }

    /// Makes room for a reply of at most [`WHOLE`] bytes, to be written to the descriptor that is returned.
    pub fn open(&mut self) -> io::Result<RawFd> {
        set_field(self.bytes(), 0, 0);
        rustix::fs::seek(&self.file, SeekFrom::Start(0))?;
        Ok(self.file.as_raw_fd())
    }

    /// What was written; None when that is no reply.
    pub fn reply(&mut self) -> Option<&mut [u8]> {
        let bytes = self.bytes();
        let length = field(bytes, 0) as usize;
        bytes.get_mut(..length).filter(|reply| reply.len() >= OUT_HEADER)
    }

    /// A reply that is an error.
    pub fn refuse(&mut self, unique: u64, errno: i32) -> Option<&mut [u8]> {
        let bytes = self.bytes();
        set_field(bytes, 0, OUT_HEADER as u32);
        set_field(bytes, 4, -errno as u32);
        set_field(bytes, 8, unique as u32);
        set_field(bytes, 12, (unique >> 32) as u32);
        self.reply()
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the map has that length and lives as long as `self`, and nobody else writes to the file meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_ptr(), WHOLE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;

    fn write(outbox: &mut Outbox, bytes: &[u8]) {
        let file = outbox.open().unwrap();
        // SAFETY: the outbox owns it and lives.
        rustix::io::write(unsafe { BorrowedFd::borrow_raw(file) }, bytes).unwrap();
    }

    #[test]
    fn a_reply_is_what_was_written_last() {
        let mut outbox = Outbox::new().unwrap();
        for length in [64_u32, 20, 16] {
            let bytes = [&length.to_le_bytes()[..], &vec![length as u8; length as usize - 4]].concat();
            write(&mut outbox, &bytes);
            assert_eq!(outbox.reply().unwrap(), bytes);
        }
        outbox.open().unwrap();
        assert_eq!(outbox.reply(), None);
    }

    #[test]
    fn a_refusal_names_its_request() {
        let mut outbox = Outbox::new().unwrap();
        let reply = outbox.refuse(0x1_0000_0002, libc::ENOENT).unwrap();
        assert_eq!((reply.len(), field(reply, 4) as i32), (16, -libc::ENOENT));
        assert_eq!((field(reply, 8), field(reply, 12)), (2, 1));
    }
}
