//! A request as it lies in the stream, and what is done with it before the passthrough sees it.

use std::io::{self, Read};

use crate::sandbox::Identities;

/// `struct fuse_in_header` of <linux/fuse.h>, which every request begins with.
pub const IN_HEADER: usize = 40;
/// `struct fuse_out_header`, which every reply begins with.
pub const OUT_HEADER: usize = 16;
/// Data in one request or reply.
pub const DATA: usize = 256 << 10;
/// A request, and a reply: data, headers and names.
pub const WHOLE: usize = DATA + (8 << 10);

pub const LOOKUP: u32 = 1;
pub const OPEN: u32 = 14;
pub const INIT: u32 = 26;
const DESTROY: u32 = 38;

/// A request that was read whole; its bytes are in the buffer that it was read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub bytes: usize,
    pub opcode: u32,
    pub unique: u64,
    /// The file that it is about.
    pub node: u64,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Serve,
    /// Answered with this error.
    Refuse(i32),
    /// Neither served nor answered.
    Ignore,
}

impl Request {
    /// Reads one into `buffer` (of [`WHOLE`] bytes); None at the end of the stream.
    pub fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<Request>> {
        let Some(header) = buffer.first_chunk_mut::<IN_HEADER>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if let Err(error) = stream.read_exact(header) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        let bytes = field(header, 0) as usize;
        let whole = |offset| u64::from(field(header, offset)) | u64::from(field(header, offset + 4)) << 32;
        let request = Request { bytes, opcode: field(header, 4), unique: whole(8), node: whole(16) };
        match buffer.get_mut(IN_HEADER..bytes) {
            Some(rest) => match stream.read_exact(rest) {
                Ok(()) => Ok(Some(request)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(error),
            },
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a request of {bytes} bytes"))),
        }
    }

    /// Decides on a request, and makes it what the passthrough is to see.
    pub fn judge(self, bytes: &mut [u8], identities: Identities) -> Verdict {
        if identities == Identities::One {
            // User and group: there is no other to act for.
            bytes.get_mut(24..32).unwrap_or_default().fill(0);
        }
        match self.opcode {
            // A kernel walks paths by itself; who asks for these is looking for a way out.
            LOOKUP if matches!(bytes.get(IN_HEADER..), Some(b".\0" | b"..\0")) => Verdict::Refuse(libc::ENOENT),
            // Of no use but to have everything forgotten.
            DESTROY => Verdict::Ignore,
            _ => Verdict::Serve,
        }
    }
}

/// The little-endian number at `offset`; 0 beyond the end.
pub fn field(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four))
}

/// Puts a number there.
pub fn set_field(bytes: &mut [u8], offset: usize, value: u32) {
    if let Some(four) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
        *four = value.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER];
        set_field(&mut bytes, 0, (IN_HEADER + body.len()) as u32);
        set_field(&mut bytes, 4, opcode);
        set_field(&mut bytes, 8, 77);
        set_field(&mut bytes, 16, 5);
        set_field(&mut bytes, 24, 1000);
        set_field(&mut bytes, 28, 1000);
        bytes.extend(body);
        bytes
    }

    fn read(stream: &[u8]) -> io::Result<Option<Request>> {
        Request::read(&mut &stream[..], &mut vec![0; WHOLE])
    }

    #[test]
    fn requests_are_told_apart_by_their_lengths() {
        let stream = [request(LOOKUP, b"name\0"), request(3, &[])].concat();
        let (mut rest, mut buffer) = (&stream[..], vec![0; WHOLE]);
        let first = Request::read(&mut rest, &mut buffer).unwrap().unwrap();
        assert_eq!(first, Request { bytes: IN_HEADER + 5, opcode: LOOKUP, unique: 77, node: 5 });
        assert_eq!(&buffer[IN_HEADER..first.bytes], b"name\0");
        assert_eq!(Request::read(&mut rest, &mut buffer).unwrap().unwrap().opcode, 3);
        assert_eq!(Request::read(&mut rest, &mut buffer).unwrap(), None);
    }

    #[test]
    fn a_stream_that_ends_within_a_request_has_ended() {
        let whole = request(LOOKUP, b"name\0");
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]).unwrap(), None);
        }
    }

    #[test]
    fn a_length_that_no_request_has_breaks_the_stream() {
        for bytes in [0, 1, IN_HEADER as u32 - 1, WHOLE as u32 + 1, u32::MAX] {
            let mut stream = request(LOOKUP, b"name\0");
            set_field(&mut stream, 0, bytes);
            assert!(read(&stream).is_err());
        }
    }

    #[test]
    fn nobody_looks_for_the_parent() {
        let judged = |opcode, body: &[u8]| {
            let mut bytes = request(opcode, body);
            read(&bytes).unwrap().unwrap().judge(&mut bytes, Identities::Host)
        };
        assert_eq!(judged(LOOKUP, b"..\0"), Verdict::Refuse(libc::ENOENT));
        assert_eq!(judged(LOOKUP, b".\0"), Verdict::Refuse(libc::ENOENT));
        assert_eq!(judged(LOOKUP, b"...\0"), Verdict::Serve);
        assert_eq!(judged(LOOKUP, b"..a\0"), Verdict::Serve);
        assert_eq!(judged(DESTROY, b""), Verdict::Ignore);
    }

    #[test]
    fn users_are_the_hosts_or_the_only_one() {
        let who = |identities| {
            let mut bytes = request(LOOKUP, b"name\0");
            read(&bytes).unwrap().unwrap().judge(&mut bytes, identities);
            (field(&bytes, 24), field(&bytes, 28))
        };
        assert_eq!(who(Identities::Host), (1000, 1000));
        assert_eq!(who(Identities::One), (0, 0));
    }
}
